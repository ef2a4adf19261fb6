//! The simulator from outside, over HTTP.

mod control;
mod crm;
mod faulty;
mod genesys;
mod profiles;
mod socket;
mod support;
mod tokens;
mod webhooks;
mod widgets;
