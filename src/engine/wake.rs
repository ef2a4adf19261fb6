//! Sleeping and waking: a worker says that it is about to sleep, and the next producer rings.

use std::{sync::Arc, time::Duration};

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

/// One worker's bell.
pub(crate) struct Bell {
    store: Store,
    worker: Uuid,
    rung: Arc<Notify>,
    signed_on: Option<Instant>,
    last_idle: Instant,
}

impl Bell {
    pub(crate) fn new(store: Store, worker: Uuid) -> Self {
        Self { store, worker, rung: Arc::new(Notify::new()), signed_on: None, last_idle: Instant::now() }
    }

    /// A handle that rings, for our own promotions.
    pub(crate) fn handle(&self) -> Arc<Notify> {
        self.rung.clone()
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

    /// Signs off once the worker has been busy for a while.
    pub(crate) async fn busy(&mut self) -> Result<(), sqlx::Error> {
        if self.signed_on.is_some() && self.last_idle.elapsed() > DOZE {
            sqlx::query("delete from backhaul.sleepers where worker = $1")
                .bind(self.worker)
                .execute(&self.store)
                .await?;
            self.signed_on = None;
        }
        Ok(())
    }

    /// When the next scheduled job is due.
    pub(crate) async fn next_due(&self) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        sqlx::query_scalar("select backhaul.next_due()").fetch_one(&self.store).await
    }

    /// Sleeps until somebody rings, at most `longest`.
    pub(crate) async fn sleep(&self, longest: Duration) {
        // Either end of the wait means the same: look again.
        let _ = timeout(longest, self.rung.notified()).await;
    }
}

/// Listens until `stop`, on a connection of its own. Where notifications do not come through (a transaction pooler),
/// polling alone carries on.
pub(crate) async fn listen(store: Store, rung: Arc<Notify>, stop: CancellationToken) {
    let mut pause = Pause::default();
    while !stop.is_cancelled() {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = hear(&store, &rung) => heard,
        };
        if let Err(error) = heard {
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause.after(&error, "the listener") => {}
            }
        } else {
            pause = Pause::default();
        }
        rung.notify_one();
    }
}

async fn hear(store: &Store, rung: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(store.pool()).await?;
    listener.listen("backhaul").await?;
    loop {
        match listener.try_recv().await? {
            Some(_) => rung.notify_one(),
            None => {
                warn!("the listening connection broke; opening another");
                return Ok(());
            }
        }
    }
}
