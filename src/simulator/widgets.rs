//! CXone webchat configurations: read, patch under `If-Match`, purge the cache.

use serde_json::{Value, json};

use crate::{
    documents::{self, Kind, merge_patch},
    reply::Reply,
    world::{Call, Outcome, World, json_object, not_found},
};

/// The document an untouched configuration shows: the documented defaults.
pub(crate) fn initial(id: &str) -> Value {
    json!({
        "configurationId": id,
        "theme": {
            "primaryColor": "#0073e6",
            "secondaryColor": "#f0f4f8",
            "fontFamily": "system-ui, -apple-system, sans-serif",
            "borderRadius": "8px",
            "widgetSize": "medium",
        },
        "eventListeners": [{"eventType": "widget_open", "action": "log_to_external", "payload": {}}],
        "layout": {"position": "bottom-right", "zIndex": 9999, "mobileResponsive": true},
        "metadata": {"lastModifiedBy": "api-customizer", "version": "1.0.0"},
    })
}

pub(crate) fn get(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    match world.load(Kind::Widget, call, id) {
        Some(document) => documents::shown(200, document).into(),
        None => not_found("configuration", id),
    }
}

pub(crate) fn patch(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let patch = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    if let Some(problem) = problem(patch, id) {
        return Reply::error(400, "validation_failed", problem).into();
    }
    let Some(document) = world.load(Kind::Widget, call, id) else {
        return not_found("configuration", id);
    };
    let precondition = document.precondition(call.headers, None);
    let settings = call.settings;
    if let Some(refusal) =
        precondition.refusal(document, settings.require_precondition, settings.widget_conflict_status)
    {
        return refusal.into();
    }
    let mut value = document.value.clone();
    merge_patch(&mut value, &Value::Object(patch.clone()));
    let members = patch.keys().cloned().collect::<Vec<_>>().join(",");
    let document = world.documents.put(Kind::Widget, call.tenant, id, value);
    Outcome::applied(documents::shown(200, document), format!("widgets/{id}"), "widget.patch", Some(members))
}

pub(crate) fn purge(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    if world.load(Kind::Widget, call, id).is_none() {
        return not_found("configuration", id);
    }
    Outcome::applied(Reply::empty(204), format!("widgets/{id}"), "widget.purge", None)
}

fn problem(patch: &serde_json::Map<String, Value>, id: &str) -> Option<String> {
    if patch.get("configurationId").is_some_and(|own| own != id) {
        return Some("configurationId differs from the id in the path".to_owned());
    }
    for (member, expected, holds) in [
        ("theme", "an object", Value::is_object as fn(&Value) -> bool),
        ("layout", "an object", Value::is_object),
        ("metadata", "an object", Value::is_object),
        ("eventListeners", "a list", Value::is_array),
    ] {
        if patch.get(member).is_some_and(|value| !holds(value)) {
            return Some(format!("{member} must be {expected}"));
        }
    }
    let listeners = patch.get("eventListeners").and_then(Value::as_array).into_iter().flatten();
    let incomplete =
        |listener: &Value| !["eventType", "action"].iter().all(|name| listener.get(name).is_some_and(Value::is_string));
    listeners
        .enumerate()
        .find(|(_, listener)| incomplete(listener))
        .map(|(at, _)| format!("eventListeners[{at}] needs the strings eventType and action"))
}
