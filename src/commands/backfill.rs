//! `backhaul backfill`: a file of many jobs, behind the live work.

mod mapping;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{BufWriter, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tokio::sync::mpsc;

use self::{
    mapping::Mapping,
    rows::{Batch, Rows},
};
use super::{
    database::explain,
    exit::{self, Coded},
    session::Session,
    table,
};
use crate::telemetry;

/// Batches that wait between the reader and the database. Together with the size of a batch they bound the memory.
const BATCHES_WAITING_MAX: usize = 2;
/// Refused rows that are shown; all of them are in the file of `--rejects`.
const REJECTS_SHOWN_MAX: usize = 20;

/// Enqueue the rows of a file as jobs, behind live work.
///
/// A JSON-lines file holds one payload a line. A CSV file has the payload's members as its headings: dots lead into
/// objects, and an ending says the type, as in `profileId,attributes.score:number,tags:list`. The types are text
/// (without an ending), number, bool, json, and list (words with semicolons between them). Empty cells are left out.
///
/// Every row has an idempotency key, made of --batch and the row's content. So a second run of the same file adds
/// nothing, also after the file was sorted or extended, and a run that was interrupted is repeated as it is. Keys are
/// remembered for the kind's idempotency window, 72 hours by default.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul backfill profiles.csv --kind enrichment --tenant acme --set mergeStrategy=OVERWRITE --set sourceSystem=erp
  backhaul backfill profiles.jsonl --kind enrichment --tenant acme --rejects refused.jsonl
  zcat profiles.jsonl.gz | backhaul backfill - --format jsonl --kind enrichment --tenant acme

Exit code 5 says that rows were refused; the others were enqueued.")]
pub(crate) struct Backfill {
    /// CSV or JSON-lines file; - reads standard input
    file: PathBuf,
    /// Kind of the jobs, for example enrichment
    #[arg(long)]
    kind: String,
    /// Whose work it is
    #[arg(long, default_value = "default")]
    tenant: String,
    /// Format of the file [default: by its ending]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Give every payload this member, as path=value; a value that is JSON is taken as such. May be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Name of this backfill, part of every idempotency key: another name enqueues the same rows again
    #[arg(long, default_value = "backfill", value_parser = batch_name)]
    batch: String,
    /// Write refused rows to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Rows per statement
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    batch_rows: u32,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// What has become of the rows so far.
#[derive(Debug, Default)]
struct Tally {
    inserted: u64,
    duplicate: u64,
    rejected: u64,
    shown: Vec<String>,
}

/// One answer of `enqueue_many`.
#[derive(Debug, Deserialize)]
struct Answer {
    position: usize,
    outcome: String,
    reason: Option<String>,
}

fn batch_name(text: &str) -> Result<String, String> {
    let valid = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { Ok(text.to_owned()) } else { Err("1 to 64 printable ASCII characters without blanks".to_owned()) }
}

/// Reads the file and enqueues its rows.
pub(crate) async fn run(session: &Session, command: Backfill) -> Result<()> {
    let usage = |text: String| anyhow!(Coded::new(exit::USAGE, text));
    let format = command.format()?;
    let mapping = Mapping::parse(&command.set).map_err(usage)?;
    let (input, size) = open(&command.file)?;
    let mut rejects = command.rejects.as_deref().map(create).transpose()?;
    let pool = session.connect().await?;
    let bar = progress_bar(size);

    let (sender, mut receiver) = mpsc::channel::<Result<Batch>>(BATCHES_WAITING_MAX);
    let batch_rows = command.batch_rows as usize;
    let reader = tokio::task::spawn_blocking(move || {
        for batch in Rows::new(input, format, mapping, batch_rows) {
            // The receiver is gone when the database refused: there is nobody to read for.
            if sender.blocking_send(batch).is_err() {
                break;
            }
        }
    });
    let mut tally = Tally::default();
    let mut failure = None;
    while let Some(batch) = receiver.recv().await {
        let done = match batch {
            Ok(batch) => enqueue(&pool, &command, batch, &mut tally, rejects.as_mut(), &bar).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            failure = Some(error);
            break;
        }
    }
    drop(receiver);
    reader.await.context("the reader of the file failed")?;
    if let Some(rejects) = &mut rejects {
        rejects.flush().context("cannot write the file of --rejects")?;
    }
    bar.finish_and_clear();
    report(&command, &tally)?;
    if let Some(error) = failure {
        return Err(error.context("the backfill stopped; run it again, rows that are enqueued are not enqueued twice"));
    }
    if tally.rejected > 0 {
        return Err(anyhow!(Coded::new(exit::UNWELL, format!("{} rows were refused", tally.rejected))));
    }
    Ok(())
}

impl Backfill {
    fn format(&self) -> Result<Format> {
        let ending = self.file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match (self.format, ending) {
            (Some(format), _) => Ok(format),
            (None, "csv") => Ok(Format::Csv),
            (None, "jsonl" | "ndjson") => Ok(Format::Jsonl),
            _ => Err(anyhow!(Coded::new(exit::USAGE, "the file's ending says no format: give --format csv or jsonl"))),
        }
    }

