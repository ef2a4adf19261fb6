//! What an attempt sees of its job, and the steps it takes.

use std::future::Future;

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// The facts of the job that an attempt works on.
#[derive(Debug, Clone)]
pub struct JobInfo {
    /// Public id, dense enough to type.
    pub id: i64,
    /// Durable name of the kind.
    pub kind: String,
    /// Whose work it is.
    pub tenant: String,
    /// Transient failures so far, counted anew after every finished step.
    pub attempt: u16,
    /// Total tries.
    pub max_attempts: u16,
    /// How often a worker died with this job in its hands.
    pub rescues: u16,
    /// When the job was accepted.
    pub enqueued_at: DateTime<Utc>,
    /// Database role that enqueued it.
    pub enqueued_by: String,
    /// After this moment the job is dead.
    pub deadline_at: DateTime<Utc>,
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

/// Hands out the tokens of this tenant's upstream limits. Cheap to clone into a step.
#[derive(Clone)]
pub struct Pacer {
    _todo: (),
}

impl Pacer {
    /// Waits for one token of the bucket `provider/class`, or fails as throttled when the bucket is closed or its
    /// next token is far away. Returns at once where the bucket has no limit.
    pub async fn take(&self, bucket: &str) -> Result<(), Failure> {
        let _ = bucket;
        todo!()
    }
}

/// One attempt's view of its job.
pub struct JobContext {
    _todo: (),
}

impl JobContext {
    /// The job's facts.
    pub fn job(&self) -> &JobInfo {
        todo!()
    }

    /// The database's clock.
    pub fn now(&self) -> DateTime<Utc> {
        todo!()
    }

    /// Cancelled when the job is cancelled or lost. The attempt's future is dropped too; this is for what it spawned.
    pub fn cancelled(&self) -> &CancellationToken {
        todo!()
    }

    /// The limits of this job's tenant.
    pub fn pacer(&self) -> Pacer {
        todo!()
    }

    /// Runs `call` once in the life of the job: its result is stored, and later attempts get it back.
    /// `call` receives the step's Idempotency-Key. A crash between the call and its checkpoint repeats the call.
    pub async fn step<T, F, Fut>(&mut self, name: &str, call: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = Result<Done<T>, Failure>>,
    {
        let _ = (name, call);
        todo!()
    }

    /// As [`JobContext::step`], but the step is marked begun before its call, so that `call` learns whether an
    /// earlier attempt may already have done it. For writes that must be read back before they are sent again.
    pub async fn write_step<T, F, Fut>(&mut self, name: &str, call: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(String, Begun) -> Fut,
        Fut: Future<Output = Result<Done<T>, Failure>>,
    {
        let _ = (name, call);
        todo!()
    }

    /// The stored result of a finished step.
    pub async fn step_result<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        let _ = name;
        todo!()
    }

    /// What this kind remembers of `resource` for this tenant, from earlier jobs.
    pub async fn memory(&mut self, resource: &str) -> Result<Option<Value>, Failure> {
        let _ = resource;
        todo!()
    }

    /// Queues an audit event that commits with the end of the attempt, whatever the end is.
    pub fn audit(&mut self, event: AuditEvent) {
        let _ = event;
        todo!()
    }
}
