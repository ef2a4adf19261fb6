//! The webhook receiver: verifies, reads strictly, normalises, routes, and enqueues in one transaction.

pub mod delivery_key;
pub mod event;
pub mod jobs;
pub mod json;
pub mod normalise;
pub mod path;
pub mod routes;
pub mod signature;
