//! `backhaul dead`: jobs that ended badly, and what a person decides about them.

mod decide;

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    database::{explain, rows_of},
    exit::{self, Coded},
    session::{Actor, Session},
    table::{self, Column},
};

/// List, show, replay and discard dead letters.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul dead list
  backhaul dead list --group
  backhaul dead show 4711 --payload
  backhaul dead replay 4711
  backhaul dead replay --kind enrichment --code upstream_unavailable --yes
  backhaul dead discard 4711 --why 'test data'

A replayed job keeps its id, and steps that were finished are not repeated.")]
pub(crate) enum Dead {
    /// List dead letters, newest first
    List(List),
    /// Show one dead letter with all of its failures
    Show(ShowOne),
    /// Put dead letters back to work
    Replay(Replay),
    /// Give dead letters up for good
    Discard(Discard),
}

/// Which dead letters are meant.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this failure code, for example schema_invalid
    #[arg(long)]
    code: Option<String>,
    /// Only this fingerprint: the same failure in the same place
    #[arg(long)]
    fingerprint: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Count by kind, tenant, reason and code instead
    #[arg(long)]
    group: bool,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowOne {
    /// The job's id
    id: i64,
    /// Show the payload too; it may hold personal data
    #[arg(long)]
    payload: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One dead letter by its id, or all that a filter finds.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Ids of jobs
    #[arg(value_name = "ID", conflicts_with_all = ["kind", "tenant", "code", "fingerprint"])]
    ids: Vec<i64>,
    #[command(flatten)]
    filter: Filter,
    /// With a filter: do it. Without it, only the number is shown
    #[arg(long)]
    yes: bool,
    /// With a filter: at most so many, oldest first
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    #[command(flatten)]
    actor: Actor,
    /// Print a JSON array of outcomes
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    chosen: Chosen,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "replayed by hand")]
    why: String,
    /// With one id: a JSON file with a corrected payload. The job then starts over
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT")]
    why: String,
}

const COLUMNS: [Column; 8] = [
    ("id", "ID"),
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("reason", "REASON"),
    ("code", "CODE"),
    ("tries", "TRIES"),
    ("died", "DIED"),
    ("message", "MESSAGE"),
];
const GROUPS: [Column; 7] = [
    ("dead", "DEAD"),
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("reason", "REASON"),
    ("code", "CODE"),
    ("fingerprint", "FINGERPRINT"),
    ("newest", "NEWEST"),
];
const FAILURES: [Column; 6] = [
    ("at", "AT"),
    ("attempt", "TRY"),
    ("step", "STEP"),
    ("code", "CODE"),
    ("http_status", "HTTP"),
    ("message", "MESSAGE"),
];

/// The condition of a [`Filter`], on the placeholders $1 to $4.
const MATCHES: &str = "($1::text is null or kind = $1) and ($2::text is null or tenant = $2)
    and ($3::text is null or error ->> 'code' = $3) and ($4::text is null or fingerprint = $4)";

/// Runs one of the subcommands.
pub(crate) async fn run(session: &Session, command: Dead) -> Result<()> {
    let pool = session.connect().await?;
    match command {
        Dead::List(list) => self::list(&pool, list).await,
        Dead::Show(show) => self::show(&pool, &show).await,
        Dead::Replay(replay) => decide::replay(&pool, &replay).await,
        Dead::Discard(discard) => decide::discard(&pool, &discard).await,
    }
}

async fn list(pool: &PgPool, list: List) -> Result<()> {
    let sql = if list.group {
        format!(
            "select count(*) as dead, kind, tenant, reason, error ->> 'code' as code, fingerprint,
                    to_char(max(died_at) at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as newest
             from backhaul.dead_letters where {MATCHES}
             group by kind, tenant, reason, error ->> 'code', fingerprint order by count(*) desc, kind limit $5"
        )
    } else {
        format!(
            "select id, kind, tenant, reason, error ->> 'code' as code, error ->> 'message' as message, fingerprint,
                    attempt, max_attempts, attempt || '/' || max_attempts as tries, replays, enqueued_at, died_at,
                    to_char(died_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as died
             from backhaul.dead_letters where {MATCHES} order by died_at desc, id desc limit $5"
        )
    };
    let filter = list.filter;
    let rows = rows_of(&sql)
        .bind(filter.kind)
        .bind(filter.tenant)
        .bind(filter.code)
        .bind(filter.fingerprint)
        .bind(list.limit)
        .fetch_all(pool)
        .await
        .map_err(explain)?;
    let columns = if list.group { &GROUPS[..] } else { &COLUMNS[..] };
    table::print(&rows, columns, list.json, "no dead letters")
}

async fn show(pool: &PgPool, show: &ShowOne) -> Result<()> {
    let found = rows_of("select * from backhaul.dead_letters where id = $1").bind(show.id);
    let mut letter = found
        .fetch_optional(pool)
        .await
        .map_err(explain)?
        .ok_or_else(|| anyhow!(Coded::new(exit::NOT_FOUND, format!("there is no dead letter {}", show.id))))?;
    let steps = rows_of("select name, state, at from backhaul.steps where job_id = $1 order by at");
    let steps = steps.bind(show.id).fetch_all(pool).await.map_err(explain)?;
    let payload = letter["payload"].take();
    if show.json {
        letter["steps"] = Value::Array(steps);
        if show.payload {
            letter["payload"] = payload;
        } else if let Some(members) = letter.as_object_mut() {
            members.remove("payload");
        }
        return table::print_json(&letter);
    }
    let errors = letter["errors"].take().as_array().cloned().unwrap_or_default();
    let conflict = letter["conflict"].take();
    let mut text = format!("{}\nFailures\n{}", summary(&letter), table::render(&errors, &FAILURES));
    if !steps.is_empty() {
        let columns = [("name", "STEP"), ("state", "STATE"), ("at", "AT")];
        text.push_str(&format!("\nSteps, kept for a replay\n{}", table::render(&steps, &columns)));
    }
    if !conflict.is_null() {
        text.push_str(&format!("\nConflict: what was read, what the job wants, what stands there now\n{conflict:#}\n"));
    }
    if show.payload {
        text.push_str(&format!("\nPayload\n{payload:#}\n"));
    }
    table::write_out(&text)
}

fn summary(letter: &Value) -> String {
    let shown = [
        "id",
        "kind",
        "tenant",
        "priority",
        "reason",
        "fingerprint",
        "ordering_key",
        "replays",
        "enqueued_at",
        "enqueued_by",
        "died_at",
    ];
    let rows: Vec<Value> = shown
        .iter()
        .filter(|name| !letter[**name].is_null())
        .map(|name| json!({ "name": name, "value": letter[*name].as_str().map_or(letter[*name].to_string(), str::to_owned) }))
        .collect();
    table::render(&rows, &[("name", "DEAD LETTER"), ("value", "")])
}
