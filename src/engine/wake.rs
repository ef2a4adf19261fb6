//! Sleeping and waking: a worker says that it is about to sleep, and the next producer rings.

use std::{
    future::{Future, pending},
    io,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgListener;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::warn;
use uuid::Uuid;

use crate::{
    claim::{Claimed, Wish},
    pooler::answered,
    store::Store,
};

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
/// Longest wait for the answer to a claim: more than its statement may take. What answers later is a connection that
/// broke without a word, and what it claimed goes back with a heartbeat.
const CLAIM_MAX: Duration = Duration::from_secs(40);
/// Looks in a row that find nothing before a worker goes to sleep.
const LOOKS: u32 = 8;

/// Rings as they are heard.
#[derive(Default)]
pub(crate) struct Ringer {
    rung: Notify,
}

impl Ringer {
    /// Wakes the worker.
    pub(crate) fn ring(&self) {
        self.rung.notify_one();
    }
}

/// One worker's bell.
pub(crate) struct Bell {
    store: Store,
    worker: Uuid,
    ringer: Arc<Ringer>,
    /// Rings heard so far.
    heard: u64,
    line: Line,
    signed_on: Option<Instant>,
    last_idle: Instant,
    /// Since when rings are counted, and how many there were before.
    counting: (Instant, u64),
    looks: u32,
}

impl Bell {
    /// One that hears notifications, or behind a transaction pooler, where none come through, only its own handles.
    pub(crate) fn new(store: Store, worker: Uuid, hears: bool) -> Self {
        let now = Instant::now();
        Self {
            line: Line::new(store.clone(), hears),
            store,
            worker,
            ringer: Arc::default(),
            heard: 0,
            signed_on: None,
            last_idle: now,
            counting: (now, 0),
            looks: 0,
        }
    }

    /// Takes jobs, over the connection that hears.
    pub(crate) async fn claim(&mut self, wish: &Wish<'_>) -> Result<Vec<Claimed>, sqlx::Error> {
        let claimed = self.line.claim(wish).await;
        // What rang meanwhile may be of a commit that the claim did not see.
        let rings = self.line.unread();
        self.hear(rings);
        claimed
    }

    fn hear(&mut self, rings: u64) {
        if rings > 0 {
            self.heard += rings;
            self.ringer.ring();
        }
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
        self.counting = (Instant::now(), self.heard);
        // A long quiet time before must not hide that they come fast now.
        span < RINGS_COUNTED * 3 && (self.heard - before) as f64 > RINGS_MAX * span.as_secs_f64()
    }

    /// When the next scheduled job is due.
    pub(crate) async fn next_due(&self) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        sqlx::query_scalar("select backhaul.next_due()").fetch_one(&self.store).await
    }

    /// Sleeps until somebody rings or `freed`, at most `longest`.
    pub(crate) async fn sleep(&mut self, longest: Duration, freed: impl Future<Output = ()>) {
        let ringer = self.ringer.clone();
        // Each end of the wait means the same: look again.
        let woken = async {
            tokio::select! {
                () = ringer.rung.notified() => {}
                () = freed => {}
                () = sleep(longest) => {}
            }
        };
        self.until(woken).await;
    }

    /// Waits for `event`, and hears meanwhile: notifications that nobody reads fill the connection and then, behind it, the
    /// queue of the whole server.
    pub(crate) async fn until(&mut self, event: impl Future<Output = ()>) {
        let mut event = pin!(event);
        loop {
            let rings = tokio::select! {
                () = &mut event => return,
                rings = self.line.hear() => rings,
            };
            self.hear(rings);
        }
    }
}

/// The connection that hears, over which claims are sent as well: the server has just woken its backend with the
/// notification, and a second one would have to be woken for the claim. A pool would besides ask before each use whether
/// its connection still lives, one more round trip on the way of every job that wakes a worker.
struct Line {
    store: Store,
    hears: bool,
    open: Option<PgListener>,
}

impl Line {
    fn new(store: Store, hears: bool) -> Self {
        Self { store, hears, open: None }
    }

    /// After an error the next claim has another connection.
    async fn claim(&mut self, wish: &Wish<'_>) -> Result<Vec<Claimed>, sqlx::Error> {
        if !self.hears {
            return wish.query().fetch_all(&self.store).await;
        }
        let mut line = match self.open.take() {
            Some(line) => line,
            None => answered(self.connect()).await?,
        };
        let claimed = timeout(CLAIM_MAX, wish.query().fetch_all(&mut line))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to a claim"))??;
        self.open = Some(line);
        Ok(claimed)
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        let mut line = PgListener::connect_with(self.store.pool()).await?;
        // A break is ours to see: what was rung before the next connection was not heard.
        line.eager_reconnect(false);
        line.listen("backhaul").await?;
        Ok(line)
    }

    /// How many rings came while a claim was under way.
    fn unread(&mut self) -> u64 {
        let Some(line) = &mut self.open else { return 0 };
        std::iter::from_fn(|| line.next_buffered()).count() as u64
    }

    /// Waits for a ring. A connection that breaks counts as one, because the next claim opens another; without one there
    /// is nothing to hear.
    async fn hear(&mut self) -> u64 {
        let Some(line) = &mut self.open else { return pending().await };
        match line.try_recv().await {
            Ok(Some(_)) => {}
            Ok(None) => {
                warn!("the listening connection broke; opening another");
                self.open = None;
            }
            Err(error) => {
                warn!(%error, "the listening connection broke; opening another");
                self.open = None;
            }
        }
        1
    }
}
