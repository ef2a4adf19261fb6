//! The product's promises, one module each, against a real Postgres and the real binary.

mod command_line;
mod crm_sync;
mod enqueue;
mod handshake;
mod kill;
mod lifecycle;
mod private_cluster;
mod pooler;
mod protocol;
mod support;
mod telemetry;
