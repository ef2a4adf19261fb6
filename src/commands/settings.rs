//! `backhaul config`: what the settings are.

use anyhow::Result;
use clap::Subcommand;

use super::session::Session;
use crate::config::DEFAULTS;

/// Check the settings, or print every setting with its default and its explanation.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul --config production.toml config check
  BACKHAUL__WORKER__CONCURRENCY=32 backhaul config check
  backhaul config defaults > backhaul.toml")]
pub(crate) enum Show {
    /// Read the settings from all layers, say everything that is wrong, and print the outcome without secrets
    Check,
    /// Print every setting with its default
    Defaults,
}

/// Runs one of the subcommands. Wrong settings have been reported before this is reached.
pub(crate) fn run(session: &Session, command: &Show) -> Result<()> {
    match command {
        Show::Check => println!("{:#?}", session.settings),
        Show::Defaults => print!("{DEFAULTS}"),
    }
    Ok(())
}
