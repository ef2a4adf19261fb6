//! The product's promises, one module each, against a real Postgres and the real binary.

mod apalis_traps;
mod architecture;
#[cfg(feature = "bench")]
mod bench;
mod command_line;
mod conformance;
mod crm_sync;
mod demo;
mod enqueue;
mod explain;
mod fairness;
mod fencing;
mod handshake;
mod ingress;
mod ingress_burst;
mod kill;
mod kinds;
mod lifecycle;
mod migrations;
mod operate;
mod operators;
mod ordering;
mod pacing;
mod plans;
mod poison;
mod pooler;
mod preview;
mod private_cluster;
mod protocol;
mod roles;
mod schedules;
mod steps;
mod stop;
mod stragglers;
mod support;
mod telemetry;
