//! What a handshake that applies would write now. Probes change nothing and have no preview.

use backhaul_engine::{
    Failure,
    preview::{Clash, Preview, PreviewContext, Verdict},
};
use serde_json::{Map, Value};

use super::{
    Handshake,
    apply::{Found, new_channel},
    payload::Channel as Wanted,
    run::Attempt,
    settings::HandshakeSettings,
    update::{Applied, Goal, Next, Writer, patch},
};
use crate::{
    api::{
        Session,
        channels::{Channel, Channels},
        session::configured,
    },
    env::Env,
    preview::{Redaction, refused, refused_at},
};

pub(super) async fn preview(job: &Handshake, env: &Env, ctx: &PreviewContext) -> Result<Preview, Failure> {
    let profile = env.profile(ctx.tenant())?;
    let settings = HandshakeSettings::of(profile)
        .map_err(|problems| Failure::permanent("profile_invalid", problems.join("; ")))?;
    let request = match job.check() {
        Ok(request) => request,
        Err(problems) => return Ok(refused("invalid_payload", &problems)),
    };
    let genesys = configured(profile.genesys.as_ref(), "genesys", ctx.tenant())?;
    let channels = Channels::new(Session::preview(&env.client, genesys, ctx));
    let attempt = Attempt { env, profile, settings, request, channels };
    if let Err(failure) = attempt.refuse_early() {
        return refused_at("", failure);
    }
    let (Some(channel), true) = (&attempt.request.channel, attempt.request.mode.applies()) else {
        return Err(Failure::permanent("preview_pointless", "a probe writes nothing, so there is nothing to preview"));
    };
    let redaction = Redaction::new(|_| !ctx.reveals());
    let found = attempt.look().await?;
    let written = [ctx.step_result::<Applied>("put")?, ctx.step_result::<Applied>("create")?];
    let preview = match (written.into_iter().flatten().next(), &found.channel) {
        (Some(_), _) => Preview::new(Verdict::AlreadyApplied)
            .note("an earlier attempt has written it; the job goes on behind its last finished step"),
        (None, None) => create(ctx, &attempt, channel, &redaction)?,
        (None, Some(current)) => put(ctx, &attempt, &found.id, current, channel, &redaction)?,
    };
    let preview = match attempt.settings.publish && preview.conflicts.is_empty() {
        true => preview.note("the channel is published afterwards"),
        false => preview,
    };
    let current = found.channel.map(|channel| redaction.show(&Value::Object(channel.document)));
    Ok(Preview { current, ..preview })
}

fn create(
    ctx: &PreviewContext,
    attempt: &Attempt<'_>,
    channel: &Wanted,
    redaction: &Redaction<'_>,
) -> Result<Preview, Failure> {
    let document = new_channel(channel, &attempt.request.channel_id)?;
    let mut request = attempt.channels.show_create(&document, &ctx.step_key("create"))?;
    request.body = redaction.show(&request.body);
    let difference = redaction.difference(&Value::Object(Map::new()), &Value::Object(document));
    let preview = Preview { request: Some(request), difference, ..Preview::new(Verdict::WouldChange) };
    Ok(preview.note("there is no such channel; it would be created under the payload's id as external id"))
}

fn put(
    ctx: &PreviewContext,
    attempt: &Attempt<'_>,
    id: &str,
    current: &Channel,
    channel: &Wanted,
    redaction: &Redaction<'_>,
) -> Result<Preview, Failure> {
    let stored = ctx.step_result::<Found>("read")?.and_then(|found| found.channel);
    let base = stored.as_ref().unwrap_or(current);
    let goal = Goal::Set(patch(channel));
    let key = ctx.step_key("put");
    let writer = Writer { channels: &attempt.channels, id, base, goal, key: &key };
    Ok(match writer.next(current) {
        Next::Nothing => Preview::new(Verdict::AlreadyApplied),
        Next::Conflict(pointers) => {
            let (base, theirs) = (Value::Object(base.document.clone()), Value::Object(current.document.clone()));
            let ours = Value::Object(writer.ours());
            let at = |document: &Value, pointer: &str| document.pointer(pointer).map(|value| redaction.show(value));
            let clash = |pointer: String| Clash {
                base: at(&base, &pointer),
                ours: at(&ours, &pointer),
                theirs: at(&theirs, &pointer),
                pointer,
            };
            let conflicts = pointers.into_iter().map(clash).collect();
            Preview { conflicts, ..Preview::new(Verdict::WouldConflict) }
                .note("somebody else changed what the job sets since it was read; the job would write nothing")
        }
        Next::Send { document, key } => {
            let mut request = attempt.channels.show_put(id, &current.standing, &document, &key)?;
            request.body = redaction.show(&request.body);
            let before = Value::Object(current.document.clone());
            let difference = redaction.difference(&before, &Value::Object(document));
            Preview { request: Some(request), difference, ..Preview::new(Verdict::WouldChange) }
        }
    })
}
