//! `backhaul schedules`: work that comes back.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use backhaul_engine::Timetable;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use sqlx::PgPool;

use super::{
    database::{explain, rows_of},
    enqueue::{Priority, read_payload},
    exit::{self, Coded},
    payloads::Payloads,
    session::{Audit, Session},
    table::{self, Column},
};

/// List, add, pause, resume, trigger and remove schedules.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul schedules list
  backhaul schedules add nightly-probe --kind handshake --tenant acme --cron '30 2 * * *' --timezone Europe/Berlin --file probe.json
  backhaul schedules pause nightly-probe --why 'maintenance'
  backhaul schedules trigger nightly-probe
  backhaul schedules remove nightly-probe

Any running worker fires what is due, about once a second.")]
pub(crate) enum Schedules {
    List(List),
    Add(Add),
    Pause(Named),
    Resume(Named),
    Trigger(Named),
    Remove(Named),
}

/// List schedules by name, with their next and last times
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul schedules list
  backhaul schedules list --json | jq '.[] | select(.last_error)'")]
pub(crate) struct List {
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Add a schedule, or replace the one of that name
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul schedules add nightly-probe --kind handshake --tenant acme --cron '30 2 * * *' --timezone Europe/Berlin --file probe.json
  backhaul schedules add hourly --kind enrichment --cron @hourly --missed skip --payload '{\"profileId\": \"...\", ...}'

A time inside a night's missing hour runs right after it; one inside the doubled hour runs once.")]
pub(crate) struct Add {
    /// Its name: lower-case letters, digits, hyphen and underscore
    name: String,
    /// Kind of its jobs
    #[arg(long)]
    kind: String,
    /// Minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long)]
    cron: String,
    /// Time zone in which the line is read, for example Europe/Berlin
    #[arg(long, default_value = "UTC")]
    timezone: String,
    /// Whose work it is
    #[arg(long, default_value = "default")]
    tenant: String,
    /// The payload of its jobs, a JSON object
    #[arg(long, value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    payload: Option<String>,
    /// File with the payload; - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Urgency of its jobs
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    priority: Priority,
    /// What becomes of times at which no worker was there
    #[arg(long, value_enum, default_value_t = Missed::Coalesce)]
    missed: Missed,
    #[command(flatten)]
    audit: Audit,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Missed {
    /// One run for all of them
    Coalesce,
    /// A run for each
    All,
    /// No run
    Skip,
}

/// One schedule by its name
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul schedules pause nightly-probe --why 'maintenance'
  backhaul schedules resume nightly-probe
  backhaul schedules trigger nightly-probe --json
  backhaul schedules remove nightly-probe --why 'no longer needed'")]
pub(crate) struct Named {
    /// The schedule's name
    name: String,
    #[command(flatten)]
    audit: Audit,
}

const COLUMNS: [Column; 9] = [
    ("name", "NAME"),
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("cron", "CRON"),
    ("timezone", "TIMEZONE"),
    ("state", "STATE"),
    ("next", "NEXT (UTC)"),
    ("last", "LAST (UTC)"),
    ("last_error", "LAST ERROR"),
];

/// Runs one of the subcommands.
pub(crate) async fn run(session: &Session, command: Schedules) -> Result<()> {
    let pool = session.connect().await?;
    match command {
        Schedules::List(list) => self::list(&pool, &list).await,
        Schedules::Add(add) => self::add(session, &pool, &add).await,
        Schedules::Pause(one) => {
            let changed = switch(&pool, &one, "select backhaul.schedule_pause($1, $2, $3)").await?;
            tell_switched(&one, true, changed, if changed { "is paused" } else { "was paused already" })
        }
        Schedules::Resume(one) => {
            let changed = switch(&pool, &one, "select backhaul.schedule_resume($1, $2, $3)").await?;
            tell_switched(&one, false, changed, if changed { "goes on from now" } else { "was not paused" })
        }
        Schedules::Trigger(one) => self::trigger(&pool, &one).await,
        Schedules::Remove(one) => self::remove(&pool, &one).await,
    }
}

async fn list(pool: &PgPool, list: &List) -> Result<()> {
    let rows = rows_of(
        "select name, kind, version, tenant, priority, cron, timezone, missed, paused, next_at, last_at, last_job,
                last_error, case when last_error is not null then 'stopped' when paused then 'paused' else 'active' end as state,
                to_char(next_at at time zone 'utc', 'YYYY-MM-DD HH24:MI') as next,
                to_char(last_at at time zone 'utc', 'YYYY-MM-DD HH24:MI') as last
         from backhaul.schedules
         where ($1::text is null or kind = $1) and ($2::text is null or tenant = $2) order by name limit 10000",
    );
    let rows = rows.bind(&list.kind).bind(&list.tenant).fetch_all(pool).await.map_err(explain)?;
    table::print(&rows, &COLUMNS, list.json, "no schedules")
}

async fn add(session: &Session, pool: &PgPool, add: &Add) -> Result<()> {
    let usage = |problem: String| anyhow!(Coded::new(exit::USAGE, problem));
    let timetable = Timetable::parse(&add.cron, &add.timezone).map_err(usage)?;
    let payload = read_payload(add.payload.as_deref(), add.file.as_deref())?;
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await.map_err(explain)?;
    let next = timetable.next(now).map_err(usage)?;
    // It would make a dead letter each time.
    Payloads::of(session, &add.kind, &add.tenant, now).insist(&payload, "nothing is scheduled", "Mend it.")?;
    let outcome: String = sqlx::query_scalar(
        "select backhaul.schedule_put(name => $1, kind => $2, payload => $3, cron => $4, timezone => $5, tenant => $6,
             priority => $7, missed => $8, actor => $9, why => $10)",
    )
    .bind(&add.name)
    .bind(&add.kind)
    .bind(payload)
    .bind(&add.cron)
    .bind(&add.timezone)
    .bind(&add.tenant)
    .bind(add.priority.name())
    .bind(add.missed.to_possible_value().map(|value| value.get_name().to_owned()))
    .bind(add.audit.actor.name())
    .bind(&add.audit.why)
    .fetch_one(pool)
    .await
    .map_err(explain)?;
    if add.audit.json {
        return table::print_json(&json!({ "name": add.name, "outcome": outcome, "next_at": next }));
    }
    table::write_out(&format!("schedule {} is {outcome}; next at {}\n", add.name, next.format("%Y-%m-%d %H:%M UTC")))
}

/// Calls a function that says whether anything changed.
async fn switch(pool: &PgPool, one: &Named, sql: &'static str) -> Result<bool> {
    sqlx::query_scalar(sql)
        .bind(&one.name)
        .bind(one.audit.actor.name())
        .bind(&one.audit.why)
        .fetch_one(pool)
        .await
        .map_err(explain)
}

fn tell_switched(one: &Named, paused: bool, changed: bool, text: &str) -> Result<()> {
    if one.audit.json {
        return table::print_json(&json!({ "name": one.name, "paused": paused, "changed": changed }));
    }
    table::write_out(&format!("schedule {} {text}\n", one.name))
}

async fn trigger(pool: &PgPool, one: &Named) -> Result<()> {
    let id: i64 = sqlx::query_scalar("select backhaul.schedule_trigger($1, $2, $3)")
        .bind(&one.name)
        .bind(one.audit.actor.name())
        .bind(&one.audit.why)
        .fetch_one(pool)
        .await
        .map_err(explain)?;
    if one.audit.json {
        return table::print_json(&json!({ "name": one.name, "id": id }));
    }
    table::write_out(&format!("job {id} is enqueued; see `backhaul jobs show {id}`\n"))
}

async fn remove(pool: &PgPool, one: &Named) -> Result<()> {
    sqlx::query("select backhaul.schedule_remove($1, $2, $3)")
        .bind(&one.name)
        .bind(one.audit.actor.name())
        .bind(&one.audit.why)
        .execute(pool)
        .await
        .map_err(explain)?;
    if one.audit.json {
        return table::print_json(&json!({ "name": one.name, "outcome": "removed" }));
    }
    table::write_out(&format!("schedule {} is removed; its jobs stay\n", one.name))
}
