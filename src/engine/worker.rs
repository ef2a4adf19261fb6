//! A worker: claims on one side, attempts in the middle, settles on the other, and maintenance beside them.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    apalis::{self, Outcomes},
    attempt::Workbench,
    claims::Claims,
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

    let mut claims = Claims::new(&bench, &hands, &signals, &metrics, &options, jobs, &mut bell);
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
    let now: DateTime<Utc> = sqlx::query_scalar("select backhaul.register_worker($1, $2, $3, $4, $5, $6, $7)")
        .bind(bench.worker)
        .bind(host.trim())
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .bind(&options.build)
        .bind(bench.registry.labels())
        .bind(i32::try_from(options.concurrency).unwrap_or(i32::MAX))
        .bind(maintenance::interval_of(options.heartbeat))
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
