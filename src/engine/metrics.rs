//! Counters and histograms. Without a meter provider they cost next to nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
};

use crate::{context::JobInfo, decide::Verdict};

/// Instruments of one worker. Labels are the kind and the outcome alone: ids and tenants would be without bound.
pub(crate) struct Metrics {
    attempts: Counter<u64>,
    duration: Histogram<f64>,
    wait: Histogram<f64>,
    claims: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("backhaul");
        Self {
            attempts: meter
                .u64_counter("backhaul.job.attempts")
                .with_description("Settled attempts by kind and outcome")
                .build(),
            duration: meter.f64_histogram("backhaul.job.duration").with_unit("s").build(),
            wait: meter
                .f64_histogram("backhaul.job.wait")
                .with_unit("s")
                .with_description("From acceptance to the start of the first attempt")
                .build(),
            claims: meter.u64_counter("backhaul.claim.jobs").build(),
        }
    }

    pub(crate) fn claimed(&self, jobs: usize) {
        self.claims.add(jobs as u64, &[]);
    }

    pub(crate) fn settled(&self, job: &JobInfo, verdict: &Verdict, took: Duration, now: DateTime<Utc>) {
        let outcome = match verdict {
            Verdict::Done => "done",
            Verdict::Retry { .. } => "retried",
            Verdict::Later { error: Some(_), .. } => "throttled",
            Verdict::Later { error: None, .. } => "returned",
            Verdict::Dead { .. } => "dead",
            Verdict::Nothing => "lost",
        };
        let labels = [KeyValue::new("kind", job.kind.clone()), KeyValue::new("outcome", outcome)];
        self.attempts.add(1, &labels);
        self.duration.record(took.as_secs_f64(), &labels);
        if job.attempt == 0 && job.rescues == 0 {
            let waited = (now - job.enqueued_at).to_std().unwrap_or_default().saturating_sub(took);
            self.wait.record(waited.as_secs_f64(), &labels[..1]);
        }
    }
}
