//! What a widget-patch job would do now: the plan of its write, made and not carried out.

use backhaul_engine::{
    Failure,
    preview::{Clash, Difference, Preview, PreviewContext, Verdict},
};
use serde_json::{Value, json};

use super::{
    WidgetPatch, is_outdated,
    payload::Request,
    plan::{holds, wanted},
    settings::Rules,
    write::{Applied, Next, Writer},
};
use crate::{
    api::{
        Session, callback,
        session::configured,
        widgets::{Snapshot, Widgets},
    },
    env::Env,
    merge::overlay,
    preview::{Redaction, refused, refused_at},
};

/// The parts of a document that are made of colours, sizes and places. Long numbers in them are no telephones.
const PLAIN: [&str; 2] = ["theme", "layout"];

pub(super) async fn preview(job: &WidgetPatch, env: &Env, ctx: &PreviewContext) -> Result<Preview, Failure> {
    let profile = env.profile(ctx.tenant())?;
    let rules = env.widget_rules(ctx.tenant())?;
    let request = match job.check(rules) {
        Ok(request) => request,
        Err(problems) => return Ok(refused("invalid_payload", &problems)),
    };
    if let Some(url) = &request.callback_url
        && let Err(failure) = callback::check(profile, url)
    {
        return refused_at("/callbackUrl", failure);
    }
    let provider = configured(profile.cxone.as_ref(), "cxone", ctx.tenant())?;
    let widgets = Widgets::new(Session::preview(&env.client, provider, ctx));
    let (current, _) = widgets.read(&request.configuration_id).await?;
    let shown = Shown { redaction: Redaction::new(|_| !ctx.reveals()) };
    let preview = match ctx.step_result::<Applied>("patch")? {
        Some(applied) => written(&applied, &request, &current),
        None => planned(ctx, &widgets, &request, rules, &current, &shown)?,
    };
    Ok(Preview { current: Some(shown.document(&current.document)), ..preview })
}

/// An earlier attempt has written; what is left of the job changes nothing in the configuration.
fn written(applied: &Applied, request: &Request, current: &Snapshot) -> Preview {
    let preview = Preview::new(Verdict::AlreadyApplied)
        .note("an earlier attempt has written it; the job goes on behind its last finished step");
    match (holds(&current.document, &request.patch), applied.pending) {
        (true, _) => preview,
        (false, true) => preview.note("the gateway accepted it for later and does not show it yet"),
        (false, false) => {
            preview.note("the configuration does not show the change any more, and the job would not write it again")
        }
    }
}

fn planned(
    ctx: &PreviewContext,
    widgets: &Widgets<'_>,
    request: &Request,
    rules: &Rules,
    current: &Snapshot,
    shown: &Shown<'_>,
) -> Result<Preview, Failure> {
    let stored: Option<Snapshot> = ctx.step_result("read")?;
    let base = stored.as_ref().unwrap_or(current);
    if is_outdated(request, base) {
        let ours = wanted(&current.document, &request.patch);
        let differs = shown.difference(&current.document, &ours).into_iter();
        let conflicts =
            differs.map(|it| Clash { pointer: it.pointer, base: None, ours: it.after, theirs: it.before }).collect();
        return Ok(Preview { conflicts, ..Preview::new(Verdict::WouldConflict) }
            .note("expectedEtag is not the entity tag that the job read, so nobody knows which document was meant"));
    }
    let writer = Writer { widgets, request, base, key: &ctx.step_key("patch") };
    Ok(match writer.next(current) {
        Next::Nothing => with_effects(Preview::new(Verdict::AlreadyApplied), request, rules),
        Next::Conflict { ours, pointers } => {
            let at =
                |document: &Value, pointer: &str| member(document, pointer).map(|found| shown.member(pointer, found));
            let clash = |pointer: String| Clash {
                base: at(&base.document, &pointer),
                ours: at(&ours, &pointer),
                theirs: at(&current.document, &pointer),
                pointer,
            };
            let conflicts = pointers.into_iter().map(clash).collect();
            Preview { conflicts, ..Preview::new(Verdict::WouldConflict) }
                .note("somebody else changed what the job sets since it was read; the job would write nothing")
        }
        Next::Send { body, key } => {
            let mut request_shown = widgets.show_patch(&request.configuration_id, &current.etag, &key, &body)?;
            request_shown.body = shown.document(&request_shown.body);
            let difference = shown.difference(&current.document, &overlay(&current.document, &body, &[]));
            let preview = Preview { request: Some(request_shown), difference, ..Preview::new(Verdict::WouldChange) };
            with_effects(preview, request, rules)
        }
    })
}

