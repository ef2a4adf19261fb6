//! `enrichment`: adds attributes to a customer profile.
//!
//! Each attempt checks the payload anew (data may have become stale in the queue, until it is written), labels personal
//! data and applies the tenant's policy, and only then makes a call. Steps: `enrich` writes, reading back where an answer was lost;
//! `confirm` waits where the server accepted the write for later; `survivor` remembers which profile is left of a
//! de-duplication, so that later jobs go there.

mod intent;
pub mod memory;
pub mod payload;
pub mod plan;
pub mod policy;
mod preview;
pub mod settings;
mod write;

use backhaul_engine::{
    Cause, Done, Failure, Job, JobContext, JobInfo,
    preview::{Preview, PreviewContext},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::{
    intent::Intent,
    memory::Memory,
    payload::{Refusal, Request, uuid},
    plan::arrived,
    policy::Cleared,
    settings::Settings,
    write::{Applied, Outcome, standing},
};
use crate::{
    api::{Session, profiles::Profiles, session::configured},
    env::{Env, Storage},
    look_again::look_again,
    payload_check::{Checked, Demands, Unfit},
    problem::Problems,
    trail::{Trail, ends_job},
};

/// Longest pause between two looks at data that the server accepted for later.
const CONFIRM_PAUSE_MAX: TimeDelta = TimeDelta::minutes(15);

/// The job. It holds the payload as it was enqueued: a wrong one is refused with everything that is wrong with it, and
/// its refusal is audited, which needs a job to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Enrichment {
    payload: Value,
}

impl Enrichment {
    /// A job with this payload, which is checked when the job runs.
    pub fn new(payload: Value) -> Self {
        Self { payload }
    }

    /// Checks the payload against the settings of one tenant at the time `now`.
    pub fn check(&self, settings: &Settings, now: DateTime<Utc>) -> Result<Request, Refusal> {
        payload::check(&self.payload, settings, now)
    }

    /// The id as it stands in the payload, for the audit trail of payloads that are not even right in shape.
    fn claimed_id(&self) -> String {
        let id = self.payload.get("profileId").and_then(Value::as_str).and_then(uuid);
        id.unwrap_or_else(|| "unknown".to_owned())
    }
}

impl Job for Enrichment {
    const KIND: &'static str = "enrichment";
    // Fifty attributes of 8 KiB each, and their names.
    const PAYLOAD_BYTES_MAX: u32 = 512 * 1024;
    const ORDERING_KEY: Option<&'static [&'static str]> = Some(&["profileId"]);
    const PACING: &'static [&'static str] = &["cxone/profiles"];
    type Env = Env;

    async fn run(&self, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
        let settings = env.enrichment_settings(&ctx.job().tenant)?;
        let facts = Facts::of(&self.payload, settings, env.storage);
        let outcome = self.attempt(env, ctx, settings, &facts).await;
        if let Err(failure) = &outcome
            && ends_job(failure, ctx.job())
        {
            let trail = Trail::new("profile.enrichment_failed", ctx.job(), &self.claimed_id(), "enrich", "FAILED");
            ctx.audit(facts.add_to(trail).failure(failure).event());
        }
        outcome
    }

    async fn preview(&self, env: &Env, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
        preview::preview(self, env, ctx).await
    }
}

impl Checked for Enrichment {
    /// Which data is too old, and which personal data may be sent, only the tenant's settings say.
    fn check_payload(payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit> {
        let job = Self::new(payload.clone());
        let checked = match &demands.enrichment {
            Some(settings) => job.clear(settings, demands.now).map(|_| ()),
            None => job.check(&Settings::of_nobody(), demands.now).map(|_| ()).or_else(|refusal| match refusal {
                Refusal::Invalid(problems) => Err(Refused { code: "invalid_payload", problems }),
                Refusal::Stale(_) => Ok(()),
            }),
        };
        checked.map_err(|Refused { code, problems }| Unfit::new(code, &problems))
    }
}

/// What every audit event of a job says of its payload.
struct Facts {
    labels: Value,
    hmac: Option<String>,
    key_id: String,
    compliance: Value,
}

impl Facts {
    fn of(payload: &Value, settings: &Settings, storage: Storage) -> Self {
        Self {
            labels: json!(policy::labels(payload)),
            hmac: settings.hash_key.hash(payload).ok(),
            key_id: settings.hash_key.id().to_owned(),
            // Derived from the profile and the installation; nothing here is a constant.
            compliance: json!({
                "gdpr_article": settings.legal_basis,
                "retention_days": storage.retention_days,
                "encrypted": storage.encrypted,
            }),
        }
    }

    fn add_to(&self, trail: Trail) -> Trail {
        trail
            .with("pii_labels", self.labels.clone())
            .with("payload_hmac", self.hmac.clone())
            .with("payload_hmac_key_id", self.key_id.as_str())
            .with("compliance", self.compliance.clone())
    }
}

/// One attempt, once it is known what may be sent where.
struct Attempt<'a> {
    intent: Intent,
    facts: &'a Facts,
    profiles: Profiles<'a>,
    job: JobInfo,
    /// When the payload was found fresh.
    checked_at: DateTime<Utc>,
}

