//! `backhaul dead`: jobs that ended badly, and what a person decides about them.

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{fs, path::PathBuf};

use super::{
    database::{explain, rows_of},
    exit::{self, Coded},
    session::{Actor, Session},
    table::{self, Column},
};

/// Largest file that `--payload` reads.
const PAYLOAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

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
        Dead::Replay(replay) => self::replay(&pool, &replay).await,
        Dead::Discard(discard) => {
            let Discard { chosen, why } = discard;
            decide(&pool, &chosen, &why, "select backhaul.dead_discard($1, $2, $3)", "discarded").await
        }
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

async fn replay(pool: &PgPool, replay: &Replay) -> Result<()> {
    let Some(file) = &replay.payload else {
        return decide(pool, &replay.chosen, &replay.why, "select backhaul.dead_replay($1, $2, $3)", "replayed").await;
    };
    let [id] = replay.chosen.ids.as_slice() else {
        return Err(anyhow!(Coded::new(exit::USAGE, "--payload needs exactly one id")));
    };
    let size = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
    if size > PAYLOAD_BYTES_MAX {
        bail!("{} has {size} bytes, at most {PAYLOAD_BYTES_MAX} are read", file.display());
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let payload: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    sqlx::query("select backhaul.dead_replay($1, $2, $3, $4)")
        .bind(id)
        .bind(replay.chosen.actor.name())
        .bind(&replay.why)
        .bind(payload)
        .execute(pool)
        .await
        .map_err(explain)?;
    report(&[json!({ "id": id, "outcome": "replayed" })], replay.chosen.json, "replayed")
}

/// Calls `sql` for every chosen dead letter, each in a transaction of its own: one that is gone stops no other.
async fn decide(pool: &PgPool, chosen: &Chosen, why: &str, sql: &'static str, done: &str) -> Result<()> {
    let ids = chosen_ids(pool, chosen).await?;
    let bulk = chosen.ids.is_empty();
    if bulk && !chosen.yes {
        let note = format!("{} dead letters would be {done}; add --yes to do it\n", ids.len());
        return if chosen.json {
            table::print_json(&json!({ "would_be": done, "count": ids.len() }))
        } else {
            table::write_out(&note)
        };
    }
    let mut outcomes = Vec::new();
    for id in &ids {
        let answer = sqlx::query(sql).bind(id).bind(chosen.actor.name()).bind(why).execute(pool).await.map_err(explain);
        match answer {
            Ok(_) => outcomes.push(json!({ "id": id, "outcome": done })),
            // Somebody else decided on it since the list was read; that is no failure of this command.
            Err(error) if bulk && exit::code_of(&error) == exit::NOT_FOUND => {
                outcomes.push(json!({ "id": id, "outcome": "gone" }));
            }
            Err(error) => {
                if !outcomes.is_empty() {
                    report(&outcomes, chosen.json, done)?;
                }
                return Err(error);
            }
        }
    }
    report(&outcomes, chosen.json, done)
}

async fn chosen_ids(pool: &PgPool, chosen: &Chosen) -> Result<Vec<i64>> {
    if !chosen.ids.is_empty() {
        return Ok(chosen.ids.clone());
    }
    let filter = &chosen.filter;
    if filter.kind.is_none() && filter.tenant.is_none() && filter.code.is_none() && filter.fingerprint.is_none() {
        return Err(anyhow!(Coded::new(exit::USAGE, "name ids, or a filter: --kind, --tenant, --code, --fingerprint")));
    }
    let sql = format!("select id from backhaul.dead_letters where {MATCHES} order by died_at, id limit $5");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(&filter.kind)
        .bind(&filter.tenant)
        .bind(&filter.code)
        .bind(&filter.fingerprint)
        .bind(chosen.limit)
        .fetch_all(pool)
        .await
        .map_err(explain)
}

fn report(outcomes: &[Value], json: bool, done: &str) -> Result<()> {
    if json {
        return table::print_json(&Value::Array(outcomes.to_vec()));
    }
    let count = outcomes.iter().filter(|outcome| outcome["outcome"] == done).count();
    match outcomes {
        [only] => table::write_out(&format!("job {} is {}\n", only["id"], only["outcome"].as_str().unwrap_or(done))),
        _ => table::write_out(&format!("{count} dead letters {done}\n")),
    }
}
