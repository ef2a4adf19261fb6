//! What an attempt sees of its job, and the steps it takes.

use std::{collections::HashMap, future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    claim::Claimed,
    events::{self, EventRow},
    failure::Failure,
    pacing::Pacer,
    steps::{StepTable, stored},
};

/// The facts of the job that an attempt works on.
#[derive(Debug, Clone)]
pub struct JobInfo {
    /// Public id, dense enough to type.
    pub id: i64,
    /// Durable name of the kind.
    pub kind: String,
    /// Version of the payload.
    pub version: i16,
    /// Whose work it is.
    pub tenant: String,
    /// Transient failures so far, counted anew after every finished step.
    pub attempt: u16,
    /// Total tries.
    pub max_attempts: u16,
    /// How often a worker died with this job in its hands.
    pub rescues: u16,
    /// How often it came back from the dead letters.
    pub replays: u16,
    /// When the job was accepted.
    pub enqueued_at: DateTime<Utc>,
    /// Database role that enqueued it.
    pub enqueued_by: String,
    /// After this moment the job is dead.
    pub deadline_at: DateTime<Utc>,
    /// Its ordering key, where it has one.
    pub ordering_key: Option<String>,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
}

/// What is known of a step that was marked begun before its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Nobody has tried it before.
    Now,
    /// An earlier attempt began it and never told how it ended: read back before sending again.
    OutcomeUnknown,
}

/// An audit event that commits with the next step, or with the end of the attempt.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEvent {
    /// Type below `dev.backhaul.`, for example `widget.patched`.
    pub event_type: &'static str,
    /// The resource it is about; no personal data.
    pub subject: String,
    /// Further members, without secrets.
    pub data: Value,
}

/// What a step produced: its stored result, and what commits together with it.
#[derive(Debug)]
pub struct Done<T> {
    pub(crate) value: T,
    pub(crate) audit: Vec<AuditEvent>,
    pub(crate) memory: Vec<(String, Value)>,
}

impl<T> Done<T> {
    /// A result with nothing beside it.
    pub fn new(value: T) -> Self {
        Self { value, audit: Vec::new(), memory: Vec::new() }
    }

    /// Adds an audit event that commits with the step.
    #[must_use]
    pub fn audit(mut self, event: AuditEvent) -> Self {
        self.audit.push(event);
        self
    }

    /// Remembers `value` for `resource` when the step commits. See [`JobContext::memory`].
    #[must_use]
    pub fn remember(mut self, resource: impl Into<String>, value: Value) -> Self {
        self.memory.push((resource.into(), value));
        self
    }
}

/// What an attempt leaves behind for settle.
#[derive(Default)]
pub(crate) struct Leftovers {
    pub events: Vec<EventRow>,
    pub stepped: bool,
    /// A finished step started the count of failures anew.
    pub attempts_reset: bool,
    pub step: Option<String>,
}

/// One attempt's view of its job.
pub struct JobContext {
    claimed: Arc<Claimed>,
    /// The claimed facts, with the count of failures as the verdict on this attempt will take it.
    job: Arc<JobInfo>,
    table: StepTable,
    steps: Option<HashMap<String, (bool, Value)>>,
    left: Leftovers,
}

impl JobContext {
    pub(crate) fn new(claimed: Arc<Claimed>, table: StepTable) -> Self {
        // A job that nobody has touched yet has no steps, and needs no look.
        let fresh = !table.may_have_steps;
        let steps = fresh.then(HashMap::new);
        let job = claimed.job.clone();
        Self { claimed, job, table, steps, left: Leftovers { stepped: !fresh, ..Leftovers::default() } }
    }

    pub(crate) fn into_leftovers(self) -> Leftovers {
        self.left
    }

    /// The job's facts. A step that finishes in this attempt starts the count of failures anew, here too: whoever asks
    /// whether a failure is the last one gets the engine's own answer.
    pub fn job(&self) -> &JobInfo {
        &self.job
    }

