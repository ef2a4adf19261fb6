//! Backhaul: a durable job queue on plain Postgres for contact-centre integration.
//!
//! This file wires the parts together and turns the outcome into an exit code.

mod cluster;
mod commands;
mod config;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::{Cli, exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: with two providers compiled in, rustls would refuse to choose at the first connection.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("backhaul: another TLS provider was installed first; this is a mistake in the build");
        return ExitCode::from(exit::FAILURE);
    }
    // Clap ends the process itself for --help (0) and for usage errors (2).
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backhaul: {error:#}");
            ExitCode::from(exit::code_of(&error))
        }
    }
}
