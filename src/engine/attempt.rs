//! One attempt: everything between a claimed job and its outcome.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::{
    claim::Claimed,
    clock::Clock,
    context::{JobContext, Leftovers},
    decide::Outcome,
    registry::Registry,
    steps::StepTable,
    store::Store,
    trace,
};

/// What attempts of one worker share.
pub(crate) struct Workbench {
    pub store: Store,
    pub registry: Registry,
    pub clock: Clock,
    pub worker: Uuid,
    pub deployment: Uuid,
}

/// How an attempt ended and what it leaves for settle.
pub(crate) struct Finished {
    pub outcome: Outcome,
    pub left: Leftovers,
    pub started: Instant,
}

impl Finished {
    pub(crate) fn without_a_start(outcome: Outcome) -> Self {
        Self { outcome, left: Leftovers { stepped: true, ..Leftovers::default() }, started: Instant::now() }
    }
}

/// Runs the attempt to its end: the kind's handler under its timeout, with panics caught and cancellation obeyed.
pub(crate) async fn run(bench: Arc<Workbench>, claimed: Arc<Claimed>) -> Finished {
    let job = &claimed.job;
    let span = tracing::info_span!(
        "job", job_id = job.id, kind = %job.kind, tenant = %job.tenant, attempt = job.attempt, otel.kind = "consumer"
    );
    if let Some(producer) = job.traceparent.as_deref().and_then(trace::context_of) {
        span.add_link(producer);
    }
    attempt(bench, claimed).instrument(span).await
}

async fn attempt(bench: Arc<Workbench>, claimed: Arc<Claimed>) -> Finished {
    let job = &claimed.job;
    let started = Instant::now();
    if claimed.cancel.is_cancelled() {
        return Finished::without_a_start(Outcome::Lost);
    }
    if bench.clock.now() >= job.deadline_at {
        return Finished::without_a_start(Outcome::Expired);
    }
    let Some(kind) = bench.registry.get(&job.kind, job.version) else {
        // Claims ask for our kinds alone, so this is a kind that was removed while its job was on the way.
        return Finished::without_a_start(Outcome::Interrupted);
    };
    let table = StepTable {
        store: bench.store.clone(),
        clock: bench.clock.clone(),
        worker: bench.worker,
        lease: claimed.lease,
        job: job.id,
        deployment: bench.deployment,
        may_have_steps: !claimed.fresh,
    };
    let mut context = JobContext::new(claimed.clone(), table);
    let timeout = kind.spec().timeout;
    let outcome = tokio::select! {
        biased;
        () = claimed.cancel.cancelled() => Outcome::Lost,
        ended = tokio::time::timeout(timeout, AssertUnwindSafe(kind.run(&claimed.payload, &mut context)).catch_unwind()) => {
            match ended {
                Err(_) => Outcome::TimedOut(timeout),
                Ok(Err(panic)) => Outcome::Panicked(panic_message(panic.as_ref())),
                Ok(Ok(outcome)) => outcome,
            }
        }
    };
    Finished { outcome, left: context.into_leftovers(), started }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked".to_owned())
}
