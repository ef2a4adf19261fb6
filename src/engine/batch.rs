//! The arguments of one settle: outcomes as the database takes them, and what becomes of those that it does not take.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    attempt::Workbench,
    breaker::{Breaker, CLOSED_FOR, Change},
    context::JobInfo,
    decide::{Close, ErrorRecord, Verdict},
    events::{self, EventColumns, EventRow, JobEvent},
    hands::{Hands, Held},
    metrics::Metrics,
    settle::Settlement,
    store::Store,
};

/// Says once in the log that an upstream asked for a pause.
fn tell_of_pause(settled: &Settlement, breaker: &mut Breaker) {
    if let Verdict::Later { close: Some(Close { bucket, pause, why }), .. } = &settled.verdict
        && breaker.is_news(&settled.job.tenant, bucket, *pause, Instant::now())
    {
        warn!(tenant = %settled.job.tenant, bucket, ?pause, why, "the upstream asked for a pause; the fleet leaves it alone");
    }
}

/// Whether the provider that `bucket` belongs to looks down.
fn is_down(bucket: &str, error: &ErrorRecord) -> bool {
    error.down.is_some_and(|provider| bucket.split('/').next() == Some(provider))
}

/// One entry of settle's `others`.
#[derive(Serialize)]
struct Other<'a> {
    id: i64,
    lease: i64,
    r#do: &'static str,
    delay_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorRecord>,
}

#[derive(Serialize)]
struct Closed<'a> {
    tenant: &'a str,
    bucket: &'a str,
    for_ms: u64,
    why: &'a str,
    probing: bool,
}

/// The arguments of one call of `backhaul.settle`.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) held: Vec<Held>,
    /// The jobs of `held`, in its order.
    jobs: Vec<Arc<JobInfo>>,
    done: Vec<i64>,
    done_leases: Vec<i64>,
    others: Vec<Value>,
    pub(crate) leases: Vec<i64>,
    ended: Vec<i64>,
    keyed: bool,
    stepped: Vec<i64>,
    events: Vec<(Arc<JobInfo>, EventRow)>,
    closed: Vec<Value>,
    /// Says of a lone job that its outcome could not be stored.
    refusal: bool,
}

fn value(of: impl Serialize) -> Value {
    // Strings, integers and documents that were JSON before: nothing here can fail to serialise.
    serde_json::to_value(of).unwrap_or_default()
}

impl Batch {
    pub(crate) fn of(
        settlements: Vec<Settlement>,
        hands: &Hands,
        bench: &Workbench,
        breaker: &mut Breaker,
        metrics: &Metrics,
    ) -> Self {
        let mut batch = Self::default();
        let now = bench.clock.now();
        for settled in settlements {
            batch.held.push((settled.job.id, settled.lease));
            batch.jobs.push(settled.job.clone());
            batch.leases.push(settled.lease);
            metrics.settled(&settled.job, &settled.verdict, settled.finished.started.elapsed(), now);
            batch.watch(&settled, bench, breaker);
            tell_of_pause(&settled, breaker);
            batch.add(settled, now);
        }
        batch.leases.sort_unstable();
        batch.leases.dedup();
        batch.ended = hands.ending(&batch.held);
        batch
    }

    /// Closes or opens the bucket of the job's kind, as the breaker says.
    fn watch(&mut self, settled: &Settlement, bench: &Workbench, breaker: &mut Breaker) {
        let Some(bucket) = bench.registry.first_bucket(&settled.job.kind, settled.job.version) else { return };
        let tenant = &settled.job.tenant;
        let (change, why) = match &settled.verdict {
            Verdict::Done => (breaker.succeeded(tenant, bucket, settled.probe), String::new()),
            // Another upstream of the job's that is down says nothing about this one.
            Verdict::Retry { error, .. } | Verdict::Dead { error } if is_down(bucket, error) => {
                let change = breaker.failed(tenant, bucket, settled.probe, Instant::now());
                (change, format!("upstream down: {}", error.code))
            }
            // A refusal is an answer: a probe that meets a job which is wrong in itself has found the upstream up.
            Verdict::Dead { error } if error.http_status.is_some() => {
                (breaker.succeeded(tenant, bucket, settled.probe), String::new())
            }
            _ => return,
        };
        let (for_ms, probing) = match change {
            Change::None => return,
            Change::Close => (u64::try_from(CLOSED_FOR.as_millis()).unwrap_or(u64::MAX), true),
            Change::Open => (0, false),
        };
        if probing {
            warn!(%tenant, bucket, %why, "closed for the fleet; one job at a time tries it");
        }
        self.closed.push(value(Closed { tenant, bucket, for_ms, why: &why, probing }));
    }

