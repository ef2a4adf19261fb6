//! The verdict on an attempt: a pure function of its outcome and the job's facts. Only settle writes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    events::without_nul,
    failure::{Cause, Failure},
};

/// First pause of the persisted backoff.
const BACKOFF_BASE_MS: u64 = 1_000;
/// Longest pause for the first four tries.
const BACKOFF_EARLY_MS_MAX: u64 = 30_000;
/// Longest pause after them.
const BACKOFF_LATE_MS_MAX: u64 = 900_000;
/// How many tries count as the first ones.
const EARLY_TRIES: u16 = 4;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The handler returned Ok.
    Done,
    /// The handler returned a failure.
    Failed(Failure),
    /// The handler did not return within the kind's timeout.
    TimedOut(Duration),
    /// The handler panicked, with the panic's message.
    Panicked(String),
    /// The payload is not one of the kind's, with the path and reason.
    Undecodable(String),
    /// The deadline had passed before the attempt began.
    Expired,
    /// The attempt was not started, or was stopped by a shutdown: nobody's fault.
    Interrupted,
    /// The job was cancelled or given away: nothing may be written.
    Lost,
}

/// What a verdict depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub job_id: i64,
    /// Transient failures before this attempt, since the last finished step.
    pub attempt: u16,
    pub max_attempts: u16,
    pub deadline_at: DateTime<Utc>,
}

/// What settle writes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Done,
    /// Due again after `delay`, with one more attempt counted.
    Retry {
        delay: Duration,
        attempt: u16,
        error: ErrorRecord,
    },
    /// Due again after `delay`; costs nothing.
    Later {
        delay: Duration,
        error: Option<ErrorRecord>,
        close: Option<Close>,
    },
    Dead {
        error: ErrorRecord,
    },
    Nothing,
}

/// A pause that an upstream asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Close {
    pub bucket: String,
    pub pause: Duration,
    pub why: String,
}

/// One entry of a job's error history. Member order is the order of canonical JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ErrorRecord {
    pub at: DateTime<Utc>,
    pub attempt: u16,
    /// The bucket `provider/class` that held the job back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Box<str>>,
    pub class: &'static str,
    pub code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip)]
    pub down: Option<&'static str>,
}

