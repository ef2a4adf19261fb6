//! What is previewed: a job that waits or is dead, or a payload that nobody has enqueued.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;

use crate::store::{Store, StoreError};

/// A job, or what could become one.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Subject {
    /// The job's id; `None` for a payload that is not enqueued.
    pub job: Option<i64>,
    /// Durable name of the kind.
    pub kind: String,
    /// Version of the payload; `None` means the newest that the program knows.
    pub version: Option<i16>,
    /// Whose work it is.
    pub tenant: String,
    /// The payload's JSON text.
    pub payload: String,
    /// `ready`, `scheduled`, `retrying`, `blocked`, `running` or `dead`; `None` for a payload that is not enqueued.
    pub state: Option<String>,
    /// How often the job will have come back from the dead letters when it runs next: for a dead letter, one time more
    /// than so far.
    #[sqlx(try_from = "i32")]
    pub replays: u16,
    /// When the job was accepted; `None` means now.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
}

impl Subject {
    /// The unfinished or dead job `id`; `None` where there is none.
    ///
    /// # Errors
    /// The database is not reachable, or the login may not read payloads.
    pub async fn job(store: &Store, id: i64) -> Result<Option<Self>, StoreError> {
        let found = sqlx::query_as(
            "select s.id as job, s.kind, s.version, s.tenant, s.state, s.enqueued_at,
                    coalesce(j.replays, d.replays + 1, 0)::int as replays,
                    coalesce(j.payload, d.payload)::text as payload, coalesce(j.traceparent, d.traceparent) as traceparent
             from backhaul.job_states s
             left join backhaul.jobs j on j.id = s.id left join backhaul.dead_letters d on d.id = s.id
             where s.id = $1",
        );
        Ok(found.bind(id).fetch_optional(store).await?)
    }

    /// A payload that is not enqueued.
    pub fn payload(kind: impl Into<String>, tenant: impl Into<String>, payload: &Value) -> Self {
        Self {
            job: None,
            kind: kind.into(),
            version: None,
            tenant: tenant.into(),
            payload: payload.to_string(),
            state: None,
            replays: 0,
            enqueued_at: None,
            traceparent: None,
        }
    }
}
