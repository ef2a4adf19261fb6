//! One attempt of a handshake job.

use backhaul_engine::{Begun, Done, Failure, JobContext};
use backhaul_outbound::{Profile, address};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::{
    Handshake, Stage,
    confirm::{Awaited, Place},
    door::Door,
    history,
    payload::Request,
    publish::Publishing,
    settings::HandshakeSettings,
    update::{Applied, Goal, Writer},
    watch,
};
use crate::{
    api::{
        Session,
        audit::Audit,
        channels::{Channel, Channels},
        session::configured,
    },
    env::Env,
    probe::{self, outcome::ended},
    trail::{Trail, ends_job},
};

/// Why a channel is put back; kept, so that no later attempt changes its mind half-way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Verdict {
    code: String,
    message: String,
}

/// Everything one attempt works with.
pub(super) struct Attempt<'e> {
    pub(super) env: &'e Env,
    pub(super) profile: &'e Profile,
    pub(super) settings: HandshakeSettings,
    pub(super) request: Request,
    pub(super) channels: Channels<'e>,
}

pub(super) async fn attempt(
    job: &Handshake,
    env: &Env,
    ctx: &mut JobContext,
    stage: &mut Stage,
) -> Result<(), Failure> {
    let tenant = ctx.job().tenant.clone();
    let profile = env.profile(&tenant)?;
    let settings = HandshakeSettings::of(profile)
        .map_err(|problems| Failure::permanent("profile_invalid", problems.join("; ")))?;
    let request = job.check().map_err(|problems| Failure::permanent("invalid_payload", problems))?;
    let genesys = configured(profile.genesys.as_ref(), "genesys", &tenant)?;
    let session = Session::new(&env.client, genesys, ctx);
    let audit = Audit::new(session.clone());
    let attempt = Attempt { env, profile, settings, request, channels: Channels::new(session) };
    let webhook = attempt.refuse_early()?;

    *stage = Stage::Apply;
    let (id, document, applied) = attempt.apply(ctx).await?;
    if applied.is_some() {
        *stage = Stage::Publish;
        attempt.publish(ctx, &id, &document, Publishing::NEW).await?;
    }
    if attempt.request.mode.probes() {
        *stage = Stage::Probe;
        attempt.probe(ctx, &id, &document, applied.as_ref()).await?;
    }
    if let Some(wanted) = webhook {
        *stage = Stage::Webhook;
        watch::ensure(ctx, &attempt.channels, &id, &wanted).await?;
    }
    if let Some(days) = attempt.request.audit_days {
        *stage = Stage::Audit;
        history::read(ctx, &audit, &attempt.settings, &id, days).await?;
    }
    Ok(())
}

