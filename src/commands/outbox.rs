//! `backhaul outbox`: how far events have got.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    database::{explain, rows_of},
    session::Session,
    table::{self, Column},
};

/// Look at the outbox: events that were sealed, and how far each sink has got.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul outbox status
  backhaul outbox status --json | jq '.sinks[] | select(.behind > 1000)'")]
pub(crate) enum Outbox {
    /// Events in order, events still to be ordered, and each sink's position
    Status(Status),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const SINKS: [Column; 7] = [
    ("name", "SINK"),
    ("kind", "KIND"),
    ("target", "TARGET"),
    ("position", "DELIVERED"),
    ("behind", "BEHIND"),
    ("state", "STATE"),
    ("last_error", "LAST ERROR"),
];

/// Runs the subcommand.
pub(crate) async fn run(session: &Session, command: Outbox) -> Result<()> {
    let Outbox::Status(status) = command;
    let pool = session.connect().await?;
    let log = rows_of(
        // The count is bounded: behind a long backlog the exact number helps nobody.
        "select next_seq - 1 as sealed, cardinality(gaps) as gaps,
                (select count(*) from (select from backhaul.outbox_events e where e.event_no > s.position
                                       order by e.event_no limit 100000) u) as unsealed,
                (select max(sealed_at) from backhaul.seals) as sealed_at
         from backhaul.seal_state s",
    );
    let log = log.fetch_one(&pool).await.map_err(explain)?;
    let sinks = rows_of(
        "select k.name, k.kind, k.target, k.position, s.next_seq - 1 - k.position as behind, k.failing_since, k.last_error,
                k.owned_until > clock_timestamp() as owned,
                case when k.paused then 'paused' when k.failing_since is not null then 'failing'
                     when k.position >= s.next_seq - 1 then 'up to date' else 'delivering' end as state
         from backhaul.sinks k cross join backhaul.seal_state s order by k.name",
    );
    let sinks = sinks.fetch_all(&pool).await.map_err(explain)?;
    if status.json {
        return table::print_json(&json!({ "log": log, "sinks": sinks }));
    }
    let gaps = log["gaps"].as_i64().unwrap_or_default();
    let mut text = format!("{} events in order, {} to be ordered", log["sealed"], log["unsealed"]);
    if gaps > 0 {
        text.push_str(&format!(", {gaps} numbers awaited from open or rolled back transactions"));
    }
    text.push_str("\n\n");
    text.push_str(&if sinks.is_empty() {
        "no sink has been registered: a worker registers those of its settings when it starts\n".to_owned()
    } else {
        table::render(&sinks, &SINKS)
    });
    table::write_out(&text)
}
