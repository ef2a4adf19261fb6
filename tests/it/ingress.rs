//! Webhooks: what is let in, what becomes of it, and that an acknowledged event is never lost.

mod admin;
mod audits;
mod bodies;
mod fan_out;
mod parked;
mod pressure;
pub(crate) mod receiver;
mod registration;
mod repetition;
mod signatures;
mod threads;
