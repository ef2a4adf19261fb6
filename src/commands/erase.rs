//! `backhaul erase`: what is kept about a person, erased in every table.

use std::io::Read as _;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use super::{
    database::explain,
    exit::{self, Coded},
    session::{Actor, Session},
    table::{self, Column},
};

/// Longest list on standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024;
/// Rows that one transaction looks at.
const BATCH_ROWS: i32 = 1_000;

/// Erase what is kept about a person, in every table of one tenant
///
/// Every row that holds one of the identifiers is erased: waiting, running and dead jobs with their steps, memories,
/// schedules, the bodies of webhooks, producers' keys, and the content of events. Events and webhooks leave a tombstone,
/// so that nothing is out of order and nothing comes back by a repetition. Without --yes, the rows are only counted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul erase --tenant acme --why 'request 17' 6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4
  backhaul erase --tenant acme --why 'request 17' 6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4 ann@example.com --yes
  backhaul erase --tenant acme --why 'request 17' --yes - < identifiers.txt

A telephone number is found in every spelling of its digits. What upstreams, sinks, logs and backups hold stays there.")]
pub(crate) struct Erase {
    /// The person's ids, addresses and numbers; a single `-` reads them from standard input, one a line
    #[arg(value_name = "IDENTIFIER", required = true)]
    identifiers: Vec<String>,
    /// Whose data
    #[arg(long)]
    tenant: String,
    #[command(flatten)]
    actor: Actor,
    /// Reason, for the audit trail: the number of the request, not the person
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Do it. Without it, the rows are only counted
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 2] = [("area", "AREA"), ("rows", "ROWS")];

/// Runs the command.
pub(crate) async fn run(session: &Session, mut command: Erase) -> Result<()> {
    if command.identifiers == ["-"] {
        command.identifiers = from_input()?;
    }
    let pool = session.connect().await?;
    let (rows, erasure) = erase(&pool, &command).await?;
    let total: i64 = rows.values().filter_map(Value::as_i64).sum();
    if command.json {
        let name = if command.yes { "erased" } else { "would_be_erased" };
        return table::print_json(&json!({ "erasure": erasure, name: rows, "total": total }));
    }
    let lines: Vec<Value> = rows.iter().map(|(area, count)| json!({ "area": area, "rows": count })).collect();
    let mut text = table::render(&lines, &COLUMNS);
    text.push_str(&match erasure.as_str() {
        Some(id) => format!("\n{total} rows erased; the erasure is {id}\n"),
        None => format!("\n{total} rows would be erased; add --yes to do it\n"),
    });
    table::write_out(&text)
}

/// All batches, each in a transaction of its own. Answers the rows by area, and the erasure's id where one was made.
async fn erase(pool: &PgPool, command: &Erase) -> Result<(Map<String, Value>, Value)> {
    let mut rows = Map::new();
    let mut erasure = Value::Null;
    let mut after: Option<Value> = None;
    loop {
        let (area, matched, next): (String, i32, Option<Value>) =
            sqlx::query_as("select area, matched, next from backhaul.erase($1, $2, $3, $4, $5, $6, $7)")
                .bind(&command.tenant)
                .bind(&command.identifiers)
                .bind(command.actor.name())
                .bind(&command.why)
                .bind(&after)
                .bind(BATCH_ROWS)
                .bind(!command.yes)
                .fetch_one(pool)
                .await
                .map_err(explain)?;
        let before = rows.get(&area).and_then(Value::as_i64).unwrap_or_default();
        rows.insert(area, (before + i64::from(matched)).into());
        let Some(next) = next else { return Ok((rows, erasure)) };
        erasure = next["erasure"].clone();
        after = Some(next);
    }
}

/// One identifier a line. Standard input keeps them out of the shell's history and the list of processes.
fn from_input() -> Result<Vec<String>> {
    let mut text = String::new();
    let read = std::io::stdin().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    let length = read.context("cannot read the identifiers from standard input")?;
    if u64::try_from(length).unwrap_or(u64::MAX) > INPUT_BYTES_MAX {
        let problem = format!("standard input is longer than {INPUT_BYTES_MAX} bytes");
        return Err(anyhow!(Coded::new(exit::USAGE, problem)));
    }
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
