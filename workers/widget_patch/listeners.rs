//! The event listeners of a widget: which event calls which action with which scalars.

use serde_json::{Map, Value, json};

use super::settings::{Rules, is_name};
use crate::{
    fields::{Fields, Placed, list, text, utf16_units},
    problem::Problems,
    safe_text,
};

/// Most event listeners in one job.
const LISTENERS_MAX: usize = 50;
/// Most members of a listener's payload.
const LISTENER_MEMBERS_MAX: usize = 20;
/// Longest text of a listener's payload, in UTF-16 units.
const LISTENER_TEXT_MAX: usize = 1_024;

/// The widget's events that a listener can name.
const EVENTS: [&str; 6] =
    ["message_sent", "message_received", "widget_open", "widget_close", "agent_assigned", "transcript_export"];

/// Checks the listeners of a payload; what they are on the wire.
pub(super) fn listeners(placed: &Placed<'_>, rules: &Rules, problems: &mut Problems) -> Vec<Value> {
    let mut wire: Vec<Value> = Vec::new();
    for (value, at) in list(placed, LISTENERS_MAX, problems) {
        let mut fields = Fields::of(value, at.clone(), problems);
        let event = fields.required("event", problems).and_then(|placed| event(placed, problems));
        let action = fields.required("action", problems).and_then(|placed| action(placed, rules, problems));
        let payload = fields.optional("payload", problems).map(|placed| listener_payload(placed, problems));
        fields.end(problems);
        let (Some(event), Some(action)) = (event, action) else { continue };
        if wire.iter().any(|other| other["eventType"] == event && other["action"] == action) {
            problems.add(&at, "names the same event and action as a listener before it");
        }
        let mut listener = Map::new();
        listener.insert("eventType".into(), json!(event));
        listener.insert("action".into(), json!(action));
        if let Some(payload) = payload {
            listener.insert("payload".into(), Value::Object(payload));
        }
        wire.push(Value::Object(listener));
    }
    wire
}

fn event<'v>(placed: Placed<'v>, problems: &mut Problems) -> Option<&'v str> {
    let at = placed.1.clone();
    let event = text(placed, 64, problems)?;
    if EVENTS.contains(&event) {
        return Some(event);
    }
    problems.add(&at, format!("must be one of {}", EVENTS.join(", ")));
    None
}

fn action<'v>(placed: Placed<'v>, rules: &Rules, problems: &mut Problems) -> Option<&'v str> {
    let at = placed.1.clone();
    let action = text(placed, 64, problems)?;
    if rules.actions.iter().any(|known| known == action) {
        return Some(action);
    }
    problems.add(&at, format!("must be an action that the profile allows: {}", rules.actions.join(", ")));
    None
}

/// Scalars only, so that the document stays within the gateway's depth.
fn listener_payload((value, at): Placed<'_>, problems: &mut Problems) -> Map<String, Value> {
    let Some(members) = value.as_object() else {
        problems.add(&at, "must be an object");
        return Map::new();
    };
    if members.len() > LISTENER_MEMBERS_MAX {
        problems.add(&at, format!("has {} members, more than {LISTENER_MEMBERS_MAX}", members.len()));
        return Map::new();
    }
    for (name, member) in members {
        let at = at.member(name);
        if !is_name(name, 64) {
            problems.add(&at, "is no member name: a letter, then letters, digits, _ . and -, at most 64");
        }
        match member {
            Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) if utf16_units(text) > LISTENER_TEXT_MAX => {
                problems.add(&at, format!("is longer than {LISTENER_TEXT_MAX} UTF-16 units"));
            }
            Value::String(text) => {
                if let Err(expected) = safe_text::check(text) {
                    problems.add(&at, expected);
                }
            }
            Value::Null | Value::Array(_) | Value::Object(_) => {
                problems.add(&at, "must be a string, a number or a boolean");
            }
        }
    }
    members.clone()
}
