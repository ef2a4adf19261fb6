//! `backhaul backfill`: a file of many jobs, behind the live work.

mod mapping;
mod pace;
mod rows;
mod send;
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
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use self::{
    mapping::Mapping,
    pace::Pace,
    rows::{Batch, Rows},
    send::{Sender, Tally, Times},
};
use super::{
    exit::{self, Coded},
    payloads::{self, Payloads, Target},
    session::Session,
    table,
    when::{self, When},
};

/// Batches that wait between the reader and the database. Together with the size of a batch they bound the memory.
const BATCHES_WAITING_MAX: usize = 2;

/// Enqueue the rows of a file as jobs, behind live work.
///
/// A JSON-lines file holds one payload a line. A CSV file has the payload's members as its headings: dots lead into
/// objects, and an ending says the type, as in `profileId,attributes.score:number,tags:list`. The types are text
/// (without an ending), number, bool, json, and list (words with semicolons between them). Empty cells are left out.
///
/// Every row is checked by the rules of its kind before it is enqueued: those of the tenant where its connection profile
/// is on this machine, and otherwise those that hold for everybody. Refused rows are left out and told.
///
/// Every row has an idempotency key, made of --batch and the row's content. So a second run of the same file adds
/// nothing, also after the file was sorted or extended, and a run that was interrupted is repeated as it is. Keys are
/// remembered for the kind's idempotency window, 72 hours by default.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul backfill profiles.csv --kind enrichment --tenant acme --dry-run
  backhaul backfill profiles.csv --kind enrichment --tenant acme --set mergeStrategy=OVERWRITE --set sourceSystem=erp
  backhaul backfill profiles.jsonl --kind enrichment --tenant acme --rejects refused.jsonl --deadline +7d
  zcat profiles.jsonl.gz | backhaul backfill - --format jsonl --kind enrichment --tenant acme

Exit code 5 says that rows were refused; the others were enqueued. `backhaul jobs count --batch NAME` tells how far the
others are, and `backhaul jobs cancel --batch NAME` takes them back.")]
pub(crate) struct Backfill {
    /// CSV or JSON-lines file; - reads standard input
    file: PathBuf,
    /// Kind of the jobs, for example enrichment
    #[arg(long)]
    kind: String,
    /// Whose work it is
    #[arg(long, default_value = "default", value_parser = payloads::tenant)]
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
    /// Not before this time: as 2030-01-31T08:00:00Z, or from now as +90s, +15m, +2h or +3d
    #[arg(long, value_name = "TIME")]
    run_at: Option<When>,
    /// Dead after this time, written as --run-at is [default: the kind's deadline]
    #[arg(long, value_name = "TIME")]
    deadline: Option<When>,
    /// Total tries of each step [default: the kind's]
    #[arg(long, value_name = "TRIES", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    max_attempts: Option<i32>,
    /// Read, check and count the rows, and enqueue nothing
    #[arg(long)]
    dry_run: bool,
    /// Enqueue also what this program's rules, or the tenant's on this machine, say that a worker refuses
    #[arg(long)]
    unchecked: bool,
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

fn batch_name(text: &str) -> Result<String, String> {
    let valid = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { Ok(text.to_owned()) } else { Err("1 to 64 printable ASCII characters without blanks".to_owned()) }
}

/// Reads the file and enqueues its rows.
pub(crate) async fn run(session: &Session, command: Backfill) -> Result<()> {
    let usage = |text: String| anyhow!(Coded::new(exit::USAGE, text));
    let format = command.format()?;
    let mapping = Mapping::parse(&command.set).map_err(usage)?;
    let pool = session.connect().await?;
    // A wrong kind or time is told before the file is read, not once for each of its rows.
    let target = Target::of(&pool, &command.kind).await?;
    let run_at = when::resolve(command.run_at, &pool).await?;
    let deadline = when::resolve(command.deadline, &pool).await?;
    let start = run_at.map_or(target.now, |run_at| run_at.max(target.now));
    let life_s = deadline.map_or(target.deadline_s, |deadline| (deadline - start).as_seconds_f64());
    if life_s <= 0.0 {
        return Err(usage("--deadline must be later than now and --run-at".to_owned()));
    }
    let (input, size) = open(&command.file)?;
    let payloads = Payloads::of(session, &command.kind, &command.tenant, target.now);
    let mut sender = Sender {
        pool: &pool,
        command: &command,
        times: Times { run_at, deadline },
        rules: (!command.unchecked).then(|| (&payloads, payloads.demands())),
        rejects: command.rejects.as_deref().map(create).transpose()?,
        tally: Tally::default(),
    };
    let bar = progress_bar(size);
    let failure = send_all(Rows::new(input, format, mapping, command.batch_rows as usize), &mut sender, &bar).await;
    if let Some(rejects) = &mut sender.rejects {
        rejects.flush().context("cannot write the file of --rejects")?;
    }
    bar.finish_and_clear();
    let pace = Pace::of(&pool, &command.kind, &command.tenant).await?;
    let tally = sender.tally;
    report(&command, &tally, pace.and_then(|pace| pace.warning(tally.inserted, life_s)))?;
    if let Err(error) = failure {
        return Err(error.context("the backfill stopped; run it again, rows that are enqueued are not enqueued twice"));
    }
    if tally.rejected > 0 {
        return Err(anyhow!(Coded::new(exit::UNWELL, format!("{} rows were refused", tally.rejected))));
    }
    Ok(())
}

/// Reads ahead by a few batches while the database works.
async fn send_all(rows: Rows, sender: &mut Sender<'_>, bar: &ProgressBar) -> Result<()> {
    let (batches, mut receiver) = mpsc::channel::<Result<Batch>>(BATCHES_WAITING_MAX);
    let reader = tokio::task::spawn_blocking(move || {
        for batch in rows {
            // The receiver is gone when the database refused: there is nobody to read for.
            if batches.blocking_send(batch).is_err() {
                break;
            }
        }
    });
    let mut done = Ok(());
    while let (true, Some(batch)) = (done.is_ok(), receiver.recv().await) {
        done = match batch {
            Ok(batch) => {
                bar.set_position(batch.bytes_read);
                sender.send(batch).await
            }
            Err(error) => Err(error),
        };
        let Tally { inserted, duplicate, rejected, .. } = &sender.tally;
        bar.set_message(format!("{inserted} enqueued, {duplicate} known, {rejected} refused"));
    }
    drop(receiver);
    reader.await.context("the reader of the file failed")?;
    done
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

fn report(command: &Backfill, tally: &Tally, warning: Option<String>) -> Result<()> {
    let Tally { inserted, duplicate, rejected, shown } = tally;
    if command.json {
        let mut told = match command.dry_run {
            true => json!({ "would_enqueue": inserted, "refused": rejected, "reasons": shown }),
            false => json!({ "enqueued": inserted, "known": duplicate, "refused": rejected, "reasons": shown }),
        };
        told["warning"] = json!(warning);
        return table::print_json(&told);
    }
    let mut text = match command.dry_run {
        true => format!("{inserted} jobs would be enqueued, {rejected} refused; nothing was enqueued\n"),
        false => format!("{inserted} jobs enqueued, {duplicate} were known already, {rejected} refused\n"),
    };
    for reason in shown {
        text.push_str(&format!("  {}\n", table::clean(reason)));
    }
    if *rejected > shown.len() as u64 {
        text.push_str("  and more; --rejects FILE writes all of them\n");
    }
    if let Some(warning) = warning {
        text.push_str(&format!("Warning: {warning}.\n"));
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
