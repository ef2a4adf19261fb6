//! What a widget-patch job asks for, checked to the last member before any call.

use serde_json::{Map, Value, json};

use super::{listeners::listeners, settings::Rules};
use crate::{
    css,
    depth::depth,
    fields::{Fields, Placed, text},
    pointer::Pointer,
    problem::Problems,
    safe_text,
};

/// Deepest document that the widget gateway takes.
const DEPTH_MAX: usize = 5;
/// Longest callback URL in UTF-16 units.
const URL_MAX: usize = 2_048;
/// Longest entity tag.
const ETAG_MAX: usize = 256;
/// Largest CSS z-index: browsers hold it in 32 bits.
const Z_INDEX_MAX: u64 = 2_147_483_647;

/// A checked payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The configuration to change.
    pub configuration_id: String,
    /// The members to set, in the gateway's names. Sparse: what the job does not mention is not there.
    pub patch: Value,
    /// The entity tag that the caller saw.
    pub expected_etag: Option<String>,
    /// Who is told once the change is live. Kept as it was written: the address guard judges the text.
    pub callback_url: Option<String>,
}

/// Checks `payload` against the schema and the tenant's rules. Reports everything that is wrong.
pub fn check(payload: &Value, rules: &Rules) -> Result<Request, Problems> {
    let mut problems = Problems::new();
    let request = read(payload, rules, &mut problems);
    problems.or(request)
}

fn read(payload: &Value, rules: &Rules, problems: &mut Problems) -> Option<Request> {
    let mut fields = Fields::of(payload, Pointer::root(), problems);
    let id = fields.required("configurationId", problems);
    let id = id.and_then(|placed| configuration_id(placed, problems));
    let theme = fields.optional("theme", problems).map(|placed| theme(placed, rules, problems));
    let listeners = fields.optional("eventListeners", problems).map(|placed| listeners(&placed, rules, problems));
    let layout = fields.optional("layout", problems).map(|placed| layout(placed, problems));
    let metadata = fields.optional("metadata", problems).map(|placed| metadata(placed, problems));
    let expected_etag = fields.optional("expectedEtag", problems).and_then(|placed| etag(placed, problems));
    let callback_url = fields.optional("callbackUrl", problems);
    let callback_url = callback_url.and_then(|placed| text(placed, URL_MAX, problems)).map(str::to_owned);
    fields.end(problems);

    let mut patch = Map::new();
    let parts = [("theme", theme), ("layout", layout), ("metadata", metadata)];
    patch.extend(parts.into_iter().filter_map(|(name, part)| {
        let part = part.filter(|part| !part.is_empty())?;
        Some((name.to_owned(), Value::Object(part)))
    }));
    if let Some(listeners) = listeners.filter(|listeners| !listeners.is_empty()) {
        patch.insert("eventListeners".into(), Value::Array(listeners));
    }
    if patch.is_empty() && problems.is_empty() {
        problems.add(&Pointer::root(), "changes nothing; give theme, eventListeners, layout or metadata");
    }
    let patch = if rules.full_document { with_defaults(&patch) } else { Value::Object(patch) };
    if depth(&patch) > DEPTH_MAX && problems.is_empty() {
        problems.add(&Pointer::root(), format!("is nested deeper than {DEPTH_MAX} levels; flatten it"));
    }
    Some(Request { configuration_id: id?, patch, expected_etag, callback_url })
}

fn configuration_id(placed: Placed<'_>, problems: &mut Problems) -> Option<String> {
    let at = placed.1.clone();
    let id = text(placed, 128, problems)?;
    if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        return Some(id.to_owned());
    }
    problems.add(&at, "may hold letters, digits, _ and - only");
    None
}

