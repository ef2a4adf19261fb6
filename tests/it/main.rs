//! The product's promises, one module each, against a real Postgres and the real binary.

mod command_line;
mod enqueue;
mod kill;
mod lifecycle;
mod private_cluster;
mod protocol;
mod support;
