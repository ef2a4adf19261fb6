//! Rows on their way to the queue: checked by their kind, enqueued in batches, refused with a reason.

use std::{
    fs::File,
    io::{BufWriter, Write},
};

use anyhow::{Context, Result};
use backhaul_workers::Demands;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    Backfill,
    rows::{Batch, Row},
};
use crate::{
    commands::{
        database::{explain, rows_of},
        payloads::Payloads,
    },
    telemetry,
};

/// Refused rows that are shown; all of them are in the file of `--rejects`.
const REJECTS_SHOWN_MAX: usize = 20;

/// What has become of the rows so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Rows that are jobs now; of a dry run, those that nothing speaks against.
    pub(super) inserted: u64,
    pub(super) duplicate: u64,
    pub(super) rejected: u64,
    pub(super) shown: Vec<String>,
}

/// When all jobs of a backfill may run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) deadline: Option<DateTime<Utc>>,
}

/// Everything that a batch needs on its way.
pub(super) struct Sender<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) command: &'a Backfill,
    pub(super) times: Times,
    /// The kind's rules, unless `--unchecked` says to leave them alone.
    pub(super) rules: Option<(&'a Payloads<'a>, Demands<'a>)>,
    pub(super) rejects: Option<BufWriter<File>>,
    pub(super) tally: Tally,
}

/// One answer of `enqueue_many`.
#[derive(Debug, Deserialize)]
struct Answer {
    position: usize,
    outcome: String,
    reason: Option<String>,
}

impl Sender<'_> {
    /// Enqueues what can be enqueued of a batch; a dry run only counts it.
    pub(super) async fn send(&mut self, batch: Batch) -> Result<()> {
        for (line, reason) in &batch.unreadable {
            self.refuse(*line, reason, None)?;
        }
        let mut rows = Vec::with_capacity(batch.rows.len());
        for row in batch.rows {
            let checked = match &self.rules {
                Some((payloads, demands)) => payloads.check(&row.payload, demands),
                None => Ok(()),
            };
            match checked {
                Ok(()) => rows.push(row),
                Err(unfit) => self.refuse(row.line, &unfit.to_string(), Some(&row.payload))?,
            }
        }
        if self.command.dry_run {
            self.tally.inserted += rows.len() as u64;
            return Ok(());
        }
        if rows.is_empty() { Ok(()) } else { self.enqueue(&rows).await }
    }

    async fn enqueue(&mut self, rows: &[Row]) -> Result<()> {
        let Self { command, times: Times { run_at, deadline }, .. } = *self;
        let traceparent = telemetry::traceparent();
        let jobs: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({
                    "kind": command.kind, "tenant": command.tenant, "payload": row.payload, "priority": "backfill",
                    "idempotency_key": command.key(&row.payload), "traceparent": traceparent,
                    "run_at": run_at, "deadline": deadline, "max_attempts": command.max_attempts,
                })
            })
            .collect();
        let answers: Vec<Value> = rows_of("select * from backhaul.enqueue_many($1)")
            .bind(Value::Array(jobs))
            .fetch_all(self.pool)
            .await
            .map_err(explain)?;
        for answer in answers {
            let answer: Answer = serde_json::from_value(answer).context("the answer of enqueue_many")?;
            match answer.outcome.as_str() {
                "inserted" => self.tally.inserted += 1,
                "duplicate" => self.tally.duplicate += 1,
                _ => {
                    let row = rows.get(answer.position.wrapping_sub(1)).context("an answer for no row")?;
                    self.refuse(row.line, answer.reason.as_deref().unwrap_or("refused"), Some(&row.payload))?;
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, line: u64, reason: &str, payload: Option<&Value>) -> Result<()> {
        self.tally.rejected += 1;
        if self.tally.shown.len() < REJECTS_SHOWN_MAX {
            self.tally.shown.push(format!("line {line}: {reason}"));
        }
        if let Some(file) = &mut self.rejects {
            let row = json!({ "line": line, "reason": reason, "payload": payload });
            writeln!(file, "{row}").context("cannot write the file of --rejects")?;
        }
        Ok(())
    }
}
