//! What every worker does beside its jobs: heartbeats, rescue, the stragglers' sweep, expiry, partitions. No leader:
//! whoever locks a task's row first does it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    attempt::Workbench,
    hands::Hands,
    reconnect::{Pause, is_passing},
    wake::Ringer,
    worker::WorkerOptions,
};

/// The sweep may take this share of its worker's time, so that a long write transaction elsewhere, which makes it look
/// at more, slows no claim down.
const SWEEP_SHARE: u32 = 20;
/// How long a cursor stays awake without work.
const REST: Duration = Duration::from_secs(1);

/// `timeout` without rounding that matters here.
pub(crate) fn interval_of(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// What the maintenance tells the claims.
#[derive(Default)]
pub(crate) struct Signals {
    /// A job waits that must run alone.
    pub alone: AtomicBool,
    /// This worker was given up for dead: everything in its hands belongs to others.
    pub lost: CancellationToken,
    /// The worker is stopping, as its heartbeat tells.
    pub stopping: AtomicBool,
    /// How many workers live, this one among them, as the last heartbeat told.
    pub workers: AtomicU32,
}

/// Tells the database that this worker lives, learns the database's time, and stops jobs that were cancelled.
pub(crate) async fn heartbeats(
    bench: Arc<Workbench>,
    hands: Arc<Hands>,
    signals: Arc<Signals>,
    options: Arc<WorkerOptions>,
    stop: CancellationToken,
) {
    let mut ticks = interval(options.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (jobs, leases) = hands.ids();
        let beat: Result<(bool, DateTime<Utc>, Vec<i64>, i32), _> =
            sqlx::query_as("select alive, now, gone, workers from backhaul.heartbeat($1, $2, $3, $4)")
                .bind(bench.worker)
                .bind(&jobs)
                .bind(&leases)
                .bind(signals.stopping.load(Ordering::Relaxed))
                .fetch_one(&bench.store)
                .await;
        match beat {
            Ok((alive, now, gone, workers)) => {
                signals.workers.store(workers.unsigned_abs(), Ordering::Relaxed);
                bench.clock.set(now);
                hands.cancel(&gone);
                if !alive {
                    warn!("this worker was given up for dead; what it holds was given away");
                    signals.lost.cancel();
                    return;
                }
            }
            Err(error) => warn!(%error, "heartbeat failed"),
        }
    }
}

/// Runs the periodic tasks until `stop`.
pub(crate) async fn tasks(
    bench: Arc<Workbench>,
    signals: Arc<Signals>,
    options: Arc<WorkerOptions>,
    ringer: Arc<Ringer>,
    stop: CancellationToken,
) {
    let mut pause = Pause::default();
    let mut sweep_every = options.sweep;
    let mut rare = Instant::now() - RARE_EVERY;
    loop {
        let started = Instant::now();
        let done = round(&bench, &signals, &options, &ringer, sweep_every, &mut rare).await;
        let took = started.elapsed();
        sweep_every = options.sweep.max(took * SWEEP_SHARE);
        match done {
            Ok(()) => pause = Pause::default(),
            Err(error) if is_passing(&error) => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = pause.after(&error, "maintenance") => {}
                }
            }
            Err(error) => tracing::error!(%error, "maintenance refused"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(sweep_every) => {}
        }
    }
}

const RARE_EVERY: Duration = Duration::from_secs(10);

async fn round(
    bench: &Workbench,
    signals: &Signals,
    options: &WorkerOptions,
    ringer: &Ringer,
    sweep_every: Duration,
    rare: &mut Instant,
) -> Result<(), sqlx::Error> {
    let store = &bench.store;
    let adopted: i32 = sqlx::query_scalar("select backhaul.sweep($1, $2)")
        .bind(interval_of(sweep_every))
        .bind(interval_of(REST))
        .fetch_one(store)
        .await?;
    let rescued: i32 = sqlx::query_scalar("select backhaul.rescue($1, $2)")
        .bind(interval_of(options.dead_after))
        .bind(interval_of(options.heartbeat / 2))
        .fetch_one(store)
        .await?;
    if rescued > 0 {
        info!(jobs = rescued, "rescued from workers that stopped answering");
    }
    if adopted + rescued > 0 {
        ringer.ring();
    }
    let alone: bool = sqlx::query_scalar("select backhaul.waits_alone($1) is not null")
        .bind(bench.registry.labels())
        .fetch_one(store)
        .await?;
    signals.alone.store(alone, Ordering::Relaxed);
    if alone {
        ringer.ring();
    }
    if rare.elapsed() >= RARE_EVERY {
        *rare = Instant::now();
        let _: i32 = sqlx::query_scalar("select backhaul.unblock($1)")
            .bind(interval_of(RARE_EVERY / 2))
            .fetch_one(store)
            .await?;
        let _: i32 = sqlx::query_scalar("select backhaul.expire_keys($1, 10000)")
            .bind(interval_of(RARE_EVERY / 2))
            .fetch_one(store)
            .await?;
        let _: i32 = sqlx::query_scalar("select backhaul.keep_partitions($1, $2)")
            .bind(interval_of(RARE_EVERY * 6))
            .bind(interval_of(options.retention))
            .fetch_one(store)
            .await?;
    }
    Ok(())
}