/// Decides. `jitter` is in [0, 1); `step` is the step that was being taken.
pub(crate) fn decide(outcome: Outcome, facts: Facts, step: Option<String>, now: DateTime<Utc>, jitter: f64) -> Verdict {
    let record = |class, cause: Cause, conflict| ErrorRecord {
        at: now,
        attempt: facts.attempt,
        bucket: cause.bucket,
        class,
        code: cause.code,
        conflict,
        http_status: cause.http_status,
        message: cause.message,
        step: step.clone(),
        down: cause.down,
    };
    let failure = match outcome {
        Outcome::Done => return Verdict::Done,
        Outcome::Lost => return Verdict::Nothing,
        Outcome::Interrupted => return Verdict::Later { delay: Duration::ZERO, error: None, close: None },
        Outcome::Failed(failure) => failure,
        Outcome::TimedOut(after) => {
            Failure::transient("timed_out", format!("the attempt took longer than {} s", after.as_secs_f64()))
        }
        Outcome::Panicked(message) => Failure::transient("panicked", message),
        Outcome::Undecodable(message) => Failure::permanent("payload_invalid", message),
        Outcome::Expired => {
            Failure::permanent("deadline_exceeded", format!("not finished by {}", facts.deadline_at.to_rfc3339()))
        }
    };
    match failure {
        Failure::LeaseLost => Verdict::Nothing,
        Failure::Permanent(cause) => Verdict::Dead { error: record("permanent", cause, None) },
        Failure::Conflict { base, ours, theirs } => {
            let mut documents = json!({ "base": base, "ours": ours, "theirs": theirs });
            without_nul(&mut documents);
            let cause = Cause::new("conflict", "somebody else changed what this job wants to change");
            Verdict::Dead { error: record("conflict", cause, Some(documents)) }
        }
        Failure::Throttled { bucket, until, mut cause } => {
            cause.bucket = bucket.as_deref().map(Box::from).or(cause.bucket);
            if now >= facts.deadline_at {
                return Verdict::Dead { error: record("deadline", cause, None) };
            }
            let wait = (until - now).to_std().unwrap_or(Duration::ZERO);
            // Spread the return over a tenth of the pause, at most five seconds, so that the bucket's jobs do not
            // all knock at the same moment. The pause itself is as long as the upstream asked for.
            let spread = wait.mul_f64(0.1).min(Duration::from_secs(5)).mul_f64(jitter);
            let why = format!("{}: {}", cause.code, cause.message);
            Verdict::Later {
                delay: wait + spread,
                error: Some(record("throttled", cause, None)),
                close: bucket.map(|bucket| Close { bucket, pause: wait, why }),
            }
        }
        Failure::Snoozed { until, cause } => {
            if until >= facts.deadline_at {
                return Verdict::Dead { error: record("deadline", cause, None) };
            }
            let delay = (until - now).to_std().unwrap_or(Duration::ZERO);
            Verdict::Later { delay, error: Some(record("snoozed", cause, None)), close: None }
        }
        Failure::Transient { cause, not_before } => {
            let attempt = facts.attempt.saturating_add(1);
            let pause = backoff(facts.job_id, facts.attempt, jitter);
            let named = not_before.map(|at| (at - now).to_std().unwrap_or(Duration::ZERO)).unwrap_or(Duration::ZERO);
            let delay = pause.max(named);
            if attempt >= facts.max_attempts {
                return Verdict::Dead { error: record("transient", cause, None) };
            }
            if chrono::TimeDelta::from_std(delay).is_ok_and(|delay| now + delay >= facts.deadline_at) {
                return Verdict::Dead { error: record("deadline", cause, None) };
            }
            Verdict::Retry { delay, attempt, error: record("transient", cause, None) }
        }
    }
}

