//! The kind `crm-sync`: keeps a thread of the CRM equal to the social thread it mirrors.
//!
//! An event of the source is compared with the last synced state, and the difference is sent in bounded, conditional
//! requests. Where an event alone cannot tell what is right (a gap, a late version, a request by an operator), the
//! source is asked and the CRM's actual record is compared with its answer.

pub mod chunks;
pub mod delta;
pub mod envelope;
pub mod life;
mod pass;
pub mod plan;
mod preview;
pub mod push;
mod reader;
pub mod rebase;
pub mod record;
pub mod refusal;
mod run;
pub mod settings;
pub mod snapshot;
pub mod thread;

use std::time::Duration;

use backhaul_engine::{
    Failure, Job, JobContext,
    preview::{Preview, PreviewContext},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::{refusal::Refusal, settings::CrmSyncSettings, thread::Thread};
use crate::{
    Env,
    payload_check::{Checked, Demands, Unfit},
    trail::{Trail, ends_job},
};

/// The payload: a thread event `{threadId, event, timestamp, data}`, or `{threadId, reconcile: true}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CrmSync {
    payload: Value,
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Bring an event to the CRM.
    Event(Box<Thread>),
    /// Compare source and CRM.
    Reconcile(String),
}

impl Request {
    /// The thread that it is about.
    pub fn thread_id(&self) -> &str {
        match self {
            Self::Event(thread) => &thread.id,
            Self::Reconcile(id) => id,
        }
    }
}

impl CrmSync {
    /// The job for a thread event, as the webhook receiver enqueues it. The thread's id is put beside the data, where
    /// the ordering key looks for it.
    pub fn event(envelope: Value) -> Self {
        let mut payload = envelope;
        if let Some(id) = payload.pointer("/data/threadId").cloned()
            && let Some(members) = payload.as_object_mut()
        {
            members.insert("threadId".to_owned(), id);
        }
        Self { payload }
    }

    /// The job that compares a thread's source with the CRM's record and repairs the record.
    pub fn reconcile(thread_id: &str) -> Self {
        Self { payload: json!({"threadId": thread_id, "reconcile": true}) }
    }

    /// The checked payload.
    ///
    /// # Errors
    /// Everything that is wrong, under one failure code.
    pub fn request(&self, settings: &CrmSyncSettings) -> Result<Request, Refusal> {
        match self.payload.get("reconcile") {
            None | Some(Value::Bool(false) | Value::Null) => {
                envelope::event(&self.payload, settings).map(|thread| Request::Event(Box::new(thread)))
            }
            _ => envelope::reconcile(&self.payload, settings).map(Request::Reconcile),
        }
    }
}

impl Checked for CrmSync {
    /// A role that nobody mapped and a text that is too long for the CRM are matters of the tenant's settings.
    fn check_payload(payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit> {
        match (Self { payload: payload.clone() }).request(&demands.crm_sync) {
            Err(refusal) if demands.profile.is_some() || refusal.code() == "invalid_payload" => {
                Err(Unfit::new(refusal.code(), refusal.problems()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Job for CrmSync {
    const KIND: &'static str = "crm-sync";
    const TIMEOUT: Duration = Duration::from_secs(120);
    // A webhook's body cap, and room for what ingress adds.
    const PAYLOAD_BYTES_MAX: u32 = 320 * 1024;
    const ORDERING_KEY: Option<&'static [&'static str]> = Some(&["threadId", "data.threadId"]);
    const PACING: &'static [&'static str] = &["crm/threads"];
    type Env = Env;

    async fn run(&self, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
        let outcome = run::attempt(self, env, ctx).await;
        if let Err(failure) = &outcome
            && ends_job(failure, ctx.job())
        {
            let thread = self.payload.get("threadId").or_else(|| self.payload.pointer("/data/threadId"));
            // An id that is none may be anything, also personal data.
            let subject = thread
                .and_then(Value::as_str)
                .and_then(|id| envelope::thread_id(id, &CrmSyncSettings::default()).ok())
                .unwrap_or_else(|| "invalid".to_owned());
            let event = Trail::new("thread.sync_failed", ctx.job(), &subject, "end", "failed").failure(failure).event();
            ctx.audit(event);
        }
        outcome
    }

    async fn preview(&self, env: &Env, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
        preview::preview(self, env, ctx).await
    }
}
