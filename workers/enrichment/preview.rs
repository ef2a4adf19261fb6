//! What an enrichment job would do now: its request, and what that would make of the profile as it stands.

use backhaul_engine::{
    Begun, Failure,
    preview::{Clash, Preview, PreviewContext, Verdict},
};
use serde_json::{Map, Value, json};

use super::{
    Enrichment, Refused,
    intent::Intent,
    payload::Strategy,
    plan::{Missing, arrived, missing},
    settings::Policy,
    write::{Applied, Next, Outcome, standing},
};
use crate::{
    api::{
        Session,
        profiles::{Profile, Profiles},
        session::configured,
    },
    env::Env,
    pointer::Pointer,
    preview::{Redaction, refused},
};

pub(super) async fn preview(job: &Enrichment, env: &Env, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
    let tenant = ctx.tenant().to_owned();
    let settings = env.enrichment_settings(&tenant)?;
    let applied: Option<Applied> = ctx.step_result("enrich")?;
    let checked_at = applied.as_ref().map_or(ctx.now(), |applied| applied.checked_at(ctx.now()));
    let (request, cleared) = match job.clear(settings, checked_at) {
        Ok(checked) => checked,
        Err(Refused { code, problems }) => return Ok(refused(code, &problems)),
    };
    let provider = configured(env.profile(&tenant)?.cxone.as_ref(), "cxone", &tenant)?;
    let profiles = Profiles::new(Session::preview(&env.client, provider, ctx));
    let enqueued_at = ctx.enqueued_at();
    let wanted = cleared.attributes.clone();
    let intent = Intent::form(request, cleared, settings, ctx, enqueued_at).await?;
    let profile = profiles.read(&intent.target).await?;

    // What the policy does not let pass to the upstream is not shown to anybody either.
    let reveals = ctx.reveals();
    let redaction = Redaction::new(|label| !reveals || settings.policy(label) != Policy::Allow);
    let preview = match applied {
        Some(applied) => written(&applied, &intent, &profile),
        None => planned(ctx, &profiles, &intent, &wanted, &profile, &redaction)?,
    };
    let preview = Preview { current: Some(redaction.show(&concerned(&wanted, &profile))), ..preview };
    Ok(match intent.target == intent.request.profile_id {
        true => preview,
        false => preview.note(format!("the profile was merged: everything here is about {}", intent.target)),
    })
}

/// An earlier attempt has written; what is left of the job sends nothing.
fn written(applied: &Applied, intent: &Intent, profile: &Profile) -> Preview {
    let preview = Preview::new(Verdict::AlreadyApplied)
        .note("an earlier attempt has written it; the job goes on behind its last finished step");
    match (arrived(&intent.goal, standing(profile)), applied.result) {
        (true, _) | (false, Outcome::Outdated) => preview,
        (false, Outcome::Accepted) => preview.note("the server accepted it for later and does not show it yet"),
        (false, Outcome::Success | Outcome::Unchanged) => {
            preview.note("the profile does not show the data any more, and the job would not write it again")
        }
    }
}

fn planned(
    ctx: &PreviewContext,
    profiles: &Profiles<'_>,
    intent: &Intent,
    wanted: &Map<String, Value>,
    profile: &Profile,
    redaction: &Redaction<'_>,
) -> Result<Preview, Failure> {
    let conflicts = kept_out(intent, wanted, profile, redaction);
    if intent.is_outdated() {
        let verdict = if conflicts.is_empty() { Verdict::AlreadyApplied } else { Verdict::WouldConflict };
        let preview = Preview { conflicts, ..Preview::new(verdict) };
        return Ok(preview.note("newer data of every attribute was applied before; the job would send nothing"));
    }
    let key = ctx.step_key("enrich");
    let writer = intent.writer(profiles, &key);
    let begun = if ctx.is_begun("enrich") { Begun::OutcomeUnknown } else { Begun::Now };
    let reads_first = writer.reads_first(begun);
    let request = match writer.next(reads_first.then_some(profile)) {
        None => None,
        Some(Next { etag, key, body }) => {
            let mut request = profiles.show_enrich(&intent.target, etag, &key, &body)?;
            request.body = redaction.show(&body);
            Some(request)
        }
    };
    let rest = missing(&intent.goal, standing(profile));
    let difference = match &rest {
        None => Vec::new(),
        Some(rest) => {
            redaction.difference(&whole(&profile.attributes, &profile.tags), &afterwards(profile, rest, intent))
        }
    };
    let verdict = match (rest.is_some(), conflicts.is_empty()) {
        (true, _) => Verdict::WouldChange,
        (false, true) => Verdict::AlreadyApplied,
        (false, false) => Verdict::WouldConflict,
    };
    let redundant = verdict != Verdict::WouldChange && request.is_some();
    let some_kept = verdict == Verdict::WouldChange && !conflicts.is_empty();
    let mut preview = Preview { request, difference, conflicts, ..Preview::new(verdict) };
    if redundant {
        preview = preview.note("the job does not read first: it would send the request, and change nothing by it");
    }
    if some_kept {
        preview = preview.note("what stands under conflicts stays as it is");
    }
    Ok(preview)
}

/// The attributes that stay otherwise than the job has them: a value that appending does not replace, or newer data.
fn kept_out(intent: &Intent, wanted: &Map<String, Value>, profile: &Profile, redaction: &Redaction<'_>) -> Vec<Clash> {
    let at = Pointer::root().member("attributes");
    let stays = |name: &str, wanted: &Value| match (intent.goal.strategy, profile.attributes.get(name)) {
        (Strategy::Overwrite, _) => false,
        (Strategy::KeepLatest, present) => !intent.goal.attributes.contains_key(name) && present != Some(wanted),
        (Strategy::Append, None | Some(Value::Null | Value::Array(_))) => false,
        (Strategy::Append, Some(present)) => present != wanted,
    };
    // Under their names, since a name may say that the number behind it is a telephone.
    let show =
        |name: &str, value: &Value| redaction.show(&json!({ name: value })).as_object()?.values().next().cloned();
    wanted
        .iter()
        .filter(|(name, wanted)| stays(name, wanted))
        .map(|(name, wanted)| Clash {
            pointer: at.member(name).as_str().to_owned(),
            base: None,
            ours: show(name, wanted),
            theirs: profile.attributes.get(name).and_then(|present| show(name, present)),
        })
        .collect()
}

/// The profile with what is missing.
fn afterwards(profile: &Profile, rest: &Missing, intent: &Intent) -> Value {
    let mut attributes = profile.attributes.clone();
    for (name, value) in &rest.attributes {
        let appended = match (intent.goal.strategy, attributes.get(name), value) {
            (Strategy::Append, Some(Value::Array(present)), Value::Array(more)) => json!([&present[..], more].concat()),
            _ => value.clone(),
        };
        attributes.insert(name.clone(), appended);
    }
    let mut tags = profile.tags.clone();
    tags.extend(rest.tags.iter().filter(|tag| !profile.tags.contains(tag)).cloned());
    whole(&attributes, &tags)
}

fn whole(attributes: &Map<String, Value>, tags: &[String]) -> Value {
    json!({ "attributes": attributes, "tags": tags })
}

/// Of the profile, the attributes that the job names and the tags. The rest is none of its business.
fn concerned(wanted: &Map<String, Value>, profile: &Profile) -> Value {
    let named = profile.attributes.iter().filter(|(name, _)| wanted.contains_key(*name));
    whole(&named.map(|(name, value)| (name.clone(), value.clone())).collect(), &profile.tags)
}
