//! The engine: jobs, claims, settles, steps, pacing, dead letters, events and their relay, on plain Postgres.
//!
//! It knows no HTTP, no command line and no job kind. `docs/ARCHITECTURE.md` is its map.

mod apalis;
mod attempt;
mod backlog;
mod batch;
mod breaker;
mod claim;
mod claims;
mod clock;
mod context;
mod decide;
mod desk;
pub mod events;
mod failure;
mod hands;
mod job;
mod maintenance;
mod metrics;
mod migrate;
mod misfit;
#[cfg(test)]
mod model;
mod pacing;
mod pooler;
pub mod preview;
mod reconnect;
mod registry;
mod relay;
mod schedules;
mod settle;
mod steps;
mod store;
mod timetable;
mod trace;
mod wake;
mod worker;

pub use apalis::QUIET_LOGS;
pub use clock::Clock;
pub use context::{AuditEvent, Begun, Done, JobContext, JobInfo};
pub use failure::{Cause, Failure, MESSAGE_BYTES_MAX};
pub use job::{Job, KindSpec};
pub use migrate::{check_version, known_version, migrate, register_kinds, schema_version};
pub use pacing::{Pacer, set_limit};
pub use registry::Registry;
pub use relay::{SealedEvent, Sink};
pub use store::{Store, StoreError};
pub use timetable::Timetable;
pub use worker::{WorkerOptions, run_worker};
