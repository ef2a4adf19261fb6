//! The webhook receiver: verifies, reads strictly, normalises, routes, and enqueues in one transaction.
//!
//! It knows no job kind: `routes.toml` names them, and what a kind has to say about a payload comes in as a check.

mod admin;
mod app;
mod backlog;
mod body;
pub mod delivery_key;
pub mod event;
mod intake;
pub mod jobs;
pub mod json;
mod listener;
mod metrics;
pub mod normalise;
pub mod parked;
pub mod path;
mod readers;
mod receive;
mod reconcile;
mod registration;
mod reply;
pub mod routes;
mod server;
pub mod signature;
mod sweep;
mod told;

pub use app::{Check, Checks, Limits};
pub use event::Problem;
pub use routes::{RouteErrors, Routes};
pub use server::{BindError, Ingress, Options};