    /// The idempotency key of a payload: stable over runs, whatever the row's place in the file.
    fn key(&self, payload: &Value) -> String {
        let mut digest = Sha256::new();
        // Members are sorted, so that the order of columns does not matter.
        digest.update(sorted(payload).to_string());
        let digest = digest.finalize();
        let hex: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{hex}", self.batch)
    }
}

/// The same value with the members of every object in order, however `serde_json` was built.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            Value::Object(names.into_iter().map(|name| (name.clone(), sorted(&members[name]))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

async fn enqueue(
    pool: &PgPool,
    command: &Backfill,
    batch: Batch,
    tally: &mut Tally,
    mut rejects: Option<&mut BufWriter<File>>,
    bar: &ProgressBar,
) -> Result<()> {
    let mut refuse = |tally: &mut Tally, line: u64, reason: &str, payload: Option<&Value>| -> Result<()> {
        tally.rejected += 1;
        if tally.shown.len() < REJECTS_SHOWN_MAX {
            tally.shown.push(format!("line {line}: {reason}"));
        }
        if let Some(file) = rejects.as_deref_mut() {
            let row = json!({ "line": line, "reason": reason, "payload": payload });
            writeln!(file, "{row}").context("cannot write the file of --rejects")?;
        }
        Ok(())
    };
    for (line, reason) in &batch.unreadable {
        refuse(tally, *line, reason, None)?;
    }
    let traceparent = telemetry::traceparent();
    let jobs: Vec<Value> = batch
        .rows
        .iter()
        .map(|row| {
            json!({
                "kind": command.kind, "tenant": command.tenant, "payload": row.payload, "priority": "backfill",
                "idempotency_key": command.key(&row.payload), "traceparent": traceparent,
            })
        })
        .collect();
    if !jobs.is_empty() {
        let answers: Vec<Value> = super::database::rows_of("select * from backhaul.enqueue_many($1)")
            .bind(Value::Array(jobs))
            .fetch_all(pool)
            .await
            .map_err(explain)?;
        for answer in answers {
            let answer: Answer = serde_json::from_value(answer).context("the answer of enqueue_many")?;
            match answer.outcome.as_str() {
                "inserted" => tally.inserted += 1,
                "duplicate" => tally.duplicate += 1,
                _ => {
                    let row = batch.rows.get(answer.position.wrapping_sub(1)).context("an answer for no row")?;
                    refuse(tally, row.line, answer.reason.as_deref().unwrap_or("refused"), Some(&row.payload))?;
                }
            }
        }
    }
    bar.set_position(batch.bytes_read);
    bar.set_message(format!("{} enqueued, {} known, {} refused", tally.inserted, tally.duplicate, tally.rejected));
    Ok(())
}

fn report(command: &Backfill, tally: &Tally) -> Result<()> {
    if command.json {
        return table::print_json(&json!({
            "enqueued": tally.inserted, "known": tally.duplicate, "refused": tally.rejected, "reasons": tally.shown,
        }));
    }
    let mut text = format!(
        "{} jobs enqueued, {} were known already, {} refused\n",
        tally.inserted, tally.duplicate, tally.rejected
    );
    for reason in &tally.shown {
        text.push_str(&format!("  {reason}\n"));
    }
    if tally.rejected > tally.shown.len() as u64 {
        text.push_str("  and more; --rejects FILE writes all of them\n");
    }
    table::write_out(&text)
}

fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    Ok((Box::new(file), size))
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes} {msg} ({eta} left)"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
