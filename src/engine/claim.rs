//! Claims: a batch of jobs comes into this worker's hands.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{context::JobInfo, store::Store};

/// A job in this worker's hands, on its way to an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub lease: i64,
    pub job: Arc<JobInfo>,
    pub payload: Arc<str>,
    /// The bucket whose token the claim took for it.
    pub prepaid: Option<String>,
    /// Nobody has run it before.
    pub fresh: bool,
    /// It tries an upstream that looked down.
    pub probe: bool,
    /// It is work of the lowest priority, which may have only a part of an upstream's limit.
    pub backfill: bool,
    /// When the claim came back.
    pub at: Instant,
    pub cancel: CancellationToken,
}

#[derive(FromRow)]
struct Row {
    lease: i64,
    id: i64,
    kind: String,
    version: i16,
    tenant: String,
    payload: String,
    attempt: i16,
    max_attempts: i16,
    rescues: i16,
    replays: i16,
    deadline_at: DateTime<Utc>,
    enqueued_at: DateTime<Utc>,
    enqueued_by: String,
    ordering_key: Option<String>,
    traceparent: Option<String>,
    prepaid: Option<String>,
    fresh: Option<bool>,
    probe: Option<bool>,
    backfill: bool,
}

impl From<Row> for Claimed {
    fn from(row: Row) -> Self {
        let count = |n: i16| u16::try_from(n).unwrap_or(0);
        Self {
            lease: row.lease,
            job: Arc::new(JobInfo {
                id: row.id,
                kind: row.kind,
                version: row.version,
                tenant: row.tenant,
                attempt: count(row.attempt),
                max_attempts: count(row.max_attempts),
                rescues: count(row.rescues),
                replays: count(row.replays),
                enqueued_at: row.enqueued_at,
                enqueued_by: row.enqueued_by,
                deadline_at: row.deadline_at,
                ordering_key: row.ordering_key,
                traceparent: row.traceparent,
            }),
            payload: row.payload.into(),
            prepaid: row.prepaid,
            fresh: row.fresh.unwrap_or(false),
            probe: row.probe.unwrap_or(false),
            backfill: row.backfill,
            at: Instant::now(),
            cancel: CancellationToken::new(),
        }
    }
}

/// Takes up to `want` jobs of the given kinds. `due_after` null: look at all due jobs.
pub(crate) async fn claim(
    store: &Store,
    worker: Uuid,
    kinds: &[String],
    want: usize,
    due_after: Option<DateTime<Utc>>,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows: Vec<Row> =
        sqlx::query_as("select * from backhaul.claim($1, $2, $3, coalesce($4, '-infinity'::timestamptz))")
            .bind(worker)
            .bind(kinds)
            .bind(i32::try_from(want).unwrap_or(i32::MAX))
            .bind(due_after)
            .fetch_all(store)
            .await?;
    Ok(rows.into_iter().map(Claimed::from).collect())
}

/// Takes one job that must run alone.
pub(crate) async fn claim_alone(store: &Store, worker: Uuid, kinds: &[String]) -> Result<Option<Claimed>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as("select * from backhaul.claim_alone($1, $2)")
        .bind(worker)
        .bind(kinds)
        .fetch_optional(store)
        .await?;
    Ok(row.map(Claimed::from))
}
