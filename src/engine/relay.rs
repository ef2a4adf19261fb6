//! Sealing gives events their order; the relay walks the seals and hands them to a sink, at least once and in order.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    maintenance::interval_of,
    reconnect::{Pause, is_passing},
    store::Store,
};

/// Most events in one seal.
const SEAL_MAX: i32 = 5_000;
/// Events that are sealed together: a pause between two rounds, so that a busy worker seals batches.
const SEAL_EVERY: Duration = Duration::from_millis(20);
/// How often a quiet system looks for events of others.
const IDLE: Duration = Duration::from_millis(500);
/// Time between two lines in the log about a sink that goes on refusing.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long a sink stays with a worker that does not renew its hold. Longer than any pause between two tries.
const OWNED_FOR: Duration = Duration::from_secs(15);

/// An event with its place in the order of the whole log.
#[derive(Debug, Clone, FromRow)]
pub struct SealedEvent {
    /// Dense sequence number, from 1.
    pub seq: i64,
    /// When it got its place.
    pub sealed_at: DateTime<Utc>,
    /// The one id of this event everywhere.
    pub event_id: Uuid,
    /// `dev.backhaul.…`
    pub event_type: String,
    /// Whose event it is.
    pub tenant: String,
    /// Kind of the job, where it is about one.
    pub kind: Option<String>,
    /// The job, where it is about one.
    pub job_id: Option<i64>,
    /// What it is about.
    pub subject: String,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// Trace context of the job.
    pub traceparent: Option<String>,
    /// Canonical JSON, exactly as stored and hashed.
    pub data: Vec<u8>,
}

/// Where events go. `publish` returns once all of them are safe there; after an error they are sent again, so a sink
/// expects the same events twice.
pub trait Sink: Send + Sync {
    /// Name of the sink's row, unique in the deployment.
    fn name(&self) -> &str;
    /// `file`, `webhook`, ...
    fn kind(&self) -> &str;
    /// Where it writes to, for people.
    fn target(&self) -> &str;
    /// Delivers the events in order.
    fn publish<'a>(
        &'a mut self,
        deployment: Uuid,
        events: &'a [SealedEvent],
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;
}

/// Seals until `stop`, and then once more to the end.
pub(crate) async fn seal(store: Store, rung: Arc<Notify>, sealed: Arc<Notify>, stop: CancellationToken) {
    let mut pause = Pause::default();
    loop {
        let last = stop.is_cancelled();
        match seal_all(&store).await {
            Ok(0) => {}
            Ok(_) => sealed.notify_waiters(),
            Err(error) if is_passing(&error) && !last => {
                pause.after(&error, "sealing").await;
                continue;
            }
            Err(error) => warn!(%error, "sealing failed"),
        }
        if last {
            return;
        }
        pause = Pause::default();
        tokio::time::sleep(SEAL_EVERY).await;
        tokio::select! {
            () = stop.cancelled() => {}
            _ = timeout(IDLE, rung.notified()) => {}
        }
    }
}

async fn seal_all(store: &Store) -> Result<u64, sqlx::Error> {
    let mut total = 0;
    loop {
        let n: i32 = sqlx::query_scalar("select backhaul.seal($1)").bind(SEAL_MAX).fetch_one(store).await?;
        total += u64::from(n.unsigned_abs());
        if n < SEAL_MAX {
            return Ok(total);
        }
    }
}

/// Publishes to one sink until `stop`, and then once more to the end of what is sealed.
pub(crate) async fn publish(
    store: Store,
    worker: Uuid,
    deployment: Uuid,
    mut sink: Box<dyn Sink>,
    sealed: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut pause = Pause::default();
    let mut told: Option<Instant> = None;
    let mut known = false;
    loop {
        let last = stop.is_cancelled();
        if !known {
            // Its row says where it writes to, also before there is anything to write.
            known = own(&store, worker, sink.as_ref()).await.is_ok();
        }
        match drain(&store, worker, deployment, sink.as_mut()).await {
            Ok(()) => (pause, told) = (Pause::default(), None),
            Err(Trouble::Store(error)) if is_passing(&error) && !last => pause.after(&error, "publishing").await,
            Err(Trouble::Store(error)) => warn!(%error, sink = sink.name(), "publishing failed"),
            Err(Trouble::Sink(error)) => {
                // Its row always has the last error; the log is not to be filled with one that lasts for days.
                if told.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
                    told = Some(Instant::now());
                    warn!(sink = sink.name(), "the sink refused events, they will be sent again: {error:#}");
                }
                note_failure(&store, sink.name(), &format!("{error:#}")).await;
                if !last {
                    stop.run_until_cancelled(tokio::time::sleep(pause.next())).await;
                    continue;
                }
            }
        }
        if last {
            release(&store, worker, sink.name()).await;
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = timeout(IDLE, sealed.notified()) => {}
        }
    }
}

