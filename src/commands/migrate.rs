//! `backhaul migrate`: brings the schema to this program's version.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{database::explain_store, session::Session, table};

/// Bring the database's schema to this program's version, and register the kinds it knows.
///
/// Safe to run at any time, also by two processes at once. A database that a newer program migrated is left alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul migrate
  DATABASE_URL=postgres://owner@db/app backhaul migrate --json")]
pub(crate) struct Migrate {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Migrates.
pub(crate) async fn run(session: &Session, command: Migrate) -> Result<()> {
    let store = session.store().await?;
    let kinds = super::kinds::specs();
    let (before, after) = backhaul_engine::migrate(&store, &kinds).await.map_err(explain_store)?;
    store.close().await;
    if command.json {
        return table::print_json(&json!({ "before": before, "after": after, "kinds": kinds.len() }));
    }
    let moved = if before == after { "was at" } else { "is now at" };
    table::write_out(&format!("the schema {moved} version {after}; {} kinds are registered\n", kinds.len()))
}