    /// The database's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.table.clock.now()
    }

    /// Cancelled when the job is cancelled or lost. The attempt's future is dropped too; this is for what it spawned.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.claimed.cancel
    }

    /// The limits of this job's tenant.
    pub fn pacer(&self) -> Pacer {
        Pacer {
            store: self.table.store.clone(),
            clock: self.table.clock.clone(),
            tenant: self.job().tenant.clone(),
            ticket: self.claimed.ticket.clone(),
        }
    }

    /// Runs `call` once in the life of the job: its result is stored, and later attempts get it back.
    /// `call` receives the step's Idempotency-Key. A crash between the call and its checkpoint repeats the call.
    pub async fn step<T, F, Fut>(&mut self, name: &str, call: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = Result<Done<T>, Failure>>,
    {
        if let Some(output) = self.finished(name).await? {
            return Ok(output);
        }
        self.left.step = Some(name.to_owned());
        let done = call(self.table.key(name)).await?;
        self.finish(name, done).await
    }

    /// As [`JobContext::step`], but the step is marked begun before its call, so that `call` learns whether an
    /// earlier attempt may already have done it. For writes that must be read back before they are sent again.
    pub async fn write_step<T, F, Fut>(&mut self, name: &str, call: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(String, Begun) -> Fut,
        Fut: Future<Output = Result<Done<T>, Failure>>,
    {
        if let Some(output) = self.finished(name).await? {
            return Ok(output);
        }
        self.left.step = Some(name.to_owned());
        let begun = match self.steps().await?.contains_key(name) {
            true => Begun::OutcomeUnknown,
            false => {
                self.left.stepped = true;
                self.table.put(name, false, &Value::Null, &[], &[]).await?;
                self.steps().await?.insert(name.to_owned(), (false, Value::Null));
                Begun::Now
            }
        };
        let done = call(self.table.key(name), begun).await?;
        self.finish(name, done).await
    }

    /// The stored result of a finished step.
    pub async fn step_result<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        self.finished(name).await
    }

    /// What this kind remembers of `resource` for this tenant, from earlier jobs.
    pub async fn memory(&mut self, resource: &str) -> Result<Option<Value>, Failure> {
        self.table.memory(&self.claimed.job.tenant, &self.claimed.job.kind, resource).await
    }

    /// Queues an audit event that commits with the end of the attempt, whatever the end is.
    pub fn audit(&mut self, event: AuditEvent) {
        self.left.events.push(events::of_kind(
            event,
            &self.claimed.job,
            self.left.step.as_deref(),
            self.table.clock.now(),
        ));
    }

    async fn steps(&mut self) -> Result<&mut HashMap<String, (bool, Value)>, Failure> {
        if self.steps.is_none() {
            self.steps = Some(self.table.load().await?);
        }
        Ok(self.steps.get_or_insert_default())
    }

    async fn finished<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        stored(self.steps().await?, name)
    }

    async fn finish<T: Serialize>(&mut self, name: &str, done: Done<T>) -> Result<T, Failure> {
        let output = serde_json::to_value(&done.value)
            .map_err(|error| Failure::permanent("step_output_unstorable", format!("step {name}: {error}")))?;
        let now = self.table.clock.now();
        let told = |event| (self.claimed.job.clone(), events::of_kind(event, &self.claimed.job, Some(name), now));
        let events: Vec<_> = done.audit.into_iter().map(told).collect();
        let memories: Vec<Value> = done
            .memory
            .into_iter()
            .map(|(resource, value)| {
                json!({ "job": self.claimed.job.id, "tenant": self.claimed.job.tenant, "kind": self.claimed.job.kind, "resource": resource, "value": value })
            })
            .collect();
        self.left.stepped = true;
        self.table.put(name, true, &output, &events, &memories).await?;
        self.left.attempts_reset = true;
        if self.job.attempt > 0 {
            Arc::make_mut(&mut self.job).attempt = 0;
        }
        self.left.step = None;
        self.steps().await?.insert(name.to_owned(), (true, output));
        Ok(done.value)
    }
}
