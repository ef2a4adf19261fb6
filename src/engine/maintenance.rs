//! What every worker does beside its jobs: heartbeats, rescue, the stragglers' sweep, expiry, partitions. No leader:
//! whoever locks a task's row first does it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{
    Postgres,
    postgres::{PgArguments, types::PgInterval},
    query::QueryScalar,
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    attempt::Workbench,
    backlog,
    hands::Hands,
    metrics::Metrics,
    reconnect::{Pause, is_passing},
    wake::Ringer,
    worker::WorkerOptions,
};

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
    /// This worker is the one that lets go of everything else for it.
    pub chosen: AtomicBool,
    /// This worker was given up for dead: everything in its hands belongs to others.
    pub lost: CancellationToken,
    /// A sink is too far behind: nothing is to be claimed.
    pub held: AtomicBool,
    /// The worker is stopping, as its heartbeat tells.
    pub stopping: AtomicBool,
    /// How many workers live, this one among them, as the last heartbeat told.
    pub workers: AtomicU32,
}

/// Tells the database that this worker lives, learns the database's time, and stops jobs that were cancelled. Over a
/// connection of its own: attempts whose statements wait for a lock must not keep a worker from saying that it lives.
pub(crate) async fn heartbeats(
    bench: Arc<Workbench>,
    hands: Arc<Hands>,
    signals: Arc<Signals>,
    options: Arc<WorkerOptions>,
    stop: CancellationToken,
) {
    let mut ticks = interval(options.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut own = bench.store.apart();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (jobs, leases) = hands.ids();
        let beat = sqlx::query_as::<_, (bool, DateTime<Utc>, Vec<i64>, i32)>(
            "select alive, now, gone, workers from backhaul.heartbeat($1, $2, $3, $4)",
        )
        .bind(bench.worker)
        .bind(&jobs)
        .bind(&leases)
        .bind(signals.stopping.load(Ordering::Relaxed))
        .fetch_one(&own);
        // Early enough for another connection to be tried before this worker is given up.
        let patience = options.dead_after / 4;
        let Ok(beat) = timeout(patience, beat).await else {
            warn!("no answer to a heartbeat within {patience:?}; trying another connection");
            own = bench.store.apart();
            continue;
        };
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

/// The periodic tasks of one worker.
pub(crate) struct Upkeep {
    pub bench: Arc<Workbench>,
    pub signals: Arc<Signals>,
    pub options: Arc<WorkerOptions>,
    pub metrics: Arc<Metrics>,
    pub ringer: Arc<Ringer>,
}

const RARE_EVERY: Duration = Duration::from_secs(10);
/// Most rows that one statement of the expiry deletes.
const EXPIRE_MAX: i32 = 10_000;
/// Most dead letters that one statement discards: each has steps and tells an event.
const LETTERS_MAX: i32 = 1_000;
/// Time between two looks for old memories, which read the whole table.
const MEMORIES_EVERY: Duration = Duration::from_secs(3_600);

impl Upkeep {
    /// Runs them until `stop`. One that takes long or fails holds up none that has to be quick.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let often = self.options.sweep;
        // Rescue takes a long time without a look for an outage, after which nobody is given up (`backhaul.rescue`).
        let looks = often.min(self.options.heartbeat);
        tokio::join!(
            every(often, &stop, "the sweep", || self.sweep()),
            every(looks, &stop, "rescue", || self.rescue_and_stand_alone()),
            every(backlog::LOOK_EVERY, &stop, "the look at sinks", || self.look_at_sinks()),
            every(RARE_EVERY, &stop, "upkeep", || self.clean_up()),
        );
    }

    /// Tells the claims whether they have to wait for a sink.
    pub(crate) async fn look_at_sinks(&self) -> Result<(), sqlx::Error> {
        let held = backlog::look(&self.bench.store, &self.metrics, self.options.unpublished_max).await?;
        if self.signals.held.swap(held, Ordering::Relaxed) && !held {
            self.ringer.ring();
        }
        Ok(())
    }

    async fn rescue_and_stand_alone(&self) -> Result<(), sqlx::Error> {
        let rescued = self.rescue().await;
        self.stand_alone().await.and(rescued)
    }

    async fn clean_up(&self) -> Result<(), sqlx::Error> {
        let done = [
            self.add_partitions().await,
            self.unblock().await,
            self.expire_keys().await,
            self.expire_dead_letters().await,
            self.expire_memories().await,
            self.drop_partitions().await,
        ];
        done.into_iter().collect()
    }

    async fn sweep(&self) -> Result<(), sqlx::Error> {
        let adopted: i32 = sqlx::query_scalar("select backhaul.sweep($1, $2)")
            .bind(interval_of(self.options.sweep))
            .bind(interval_of(REST))
            .fetch_one(&self.bench.store)
            .await?;
        if adopted > 0 {
            self.ringer.ring();
        }
        Ok(())
    }

    async fn rescue(&self) -> Result<(), sqlx::Error> {
        let rescued: i32 = sqlx::query_scalar("select backhaul.rescue($1, $2)")
            .bind(interval_of(self.options.dead_after))
            .bind(interval_of(self.options.heartbeat / 2))
            .fetch_one(&self.bench.store)
            .await?;
        if rescued > 0 {
            info!(jobs = rescued, "rescued from workers that stopped answering");
            self.ringer.ring();
        }
        Ok(())
    }

    async fn stand_alone(&self) -> Result<(), sqlx::Error> {
        let (waits, chosen): (bool, bool) =
            sqlx::query_as("select waits, chosen from backhaul.stand_alone($1, $2, $3)")
                .bind(self.bench.worker)
                .bind(self.bench.registry.labels())
                .bind(interval_of(self.options.dead_after))
                .fetch_one(&self.bench.store)
                .await?;
        self.signals.alone.store(waits, Ordering::Relaxed);
        self.signals.chosen.store(chosen, Ordering::Relaxed);
        if waits {
            self.ringer.ring();
        }
        Ok(())
    }

    async fn unblock(&self) -> Result<(), sqlx::Error> {
        self.count("select backhaul.unblock($1)", RARE_EVERY / 2, |query| query).await.map(drop)
    }

    async fn expire_keys(&self) -> Result<(), sqlx::Error> {
        let task = "select backhaul.expire_keys($1, $2)";
        self.in_batches(task, RARE_EVERY / 2, EXPIRE_MAX, |query| query.bind(EXPIRE_MAX)).await.map(drop)
    }

    async fn expire_dead_letters(&self) -> Result<(), sqlx::Error> {
        let Some(age) = self.options.dead_letters else { return Ok(()) };
        let task = "select backhaul.expire_dead_letters($1, $2, $3)";
        let bind = |query: Counting| query.bind(interval_of(age)).bind(LETTERS_MAX);
        let gone = self.in_batches(task, RARE_EVERY * 6, LETTERS_MAX, bind).await?;
        if gone > 0 {
            info!(letters = gone, "dead letters expired");
        }
        Ok(())
    }

    async fn expire_memories(&self) -> Result<(), sqlx::Error> {
        let Some(age) = self.options.memories else { return Ok(()) };
        let task = "select backhaul.expire_memories($1, $2, $3)";
        let bind = |query: Counting| query.bind(interval_of(age)).bind(EXPIRE_MAX);
        let gone = self.in_batches(task, MEMORIES_EVERY, EXPIRE_MAX, bind).await?;
        if gone > 0 {
            info!(memories = gone, "what kinds remembered of resources expired");
        }
        Ok(())
    }

    async fn add_partitions(&self) -> Result<(), sqlx::Error> {
        self.count("select backhaul.add_partitions($1)", RARE_EVERY * 6, |query| query).await.map(drop)
    }

    async fn drop_partitions(&self) -> Result<(), sqlx::Error> {
        let retention = interval_of(self.options.retention);
        let task = "select backhaul.drop_partitions($1, $2, $3)";
        let bind = |query: Counting| query.bind(retention).bind(EXPIRE_MAX);
        self.in_batches(task, RARE_EVERY * 6, EXPIRE_MAX, bind).await.map(drop)
    }

    /// Runs a task of which each `pace` wants one, again at once while it did as much as one call may, `most`: more may be
    /// to do than one statement should. Returns how much it did.
    async fn in_batches(
        &self,
        task: &'static str,
        mut pace: Duration,
        most: i32,
        bind: impl Fn(Counting) -> Counting,
    ) -> Result<u64, sqlx::Error> {
        let mut all = 0;
        loop {
            let did = self.count(task, pace, &bind).await?;
            all += u64::from(did.unsigned_abs());
            if did < most {
                return Ok(all);
            }
            pace = Duration::ZERO;
        }
    }

    /// Runs a task of which each `pace` wants one, and returns how much it did.
    async fn count(
        &self,
        task: &'static str,
        pace: Duration,
        bind: impl FnOnce(Counting) -> Counting,
    ) -> Result<i32, sqlx::Error> {
        bind(sqlx::query_scalar(task).bind(interval_of(pace))).fetch_one(&self.bench.store).await
    }
}

type Counting = QueryScalar<'static, Postgres, i32, PgArguments>;

async fn every<F>(period: Duration, stop: &CancellationToken, what: &str, work: impl Fn() -> F)
where
    F: Future<Output = Result<(), sqlx::Error>>,
{
    let mut pause = Pause::default();
    let rounds = async {
        loop {
            match work().await {
                Ok(()) => pause = Pause::default(),
                Err(error) if is_passing(&error) => pause.after(&error, what).await,
                Err(error) => tracing::error!(%error, "{what} refused"),
            }
            sleep(period).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds => {}
    }
}