/// What the job does besides, also where the configuration stays as it is.
fn with_effects(preview: Preview, request: &Request, rules: &Rules) -> Preview {
    let preview = if rules.purge { preview.note("the gateway's cache is purged afterwards") } else { preview };
    match &request.callback_url {
        Some(_) => preview.note("the address in callbackUrl is told afterwards"),
        None => preview,
    }
}

/// The member that a conflict names: by its JSON pointer, or a listener by its event and action.
fn member<'d>(document: &'d Value, pointer: &str) -> Option<&'d Value> {
    document.pointer(pointer).or_else(|| {
        let (event, action) = pointer.strip_prefix("/eventListeners/")?.split_once('+')?;
        let named = |listener: &&Value| listener["eventType"] == json!(event) && listener["action"] == json!(action);
        document["eventListeners"].as_array()?.iter().find(named)
    })
}

/// What may be shown of a configuration.
struct Shown<'a> {
    redaction: Redaction<'a>,
}

impl Shown<'_> {
    fn document(&self, document: &Value) -> Value {
        let mut shown = self.redaction.show(document);
        for name in PLAIN {
            if let (Some(place), Some(plain)) = (shown.get_mut(name), document.get(name)) {
                place.clone_from(plain);
            }
        }
        shown
    }

    fn member(&self, pointer: &str, value: &Value) -> Value {
        if is_plain(pointer) { value.clone() } else { self.redaction.show(value) }
    }

    fn difference(&self, before: &Value, after: &Value) -> Vec<Difference> {
        let plain = Redaction::new(|_| false).difference(before, after);
        let hidden = self.redaction.difference(before, after);
        plain
            .into_iter()
            .zip(hidden)
            .map(|(plain, hidden)| if is_plain(&plain.pointer) { plain } else { hidden })
            .collect()
    }
}

fn is_plain(pointer: &str) -> bool {
    pointer.split('/').nth(1).is_some_and(|top| PLAIN.contains(&top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_layout_are_no_telephones() {
        let before = json!({"layout": {"zIndex": 1}, "metadata": {"lastModifiedBy": "x"}});
        let after = json!({"layout": {"zIndex": 555_123_456}, "metadata": {"lastModifiedBy": "ann@example.com"}});
        let shown = Shown { redaction: Redaction::new(|_| true) };
        let told: Vec<Option<Value>> = shown.difference(&before, &after).into_iter().map(|it| it.after).collect();
        assert_eq!(told, [Some(json!(555_123_456)), Some(json!("[EMAIL]"))]);
        assert_eq!(
            shown.document(&after),
            json!({"layout": {"zIndex": 555_123_456}, "metadata": {"lastModifiedBy": "[EMAIL]"}})
        );
    }

    #[test]
    fn listeners_are_found_by_event_and_action() {
        let document = json!({"eventListeners": [{"eventType": "a", "action": "b", "payload": {"n": 1}}]});
        assert_eq!(member(&document, "/eventListeners/a+b").map(|found| &found["payload"]["n"]), Some(&json!(1)));
        assert_eq!(member(&document, "/eventListeners/a+c"), None);
        assert_eq!(member(&document, "/theme"), None);
    }
}
