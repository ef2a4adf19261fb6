//! What a preview sees of its subject. There is nothing in it to write with.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::Subject;
use crate::{
    clock::Clock,
    failure::Failure,
    pacing::{Pacer, Ticket},
    steps::{StepTable, stored, unreachable_store},
    store::Store,
};

/// One preview's view of the job, or of the payload that could become one.
pub struct PreviewContext {
    job: Option<i64>,
    kind: String,
    replays: u16,
    enqueued_at: DateTime<Utc>,
    traceparent: Option<String>,
    reveals: bool,
    table: StepTable,
    steps: HashMap<String, (bool, Value)>,
    clock: Clock,
    pacer: Pacer,
}

impl PreviewContext {
    pub(crate) async fn open(store: &Store, subject: &Subject, reveals: bool) -> Result<Self, Failure> {
        let clock = Clock::default();
        let (now, deployment): (DateTime<Utc>, Uuid) =
            sqlx::query_as("select clock_timestamp(), id from backhaul.deployment")
                .fetch_one(store)
                .await
                .map_err(|error| unreachable_store(&clock, error))?;
        clock.set(now);
        let table = StepTable {
            store: store.clone(),
            clock: clock.clone(),
            // No worker and no lease: the table can be read, and would refuse whatever was put into it.
            worker: Uuid::nil(),
            lease: 0,
            job: subject.job.unwrap_or(0),
            deployment,
            may_have_steps: subject.job.is_some(),
        };
        let steps = if subject.job.is_some() { table.load().await? } else { HashMap::new() };
        let pacer = Pacer {
            store: store.clone(),
            clock: clock.clone(),
            tenant: subject.tenant.clone(),
            ticket: Arc::new(Ticket::new(None, false, false)),
        };
        let enqueued_at = subject.enqueued_at.unwrap_or(now);
        let traceparent = subject.traceparent.clone();
        Ok(Self {
            job: subject.job,
            kind: subject.kind.clone(),
            replays: subject.replays,
            enqueued_at,
            traceparent,
            reveals,
            table,
            steps,
            clock,
            pacer,
        })
    }

    /// The job's id; `None` for a payload that is not enqueued.
    pub fn job(&self) -> Option<i64> {
        self.job
    }

    /// Whose work it is.
    pub fn tenant(&self) -> &str {
        &self.pacer.tenant
    }

    /// How often the job will have come back from the dead letters when it runs next.
    pub fn replays(&self) -> u16 {
        self.replays
    }

    /// When the job was accepted; now, for a payload that is not enqueued.
    pub fn enqueued_at(&self) -> DateTime<Utc> {
        self.enqueued_at
    }

    /// W3C trace context of the producer.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Whether whoever asks wants to see personal data that the tenant's policy lets pass.
    pub fn reveals(&self) -> bool {
        self.reveals
    }

    /// The database's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The limits of this tenant.
    pub fn pacer(&self) -> Pacer {
        self.pacer.clone()
    }

    /// The stored result of a step that earlier attempts finished.
    pub fn step_result<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        stored(&self.steps, name)
    }

    /// Whether an earlier attempt began the step, and perhaps finished it.
    pub fn is_begun(&self, name: &str) -> bool {
        self.steps.contains_key(name)
    }

    /// The step's Idempotency-Key, as the job would have it. A payload that is not enqueued has none: `<new job>` stands
    /// for what its id will make of it.
    pub fn step_key(&self, name: &str) -> String {
        self.job.map_or_else(|| format!("<new job>-{name}"), |_| self.table.key(name))
    }

    /// What the kind remembers of `resource` for this tenant, from earlier jobs.
    pub async fn memory(&self, resource: &str) -> Result<Option<Value>, Failure> {
        self.table.memory(&self.pacer.tenant, &self.kind, resource).await
    }
}
