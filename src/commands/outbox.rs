//! `backhaul outbox`: how far events have got, and holding them back.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;
use sqlx::PgPool;

use super::{
    database::{explain, rows_of},
    exit::{self, Coded},
    session::{Audit, Session},
    table::{self, Column},
};

/// Look at the outbox: events that were sealed, and how far each sink has got; hold a sink back.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul outbox status
  backhaul outbox status --json | jq '.sinks[] | select(.behind > 1000)'
  backhaul outbox pause file --why 'its disk is full'
  backhaul outbox resume file")]
pub(crate) enum Outbox {
    /// Events in order, events still to be ordered, and each sink's position
    Status(Status),
    /// Deliver nothing to a sink for a while
    Pause(Named),
    /// Go on delivering to a sink that was paused
    Resume(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One sink by its name
///
/// Jobs go on without a sink that is paused, however far behind it is. It misses nothing: it goes on behind the last event
/// that it has, unless that is past worker.retention_days by then.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul outbox pause file --why 'its disk is full'
  backhaul outbox resume file --why 'there is room again'")]
pub(crate) struct Named {
    /// The sink's name, as `outbox status` shows it
    sink: String,
    #[command(flatten)]
    audit: Audit,
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
    let pool = session.connect().await?;
    match command {
        Outbox::Status(one) => status(&pool, &one).await,
        Outbox::Pause(one) => switch(&pool, &one, true).await,
        Outbox::Resume(one) => switch(&pool, &one, false).await,
    }
}

async fn switch(pool: &PgPool, one: &Named, paused: bool) -> Result<()> {
    if paused && one.audit.why.is_none() {
        return Err(anyhow!(Coded::new(exit::USAGE, "say why: --why TEXT; the audit trail keeps it")));
    }
    let sql = if paused { "select backhaul.pause_sink($1, $2, $3)" } else { "select backhaul.resume_sink($1, $2, $3)" };
    let changed: bool = sqlx::query_scalar(sql)
        .bind(&one.sink)
        .bind(one.audit.actor.name())
        .bind(&one.audit.why)
        .fetch_one(pool)
        .await
        .map_err(explain)?;
    if one.audit.json {
        return table::print_json(&json!({ "sink": one.sink, "paused": paused, "changed": changed }));
    }
    let text = match (paused, changed) {
        (true, true) => "is paused; jobs do not wait for it",
        (true, false) => "was paused already",
        (false, true) => "goes on behind the last event that it has",
        (false, false) => "was not paused",
    };
    table::write_out(&format!("sink {} {text}\n", one.sink))
}

async fn status(pool: &PgPool, status: &Status) -> Result<()> {
    let log = rows_of(
        // The count is bounded: behind a long backlog the exact number helps nobody.
        "select next_seq - 1 as sealed, cardinality(gaps) as gaps,
                (select count(*) from (select from backhaul.outbox_events e where e.event_no > s.position
                                       order by e.event_no limit 100000) u) as unsealed,
                (select max(sealed_at) from backhaul.seals) as sealed_at
         from backhaul.seal_state s",
    );
    let log = log.fetch_one(pool).await.map_err(explain)?;
    let sinks = rows_of(
        "select k.name, k.kind, k.target, k.position, s.next_seq - 1 - k.position as behind, k.failing_since, k.last_error,
                k.owned_until > clock_timestamp() as owned,
                case when k.paused then 'paused' when w.name is not null then 'jobs wait for it' when k.failing_since is not null then 'failing'
                     when k.position >= s.next_seq - 1 then 'up to date' else 'delivering' end as state
         from backhaul.sinks k cross join backhaul.seal_state s left join backhaul.sinks_waited_for w using (name)
         order by k.name",
    );
    let sinks = sinks.fetch_all(pool).await.map_err(explain)?;
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