/// Between half and all of `min(cap, 1 s * 2^failures)`. The half that varies mixes the caller's jitter with the job's
/// id, so that jobs which failed together do not come back together even where the generator repeats.
pub(crate) fn backoff(job_id: i64, failures: u16, jitter: f64) -> Duration {
    let cap = if failures < EARLY_TRIES { BACKOFF_EARLY_MS_MAX } else { BACKOFF_LATE_MS_MAX };
    let full = BACKOFF_BASE_MS.saturating_mul(1_u64 << failures.min(20)).min(cap);
    let digest = Sha256::digest([job_id.to_le_bytes().as_slice(), &failures.to_le_bytes()].concat());
    let salt = f64::from(u16::from_le_bytes([digest[0], digest[1]])) / 65_536.0;
    let part = (salt + jitter).fract();
    Duration::from_micros((full as f64 * 1_000.0 * (0.5 + 0.5 * part)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(attempt: u16) -> Facts {
        Facts { job_id: 7, attempt, max_attempts: 3, deadline_at: at(3_600) }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).expect("in range")
    }

    fn of(outcome: Outcome, attempt: u16) -> Verdict {
        decide(outcome, facts(attempt), None, at(0), 0.5)
    }

    /// Covers row 27: max_attempts is the number of tries.
    #[test]
    fn transient_failures_use_up_the_tries() {
        let failed = || Outcome::Failed(Failure::transient("upstream_unavailable", "503").with_status(503));
        assert!(matches!(of(failed(), 0), Verdict::Retry { attempt: 1, .. }));
        assert!(matches!(of(failed(), 1), Verdict::Retry { attempt: 2, .. }));
        // Covers row 28: the dead letter keeps the last status.
        match of(failed(), 2) {
            Verdict::Dead { error } => {
                assert_eq!(
                    (error.code, error.http_status, error.class),
                    ("upstream_unavailable", Some(503), "transient")
                );
            }
            other => panic!("{other:?}"),
        }
    }

    /// Covers row 20: a throttled attempt is not a failure. Covers row 21: the deadline bounds it.
    #[test]
    fn throttling_costs_no_attempt_and_ends_at_the_deadline() {
        let throttled = Outcome::Failed(Failure::throttled("cxone/profiles", at(60), "rate_limited", "429"));
        match of(throttled.clone(), 2) {
            Verdict::Later { delay, close: Some(Close { bucket, pause, .. }), .. } => {
                assert_eq!((bucket.as_str(), pause), ("cxone/profiles", Duration::from_secs(60)));
                assert!(delay >= Duration::from_secs(60) && delay < Duration::from_secs(66), "{delay:?}");
            }
            other => panic!("{other:?}"),
        }
        // Who only meets the pause does not prolong it.
        assert!(matches!(
            of(Outcome::Failed(Failure::paced("cxone/profiles", at(60), "closed")), 2),
            Verdict::Later { close: None, .. }
        ));
        let late = decide(throttled, facts(0), None, at(3_600), 0.5);
        assert!(matches!(late, Verdict::Dead { .. }), "{late:?}");
    }

    #[test]
    fn what_no_retry_can_mend_is_dead_at_once() {
        for outcome in [
            Outcome::Failed(Failure::permanent("widget_not_found", "404")),
            Outcome::Undecodable("/profileId: not a UUID".into()),
            Outcome::Expired,
            Outcome::Failed(Failure::Conflict { base: json!(1), ours: json!(2), theirs: json!(3) }),
        ] {
            assert!(matches!(of(outcome.clone(), 0), Verdict::Dead { .. }), "{outcome:?}");
        }
    }

    /// Covers row 205: a panic counts as a try.
    #[test]
    fn panics_and_timeouts_count() {
        assert!(matches!(of(Outcome::Panicked("boom".into()), 0), Verdict::Retry { attempt: 1, .. }));
        assert!(matches!(of(Outcome::Panicked("boom".into()), 2), Verdict::Dead { .. }));
        assert!(matches!(of(Outcome::TimedOut(Duration::from_secs(1)), 0), Verdict::Retry { .. }));
    }

    #[test]
    fn interruptions_and_losses_cost_nothing() {
        assert!(matches!(
            of(Outcome::Interrupted, 2),
            Verdict::Later { delay: Duration::ZERO, error: None, close: None }
        ));
        assert_eq!(of(Outcome::Lost, 2), Verdict::Nothing);
        assert_eq!(of(Outcome::Failed(Failure::LeaseLost), 2), Verdict::Nothing);
    }

    /// Covers row 16 in the engine's part: an upstream's time is kept when it is later than the backoff.
    #[test]
    fn the_upstreams_time_wins_when_it_is_later() {
        let failed = Outcome::Failed(Failure::transient("unavailable", "503").not_before(Some(at(30))));
        match of(failed, 0) {
            Verdict::Retry { delay, .. } => assert_eq!(delay, Duration::from_secs(30)),
            other => panic!("{other:?}"),
        }
    }

    /// Covers row 23: between half and all, and no 50 ms slot of the half second holds more than 15 percent.
    #[test]
    fn the_backoff_spreads() {
        let mut slots = [0_u32; 10];
        for id in 0..1_000 {
            let pause = backoff(id, 0, 0.25);
            assert!(pause >= Duration::from_millis(500) && pause <= Duration::from_millis(1_000), "{pause:?}");
            let slot = ((pause.as_millis() - 500) / 50).min(9) as usize;
            slots[slot] += 1;
        }
        assert!(slots.iter().all(|&slot| slot <= 150), "{slots:?}");
        assert!(backoff(1, 3, 0.999) <= Duration::from_secs(8));
        assert!(backoff(1, 30, 0.999) <= Duration::from_secs(900));
    }
}
