//! `backhaul jobs reprioritize`: another priority for a job that is not running.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sqlx::PgPool;

use crate::commands::{database::explain, enqueue::Priority, session::Actor, table};

/// Give a waiting job another priority
///
/// For a job that waits behind more urgent work although something urgent waits for it: a row of a backfill that holds
/// its resource's ordering key, for example. A job that is ready gets its place anew, behind those of its new priority.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul jobs reprioritize 4711 --priority critical
  backhaul jobs reprioritize 4711 --priority low --why 'it can wait'")]
pub(crate) struct Reprioritize {
    /// The job's id
    id: i64,
    /// The new priority
    #[arg(long, value_enum)]
    priority: Priority,
    #[command(flatten)]
    actor: Actor,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "reprioritized by hand")]
    why: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Changes it.
pub(crate) async fn run(pool: &PgPool, one: Reprioritize) -> Result<()> {
    let name = one.priority.name().unwrap_or_default();
    let outcome: String = sqlx::query_scalar("select backhaul.reprioritize($1, $2, $3, $4)")
        .bind(one.id)
        .bind(&name)
        .bind(one.actor.name())
        .bind(&one.why)
        .fetch_one(pool)
        .await
        .map_err(explain)?;
    if one.json {
        return table::print_json(&json!({ "id": one.id, "outcome": outcome, "priority": name }));
    }
    let had = if outcome == "unchanged" { "had" } else { "has" };
    let note = if outcome == "unchanged" { " already, and keeps its place" } else { "" };
    table::write_out(&format!("job {} {had} priority {name}{note}\n", one.id))
}
