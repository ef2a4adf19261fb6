//! Sleeping and waking: a worker says that it is about to sleep, and the next producer rings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgListener;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{reconnect::Pause, store::Store};

/// While jobs keep coming at shorter intervals than this, the worker stays registered: signing on and off for each
/// would cost more than a notification, and a producer would find nobody in the gap.
const DOZE: Duration = Duration::from_millis(100);
/// How often a sleeper signs on again: its table is unlogged, and empty after a crash of the server.
const SIGN_ON_EVERY: Duration = Duration::from_secs(5);

/// Notifications a second from which on a worker looks by itself for a while. Postgres lets commits that notify happen
/// one after the other, each with its wait for the disk, so that ringing at this rate would slow all producers down.
const RINGS_MAX: f64 = 100.0;
/// How long rings are counted for that.
const RINGS_COUNTED: Duration = Duration::from_millis(100);
/// Pause between two looks of a worker that is awake and found nothing; times the number of workers, so that they look
/// as often together.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// Longest such pause, however many workers there are.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(50);
/// Looks in a row that find nothing before a worker goes to sleep.
const LOOKS: u32 = 8;

/// Rings as they are heard.
#[derive(Default)]
pub(crate) struct Ringer {
    rung: Notify,
    count: AtomicU64,
}

impl Ringer {
    /// Wakes the worker.
    pub(crate) fn ring(&self) {
        self.rung.notify_one();
    }

    fn hear(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.ring();
    }
}

/// One worker's bell.
pub(crate) struct Bell {
    store: Store,
    worker: Uuid,
    ringer: Arc<Ringer>,
    signed_on: Option<Instant>,
    last_idle: Instant,
    /// Since when rings are counted, and how many there were before.
    counting: (Instant, u64),
    looks: u32,
}

impl Bell {
    pub(crate) fn new(store: Store, worker: Uuid) -> Self {
        let now = Instant::now();
        let ringer = Arc::default();
        Self { store, worker, ringer, signed_on: None, last_idle: now, counting: (now, 0), looks: 0 }
    }

    /// A handle that rings, for our own promotions.
    pub(crate) fn handle(&self) -> Arc<Ringer> {
        self.ringer.clone()
    }

    /// Whether producers need not ring, because this worker looks by itself.
    pub(crate) fn is_awake(&self) -> bool {
        self.signed_on.is_none()
    }

    /// How long to wait before the next look of a worker that found nothing and stays awake; none once it should sleep.
    pub(crate) fn linger(&mut self, workers: u32) -> Option<Duration> {
        if !self.is_awake() || self.looks >= LOOKS {
            return None;
        }
        self.looks += 1;
        let pause = (LOOK_EVERY * workers.max(1)).min(LOOK_EVERY_MAX);
        Some(pause.mul_f64(rand::random_range(0.7..1.3)))
    }

    /// Says that this worker is about to sleep. True when it was awake before: then look once more before sleeping,
    /// because a producer that committed meanwhile saw nobody.
    pub(crate) async fn sign_on(&mut self) -> Result<bool, sqlx::Error> {
        self.last_idle = Instant::now();
        if self.signed_on.is_some_and(|at| at.elapsed() < SIGN_ON_EVERY) {
            return Ok(false);
        }
        sqlx::query("insert into backhaul.sleepers (worker) values ($1) on conflict do nothing")
            .bind(self.worker)
            .execute(&self.store)
            .await?;
        let was_awake = self.signed_on.is_none();
        self.signed_on = Some(Instant::now());
        Ok(was_awake)
    }

    /// A look found jobs. Signs off once the worker has been busy for a while, or is rung for too often.
    pub(crate) async fn busy(&mut self) -> Result<(), sqlx::Error> {
        self.looks = 0;
        if self.signed_on.is_some() && (self.rings_fast() || self.last_idle.elapsed() > DOZE) {
            sqlx::query("delete from backhaul.sleepers where worker = $1")
                .bind(self.worker)
                .execute(&self.store)
                .await?;
            self.signed_on = None;
        }
        Ok(())
    }

    fn rings_fast(&mut self) -> bool {
        let (since, before) = self.counting;
        let span = since.elapsed();
        if span < RINGS_COUNTED {
            return false;
        }
        let count = self.ringer.count.load(Ordering::Relaxed);
        self.counting = (Instant::now(), count);
        // A long quiet time before must not hide that they come fast now.
        span < RINGS_COUNTED * 3 && (count - before) as f64 > RINGS_MAX * span.as_secs_f64()
    }

    /// When the next scheduled job is due.
    pub(crate) async fn next_due(&self) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        sqlx::query_scalar("select backhaul.next_due()").fetch_one(&self.store).await
    }

    /// Sleeps until somebody rings, at most `longest`.
    pub(crate) async fn sleep(&self, longest: Duration) {
        // Either end of the wait means the same: look again.
        let _ = timeout(longest, self.ringer.rung.notified()).await;
    }
}

/// Listens until `stop`, on a connection of its own. Where notifications do not come through (a transaction pooler),
/// polling alone carries on.
pub(crate) async fn listen(store: Store, ringer: Arc<Ringer>, stop: CancellationToken) {
    let mut pause = Pause::default();
    while !stop.is_cancelled() {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = hear(&store, &ringer) => heard,
        };
        if let Err(error) = heard {
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause.after(&error, "the listener") => {}
            }
        } else {
            pause = Pause::default();
        }
        ringer.ring();
    }
}

async fn hear(store: &Store, ringer: &Ringer) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(store.pool()).await?;
    listener.listen("backhaul").await?;
    loop {
        match listener.try_recv().await? {
            Some(_) => ringer.hear(),
            None => {
                warn!("the listening connection broke; opening another");
                return Ok(());
            }
        }
    }
}