fn theme((value, at): Placed<'_>, rules: &Rules, problems: &mut Problems) -> Map<String, Value> {
    type Grammar = fn(&str) -> Result<(), &'static str>;
    const PROPERTIES: [(&str, &str, Grammar); 4] = [
        ("primary", "primaryColor", css::colour),
        ("secondary", "secondaryColor", css::colour),
        ("font", "fontFamily", css::font),
        ("borderRadius", "borderRadius", css::radius),
    ];
    let mut wire = Map::new();
    let mut fields = Fields::of(value, at, problems);
    for (name, wire_name, grammar) in PROPERTIES {
        let Some(placed) = fields.optional(name, problems) else { continue };
        let at = placed.1.clone();
        let Some(text) = text(placed, 256, problems) else { continue };
        match grammar(text) {
            Ok(()) => {
                wire.insert(wire_name.to_owned(), json!(text));
            }
            Err(expected) => problems.add(&at, expected),
        }
    }
    if let Some(placed) = fields.optional("size", problems) {
        let at = placed.1.clone();
        match text(placed, 64, problems) {
            Some(size) if rules.sizes.iter().any(|known| known == size) => {
                wire.insert("widgetSize".to_owned(), json!(size));
            }
            Some(_) => problems.add(&at, format!("must be one of {}", rules.sizes.join(", "))),
            None => {}
        }
    }
    fields.end(problems);
    wire
}

fn layout((value, at): Placed<'_>, problems: &mut Problems) -> Map<String, Value> {
    let mut wire = Map::new();
    let mut fields = Fields::of(value, at, problems);
    if let Some(placed) = fields.optional("position", problems) {
        let at = placed.1.clone();
        match text(placed, 32, problems) {
            Some(position) if position.split('-').all(is_lower_word) => {
                wire.insert("position".into(), json!(position));
            }
            Some(_) => problems.add(&at, "must be lower-case words joined by hyphens, such as bottom-right"),
            None => {}
        }
    }
    if let Some((value, at)) = fields.optional("zIndex", problems) {
        match value.as_u64().filter(|&index| index <= Z_INDEX_MAX) {
            Some(index) => {
                wire.insert("zIndex".into(), json!(index));
            }
            None => problems.add(&at, format!("must be a whole number from 0 to {Z_INDEX_MAX}")),
        }
    }
    if let Some((value, at)) = fields.optional("mobileResponsive", problems) {
        match value.as_bool() {
            Some(responsive) => {
                wire.insert("mobileResponsive".into(), json!(responsive));
            }
            None => problems.add(&at, "must be true or false"),
        }
    }
    fields.end(problems);
    wire
}

fn is_lower_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn metadata((value, at): Placed<'_>, problems: &mut Problems) -> Map<String, Value> {
    let mut wire = Map::new();
    let mut fields = Fields::of(value, at, problems);
    for (name, units_max) in [("lastModifiedBy", 128), ("version", 32)] {
        let Some(placed) = fields.optional(name, problems) else { continue };
        let at = placed.1.clone();
        let Some(text) = text(placed, units_max, problems) else { continue };
        match safe_text::check(text) {
            Ok(()) => {
                wire.insert(name.to_owned(), json!(text));
            }
            Err(expected) => problems.add(&at, expected),
        }
    }
    fields.end(problems);
    wire
}

/// A weak or strong entity tag. A star is none: it would overwrite whatever stands there.
fn etag(placed: Placed<'_>, problems: &mut Problems) -> Option<String> {
    let at = placed.1.clone();
    let tag = text(placed, ETAG_MAX, problems)?;
    let opaque = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if opaque.is_some_and(|opaque| opaque.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')) {
        return Some(tag.to_owned());
    }
    problems.add(&at, "must be an entity tag as it was read, such as W/\"abc\"; a star is not accepted");
    None
}

/// The whole document that the gateway's own editor writes: its defaults where the job says nothing.
fn with_defaults(patch: &Map<String, Value>) -> Value {
    let defaults = json!({
        "theme": {
            "primaryColor": "#0073e6",
            "secondaryColor": "#f0f4f8",
            "fontFamily": "system-ui, -apple-system, sans-serif",
            "borderRadius": "8px",
            "widgetSize": "medium",
        },
        "layout": {"position": "bottom-right", "zIndex": 9999, "mobileResponsive": true},
        "metadata": {"lastModifiedBy": "api-customizer", "version": "1.0.0"},
    });
    let mut document = crate::merge::overlay(&defaults, &Value::Object(patch.clone()), &[]);
    for listener in document["eventListeners"].as_array_mut().into_iter().flatten() {
        if let Some(listener) = listener.as_object_mut() {
            listener.entry("payload").or_insert_with(|| json!({}));
        }
    }
    // Indexing with [] above adds a null where the job names no listeners.
    if let Some(document) = document.as_object_mut()
        && document.get("eventListeners").is_some_and(Value::is_null)
    {
        document.remove("eventListeners");
    }
    document
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