impl Enrichment {
    async fn attempt(
        &self,
        env: &Env,
        ctx: &mut JobContext,
        settings: &Settings,
        facts: &Facts,
    ) -> Result<(), Failure> {
        let job = ctx.job().clone();
        let written: Option<Applied> = ctx.step_result("enrich").await?;
        let checked_at = written.map_or(ctx.now(), |written| written.checked_at(ctx.now()));
        let (request, cleared) = self
            .clear(settings, checked_at)
            .map_err(|Refused { code, problems }| Failure::Permanent(Cause::new(code, problems)))?;
        let profile = env.profile(&job.tenant)?;
        let provider = configured(profile.cxone.as_ref(), "cxone", &job.tenant)?;
        let profiles = Profiles::new(Session::new(&env.client, provider, ctx));

        let intent = Intent::form(request, cleared, settings, ctx, job.enqueued_at).await?;
        let attempt = Attempt { intent, facts, profiles, job, checked_at };
        let applied = attempt.enrich(ctx).await?;
        let survivor = match applied.result {
            Outcome::Accepted => attempt.confirm(ctx).await?,
            Outcome::Success | Outcome::Unchanged | Outcome::Outdated => applied.survivor,
        };
        if let Some(survivor) = survivor {
            attempt.remember_survivor(ctx, &survivor).await?;
        }
        Ok(())
    }

    /// The checked payload and what of it may be sent.
    fn clear(&self, settings: &Settings, now: DateTime<Utc>) -> Result<(Request, Cleared), Refused> {
        let request = self.check(settings, now).map_err(|refusal| match refusal {
            Refusal::Invalid(problems) => Refused { code: "invalid_payload", problems },
            Refusal::Stale(problems) => Refused { code: "stale_data", problems },
        })?;
        let cleared = policy::clear(&request, settings)
            .map_err(|problems| Refused { code: "personal_data_blocked", problems })?;
        Ok((request, cleared))
    }
}

/// Why a payload is not acted upon, under its failure code.
struct Refused {
    code: &'static str,
    problems: Problems,
}

impl Attempt<'_> {
    async fn enrich(&self, ctx: &mut JobContext) -> Result<Applied, Failure> {
        ctx.write_step("enrich", |key, begun| async move {
            let Intent { request, goal, target, .. } = &self.intent;
            let applied = match self.intent.is_outdated() {
                true => Applied::outdated(),
                false => self.intent.writer(&self.profiles, &key).write(begun).await?,
            };
            let applied = Applied { checked_at: Some(self.checked_at), ..applied };
            let trail = Trail::new("profile.enriched", &self.job, target, "enrich", result_name(applied.result))
                .exchange(applied.exchange.as_ref())
                .with("requested_profile_id", request.profile_id.as_str())
                .with("merge_strategy", request.strategy.name())
                .with("source_system", self.source_label())
                .with("attributes", goal.attributes.len())
                .with("attributes_outdated", request.attributes.len() - goal.attributes.len())
                .with("updated_attributes", applied.updated_attributes)
                .with("deduplicated", applied.deduplicated);
            let done = Done::new(applied).audit(self.facts.add_to(trail).event());
            Ok(match self.intent.memory_after() {
                Some(memory) => done.remember(target.clone(), memory.write()),
                None => done,
            })
        })
        .await
    }

    /// The source's name for the audit trail; it is free text, so it may hold what it should not.
    fn source_label(&self) -> String {
        crate::personal_data::mask_all(&self.intent.request.source_system)
    }

    /// Waits until a write that was accepted for later shows. Never sends it again. Answers the profile that is left,
    /// where the server has de-duplicated meanwhile.
    async fn confirm(&self, ctx: &mut JobContext) -> Result<Option<String>, Failure> {
        let next_look = look_again(self.checked_at, ctx.now(), CONFIRM_PAUSE_MAX);
        ctx.step("confirm", |_| async move {
            let profile = self.profiles.read(&self.intent.target).await?;
            if !arrived(&self.intent.goal, standing(&profile)) {
                let message = "the server accepted the data for later and the profile does not show it yet";
                return Err(Failure::snoozed(next_look, "profile_update_pending", message));
            }
            let survivor = profile.survivor.as_deref().and_then(uuid);
            let trail =
                Trail::new("profile.enrichment_confirmed", &self.job, &self.intent.target, "confirm", "SUCCESS")
                    .with("deduplicated", survivor.is_some());
            Ok(Done::new(survivor).audit(self.facts.add_to(trail).event()))
        })
        .await
    }

    /// Sends later jobs for this profile to the one that is left, with the times of what was written here.
    async fn remember_survivor(&self, ctx: &mut JobContext, survivor: &str) -> Result<(), Failure> {
        let mut merged = self.intent.memory_after().unwrap_or_else(|| self.intent.memory.clone());
        let mut left = Memory::read(ctx.memory(survivor).await?);
        left.absorb(&merged);
        // A server that merges back and forth must not send our jobs in a circle.
        left.survivor_profile_id = left.survivor_profile_id.filter(|next| *next != self.intent.target);
        merged.survivor_profile_id = Some(survivor.to_owned());
        ctx.step("survivor", |_| async move {
            let trail = Trail::new("profile.merged", &self.job, &self.intent.target, "survivor", "SUCCESS")
                .with("survivor_profile_id", survivor);
            Ok(Done::new(())
                .audit(trail.event())
                .remember(self.intent.target.clone(), merged.write())
                .remember(survivor.to_owned(), left.write()))
        })
        .await
    }
}

fn result_name(result: Outcome) -> &'static str {
    match result {
        Outcome::Success => "SUCCESS",
        Outcome::Unchanged => "UNCHANGED",
        Outcome::Outdated => "OUTDATED",
        Outcome::Accepted => "ACCEPTED",
    }
}

#[cfg(test)]
mod tests;
