//! `widget-patch`: changes a webchat configuration so that nobody else's change is lost.
//!
//! Steps: `read` keeps the document and its entity tag; `patch` writes on condition of that tag, and merges when
//! somebody else was faster; `confirm` waits where the gateway accepted the write for later; `purge` empties the
//! gateway's cache; `callback` tells whoever asked. Each has tries of its own, and a later one that fails does not
//! undo an earlier one: a change that is live stays reported as live.

mod listeners;
pub mod payload;
pub mod plan;
mod preview;
pub mod settings;
mod write;

use backhaul_engine::{
    Done, Failure, Job, JobContext, JobInfo,
    preview::{Preview, PreviewContext},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::{
    payload::Request,
    plan::holds,
    settings::Rules,
    write::{Applied, Writer},
};
use crate::{
    api::{
        Exchange, Session,
        callback::{self, Callback},
        session::configured,
        widgets::{Snapshot, Widgets},
    },
    env::Env,
    look_again::look_again,
    payload_check::{Checked, Demands, Unfit},
    problem::Problems,
    trail::{Trail, ends_job},
};

/// Longest pause between two looks at a change that the gateway accepted for later.
const CONFIRM_PAUSE_MAX: TimeDelta = TimeDelta::minutes(15);

/// The job. It holds the payload as it was enqueued: a wrong one is refused with everything that is wrong with it, and
/// its refusal is audited, which needs a job to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WidgetPatch {
    payload: Value,
}

impl WidgetPatch {
    /// A job with this payload, which is checked when the job runs.
    pub fn new(payload: Value) -> Self {
        Self { payload }
    }

    /// Checks the payload against the rules of one tenant.
    pub fn check(&self, rules: &Rules) -> Result<Request, Problems> {
        payload::check(&self.payload, rules)
    }

    /// The id as it stands in the payload, for the audit trail of payloads that are not even right in shape.
    fn claimed_id(&self) -> String {
        let id = self.payload.get("configurationId").and_then(Value::as_str).unwrap_or_default();
        let plain = (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if plain { id.to_owned() } else { "unknown".to_owned() }
    }
}

/// How far an attempt has come, for the audit event of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Check,
    Read,
    Patch,
    Purge,
    /// With what became of the purge.
    Callback(&'static str),
}

impl Job for WidgetPatch {
    const KIND: &'static str = "widget-patch";
    const PAYLOAD_BYTES_MAX: u32 = 64 * 1024;
    const ORDERING_KEY: Option<&'static [&'static str]> = Some(&["configurationId"]);
    const PACING: &'static [&'static str] = &["cxone/webchat"];
    type Env = Env;

    async fn run(&self, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
        let mut stage = Stage::Check;
        let outcome = self.attempt(env, ctx, &mut stage).await;
        if let Err(failure) = &outcome
            && ends_job(failure, ctx.job())
        {
            let event = failed(ctx.job(), &self.claimed_id(), stage, failure, ctx.now()).event();
            ctx.audit(event);
        }
        outcome
    }

    async fn preview(&self, env: &Env, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
        preview::preview(self, env, ctx).await
    }
}

impl Checked for WidgetPatch {
    fn check_payload(payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit> {
        let checked = Self::new(payload.clone()).check(&demands.widget_rules);
        let request = checked.map_err(|problems| Unfit::new("invalid_payload", &problems))?;
        match (demands.profile, &request.callback_url) {
            (Some(profile), Some(url)) => {
                callback::check(profile, url).map_err(|failure| Unfit::at("/callbackUrl", &failure))
            }
            _ => Ok(()),
        }
    }
}

impl WidgetPatch {
    async fn attempt(&self, env: &Env, ctx: &mut JobContext, stage: &mut Stage) -> Result<(), Failure> {
        let tenant = ctx.job().tenant.clone();
        let profile = env.profile(&tenant)?.clone();
        let rules = env.widget_rules(&tenant)?;
        let request = self.check(rules).map_err(|problems| Failure::permanent("invalid_payload", problems))?;
        if let Some(url) = &request.callback_url {
            callback::check(&profile, url)?;
        }
        let provider = configured(profile.cxone.as_ref(), "cxone", &tenant)?;
        let widgets = Widgets::new(Session::new(&env.client, provider, ctx));

        *stage = Stage::Read;
        let base = read(ctx, &widgets, &request).await?;
        *stage = Stage::Patch;
        let applied = patch(ctx, &widgets, &request, base).await?;
        let applied = match applied.pending {
            true => confirm(ctx, &widgets, &request, applied).await?,
            false => applied,
        };
        *stage = Stage::Purge;
        if rules.purge {
            purge(ctx, &widgets, &request).await?;
        }
        let purged = if rules.purge { "completed" } else { "off" };
        *stage = Stage::Callback(purged);
        if let Some(url) = &request.callback_url {
            tell(ctx, env, &profile, &request, url, &applied, purged).await?;
        }
        Ok(())
    }
}

async fn read(ctx: &mut JobContext, widgets: &Widgets<'_>, request: &Request) -> Result<Snapshot, Failure> {
    let (job, now) = (ctx.job().clone(), ctx.now());
    let base: Snapshot = ctx
        .step("read", |_| async {
            let (snapshot, exchange) = widgets.read(&request.configuration_id).await?;
            let trail = Trail::new("widget.validated", &job, &request.configuration_id, "read", "validated")
                .exchange(&exchange)
                .with("etag_before", snapshot.etag.as_str())
                .with("validation", json!({"isValid": true, "validatedAt": now.to_rfc3339()}));
            Ok(Done::new(snapshot).audit(trail.event()))
        })
        .await?;
    if is_outdated(request, &base) {
        // Nobody knows which document the caller had in mind, so there is no base to merge from.
        return Err(Failure::Conflict { base: Value::Null, ours: request.patch.clone(), theirs: base.document });
    }
    Ok(base)
}

/// Whether the caller saw another document than `base`, and `base` does not happen to hold what the job wants.
fn is_outdated(request: &Request, base: &Snapshot) -> bool {
    request.expected_etag.as_deref().is_some_and(|expected| opaque(expected) != opaque(&base.etag))
        && !holds(&base.document, &request.patch)
}

/// An entity tag without its weakness: tags are compared for equality only.
fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

async fn patch(
    ctx: &mut JobContext,
    widgets: &Widgets<'_>,
    request: &Request,
    base: Snapshot,
) -> Result<Applied, Failure> {
    let (job, now) = (ctx.job().clone(), ctx.now());
    let id = &request.configuration_id;
    ctx.write_step("patch", |key, begun| async move {
        let applied = Writer { widgets, request, base: &base, key: &key }.write(begun, now).await?;
        let status = if applied.pending { "accepted" } else { "updated" };
        let trail = Trail::new("widget.patched", &job, id, "patch", status)
            .exchange(applied.exchange.as_ref())
            .with("changed", applied.changed)
            .with("etag_before", applied.etag_before.as_str())
            .with("etag_after", applied.etag_after.clone())
            .with("side_effects", json!({"purge": "pending", "callback": pending(request)}));
        Ok(Done::new(applied).audit(trail.event()))
    })
    .await
}

fn pending(request: &Request) -> &'static str {
    if request.callback_url.is_some() { "pending" } else { "none" }
}

