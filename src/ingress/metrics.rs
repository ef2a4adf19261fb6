//! What the receiver counts: outcomes and latencies by source. Labels are words of the configuration, never ids.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
};
use serde_json::{Value, json};

use crate::event::Drift;

/// Upper ends of the histogram's buckets in milliseconds; the last bucket is open.
const BUCKETS_MS: [u64; 11] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000];

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// Jobs were made.
    Accepted,
    /// Seen before.
    Duplicate,
    /// Stored without jobs.
    Parked,
    /// The sender's fault: refused with 4xx.
    Refused,
    /// Our fault: answered with 5xx.
    Failed,
}

impl Ended {
    /// The metric's word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Parked => "parked",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counters of one process since its start.
#[derive(Debug)]
pub(crate) struct Metrics {
    counts: Mutex<Counts>,
    requests: Counter<u64>,
    drifts: Counter<u64>,
    duration: Histogram<f64>,
}

#[derive(Debug, Default)]
struct Counts {
    sources: BTreeMap<String, SourceCounts>,
    /// By source, field and sort. Fields are those of the routes, so there are few.
    drifts: BTreeMap<(String, String, &'static str), u64>,
    /// By reason.
    parked: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Clone)]
struct SourceCounts {
    ended: BTreeMap<Ended, u64>,
    buckets: [u64; BUCKETS_MS.len() + 1],
    sum_us: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let meter = global::meter("backhaul");
        Self {
            counts: Mutex::default(),
            requests: meter
                .u64_counter("backhaul.ingress.requests")
                .with_description("Webhook deliveries by source and outcome")
                .build(),
            drifts: meter
                .u64_counter("backhaul.ingress.drift")
                .with_description("Fields that were not where the routes expect them")
                .build(),
            duration: meter.f64_histogram("backhaul.ingress.duration").with_unit("s").build(),
        }
    }
}

impl Metrics {
    /// A request has ended.
    pub(crate) fn ended(&self, source: &str, ended: Ended, took: Duration) {
        let labels = [KeyValue::new("source", source.to_owned()), KeyValue::new("outcome", ended.as_str())];
        self.requests.add(1, &labels);
        self.duration.record(took.as_secs_f64(), &labels);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.sources.entry(source.to_owned()).or_default();
        *counts.ended.entry(ended).or_default() += 1;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        counts.buckets[BUCKETS_MS.iter().position(|end| ms <= *end).unwrap_or(BUCKETS_MS.len())] += 1;
        counts.sum_us = counts.sum_us.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// An event was parked.
    pub(crate) fn parked(&self, reason: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.parked.entry(reason.to_owned()).or_default() += 1;
    }

    /// Fields were not where they should be.
    pub(crate) fn drifted(&self, source: &str, drifts: &[Drift]) {
        if drifts.is_empty() {
            return;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for drift in drifts {
            let labels = [
                KeyValue::new("source", source.to_owned()),
                KeyValue::new("field", drift.field.clone()),
                KeyValue::new("how", drift.sort.as_str()),
            ];
            self.drifts.add(1, &labels);
            *counts.drifts.entry((source.to_owned(), drift.field.clone(), drift.sort.as_str())).or_default() += 1;
        }
    }

    /// All of it as one JSON object.
    pub(crate) fn show(&self) -> Value {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = SourceCounts::default();
        for one in counts.sources.values() {
            total.add(one);
        }
        let mut shown = total.show();
        let sources: BTreeMap<&String, Value> = counts.sources.iter().map(|(name, one)| (name, one.show())).collect();
        let drifts: Vec<Value> = counts
            .drifts
            .iter()
            .map(|((source, field, how), count)| json!({"source": source, "field": field, "how": how, "count": count}))
            .collect();
        shown["sources"] = json!(sources);
        shown["drift"] = json!(drifts);
        shown["parkedBy"] = json!(counts.parked);
        shown
    }
}

impl SourceCounts {
    fn add(&mut self, other: &Self) {
        for (ended, count) in &other.ended {
            *self.ended.entry(*ended).or_default() += count;
        }
        for (own, others) in self.buckets.iter_mut().zip(other.buckets) {
            *own += others;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    fn count(&self, ended: Ended) -> u64 {
        self.ended.get(&ended).copied().unwrap_or(0)
    }

    /// `received` is the sum of what follows it. Rates of nothing are null, not 0.
    fn show(&self) -> Value {
        let received: u64 = self.ended.values().sum();
        let errors = self.count(Ended::Refused) + self.count(Ended::Failed);
        let rate = (received > 0).then(|| ((errors as f64 / received as f64) * 10_000.0).round() / 10_000.0);
        let average_ms = (received > 0).then(|| (self.sum_us as f64 / received as f64).round() / 1_000.0);
        let mut cumulated = 0;
        let buckets: Vec<Value> = self
            .buckets
            .iter()
            .enumerate()
            .map(|(nth, count)| {
                cumulated += count;
                json!({"leMs": BUCKETS_MS.get(nth), "count": cumulated})
            })
            .collect();
        json!({
            "received": received,
            "accepted": self.count(Ended::Accepted),
            "ignored": self.count(Ended::Duplicate),
            "parked": self.count(Ended::Parked),
            "refused": self.count(Ended::Refused),
            "failed": self.count(Ended::Failed),
            "totalProcessed": received - errors,
            "totalErrors": errors,
            "errorRate": rate,
            "avgLatencyMs": average_ms,
            "latency": buckets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(metrics: &Metrics, ended: Ended, times: usize) {
        for _ in 0..times {
            metrics.ended("threads", ended, Duration::from_millis(30));
        }
    }

    /// Covers row 198: errors are counted against everything, and latencies take no more room the longer it runs.
    #[test]
    fn rates_are_shares_of_everything() {
        let metrics = Metrics::default();
        assert_eq!(metrics.show()["errorRate"], Value::Null);
        record(&metrics, Ended::Refused, 10);
        assert_eq!(metrics.show()["errorRate"], 1.0);
        record(&metrics, Ended::Accepted, 2);
        let shown = metrics.show();
        assert_eq!(shown["errorRate"], 0.8333);
        assert_eq!(shown["avgLatencyMs"], 30.0);
        assert_eq!(shown["latency"].as_array().map(Vec::len), Some(BUCKETS_MS.len() + 1));
        assert_eq!(shown["latency"][4]["count"], 0);
        assert_eq!(shown["latency"][5]["count"], 12);
    }

    /// Covers row 199: what was received is the sum of what became of it, ignored ones included.
    #[test]
    fn counters_add_up() {
        let metrics = Metrics::default();
        for (ended, times) in
            [(Ended::Accepted, 1), (Ended::Duplicate, 2), (Ended::Parked, 3), (Ended::Refused, 4), (Ended::Failed, 5)]
        {
            record(&metrics, ended, times);
        }
        let shown = metrics.show();
        let sum: u64 = ["accepted", "ignored", "parked", "refused", "failed"]
            .iter()
            .filter_map(|name| shown[*name].as_u64())
            .sum();
        assert_eq!(shown["received"], 15);
        assert_eq!(sum, 15);
        assert_eq!(shown["sources"]["threads"]["ignored"], 2);
        assert_eq!(shown["totalProcessed"], 6);
    }
}
