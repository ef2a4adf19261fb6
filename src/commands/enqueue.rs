//! `backhaul enqueue`: one job from the command line.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sqlx::Row;

use super::{
    database::explain,
    exit::{self, Coded},
    jobs::preview,
    payloads::{self, Payloads, Target},
    session::Session,
    table,
    when::{self, When},
};
use crate::telemetry;

/// Largest payload that is read; the kind's own limit is lower and is checked by the database.
const PAYLOAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Enqueue one job.
///
/// The same as `select * from backhaul.enqueue(...)` in SQL, which producers use in their own transactions.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul enqueue enrichment --tenant acme --payload '{\"profileId\": \"...\", ...}'
  backhaul enqueue widget-patch --tenant acme --file patch.json --key order-17 --json
  backhaul enqueue widget-patch --tenant acme --file patch.json --preview
  backhaul enqueue handshake --tenant acme --file - --run-at 2030-01-01T00:00:00Z < probe.json
  backhaul enqueue enrichment --tenant acme --file job.json --run-at +2h --deadline +7d

With --key, a second call with the same payload adds nothing and prints the first job's id.")]
pub(crate) struct Enqueue {
    /// Kind of the job, for example enrichment
    kind: String,
    /// Whose work it is
    #[arg(long, default_value = "default", value_parser = payloads::tenant)]
    tenant: String,
    /// The payload, a JSON object
    #[arg(long, value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    payload: Option<String>,
    /// File with the payload; - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Idempotency key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Urgency
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    priority: Priority,
    /// Not before this time: as 2030-01-31T08:00:00Z, or from now as +90s, +15m, +2h or +3d
    #[arg(long, value_name = "TIME")]
    run_at: Option<When>,
    /// Jobs with the same key run one at a time, in order [default: as the kind derives it from the payload]
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Total tries [default: the kind's]
    #[arg(long, value_name = "TRIES")]
    max_attempts: Option<i32>,
    /// Dead after this time, written as --run-at is [default: the kind's deadline]
    #[arg(long, value_name = "TIME")]
    deadline: Option<When>,
    /// W3C trace context of the producer [default: this command's own, or the variable TRACEPARENT]
    #[arg(long, value_name = "CONTEXT")]
    traceparent: Option<String>,
    /// Enqueue a payload also where this program's rules, or the tenant's on this machine, say that a worker refuses it
    #[arg(long, conflicts_with = "preview")]
    unchecked: bool,
    /// Show what the job would do now, and do not enqueue it; see `backhaul jobs preview`
    #[arg(long)]
    preview: bool,
    /// With --preview: show personal data that the tenant's policy lets pass, instead of masking it
    #[arg(long, requires = "preview")]
    personal_data: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The priorities, most urgent first.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Priority {
    Critical,
    High,
    Normal,
    Low,
    Backfill,
}

impl Priority {
    /// The word that the database knows it by.
    pub(crate) fn name(self) -> Option<String> {
        self.to_possible_value().map(|value| value.get_name().to_owned())
    }
}

/// Enqueues the job.
pub(crate) async fn run(session: &Session, command: Enqueue) -> Result<()> {
    let payload = read_payload(command.payload.as_deref(), command.file.as_deref())?;
    if command.preview {
        let Enqueue { kind, tenant, personal_data, json, .. } = &command;
        return preview::of_payload(session, kind, tenant, &payload, *personal_data, *json).await;
    }
    let priority = command.priority.name();
    let traceparent = command.traceparent.or_else(telemetry::traceparent).or_else(|| std::env::var("TRACEPARENT").ok());
    let pool = session.connect().await?;
    if !command.unchecked {
        let now = Target::of(&pool, &command.kind).await?.now;
        let advice = "Mend it, or add --unchecked where the workers have other rules.";
        let payloads = Payloads::of(session, &command.kind, &command.tenant, now);
        payloads.insist(&payload, "nothing is enqueued", advice)?;
    }
    let run_at = when::resolve(command.run_at, &pool).await?;
    let deadline = when::resolve(command.deadline, &pool).await?;
    let answer = sqlx::query(
        "select job_id, outcome from backhaul.enqueue(kind => $1, payload => $2, tenant => $3, idempotency_key => $4,
             priority => $5, run_at => $6, ordering_key => $7, max_attempts => $8, deadline => $9, traceparent => $10)",
    )
    .bind(&command.kind)
    .bind(payload)
    .bind(&command.tenant)
    .bind(&command.key)
    .bind(priority)
    .bind(run_at)
    .bind(&command.ordering_key)
    .bind(command.max_attempts)
    .bind(deadline)
    .bind(traceparent)
    .fetch_one(&pool)
    .await
    .map_err(explain)?;
    let id: i64 = answer.try_get("job_id").map_err(explain)?;
    let outcome: String = answer.try_get("outcome").map_err(explain)?;
    if command.json {
        return table::print_json(&json!({ "id": id, "outcome": outcome }));
    }
    let text = if outcome == "duplicate" { "was enqueued before under this key" } else { "is enqueued" };
    table::write_out(&format!("job {id} {text}; see `backhaul jobs show {id}`\n"))
}

/// The payload that was given as text or as a file; `-` is standard input. Bounded.
pub(crate) fn read_payload(text: Option<&str>, file: Option<&Path>) -> Result<Value> {
    let text = match (text, file) {
        (Some(text), _) => text.to_owned(),
        (None, Some(path)) if path == Path::new("-") => read_bounded(io::stdin(), "standard input")?,
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
            read_bounded(file, &name)?
        }
        (None, None) => return Err(anyhow!(Coded::new(exit::USAGE, "give --payload or --file"))),
    };
    serde_json::from_str(&text)
        .map_err(|error| anyhow!(Coded::new(exit::USAGE, format!("the payload is not JSON: {error}"))))
}

fn read_bounded(source: impl Read, name: &str) -> Result<String> {
    let mut text = String::new();
    source.take(PAYLOAD_BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    if text.len() as u64 > PAYLOAD_BYTES_MAX {
        return Err(anyhow!(Coded::new(exit::USAGE, format!("{name} has more than {PAYLOAD_BYTES_MAX} bytes"))));
    }
    Ok(text)
}