/// Waits until a write that was accepted for later shows. Never sends it again.
async fn confirm(
    ctx: &mut JobContext,
    widgets: &Widgets<'_>,
    request: &Request,
    applied: Applied,
) -> Result<Applied, Failure> {
    let (job, now) = (ctx.job().clone(), ctx.now());
    let next_look = look_again(applied.applied_at, now, CONFIRM_PAUSE_MAX);
    let id = &request.configuration_id;
    ctx.step("confirm", |_| async {
        let (snapshot, exchange) = widgets.read(id).await?;
        if !holds(&snapshot.document, &request.patch) {
            let message = "the gateway accepted the change for later and does not show it yet";
            return Err(Failure::snoozed(next_look, "widget_update_pending", message));
        }
        let trail = Trail::new("widget.confirmed", &job, id, "confirm", "updated")
            .exchange(&exchange)
            .with("etag_before", applied.etag_before.as_str())
            .with("etag_after", snapshot.etag.as_str());
        let theme = snapshot.document["theme"].clone();
        let confirmed = Applied { pending: false, etag_after: Some(snapshot.etag), theme, ..applied };
        Ok(Done::new(confirmed).audit(trail.event()))
    })
    .await
}

async fn purge(ctx: &mut JobContext, widgets: &Widgets<'_>, request: &Request) -> Result<(), Failure> {
    let job = ctx.job().clone();
    let id = &request.configuration_id;
    let _: Exchange = ctx
        .step("purge", |key| async move {
            let exchange = widgets.purge(id, &key).await?;
            let trail = Trail::new("widget.purged", &job, id, "purge", "purged")
                .exchange(&exchange)
                .with("side_effects", json!({"purge": "completed", "callback": pending(request)}));
            Ok(Done::new(exchange).audit(trail.event()))
        })
        .await?;
    Ok(())
}

async fn tell(
    ctx: &mut JobContext,
    env: &Env,
    profile: &backhaul_outbound::Profile,
    request: &Request,
    url: &str,
    applied: &Applied,
    purged: &str,
) -> Result<(), Failure> {
    let (job, now, pacer) = (ctx.job().clone(), ctx.now(), ctx.pacer());
    let id = &request.configuration_id;
    let body = json!({
        "event": "widget_customization_applied",
        "configurationId": id,
        "theme": applied.theme,
        "timestamp": applied.applied_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
    });
    let _: Exchange = ctx
        .step("callback", |key| async move {
            // The step's key is the delivery's id, so that the receiver knows a repetition.
            let told = Callback { url, id: &key, body: &body };
            let exchange = callback::post(&env.client, &pacer, profile, told, &job, now).await?;
            let trail = Trail::new("widget.callback_delivered", &job, id, "callback", "completed")
                .exchange(&exchange)
                .with("side_effects", json!({"purge": purged, "callback": "completed"}));
            Ok(Done::new(exchange).audit(trail.event()))
        })
        .await?;
    Ok(())
}

/// The event of a failure. What had been reached stays true: a callback that nobody takes leaves the change live.
fn failed(job: &JobInfo, id: &str, stage: Stage, failure: &Failure, now: DateTime<Utc>) -> Trail {
    let (event_type, step, status) = match stage {
        Stage::Check => ("widget.failed", "check", "failed"),
        Stage::Read => ("widget.failed", "read", "failed"),
        Stage::Patch => ("widget.failed", "patch", "failed"),
        Stage::Purge => ("widget.purge_failed", "purge", "updated"),
        Stage::Callback(_) => ("widget.callback_failed", "callback", "updated"),
    };
    // Every attempt checks the payload first, so that now is when it was found right or wrong.
    let valid = failure.code() != "invalid_payload";
    let trail = Trail::new(event_type, job, id, step, status)
        .failure(failure)
        .with("validation", json!({"isValid": valid, "validatedAt": now.to_rfc3339()}));
    match stage {
        Stage::Check | Stage::Read | Stage::Patch => trail,
        Stage::Purge => trail.with("side_effects", json!({"purge": "failed", "callback": "not_sent"})),
        Stage::Callback(purged) => trail.with("side_effects", json!({"purge": purged, "callback": "failed"})),
    }
}

#[cfg(test)]
mod tests;
