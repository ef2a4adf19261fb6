//! The simulator from outside, over HTTP.

mod control;
mod crm;
mod crm_record;
mod faulty;
mod genesys;
mod profiles;
mod socket;
mod support;
mod tokens;
mod webhooks;
mod widgets;
