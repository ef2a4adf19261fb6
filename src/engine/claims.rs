//! The claiming side of a worker: when it claims, how much, and when it sleeps.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{sync::mpsc, time::Instant};
use tracing::{error, info, warn};

use crate::{
    attempt::Workbench,
    claim::{self, Claimed, Wish},
    hands::Hands,
    maintenance::Signals,
    metrics::Metrics,
    reconnect::{Pause, is_passing},
    wake::Bell,
    worker::WorkerOptions,
};

/// Jobs that a transaction needs longer than this to commit may be found due only by the next full look.
const DUE_LAG: TimeDelta = TimeDelta::seconds(2);
/// How often a claim looks at all due jobs, not only at the recent ones; twenty times what it takes where that is more,
/// because a snapshot held elsewhere keeps what was due before in its way.
const FULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time between two such looks.
const FULL_LOOK_EVERY_MAX: Duration = Duration::from_secs(60);

/// The claiming side of a worker.
pub(crate) struct Claims<'a> {
    bench: &'a Workbench,
    hands: &'a Hands,
    signals: &'a Signals,
    metrics: &'a Metrics,
    options: &'a WorkerOptions,
    jobs: mpsc::Sender<Arc<Claimed>>,
    bell: &'a mut Bell,
    kinds: Vec<String>,
    /// When the last claim looked at all due jobs, and how long after it the next one does.
    looked: Instant,
    look_every: Duration,
    due_after: Option<DateTime<Utc>>,
    /// The last claim brought less than it could have.
    caught_up: bool,
}

impl<'a> Claims<'a> {
    /// One that puts what it claims into `hands`, and hands it out over `jobs`.
    pub(crate) fn new(
        bench: &'a Workbench,
        hands: &'a Hands,
        signals: &'a Signals,
        metrics: &'a Metrics,
        options: &'a WorkerOptions,
        jobs: mpsc::Sender<Arc<Claimed>>,
        bell: &'a mut Bell,
    ) -> Self {
        Self {
            bench,
            hands,
            signals,
            metrics,
            options,
            jobs,
            bell,
            kinds: bench.registry.labels(),
            looked: Instant::now() - FULL_LOOK_EVERY,
            look_every: FULL_LOOK_EVERY,
            due_after: None,
            caught_up: false,
        }
    }

    /// Claims until the worker is given up for dead.
    pub(crate) async fn run(&mut self) {
        let mut pause = Pause::default();
        loop {
            match self.round().await {
                Ok(()) => pause = Pause::default(),
                Err(error) if is_passing(&error) => pause.after(&error, "claims").await,
                Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("BH030") => {
                    warn!("this worker was given up for dead; what it holds was given away");
                    self.signals.lost.cancel();
                    return;
                }
                Err(error) => {
                    error!(%error, "claim refused");
                    pause.after(&error, "claims").await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), sqlx::Error> {
        if self.signals.held.load(Ordering::Relaxed) {
            // Producers need not ring for a worker that may not claim; the look that lets it go on rings.
            self.bell.busy().await?;
            self.bell.sleep(self.options.poll, std::future::pending()).await;
            return Ok(());
        }
        if self.signals.alone.load(Ordering::Relaxed)
            && (self.signals.chosen.load(Ordering::Relaxed) || self.hands.count() == 0)
        {
            return self.alone().await;
        }
        let free = self.hands.room();
        if free == 0 {
            self.bell.until(self.hands.freed()).await;
            return Ok(());
        }
        let claimed = self.claim(free).await?;
        if !claimed.is_empty() {
            self.hand_out(claimed);
            return self.bell.busy().await;
        }
        if let Some(pause) = self.bell.linger(self.signals.workers.load(Ordering::Relaxed)) {
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        if self.bell.sign_on().await? {
            return Ok(());
        }
        let due = self.bell.next_due().await?;
        let longest = self.options.poll.mul_f64(rand::random_range(0.8..1.2));
        let until_due = due.map(|due| (due - self.bench.clock.now()).to_std().unwrap_or(Duration::ZERO));
        // Something is due already and was not claimable: it belongs to kinds or lanes that are not ours now.
        let longest = until_due.filter(|due| !due.is_zero()).map_or(longest, |due| due.min(longest));
        // A settle of ours may have made room, or handed an ordering key on.
        self.bell.sleep(longest.max(Duration::from_millis(1)), self.hands.freed()).await;
        Ok(())
    }

    async fn claim(&mut self, want: usize) -> Result<Vec<Claimed>, sqlx::Error> {
        let full = self.looked.elapsed() >= self.look_every;
        let now = self.bench.clock.now();
        let after = if full { None } else { self.due_after };
        let wish = Wish {
            worker: self.bench.worker,
            kinds: &self.kinds,
            want,
            due_after: after,
            strays: self.caught_up && self.bell.is_awake(),
        };
        let asked = Instant::now();
        let claimed = self.bell.claim(&wish).await?;
        self.caught_up = claimed.len() < want;
        if full {
            self.looked = Instant::now();
            self.look_every = (asked.elapsed() * 20).clamp(FULL_LOOK_EVERY, FULL_LOOK_EVERY_MAX);
            self.due_after = Some(now - DUE_LAG);
        }
        Ok(claimed)
    }

    fn hand_out(&self, claimed: Vec<Claimed>) {
        self.metrics.claimed(claimed.len());
        self.hands.take(claimed.iter().map(|one| (one.job.id, one.lease, one.cancel.clone())));
        for one in claimed {
            // The channel has a place for everything that may be in hand.
            if let Err(refused) = self.jobs.try_send(Arc::new(one)) {
                let refused = refused.into_inner();
                warn!(job_id = refused.job.id, "no place for a claimed job; it goes back with a later heartbeat");
                self.hands.release(&[(refused.job.id, refused.lease)]);
            }
        }
    }

    /// Runs one job with nothing else in hand: its worker died twice, and its neighbours shall not pay.
    async fn alone(&mut self) -> Result<(), sqlx::Error> {
        while self.hands.count() > 0 {
            self.bell.until(self.hands.freed()).await;
        }
        let claimed = claim::claim_alone(&self.bench.store, self.bench.worker, &self.kinds).await?;
        self.signals.alone.store(false, Ordering::Relaxed);
        if let Some(one) = claimed {
            info!(job_id = one.job.id, kind = %one.job.kind, rescues = one.job.rescues, "running a job alone");
            self.hand_out(vec![one]);
            while self.hands.count() > 0 {
                self.bell.until(self.hands.freed()).await;
            }
        }
        Ok(())
    }
}
