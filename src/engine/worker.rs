//! A worker: claims on one side, attempts in the middle, settles on the other, and maintenance beside them.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    apalis::{self, Outcomes},
    attempt::Workbench,
    claim::{self, Claimed, Wish},
    clock::Clock,
    hands::Hands,
    maintenance::{self, Signals, Upkeep},
    metrics::Metrics,
    migrate::{check_version, introduce_kinds},
    reconnect::{Pause, is_passing},
    registry::Registry,
    relay::{self, Sink},
    schedules, settle,
    store::{Store, StoreError},
    wake::Bell,
};

/// Jobs that a transaction needs longer than this to commit may be found due only by the next full look.
const DUE_LAG: TimeDelta = TimeDelta::seconds(2);
/// How often a claim looks at all due jobs, not only at the recent ones; twenty times what it takes where that is more,
/// because a snapshot held elsewhere keeps what was due before in its way.
const FULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time between two such looks.
const FULL_LOOK_EVERY_MAX: Duration = Duration::from_secs(60);

/// What settles have to write the last outcomes at a stop, however short the grace is.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// How a worker works. See `config/default.toml` for what each means to an operator.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Attempts at once.
    pub concurrency: usize,
    /// Jobs claimed beyond those running, so that a free slot need not wait for a claim.
    pub prefetch: usize,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// A worker that was not heard of for this long is given up for dead.
    pub dead_after: Duration,
    /// How long running attempts may go on after a stop.
    pub grace: Duration,
    /// Longest sleep without a notification.
    pub poll: Duration,
    /// Time between sweeps for stragglers.
    pub sweep: Duration,
    /// How long events are kept once every sink has them.
    pub retention: Duration,
    /// How long dead letters wait for a decision before they are discarded; None: for ever.
    pub dead_letters: Option<Duration>,
    /// How long kinds remember a resource that no job writes about; None: for ever.
    pub memories: Option<Duration>,
    /// Nothing is claimed while more events than this are not published to a sink; 0 for no limit.
    pub unpublished_max: u64,
    /// Notifications do not come through: poll alone.
    pub pooler: bool,
    /// What `backhaul jobs` shows as this worker's build.
    pub build: String,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            concurrency: 64,
            prefetch: 64,
            heartbeat: Duration::from_secs(2),
            dead_after: Duration::from_secs(15),
            grace: Duration::from_secs(25),
            poll: Duration::from_secs(1),
            sweep: Duration::from_millis(200),
            retention: Duration::from_secs(365 * 24 * 3600),
            dead_letters: None,
            memories: None,
            unpublished_max: 10_000_000,
            pooler: false,
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Runs a worker until `stop`, then lets running attempts end within the grace and hands the rest back. `sinks` makes
/// the sinks anew for each life of the worker. A database that goes away is waited for; the only errors are those of
/// the start.
pub async fn run_worker(
    store: Store,
    registry: impl Fn() -> Registry,
    sinks: impl Fn() -> Vec<Box<dyn Sink>>,
    options: WorkerOptions,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let options = Arc::new(options);
    check_version(&store).await?;
    let deployment = store.deployment().await?;
    introduce_kinds(&store, &registry().specs()).await?;
    // Once for all lives: a meter provider never forgets an instrument, and would tell what each of them counted.
    let metrics = Arc::new(Metrics::new());
    while !stop.is_cancelled() {
        let bench = Workbench {
            store: store.clone(),
            registry: registry(),
            clock: Clock::default(),
            worker: Uuid::new_v4(),
            deployment,
        };
        match live(bench, sinks(), options.clone(), metrics.clone(), &stop).await {
            Ok(()) => {}
            Err(error) if is_passing(&error) => {
                let mut pause = Pause::default();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = pause.after(&error, "a worker's start") => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One life, from registration to a clean leave, or to the news that this worker was given up for dead.
async fn live(
    bench: Workbench,
    sinks: Vec<Box<dyn Sink>>,
    options: Arc<WorkerOptions>,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let bench = Arc::new(bench);
    register(&bench, &options).await?;
    info!(worker = %bench.worker, kinds = ?bench.registry.labels(), concurrency = options.concurrency, "working");

    let hands = Arc::new(Hands::new(options.concurrency + options.prefetch));
    let signals = Arc::new(Signals::default());
    let mut bell = Bell::new(bench.store.clone(), bench.worker, !options.pooler);
    let upkeep = Upkeep {
        bench: bench.clone(),
        signals: signals.clone(),
        options: options.clone(),
        metrics: metrics.clone(),
        ringer: bell.handle(),
    };
    // Before the first claim, or each of many starts would claim a batch against the limit.
    upkeep.look_at_sinks().await?;
    let sealed = Arc::new(tokio::sync::Notify::new());
    let settled = Arc::new(tokio::sync::Notify::new());
    let (jobs, inbox) = mpsc::channel(options.concurrency + options.prefetch);
    let (outcomes, results) = mpsc::unbounded_channel();

    // Attempts stop by their channel closing; what serves them stops after them; then sealing, and publishing last of
    // all, so that what this worker's jobs told has left when it ends.
    let stopping = CancellationToken::new();
    let quit = CancellationToken::new();
    let relay_quit = CancellationToken::new();
    let settles = settle::run(bench.clone(), hands.clone(), metrics.clone(), results, settled.clone());
    let settles = tokio::spawn(vital("settling", signals.lost.clone(), settles));
    let attempts = apalis::run(bench.clone(), inbox, outcomes.clone(), options.concurrency, stopping.clone());
    let attempts = tokio::spawn(vital("the execution layer", signals.lost.clone(), attempts));
    let around = vec![
        tokio::spawn(maintenance::heartbeats(
            bench.clone(),
            hands.clone(),
            signals.clone(),
            options.clone(),
            quit.clone(),
        )),
        tokio::spawn(upkeep.run(quit.clone())),
        tokio::spawn(schedules::run(bench.store.clone(), quit.clone())),
    ];
    let seals = tokio::spawn(relay::seal(bench.store.clone(), settled, sealed.clone(), quit.clone()));
    let mut relays = Vec::new();
    for sink in sinks {
        relays.push(tokio::spawn(relay::publish(
            bench.store.clone(),
            bench.worker,
            bench.deployment,
            sink,
            sealed.clone(),
            relay_quit.clone(),
        )));
    }

    let mut claims = Claims {
        bench: &bench,
        hands: &hands,
        signals: &signals,
        metrics: &metrics,
        options: &options,
        jobs,
        bell: &mut bell,
        kinds: bench.registry.labels(),
        looked: Instant::now() - FULL_LOOK_EVERY,
        look_every: FULL_LOOK_EVERY,
        due_after: None,
        caught_up: false,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = signals.lost.cancelled() => {}
        () = claims.run() => {}
    }
    stopping.cancel();
    drop(claims);
    // Nobody reads its connection any more (see Bell::until).
    drop(bell);
    wind_down(&hands, &signals, &options, attempts, outcomes).await;
    // Everybody who could report an outcome is gone, so the settles end once they have written what is there. While
    // the database is away they wait for it, but not for longer than a stop may take.
    finish("settling", settles, options.grace.max(SETTLE_WITHIN)).await;
    quit.cancel();
    for task in around {
        finish("maintenance", task, Duration::from_secs(5)).await;
    }
    finish("sealing", seals, Duration::from_secs(5)).await;
    relay_quit.cancel();
    for task in relays {
        finish("the relay", task, Duration::from_secs(10)).await;
    }
    if !signals.lost.is_cancelled() {
        let left = sqlx::query("select backhaul.leave($1)").bind(bench.worker).execute(&bench.store);
        match tokio::time::timeout(Duration::from_secs(5), left).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "could not sign off; the others will notice by the missing heartbeat"),
            Err(_) => warn!("could not sign off in time; the others will notice by the missing heartbeat"),
        }
    }
    info!(worker = %bench.worker, "stopped");
    Ok(())
}

/// Runs what a life cannot go on without. Where it fails, the life is given up: heartbeats would keep what is in its hands
/// from everybody else for ever.
async fn vital<E: std::fmt::Display>(what: &str, lost: CancellationToken, task: impl Future<Output = Result<(), E>>) {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error!(%error, "{what} broke off; this worker begins anew, and its jobs are rescued"),
        Err(_) => error!("{what} panicked; this worker begins anew, and its jobs are rescued"),
    }
    lost.cancel();
}

async fn register(bench: &Workbench, options: &WorkerOptions) -> Result<(), sqlx::Error> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned());
    let now: DateTime<Utc> = sqlx::query_scalar("select backhaul.register_worker($1, $2, $3, $4, $5, $6)")
        .bind(bench.worker)
        .bind(host.trim())
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .bind(&options.build)
        .bind(bench.registry.labels())
        .bind(i32::try_from(options.concurrency).unwrap_or(i32::MAX))
        .fetch_one(&bench.store)
        .await?;
    bench.clock.set(now);
    Ok(())
}

/// Lets running attempts end within the grace; what is still running then is stopped and reported interrupted.
async fn wind_down(
    hands: &Hands,
    signals: &Signals,
    options: &WorkerOptions,
    attempts: JoinHandle<()>,
    outcomes: Outcomes,
) {
    signals.stopping.store(true, Ordering::Relaxed);
    let grace = if signals.lost.is_cancelled() {
        hands.cancel(&hands.ids().0);
        Duration::from_secs(1)
    } else {
        options.grace
    };
    let stop_attempts = attempts.abort_handle();
    if tokio::time::timeout(grace, attempts).await.is_err() {
        warn!(jobs = hands.count(), "the grace is over; what still runs goes back without costing an attempt");
        stop_attempts.abort();
    }
    drop(outcomes);
}

async fn finish(what: &str, mut task: JoinHandle<()>, within: Duration) {
    if tokio::time::timeout(within, &mut task).await.is_err() {
        warn!("{what} did not end in time");
        task.abort();
    }
}

/// The claiming side of a worker.
struct Claims<'a> {
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

impl Claims<'_> {
    async fn run(&mut self) {
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
