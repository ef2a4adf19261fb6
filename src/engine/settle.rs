//! Settle: outcomes become facts, as many in one transaction as finished since the last one.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    attempt::{Finished, Workbench},
    breaker::{Breaker, CLOSED_FOR, Change},
    claim::Claimed,
    clock::Clock,
    context::JobInfo,
    decide::{ErrorRecord, Facts, Verdict, decide},
    desk::{BATCH_MAX, Desk},
    events::{self, EventColumns, EventRow, JobEvent},
    hands::{Hands, Held},
    metrics::Metrics,
    reconnect,
    store::Store,
};

/// A finished attempt with its verdict.
pub(crate) struct Settlement {
    pub job: Arc<JobInfo>,
    pub lease: i64,
    pub probe: bool,
    pub verdict: Verdict,
    pub finished: Finished,
}

impl Settlement {
    /// Decides on a finished attempt.
    pub(crate) fn of(claimed: &Claimed, finished: Finished, clock: &Clock) -> Self {
        let attempt = if finished.left.attempts_reset { 0 } else { claimed.job.attempt };
        let facts = Facts {
            job_id: claimed.job.id,
            attempt,
            max_attempts: claimed.job.max_attempts,
            deadline_at: claimed.job.deadline_at,
        };
        let verdict = decide(
            finished.outcome.clone(),
            facts,
            finished.left.step.clone(),
            clock.now(),
            rand::random_range(0.0..1.0),
        );
        Self { job: claimed.job.clone(), lease: claimed.lease, probe: claimed.ticket.probe, verdict, finished }
    }
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
struct Batch {
    held: Vec<Held>,
    done: Vec<i64>,
    done_leases: Vec<i64>,
    others: Vec<Value>,
    leases: Vec<i64>,
    ended: Vec<i64>,
    keyed: bool,
    stepped: Vec<i64>,
    events: Vec<(Arc<JobInfo>, EventRow)>,
    closed: Vec<Value>,
}

fn value(of: impl Serialize) -> Value {
    // Strings, integers and documents that were JSON before: nothing here can fail to serialise.
    serde_json::to_value(of).unwrap_or_default()
}

impl Batch {
    fn of(
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
            batch.leases.push(settled.lease);
            metrics.settled(&settled.job, &settled.verdict, settled.finished.started.elapsed(), now);
            batch.watch(&settled, bench, breaker);
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
            Verdict::Retry { error, .. } | Verdict::Dead { error } if error.upstream_down => {
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

    fn add(&mut self, settled: Settlement, now: chrono::DateTime<chrono::Utc>) {
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
                if let Some((bucket, why)) = close {
                    let for_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                    self.closed.push(value(Closed { tenant: &job.tenant, bucket, for_ms, why, probing: false }));
                }
                let name = if close.is_some() { "dev.backhaul.job.throttled" } else { "dev.backhaul.job.snoozed" };
                error.as_ref().map(|error| told(Some(error), name))
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

    async fn write(&self, store: &Store, worker: Uuid) -> Result<Vec<i64>, sqlx::Error> {
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

    /// Writes until it is written or refused, and lets go of the jobs. Returns the leases that it had rows of.
    async fn settle(self, bench: Arc<Workbench>, hands: Arc<Hands>) -> Vec<i64> {
        let mut pause = reconnect::Pause::default();
        loop {
            match self.write(&bench.store, bench.worker).await {
                Ok(refused) => {
                    if !refused.is_empty() {
                        warn!(jobs = ?refused, "outcomes refused: these jobs were cancelled or given to another worker");
                    }
                    break;
                }
                Err(error) if reconnect::is_passing(&error) => pause.after(&error, "settle").await,
                Err(error) => {
                    // A bug or a schema that changed under us. The lease keeps the jobs safe: a later heartbeat returns
                    // those of a lease that its worker has let go of.
                    tracing::error!(%error, jobs = self.held.len(), "settle refused; the jobs go back in half a minute");
                    break;
                }
            }
        }
        hands.release(&self.held);
        self.leases
    }
}

/// Writes outcomes until the channel closes. A lone job waits for nothing; a busy worker batches hundreds, and has the
/// next batch executed while the one before waits for the disk. A database that is away is waited for.
pub(crate) async fn run(
    bench: Arc<Workbench>,
    hands: Arc<Hands>,
    metrics: Arc<Metrics>,
    mut outcomes: mpsc::UnboundedReceiver<Settlement>,
    sealed: Arc<tokio::sync::Notify>,
) {
    let mut desk = Desk::default();
    let mut breaker = Breaker::default();
    let mut writes = JoinSet::new();
    let mut arrived = Vec::with_capacity(BATCH_MAX);
    let mut open = true;
    loop {
        while let Some(batch) = desk.next(writes.len()) {
            let batch = Batch::of(batch, &hands, &bench, &mut breaker, &metrics);
            writes.spawn(batch.settle(bench.clone(), hands.clone()));
        }
        if !open && writes.is_empty() && desk.is_empty() {
            return;
        }
        tokio::select! {
            count = outcomes.recv_many(&mut arrived, BATCH_MAX), if open && desk.has_room() => {
                open = count > 0;
                // Only what succeeded makes room before it is settled: where an upstream is down, the settle may close
                // its bucket, and the next attempts have to wait for that.
                let done = arrived.iter().filter(|settled| settled.verdict == Verdict::Done);
                hands.end(done.map(|settled| (settled.job.id, settled.lease)));
                desk.accept(arrived.drain(..));
            }
            Some(written) = writes.join_next() => {
                match written {
                    Ok(leases) => desk.written(&leases),
                    // A bug of ours. Its jobs go back in half a minute, as those of a refused settle.
                    Err(error) => tracing::error!(%error, "settle broke off"),
                }
                if writes.is_empty() {
                    desk.quiet();
                }
                sealed.notify_one();
            }
        }
    }
}