enum Trouble {
    Store(sqlx::Error),
    Sink(anyhow::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

async fn drain(store: &Store, worker: Uuid, deployment: Uuid, sink: &mut dyn Sink) -> Result<(), Trouble> {
    loop {
        let Some(position) = position(store, worker, sink.name()).await? else { return Ok(()) };
        let events = after(store, position).await?;
        let (Some(first), Some(last)) = (events.first(), events.last().map(|event| event.seq)) else { return Ok(()) };
        if first.seq > position + 1 {
            warn!(
                sink = sink.name(),
                after = position,
                from = first.seq,
                "the events between are past their retention"
            );
        }
        // Seals do not wait for the disk, but this does, and everything committed before it is on the disk then too:
        // no crash can take back an order that somebody outside has seen.
        match own(store, worker, sink).await? {
            None => return Ok(()),
            Some(now) if now != position => continue,
            Some(_) => {}
        }
        let sent = timeout(OWNED_FOR * 2 / 3, sink.publish(deployment, &events)).await;
        sent.map_err(|_| Trouble::Sink(anyhow::anyhow!("no answer within ten seconds")))?.map_err(Trouble::Sink)?;
        let moved = sqlx::query(
            "update backhaul.sinks set position = $3, failing_since = null, last_error = null
             where name = $1 and owner = $2",
        )
        .bind(sink.name())
        .bind(worker)
        .bind(last)
        .execute(store)
        .await?;
        if moved.rows_affected() == 0 {
            info!(sink = sink.name(), "another worker took the sink over");
            return Ok(());
        }
    }
}

/// How far the sink is. None while another worker has it, or while it is paused.
async fn position(store: &Store, worker: Uuid, name: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "select position from backhaul.sinks
         where name = $1 and not paused
           and (owner is null or owner = $2 or owned_until is null or owned_until < clock_timestamp())",
    )
    .bind(name)
    .bind(worker)
    .fetch_optional(store)
    .await
}

/// Takes or renews the hold on the sink. None while another worker has it, or while it is paused.
async fn own(store: &Store, worker: Uuid, sink: &dyn Sink) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "insert into backhaul.sinks as s (name, kind, target, owner, owned_until)
         values ($1, $2, $3, $4, clock_timestamp() + $5)
         on conflict (name) do update set owner = excluded.owner, owned_until = excluded.owned_until,
             kind = excluded.kind, target = excluded.target
         where not s.paused and (s.owner = excluded.owner or s.owned_until is null or s.owned_until < clock_timestamp())
         returning position",
    )
    .bind(sink.name())
    .bind(sink.kind())
    .bind(sink.target())
    .bind(worker)
    .bind(interval_of(OWNED_FOR))
    .fetch_optional(store)
    .await
}

async fn after(store: &Store, position: i64) -> Result<Vec<SealedEvent>, sqlx::Error> {
    sqlx::query_as(
        "select seq, sealed_at, event_id, event_type, tenant, kind, job_id, subject, occurred_at, traceparent, data
         from backhaul.sealed_after($1)",
    )
    .bind(position)
    .fetch_all(store)
    .await
}

async fn note_failure(store: &Store, name: &str, error: &str) {
    let noted = sqlx::query(
        "update backhaul.sinks set failing_since = coalesce(failing_since, clock_timestamp()), last_error = left($2, 2000)
         where name = $1",
    )
    .bind(name)
    .bind(error)
    .execute(store)
    .await;
    if let Err(error) = noted {
        warn!(%error, sink = name, "the sink's failure could not be noted");
    }
}

async fn release(store: &Store, worker: Uuid, name: &str) {
    let released = sqlx::query(
        "update backhaul.sinks set owner = null, owned_until = clock_timestamp() where name = $1 and owner = $2",
    )
    .bind(name)
    .bind(worker)
    .execute(store)
    .await;
    if let Err(error) = released {
        warn!(%error, sink = name, "the sink's hold runs out by itself");
    }
}
