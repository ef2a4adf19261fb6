//! The one statement that takes an event in.

use std::time::Duration;

use backhaul_engine::Store;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::delivery_key::Keys;

/// How long a delivery is known: longer than any sender repeats one.
pub(crate) const WINDOW: Duration = Duration::from_secs(72 * 3600);

/// An event as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Intake<'a> {
    /// Whose it is.
    pub(crate) tenant: &'a str,
    /// The source's name.
    pub(crate) source: &'a str,
    /// By what repetitions are known.
    pub(crate) keys: Keys,
    /// Our id of it.
    pub(crate) id: Uuid,
    /// Its type, where it has one.
    pub(crate) event_type: Option<&'a str>,
    /// Its channel.
    pub(crate) channel: Option<&'a str>,
    /// When it happened.
    pub(crate) occurred_at: Option<DateTime<Utc>>,
    /// When it arrived.
    pub(crate) received_at: DateTime<Utc>,
    /// The body, where it is kept.
    pub(crate) body: Option<&'a [u8]>,
    /// W3C trace context of the sender.
    pub(crate) traceparent: Option<&'a str>,
    /// What it becomes.
    pub(crate) fate: Fate<'a>,
}

/// What an event becomes.
#[derive(Debug, Clone)]
pub(crate) enum Fate<'a> {
    /// Jobs: the argument of `enqueue_many`.
    Jobs(String),
    /// Nothing yet.
    Parked {
        /// Why, as a stable word.
        reason: &'a str,
        /// Why, in a sentence.
        detail: Option<&'a str>,
    },
}

/// What the database made of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The event, or the first one of which this is a repetition.
    pub(crate) id: Uuid,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// How many jobs were made.
    pub(crate) jobs: usize,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its jobs are committed.
    Accepted,
    /// It was seen before.
    Duplicate,
    /// It waits for a person.
    Parked,
}

/// Why an event was not taken in. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// The queue refuses a job of it, and so will it the next time.
    #[error("a job was refused: {0}")]
    Refused(String),
    /// The database is not there, or too slow.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// Takes an event in, within `timeout`. It is committed when this returns, or not at all; after a timeout nobody knows,
/// and the sender's repetition will find out.
///
/// # Errors
/// Why it was not taken in.
pub(crate) async fn take_in(store: &Store, intake: Intake<'_>, timeout: Duration) -> Result<Taken, IntakeError> {
    let (jobs, parked, detail) = match intake.fate {
        Fate::Jobs(jobs) => (jobs, None, None),
        Fate::Parked { reason, detail } => ("[]".to_owned(), Some(reason), detail),
    };
    let keys: Vec<&[u8]> = intake.keys.all.iter().map(<[u8; 32]>::as_slice).collect();
    let statement = sqlx::query_as::<_, (Uuid, String, Vec<i64>)>(
        "select event_id, outcome, job_ids
         from backhaul.ingest($1, $2, $3, make_interval(secs => $4), $5, $6, $7, $8, $9, $10, $11, $12::text::jsonb, $13, $14,
             $15)",
    )
    .bind(intake.tenant)
    .bind(intake.source)
    .bind(keys)
    .bind(WINDOW.as_secs_f64())
    .bind(intake.id)
    .bind(intake.event_type)
    .bind(intake.channel)
    .bind(intake.occurred_at)
    .bind(intake.received_at)
    .bind(intake.body)
    .bind(intake.traceparent)
    .bind(jobs)
    .bind(parked)
    .bind(detail)
    .bind(intake.keys.unsigned_id.as_ref().map(<[u8; 32]>::as_slice));
    let answer = tokio::time::timeout(timeout, statement.fetch_one(store)).await;
    let (id, outcome, jobs) = match answer {
        Err(_) => return Err(IntakeError::Unavailable(format!("no answer within {} ms", timeout.as_millis()))),
        Ok(Err(error)) => return Err(sorted(error)),
        Ok(Ok(row)) => row,
    };
    let outcome = match outcome.as_str() {
        "accepted" => Outcome::Accepted,
        "duplicate" => Outcome::Duplicate,
        _ => Outcome::Parked,
    };
    Ok(Taken { id, outcome, jobs: jobs.len() })
}

/// A refusal is about the event; everything else may pass.
fn sorted(error: sqlx::Error) -> IntakeError {
    let refused = error.as_database_error().is_some_and(|refused| {
        // Data exceptions beside our own: a text that this server's encoding does not know, a number beyond its reach.
        refused.code().is_some_and(|code| code == "BH040" || code.starts_with("22"))
    });
    if refused { IntakeError::Refused(message(&error)) } else { IntakeError::Unavailable(error.to_string()) }
}

/// The message without the row it is about.
fn message(error: &sqlx::Error) -> String {
    let text = error.as_database_error().map(|refused| refused.message().to_owned()).unwrap_or_default();
    text.chars().take(500).collect()
}