impl Attempt<'_> {
    /// Everything that can be refused without a call, before the first call. Answers the webhook to register.
    pub(super) fn refuse_early(&self) -> Result<Option<Value>, Failure> {
        if let Some(channel) = &self.request.channel {
            if self.request.mode.probes() {
                self.target(&channel.webchat_url)?;
                self.visitors(channel.origins.iter().map(String::as_str))?;
            }
            if !is_encrypted(&channel.webchat_url) && !self.is_insecure_loopback(&channel.webchat_url) {
                let message = "/channel/webchatUrl: visitors' messages would travel in clear text; use https or wss";
                return Err(Failure::permanent("invalid_payload", message));
            }
        }
        let Some(address) = &self.request.health_callback else { return Ok(None) };
        watch::registration(self.profile, &self.settings, &self.request.channel_id, address).map(Some)
    }

    fn target(&self, webchat_url: &str) -> Result<address::Checked, Failure> {
        probe::socket(webchat_url, &self.profile.probe)
            .map_err(|refusal| Failure::permanent("address_not_allowed", format!("webchatUrl: {refusal}")))
    }

    /// A plain address is for a developer's own machine, and only where the profile names it.
    fn is_insecure_loopback(&self, webchat_url: &str) -> bool {
        address::check(webchat_url, &self.profile.probe.allow_hosts, address::Schemes::WEBSOCKET).is_ok()
    }

    /// The origin to let in and, where the second probe is on, the one to keep out of a channel that allows `origins`.
    fn visitors<'v>(&'v self, origins: impl Iterator<Item = &'v str>) -> Result<(&'v str, Option<&'v str>), Failure> {
        let origins: Vec<&str> = origins.collect();
        let profile = &self.profile.probe;
        let allowed = self.request.allowed_origin.as_deref().or(profile.origin.as_deref()).or(origins.first().copied());
        let Some(allowed) = allowed else {
            let message = "no origin to probe with: name probe.allowedOrigin, or probe.origin in the profile";
            return Err(Failure::permanent("probe_origin_missing", message));
        };
        let foreign = self.request.foreign_origin.as_deref().unwrap_or(&profile.foreign_origin);
        let foreign = profile.check_foreign_origin.then_some(foreign);
        if foreign.is_some_and(|foreign| foreign == allowed || origins.contains(&foreign)) {
            let message = "/probe/foreignOrigin: is an origin that the channel allows";
            return Err(Failure::permanent("invalid_payload", message));
        }
        Ok((allowed, foreign))
    }

    async fn probe(
        &self,
        ctx: &mut JobContext,
        id: &str,
        document: &Map<String, Value>,
        applied: Option<&Applied>,
    ) -> Result<(), Failure> {
        // Once it is decided to put the channel back, that is what happens, whatever the socket does meanwhile.
        if let Some(verdict) = ctx.step_result::<Verdict>("rollback-decided").await? {
            return self.roll_back(ctx, id, applied, verdict).await;
        }
        let outcome = self.knock(ctx, id, document).await;
        let Err(failure) = outcome else { return Ok(()) };
        let reversible = applied.is_some_and(|applied| applied.changed && applied.before.is_some());
        if !(self.profile.probe.rollback && reversible && ends_job(&failure, ctx.job())) {
            return Err(failure);
        }
        let verdict = match &failure {
            Failure::Permanent(cause) | Failure::Transient { cause, .. } => {
                Verdict { code: cause.code.to_owned(), message: cause.message.clone() }
            }
            // Nothing else ends a job here.
            _ => return Err(failure),
        };
        let verdict = ctx.step("rollback-decided", |_| async { Ok(Done::new(verdict)) }).await?;
        self.roll_back(ctx, id, applied, verdict).await
    }

    async fn knock(&self, ctx: &mut JobContext, id: &str, document: &Map<String, Value>) -> Result<(), Failure> {
        let settings = document.get("webchatSettings");
        let member = |name: &str| settings.and_then(|settings| settings.get(name));
        let Some(webchat_url) = member("webchatUrl").and_then(Value::as_str) else {
            return Err(Failure::permanent("channel_without_url", "the channel has no webchatUrl to probe"));
        };
        self.target(webchat_url)?;
        let origins = member("corsAllowedOrigins").and_then(Value::as_array).into_iter().flatten();
        let (allowed_origin, foreign_origin) = self.visitors(origins.filter_map(Value::as_str))?;
        let (client, profile) = (&self.env.client, &self.profile.probe);
        Door { client, profile, channel_id: id, webchat_url, allowed_origin, foreign_origin }.probe(ctx).await
    }

    /// Puts the old channel back, once, keeping what others changed since. Ends as the probe did.
    async fn roll_back(
        &self,
        ctx: &mut JobContext,
        id: &str,
        applied: Option<&Applied>,
        verdict: Verdict,
    ) -> Result<(), Failure> {
        let job = ctx.job().clone();
        if let Some(Applied { before: Some(before), after, .. }) = applied {
            let goal = Goal::PutBack(before.clone());
            let base = Channel { document: after.clone(), standing: Default::default() };
            let code = verdict.code.clone();
            let (now, undoing, from) = (ctx.now(), goal.clone(), &base);
            let mut outcome: Result<Applied, Failure> = ctx
                .write_step("rollback", |key, _| async move {
                    let writer = Writer { channels: &self.channels, id, base: from, goal: undoing, key: &key };
                    // The marks of the write are not trusted: somebody may have changed the channel since.
                    let undone = writer.write(Begun::OutcomeUnknown, now).await?;
                    let trail = Trail::new("handshake.rolled_back", &job, id, "rollback", "rolled_back");
                    let event = told(trail, &undone).with("reason", code).event();
                    Ok(Done::new(undone).audit(event))
                })
                .await;
            if let Ok(Applied { accepted_at: Some(since), .. }) = &outcome {
                let (since, place) = (*since, Place::Channel(id));
                let awaited = Awaited { step: "rollback-confirm", since, place, base: &base, goal };
                if let Err(failure) = self.confirm(ctx, &awaited).await {
                    outcome = Err(failure);
                }
            }
            match outcome {
                Ok(undone) => self.publish(ctx, id, &undone.after, Publishing::OLD).await?,
                // What others changed cannot be undone for them; the failed probe is still what ends the job.
                Err(Failure::Conflict { .. }) => {
                    let trail = Trail::new("handshake.rollback_failed", ctx.job(), id, "rollback", "conflict");
                    ctx.audit(trail.with("reason", verdict.code.as_str()).event());
                    let message =
                        format!("{}; not rolled back: somebody else changed the same members", verdict.message);
                    return Err(ended(&verdict.code, message));
                }
                Err(failure) => return Err(failure),
            }
        }
        let message = format!("{}; the channel was put back, enqueue a new job once it is mended", verdict.message);
        Err(ended(&verdict.code, message))
    }
}

fn is_encrypted(webchat_url: &str) -> bool {
    Url::parse(webchat_url).is_ok_and(|url| matches!(url.scheme(), "https" | "wss"))
}

/// Adds what a write did to an event.
pub(super) fn told(trail: Trail, applied: &Applied) -> Trail {
    let (before, after) = (applied.standing_before.as_ref(), applied.standing_after.as_ref());
    let trail = trail
        .with("version_before", before.and_then(|standing| standing.version))
        .with("version_after", after.and_then(|standing| standing.version))
        .with("etag_before", before.and_then(|standing| standing.etag.clone()))
        .with("etag_after", after.and_then(|standing| standing.etag.clone()))
        .with("conflict_rounds", applied.rereads);
    match &applied.exchange {
        Some(exchange) => trail.exchange(exchange),
        None => trail,
    }
}
