//! Claims: a batch of jobs comes into this worker's hands.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{
    FromRow, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{context::JobInfo, pacing::Ticket, store::Store};

/// A job in this worker's hands, on its way to an attempt.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub lease: i64,
    pub job: Arc<JobInfo>,
    pub payload: String,
    /// Nobody has run it before.
    pub fresh: bool,
    pub ticket: Arc<Ticket>,
    pub cancel: CancellationToken,
}

/// By position, in the order of the columns of `backhaul.claim`: looking nineteen names up in every row took a tenth of
/// a busy worker's time.
impl FromRow<'_, PgRow> for Claimed {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let count = |column: usize| row.try_get(column).map(|n: i16| u16::try_from(n).unwrap_or(0));
        let said = |column: usize| row.try_get(column).map(|said: Option<bool>| said.unwrap_or(false));
        Ok(Self {
            lease: row.try_get(0)?,
            job: Arc::new(JobInfo {
                id: row.try_get(1)?,
                kind: row.try_get(2)?,
                version: row.try_get(3)?,
                tenant: row.try_get(4)?,
                attempt: count(6)?,
                max_attempts: count(7)?,
                rescues: count(8)?,
                replays: count(9)?,
                deadline_at: row.try_get(10)?,
                enqueued_at: row.try_get(11)?,
                enqueued_by: row.try_get(12)?,
                ordering_key: row.try_get(13)?,
                traceparent: row.try_get(14)?,
            }),
            payload: row.try_get(5)?,
            fresh: said(16)?,
            ticket: Arc::new(Ticket::new(row.try_get(15)?, said(17)?, said(18)?)),
            cancel: CancellationToken::new(),
        })
    }
}

/// What a claim asks for.
pub(crate) struct Wish<'a> {
    pub worker: Uuid,
    pub kinds: &'a [String],
    pub want: usize,
    /// Null: look at all due jobs.
    pub due_after: Option<DateTime<Utc>>,
    /// Look also for jobs that were committed behind their cursor just now.
    pub strays: bool,
}

impl<'a> Wish<'a> {
    pub(crate) fn query(&self) -> QueryAs<'a, Postgres, Claimed, PgArguments> {
        sqlx::query_as("select * from backhaul.claim($1, $2, $3, coalesce($4, '-infinity'::timestamptz), $5)")
            .bind(self.worker)
            .bind(self.kinds)
            .bind(i32::try_from(self.want).unwrap_or(i32::MAX))
            .bind(self.due_after)
            .bind(self.strays)
    }
}

/// Takes one job that must run alone.
pub(crate) async fn claim_alone(store: &Store, worker: Uuid, kinds: &[String]) -> Result<Option<Claimed>, sqlx::Error> {
    sqlx::query_as("select * from backhaul.claim_alone($1, $2)").bind(worker).bind(kinds).fetch_optional(store).await
}
