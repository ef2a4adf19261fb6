//! Settle: outcomes become facts, as many in one transaction as finished since the last one.

use std::sync::Arc;

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};
use tracing::warn;

use crate::{
    attempt::{Finished, Workbench},
    batch::Batch,
    breaker::Breaker,
    claim::Claimed,
    clock::Clock,
    context::JobInfo,
    decide::{Facts, Verdict, decide},
    desk::{BATCH_MAX, Desk},
    hands::Hands,
    metrics::Metrics,
    reconnect,
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

/// Writes until it is written or refused, and lets go of the jobs. Returns the leases that it had rows of.
async fn settle(batch: Batch, bench: Arc<Workbench>, hands: Arc<Hands>) -> Vec<i64> {
    let (leases, held) = (batch.leases.clone(), batch.held.clone());
    let mut pause = reconnect::Pause::default();
    let mut left = vec![batch];
    while let Some(batch) = left.pop() {
        match batch.write(&bench.store, bench.worker).await {
            Ok(refused) => {
                if !refused.is_empty() {
                    warn!(jobs = ?refused, "outcomes refused: these jobs were cancelled or given to another worker");
                }
            }
            Err(error) if reconnect::is_passing(&error) => {
                pause.after(&error, "settle").await;
                left.push(batch);
            }
            Err(error) if reconnect::is_of_a_value(&error) => left.extend(batch.apart(&error, bench.clock.now())),
            // A bug or a schema that changed under us. The lease keeps the jobs safe: a later heartbeat returns those of
            // a lease that its worker has let go of.
            Err(error) => batch.give_up(&error),
        }
    }
    hands.release(&held);
    leases
}

/// Writes outcomes until the channel closes. A lone job waits for nothing; a busy worker batches hundreds, and has the
/// next batch executed while the one before waits for the disk. A database that is away is waited for.
///
/// # Errors
/// A write broke off, by a bug of ours. What it had stays in hand, and with it its leases: this life cannot go on.
pub(crate) async fn run(
    bench: Arc<Workbench>,
    hands: Arc<Hands>,
    metrics: Arc<Metrics>,
    mut outcomes: mpsc::UnboundedReceiver<Settlement>,
    sealed: Arc<tokio::sync::Notify>,
) -> Result<(), JoinError> {
    let mut desk = Desk::default();
    let mut breaker = Breaker::default();
    let mut writes = JoinSet::new();
    let mut arrived = Vec::with_capacity(BATCH_MAX);
    let mut open = true;
    loop {
        while let Some(batch) = desk.next(writes.len()) {
            let batch = Batch::of(batch, &hands, &bench, &mut breaker, &metrics);
            writes.spawn(settle(batch, bench.clone(), hands.clone()));
        }
        if !open && writes.is_empty() && desk.is_empty() {
            return Ok(());
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
                desk.written(&written?);
                if writes.is_empty() {
                    desk.quiet();
                }
                sealed.notify_one();
            }
        }
    }
}
