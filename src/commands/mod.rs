//! The command line: one file a subcommand.

pub(crate) mod exit;

mod db;
mod session;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

use self::session::Session;

/// A durable job queue on plain Postgres for contact-centre integration.
#[derive(Debug, Parser)]
#[command(name = "backhaul", version, max_term_width = 110, after_help = exit::HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Settings file, in TOML. Its keys override the defaults, and BACKHAUL__SECTION__KEY overrides both
    #[arg(long, global = true, value_name = "FILE", env = "BACKHAUL_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    /// Postgres to use instead of the private one, as postgres://user:password@host:port/database
    #[arg(long, global = true, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Db(db::Db),
}

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let session = Session::open(&cli.global)?;
    match cli.command {
        Command::Db(command) => db::run(&session, command),
    }
}
