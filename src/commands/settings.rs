//! `backhaul config`: what the settings are.

use anyhow::{Result, anyhow};
use clap::Subcommand;

use super::{
    exit::{self, Coded},
    serve,
    session::Session,
};
use crate::config::DEFAULTS;

/// Check the settings, or print every setting with its default and its explanation.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul --config production.toml config check
  BACKHAUL__WORKER__CONCURRENCY=32 backhaul config check
  backhaul config defaults > backhaul.toml")]
pub(crate) enum Show {
    /// Read the settings from all layers, the connection profiles and the routes, say everything that is wrong, and print
    /// the settings without secrets
    Check,
    /// Print every setting with its default
    Defaults,
}

/// Runs one of the subcommands. Wrong settings have been reported before this is reached.
pub(crate) fn run(session: &Session, command: &Show) -> Result<()> {
    match command {
        Show::Check => {
            check_files(session)?;
            println!("{:#?}", session.settings);
        }
        Show::Defaults => print!("{DEFAULTS}"),
    }
    Ok(())
}

/// What `work` and `serve` would refuse to start with. An installation that receives no webhooks needs no routes, so a
/// file that is not there is no mistake.
fn check_files(session: &Session) -> Result<()> {
    let routes = &session.settings.ingress.routes;
    let wrong = [
        serve::read_profiles(session).err(),
        routes.exists().then(|| serve::read_routes(routes)).and_then(Result::err),
    ];
    let wrong: Vec<String> = wrong.into_iter().flatten().map(|error| format!("{error:#}")).collect();
    if wrong.is_empty() { Ok(()) } else { Err(anyhow!(Coded::new(exit::USAGE, wrong.join("\n")))) }
}
