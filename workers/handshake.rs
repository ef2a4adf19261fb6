//! The kind `handshake`: writes a webchat channel, and proves that its socket opens for whom it should.
//!
//! Steps: `read` keeps the channel and the marks of its state; `put` writes on condition of them, merging what
//! somebody else changed meanwhile (`create` where the channel is missing and the tenant allows it); `publish` makes it
//! live where the platform edits drafts; `…-confirm` waits for what of these was accepted for later; `probe-allowed` and `probe-foreign` open the socket; `health-webhook` ensures one registration; `audit-page-N` read the channel's
//! audit trail. Each has tries of its own. Where the tenant asks for it, `rollback` puts the old channel back when the
//! probe has failed for good.

mod apply;
mod confirm;
mod door;
mod history;
pub mod payload;
mod preview;
mod publish;
mod run;
pub mod settings;
mod update;
mod watch;

use std::time::Duration;

use backhaul_engine::{
    Failure, Job, JobContext, JobInfo,
    preview::{Preview, PreviewContext},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::payload::Request;
use crate::{
    env::Env,
    payload_check::{Checked, Demands, Unfit},
    problem::Problems,
    trail::{Trail, ends_job},
};

/// The job. It holds the payload as it was enqueued: a wrong one is refused with everything that is wrong with it, and
/// its refusal is audited, which needs a job to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handshake {
    payload: Value,
}

impl Handshake {
    /// A job with this payload, which is checked when the job runs.
    pub fn new(payload: Value) -> Self {
        Self { payload }
    }

    /// Checks the payload.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(&self) -> Result<Request, Problems> {
        payload::check(&self.payload)
    }

    /// The id as it stands in the payload, for the audit trail of payloads that are not even right in shape.
    fn claimed_id(&self) -> String {
        let id = self.payload.get("channelId").and_then(Value::as_str).unwrap_or_default();
        let plain = backhaul_outbound::path::check_id(id).is_ok();
        if plain { id.to_owned() } else { "unknown".to_owned() }
    }
}

/// How far an attempt has come, for the audit event of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Check,
    Apply,
    Publish,
    Probe,
    Webhook,
    Audit,
}

impl Job for Handshake {
    const KIND: &'static str = "handshake";
    const TIMEOUT: Duration = Duration::from_secs(120);
    const PAYLOAD_BYTES_MAX: u32 = 64 * 1024;
    const ORDERING_KEY: Option<&'static [&'static str]> = Some(&["channelId"]);
    const PACING: &'static [&'static str] = &["genesys/channels"];
    type Env = Env;

    async fn run(&self, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
        let mut stage = Stage::Check;
        let outcome = run::attempt(self, env, ctx, &mut stage).await;
        if let Err(failure) = &outcome
            && ends_job(failure, ctx.job())
        {
            let event = failed(ctx.job(), &self.claimed_id(), stage, failure).event();
            ctx.audit(event);
        }
        outcome
    }

    async fn preview(&self, env: &Env, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
        preview::preview(self, env, ctx).await
    }
}

impl Checked for Handshake {
    fn check_payload(payload: &Value, _: &Demands<'_>) -> Result<(), Unfit> {
        let checked = Self::new(payload.clone()).check();
        checked.map(|_| ()).map_err(|problems| Unfit::new("invalid_payload", &problems))
    }
}

/// The event of a failure. Each stage has a type of its own: an audit query that fails says nothing about the probe
/// before it, and a webhook that fails nothing about the write.
fn failed(job: &JobInfo, id: &str, stage: Stage, failure: &Failure) -> Trail {
    let (event_type, step) = match stage {
        Stage::Check => ("handshake.refused", "check"),
        Stage::Apply => ("handshake.apply_failed", "put"),
        Stage::Publish => ("handshake.publish_failed", "publish"),
        Stage::Probe => ("handshake.probe_failed", "probe"),
        Stage::Webhook => ("handshake.webhook_failed", "health-webhook"),
        Stage::Audit => ("handshake.audit_failed", "audit"),
    };
    Trail::new(event_type, job, id, step, "failed").failure(failure)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::trail::test_job;

    /// Covers row 160, row 153: each stage fails under its own name.
    #[test]
    fn stages_fail_under_their_own_names() {
        let failure = Failure::permanent("audit_unavailable", "500").with_status(500);
        let event = failed(&test_job(), "ch_1", Stage::Audit, &failure).event();
        assert_eq!(event.event_type, "handshake.audit_failed");
        assert_eq!(event.data["error"]["code"], "audit_unavailable");
        let names: std::collections::HashSet<&str> =
            [Stage::Check, Stage::Apply, Stage::Publish, Stage::Probe, Stage::Webhook, Stage::Audit]
                .into_iter()
                .map(|stage| failed(&test_job(), "ch_1", stage, &failure).event().event_type)
                .collect();
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn refused_ids_are_not_repeated() {
        assert_eq!(Handshake::new(json!({"channelId": "x OR entityId:*"})).claimed_id(), "unknown");
        assert_eq!(Handshake::new(json!({"channelId": "ch_1"})).claimed_id(), "ch_1");
    }
}
