//! A job kind: its payload, its constants and what it does.

use std::{future::Future, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    context::JobContext,
    failure::Failure,
    preview::{Preview, PreviewContext},
};

/// A job kind. The payload struct is the job; options are constants, and are written to the table
/// `kinds` by `backhaul migrate`, so that producers which only speak SQL get the same rules.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Durable name, lower case with hyphens. Never renamed: rows and producers carry it.
    const KIND: &'static str;
    /// Version of the payload. A worker leaves versions it does not know to one that does.
    const VERSION: i16 = 1;
    /// Total tries, counting transient failures only.
    const MAX_ATTEMPTS: u16 = 4;
    /// Longest time one attempt may take.
    const TIMEOUT: Duration = Duration::from_secs(60);
    /// Longest life of a job from the time it may first run, however often it is throttled.
    const DEADLINE: Duration = Duration::from_secs(24 * 3600);
    /// How long an idempotency key answers with the first job.
    const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(72 * 3600);
    /// Largest payload in bytes of its JSON text.
    const PAYLOAD_BYTES_MAX: u32 = 256 * 1024;
    /// Dotted paths (one or two, the first that is there counts) of the payload member that names the resource, for
    /// example `["configurationId"]`. Jobs of one tenant and kind with the same (lower-cased) value run one at a time,
    /// first in first out. It is a constant and not a function because producers in SQL need the same answer.
    const ORDERING_KEY: Option<&'static [&'static str]> = None;
    /// The upstream limits it draws on, as `provider/class`.
    const PACING: &'static [&'static str] = &[];
    /// What attempts share: clients, connection profiles.
    type Env: Send + Sync + 'static;

    /// One attempt. Everything it does to the outside goes through `ctx.step`, so that a crash or a retry
    /// does not repeat what was done. The future is dropped at `TIMEOUT` and when the job is cancelled.
    fn run(&self, env: &Self::Env, ctx: &mut JobContext) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What an attempt would do now, without doing it: asks the upstream, writes nothing anywhere. A failure is one that
    /// keeps even the question from being answered. Kinds that do not say otherwise have no preview.
    fn preview(
        &self,
        _env: &Self::Env,
        _ctx: &mut PreviewContext,
    ) -> impl Future<Output = Result<Preview, Failure>> + Send {
        let message = format!("jobs of kind {} have no preview", Self::KIND);
        std::future::ready(Err(Failure::permanent("preview_unsupported", message)))
    }
}

/// The constants of one kind, as `backhaul migrate` writes them to the table `kinds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSpec {
    /// [`Job::KIND`].
    pub kind: &'static str,
    /// [`Job::VERSION`].
    pub version: i16,
    /// [`Job::MAX_ATTEMPTS`].
    pub max_attempts: u16,
    /// [`Job::TIMEOUT`].
    pub timeout: Duration,
    /// [`Job::DEADLINE`].
    pub deadline: Duration,
    /// [`Job::IDEMPOTENCY_WINDOW`].
    pub idempotency_window: Duration,
    /// [`Job::PAYLOAD_BYTES_MAX`].
    pub payload_bytes_max: u32,
    /// [`Job::ORDERING_KEY`].
    pub ordering_key: Option<&'static [&'static str]>,
    /// [`Job::PACING`].
    pub pacing: &'static [&'static str],
}

impl KindSpec {
    /// The constants of `J`.
    pub fn of<J: Job>() -> Self {
        Self {
            kind: J::KIND,
            version: J::VERSION,
            max_attempts: J::MAX_ATTEMPTS,
            timeout: J::TIMEOUT,
            deadline: J::DEADLINE,
            idempotency_window: J::IDEMPOTENCY_WINDOW,
            payload_bytes_max: J::PAYLOAD_BYTES_MAX,
            ordering_key: J::ORDERING_KEY,
            pacing: J::PACING,
        }
    }
}
