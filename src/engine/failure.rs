//! How an attempt can end badly, in the words the whole product uses.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// Longest message that is stored with an attempt; longer ones are cut at a character boundary.
pub const MESSAGE_BYTES_MAX: usize = 2_000;

/// Why an attempt failed. Codes are stable `snake_case`: dead letters are grouped by them.
///
/// Messages are stored, logged and shown to operators, so they carry no secret and no personal data.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// Stable name of the failure, for example `widget_not_found`.
    pub code: &'static str,
    /// One line for a person, at most [`MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// Status of the upstream's answer, where one arrived.
    pub http_status: Option<u16>,
    /// The provider that looks down, as the first part of its buckets' names: enough of these in a row close the bucket
    /// of the job's kind for the fleet, where it is this provider's.
    pub down: Option<&'static str>,
    /// The bucket `provider/class` whose pause or limit was met, for those who ask later what the job waits for.
    pub bucket: Option<Box<str>>,
}

/// The outcome of an attempt that did not succeed. `decide` turns it into a verdict.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// Trying again cannot help: dead letter now.
    Permanent(Cause),
    /// Costs an attempt and backs off; not before `not_before` where the upstream named a time.
    Transient {
        /// What happened.
        cause: Cause,
        /// The upstream's Retry-After, already clamped by the caller.
        not_before: Option<DateTime<Utc>>,
    },
    /// An upstream takes no more traffic now: costs no attempt.
    Throttled {
        /// What the upstream refused, as `provider/class`, for example `cxone/profiles`: pauses it for the whole fleet,
        /// the tenant being the job's. `None` where the job only met a pause or a limit that the fleet knows: one that
        /// was prolonged by all who meet it would never end.
        bucket: Option<String>,
        /// When there may be room again.
        until: DateTime<Utc>,
        /// What happened.
        cause: Cause,
    },
    /// Not now: due again at `until`, costs no attempt. For work that waits for something of its own.
    Snoozed {
        /// When to look again.
        until: DateTime<Utc>,
        /// What it waits for.
        cause: Cause,
    },
    /// Somebody else changed what we want to change: a dead letter that a person can decide.
    Conflict {
        /// The document when it was first read.
        base: Value,
        /// What the job wants.
        ours: Value,
        /// What stands there now.
        theirs: Value,
    },
    /// The job is no longer this worker's: write nothing.
    LeaseLost,
}

impl Failure {
    /// A failure that no retry can mend.
    pub fn permanent(code: &'static str, error: impl Display) -> Self {
        Self::Permanent(Cause::new(code, error))
    }

    /// A failure that may pass.
    pub fn transient(code: &'static str, error: impl Display) -> Self {
        Self::Transient { cause: Cause::new(code, error), not_before: None }
    }

    /// The upstream refuses requests of the bucket `provider/class` until `until`.
    pub fn throttled(bucket: impl Into<String>, until: DateTime<Utc>, code: &'static str, error: impl Display) -> Self {
        Self::Throttled { bucket: Some(bucket.into()), until, cause: Cause::new(code, error) }
    }

    /// The fleet's own limit of the bucket `provider/class`, or a pause of it that it knows, leaves no room until `until`.
    pub fn paced(bucket: &str, until: DateTime<Utc>, error: impl Display) -> Self {
        let cause = Cause { bucket: Some(bucket.into()), ..Cause::new("rate_limited", error) };
        Self::Throttled { bucket: None, until, cause }
    }

    /// Looks again at `until`.
    pub fn snoozed(until: DateTime<Utc>, code: &'static str, error: impl Display) -> Self {
        Self::Snoozed { until, cause: Cause::new(code, error) }
    }

    /// Adds the status of the upstream's answer.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        match &mut self {
            Self::Permanent(cause)
            | Self::Transient { cause, .. }
            | Self::Throttled { cause, .. }
            | Self::Snoozed { cause, .. } => {
                cause.http_status = Some(status);
            }
            Self::Conflict { .. } | Self::LeaseLost => {}
        }
        self
    }

    /// Adds the earliest time for the next attempt of a transient failure.
    #[must_use]
    pub fn not_before(mut self, at: Option<DateTime<Utc>>) -> Self {
        if let Self::Transient { not_before, .. } = &mut self {
            *not_before = at;
        }
        self
    }

    /// The stable code that dead letters are grouped by.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Permanent(cause)
            | Self::Transient { cause, .. }
            | Self::Throttled { cause, .. }
            | Self::Snoozed { cause, .. } => cause.code,
            Self::Conflict { .. } => "conflict",
            Self::LeaseLost => "lease_lost",
        }
    }
}

impl Cause {
    /// A cause with its message bounded, and without the one character that Postgres cannot store: upstreams' words are
    /// in it, and a settle that is refused for one of its jobs is refused for all.
    pub fn new(code: &'static str, error: impl Display) -> Self {
        let mut message = format!("{error:#}").replace('\0', "\u{fffd}");
        if message.len() > MESSAGE_BYTES_MAX {
            let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
            message.truncate(cut);
        }
        Self { code, message, http_status: None, down: None, bucket: None }
    }
}
