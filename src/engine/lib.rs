//! The engine: jobs, claims, settles, steps, pacing, dead letters, events and their relay, on plain Postgres.

pub mod context;
pub mod failure;
pub mod job;

pub use context::{AuditEvent, Begun, Done, JobContext, JobInfo, Pacer};
pub use failure::{Cause, Failure};
pub use job::{Job, KindSpec};
