//! Counters and histograms. Without a meter provider they cost next to nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram, ObservableGauge},
};

use crate::{context::JobInfo, decide::Verdict};

/// Instruments of one worker over all of its lives. Labels are the kind and the outcome, or the sink: ids and tenants would be without bound.
pub(crate) struct Metrics {
    attempts: Counter<u64>,
    duration: Histogram<f64>,
    wait: Histogram<f64>,
    claims: Counter<u64>,
    behind: Gauge<u64>,
    ended: Arc<Ended>,
    _success_ratio: ObservableGauge<f64>,
}

/// Jobs that ended in this process, by kind. A share of nothing is no sample: 0 would look like a disaster, and 100
/// like proof.
#[derive(Debug, Default)]
struct Ended {
    by_kind: Mutex<BTreeMap<String, Tally>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    done: u64,
    dead: u64,
}

impl Tally {
    /// Percent of the ended jobs that ended well, with two decimals. None before the first end.
    fn success_ratio(self) -> Option<f64> {
        let ended = self.done + self.dead;
        #[expect(clippy::cast_precision_loss, reason = "counts of jobs stay far below 2^53")]
        let percent = (ended > 0).then(|| self.done as f64 * 100.0 / ended as f64)?;
        Some((percent * 100.0).round() / 100.0)
    }
}

impl Ended {
    fn count(&self, kind: &str, is_done: bool) {
        let mut kinds = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = kinds.entry(kind.to_owned()).or_default();
        if is_done {
            tally.done += 1;
        } else {
            tally.dead += 1;
        }
    }

    /// The kinds that have a ratio, with it.
    fn ratios(&self) -> Vec<(String, f64)> {
        let kinds = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().filter_map(|(kind, tally)| Some((kind.clone(), tally.success_ratio()?))).collect()
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("backhaul");
        let ended = Arc::new(Ended::default());
        let observed = Arc::clone(&ended);
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
            behind: meter
                .u64_gauge("backhaul.sink.behind")
                .with_description("Events that have their place in the order and are not published, by sink")
                .build(),
            _success_ratio: meter
                .f64_observable_gauge("backhaul.job.success_ratio")
                .with_unit("%")
                .with_description("Jobs that ended well among those that ended in this process, by kind")
                .with_callback(move |observer| {
                    for (kind, ratio) in observed.ratios() {
                        observer.observe(ratio, &[KeyValue::new("kind", kind)]);
                    }
                })
                .build(),
            ended,
        }
    }

    pub(crate) fn claimed(&self, jobs: usize) {
        self.claims.add(jobs as u64, &[]);
    }

    pub(crate) fn behind(&self, sink: &str, events: i64) {
        self.behind.record(events.unsigned_abs(), &[KeyValue::new("sink", sink.to_owned())]);
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
        match verdict {
            Verdict::Done => self.ended.count(&job.kind, true),
            Verdict::Dead { .. } => self.ended.count(&job.kind, false),
            Verdict::Retry { .. } | Verdict::Later { .. } | Verdict::Nothing => {}
        }
        if job.attempt == 0 && job.rescues == 0 {
            let waited = (now - job.enqueued_at).to_std().unwrap_or_default().saturating_sub(took);
            self.wait.record(waited.as_secs_f64(), &labels[..1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 124 as far as the exported metric goes: three of four are 75.00, none are no sample.
    #[test]
    fn a_ratio_of_nothing_is_no_sample() {
        assert_eq!(Tally::default().success_ratio(), None);
        assert_eq!(Tally { done: 3, dead: 1 }.success_ratio(), Some(75.0));
        assert_eq!(Tally { done: 2, dead: 1 }.success_ratio(), Some(66.67));
        assert_eq!(Tally { done: 0, dead: 1 }.success_ratio(), Some(0.0));
        let ended = Ended::default();
        assert_eq!(ended.ratios(), []);
        for is_done in [true, true, false, true] {
            ended.count("enrichment", is_done);
        }
        assert_eq!(ended.ratios(), [("enrichment".to_owned(), 75.0)]);
    }
}