    fn add(&mut self, settled: Settlement, now: DateTime<Utc>) {
        let Settlement { job, lease, verdict, finished, .. } = settled;
        let latency_ms = u64::try_from(finished.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = |error: Option<&ErrorRecord>, event_type| {
            let about = JobEvent {
                code: error.map(|error| error.code),
                http_status: error.and_then(|error| error.http_status),
                message: error.map(|error| error.message.as_str()),
                step: error.and_then(|error| error.step.as_deref()),
                latency_ms,
            };
            events::of_job(event_type, &job, now, &about)
        };
        let other = |r#do, delay: Duration, attempt, reason, error| {
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            value(Other { id: job.id, lease, r#do, delay_ms, attempt, reason, error })
        };
        let events = finished.left.events;
        let own = match &verdict {
            Verdict::Nothing => {
                self.keyed |= job.ordering_key.is_some();
                self.others.push(other("lost", Duration::ZERO, None, None, None));
                return;
            }
            Verdict::Done => {
                self.done.push(job.id);
                self.done_leases.push(lease);
                if finished.left.stepped {
                    self.stepped.push(job.id);
                }
                Some(told(None, "dev.backhaul.job.completed"))
            }
            Verdict::Retry { delay, attempt, error } => {
                self.others.push(other("retry", *delay, Some(*attempt), None, Some(error)));
                debug!(job_id = job.id, kind = %job.kind, code = error.code, ?delay, "attempt failed, will be retried");
                Some(told(Some(error), "dev.backhaul.job.retried"))
            }
            Verdict::Later { delay, error, close } => {
                let attempt = finished.left.attempts_reset.then_some(0);
                self.others.push(other("later", *delay, attempt, None, error.as_ref()));
                if let Some(Close { bucket, pause, why }) = close {
                    let for_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    self.closed.push(value(Closed { tenant: &job.tenant, bucket, for_ms, why, probing: false }));
                }
                error.as_ref().map(|error| {
                    let throttled = error.class == "throttled";
                    let name = if throttled { "dev.backhaul.job.throttled" } else { "dev.backhaul.job.snoozed" };
                    told(Some(error), name)
                })
            }
            Verdict::Dead { error } => {
                warn!(job_id = job.id, kind = %job.kind, tenant = %job.tenant, code = error.code, step = error.step,
                    "dead letter: {}", error.message);
                self.others.push(other("dead", Duration::ZERO, None, Some(error.code), Some(error)));
                Some(told(Some(error), "dev.backhaul.job.dead"))
            }
        };
        // Whatever it reports, the job may have been cancelled, and its key waits for us to stop.
        self.keyed |= job.ordering_key.is_some();
        self.events.extend(events.into_iter().chain(own).map(|event| (job.clone(), event)));
    }

    pub(crate) async fn write(&self, store: &Store, worker: Uuid) -> Result<Vec<i64>, sqlx::Error> {
        let events = EventColumns::of(&self.events);
        sqlx::query_scalar(
            "select backhaul.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, null, $18)",
        )
        .bind(worker)
        .bind(&self.done)
        .bind(&self.done_leases)
        .bind((!self.others.is_empty()).then_some(Json(&self.others)))
        .bind(&self.leases)
        .bind(&self.ended)
        .bind(self.keyed)
        .bind(&self.stepped)
        .bind(events.job)
        .bind(events.id)
        .bind(events.at)
        .bind(events.event_type)
        .bind(events.tenant)
        .bind(events.kind)
        .bind(events.subject)
        .bind(events.trace)
        .bind(events.data)
        .bind((!self.closed.is_empty()).then_some(Json(&self.closed)))
        .fetch_one(store)
        .await
    }
    /// What to write instead of a batch in which Postgres refuses a value: its halves, so that one job's outcome does not
    /// hold up the others'; and of a lone job, that it is dead, with what Postgres said. Its work is done or has failed,
    /// and neither can be told. Running it again would do it again and end here again. The last is to be written first.
    pub(crate) fn apart(mut self, error: &sqlx::Error, now: DateTime<Utc>) -> Vec<Self> {
        let first: HashSet<i64> = self.held[..self.held.len() / 2].iter().map(|(job, _)| *job).collect();
        if self.held.iter().any(|(job, _)| !first.contains(job)) && !first.is_empty() {
            let second = self.without(&first);
            return vec![second, self];
        }
        if self.refusal {
            self.give_up(error);
            return Vec::new();
        }
        self.refuse(error, now);
        vec![self]
    }

    /// Takes out all but the given jobs. What is told of leases and buckets goes with those that are taken out, which are
    /// written last.
    fn without(&mut self, kept: &HashSet<i64>) -> Self {
        let mut out = Self { keyed: self.keyed, ..Self::default() };
        for (held, job) in std::mem::take(&mut self.held).into_iter().zip(std::mem::take(&mut self.jobs)) {
            let side = if kept.contains(&held.0) { &mut *self } else { &mut out };
            side.held.push(held);
            side.jobs.push(job);
        }
        for (job, lease) in std::mem::take(&mut self.done).into_iter().zip(std::mem::take(&mut self.done_leases)) {
            let side = if kept.contains(&job) { &mut *self } else { &mut out };
            side.done.push(job);
            side.done_leases.push(lease);
        }
        let other = |entry: &Value| entry["id"].as_i64().is_some_and(|job| kept.contains(&job));
        (self.others, out.others) = std::mem::take(&mut self.others).into_iter().partition(other);
        (self.stepped, out.stepped) = std::mem::take(&mut self.stepped).into_iter().partition(|job| kept.contains(job));
        (self.events, out.events) =
            std::mem::take(&mut self.events).into_iter().partition(|(job, _)| kept.contains(&job.id));
        (out.ended, out.closed) = (std::mem::take(&mut self.ended), std::mem::take(&mut self.closed));
        for side in [&mut *self, &mut out] {
            side.leases = side.held.iter().map(|(_, lease)| *lease).collect();
            side.leases.sort_unstable();
            side.leases.dedup();
        }
        out
    }

    /// Makes a lone job's outcome that it is dead because the one it had was refused.
    fn refuse(&mut self, error: &sqlx::Error, now: DateTime<Utc>) {
        let (Some((_, lease)), Some(job)) = (self.held.pop(), self.jobs.pop()) else { return };
        let record = ErrorRecord {
            at: now,
            attempt: job.attempt,
            class: "permanent",
            code: "outcome_refused",
            conflict: None,
            http_status: None,
            message: format!("the attempt ended, and Postgres does not store how: {error}"),
            step: None,
            down: None,
        };
        warn!(job_id = job.id, kind = %job.kind, tenant = %job.tenant, %error, "dead letter: outcome refused");
        let about = JobEvent { code: Some(record.code), message: Some(&record.message), ..JobEvent::default() };
        let event = events::of_job("dev.backhaul.job.dead", &job, now, &about);
        let dead = Other {
            id: job.id,
            lease,
            r#do: "dead",
            delay_ms: 0,
            attempt: None,
            reason: Some(record.code),
            error: Some(&record),
        };
        *self = Self {
            held: vec![(job.id, lease)],
            others: vec![value(dead)],
            leases: vec![lease],
            ended: std::mem::take(&mut self.ended),
            keyed: self.keyed,
            events: vec![(job.clone(), event)],
            jobs: vec![job],
            // Without what it would have closed: that may be what Postgres does not take.
            refusal: true,
            ..Self::default()
        };
    }

    /// Says that nothing of it could be written.
    pub(crate) fn give_up(&self, error: &sqlx::Error) {
        tracing::error!(%error, jobs = self.held.len(), "settle refused; the jobs go back within a minute");
    }
}
