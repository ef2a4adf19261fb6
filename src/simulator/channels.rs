//! Genesys webchat channels: read, replace under the integer version, create by external id.

use std::collections::BTreeSet;

use axum::http::header;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    accepted::Later,
    documents::{Document, Kind},
    reply::Reply,
    routes,
    world::{Call, Outcome, World, json_object, not_found},
};

/// Most origins remembered over all channels.
const ORIGINS_MAX: usize = 10_000;
/// Most channels in one listing.
const LISTED_MAX: usize = 500;
/// Member of a document's hidden part: the channel as it was last published.
const PUBLISHED: &str = "published";

/// The document an untouched channel shows.
pub(crate) fn initial(id: &str) -> Value {
    json!({
        "id": id,
        "name": format!("Channel {id}"),
        "description": "Made by the simulator",
        "enabled": true,
        "division": {"id": "home", "name": "Home"},
        "webchatSettings": {
            "webchatUrl": "https://chat.example.com",
            "corsAllowedOrigins": ["https://shop.example.com"],
            "authProviderId": "auth-provider-1",
            "webchatId": format!("webchat-{id}"),
            "theme": "classic",
        },
    })
}

fn shown(status: u16, document: &Document) -> Reply {
    let mut value = document.value.clone();
    value["version"] = Value::from(document.version);
    Reply::json(status, &value).with_header(header::ETAG, document.etag())
}

pub(crate) fn get(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    look(world, call, id);
    match world.load(Kind::Channel, call, id) {
        Some(document) if !document.value.is_null() => shown(200, document).into(),
        _ => not_found("channel", id),
    }
}

/// One look at a channel: what was accepted for later may show now.
fn look(world: &mut World, call: &Call<'_>, id: &str) {
    let accepted = world.documents.get_mut(Kind::Channel, call.tenant, id).and_then(|own| own.look(Later::Write));
    if let Some(value) = accepted {
        world.documents.put(Kind::Channel, call.tenant, id, value);
    }
}

pub(crate) fn list(world: &mut World, call: &Call<'_>) -> Outcome {
    let wanted = routes::form_pairs(call.query).into_iter().find(|(name, _)| name == "externalId");
    let ids = match &wanted {
        Some((_, external)) => {
            world.channels_by_external_id.get(&external_key(call.tenant, external)).cloned().into_iter().collect()
        }
        None => world.documents.ids(Kind::Channel, call.tenant, LISTED_MAX),
    };
    ids.iter().for_each(|id| look(world, call, id));
    let entities: Vec<Value> = ids
        .iter()
        .filter_map(|id| world.documents.get(Kind::Channel, call.tenant, id))
        .filter(|document| !document.value.is_null())
        .filter_map(|document| serde_json::from_slice(&shown(200, document).body).ok())
        .collect();
    let total = entities.len();
    Reply::json(200, &json!({"entities": entities, "total": total})).into()
}

pub(crate) fn put(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    if let Some(problem) = problem(body, Some(id)) {
        return Reply::error(400, "bad.request", problem).into();
    }
    let Some(document) = world.load(Kind::Channel, call, id) else {
        return not_found("channel", id);
    };
    let settings = call.settings;
    let precondition = document.precondition(call.headers, body.get("version"));
    if let Some(refusal) =
        precondition.refusal(document, settings.require_precondition, settings.channel_conflict_status)
    {
        return refusal.into();
    }
    let before = document.version;
    collect_origins(&Value::Object(body.clone()), &mut world.channel_origins);
    let (reply, after) = match (settings.channel_looks, without_version(body, id)) {
        (0, value) => {
            let document = world.documents.put(Kind::Channel, call.tenant, id, value);
            (shown(200, document), document.version)
        }
        (looks, value) => {
            if let Some(document) = world.documents.get_mut(Kind::Channel, call.tenant, id) {
                document.accept(Later::Write, value, looks);
            }
            (Reply::json(202, &json!({})), before + 1)
        }
    };
    let detail = format!("version {before} to {after}");
    world.audit.add(call.tenant, id, "UPDATE", &detail, call.now_ms);
    Outcome::applied(reply, format!("channels/{id}"), "channel.put", Some(detail))
}

pub(crate) fn create(world: &mut World, call: &Call<'_>) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    if let Some(problem) = problem(body, None) {
        return Reply::error(400, "bad.request", problem).into();
    }
    let external = body.get("externalId").and_then(Value::as_str).map(|external| external_key(call.tenant, external));
    if let Some(existing) = external.as_ref().and_then(|key| world.channels_by_external_id.get(key)) {
        let body = json!({"error": "duplicate", "message": "a channel has this externalId", "id": existing});
        return Reply::json(409, &body).into();
    }
    let id = Uuid::new_v4().to_string();
    collect_origins(&Value::Object(body.clone()), &mut world.channel_origins);
    if let Some(key) = external {
        world.channels_by_external_id.insert(key, id.clone());
    }
    let reply = match (call.settings.channel_looks, without_version(body, &id)) {
        (0, value) => shown(201, world.documents.put(Kind::Channel, call.tenant, &id, value)),
        (looks, value) => {
            world.documents.put(Kind::Channel, call.tenant, &id, Value::Null).accept(Later::Write, value, looks);
            Reply::json(202, &json!({}))
        }
    };
    world.audit.add(call.tenant, &id, "CREATE", "version 1", call.now_ms);
    Outcome::applied(reply, format!("channels/{id}"), "channel.create", None)
}

/// Publishes a channel as it stands. Only [`published`] reads what is live.
pub(crate) fn publish(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let Some(document) = world.load(Kind::Channel, call, id) else { return not_found("channel", id) };
    let (mut reply, detail) = (shown(200, document), format!("version {}", document.version));
    match call.settings.channel_looks {
        0 => document.hide(PUBLISHED, document.value.clone()),
        looks => {
            document.accept(Later::Publication, document.value.clone(), looks);
            reply = Reply::json(202, &json!({}));
        }
    }
    Outcome::applied(reply, format!("channels/{id}"), "channel.publish", Some(detail))
}

/// The channel as it was last published.
pub(crate) fn published(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let Some(document) = world.documents.get_mut(Kind::Channel, call.tenant, id) else {
        return not_found("channel", id);
    };
    if let Some(value) = document.look(Later::Publication) {
        document.hide(PUBLISHED, value);
    }
    match document.hidden.get(PUBLISHED) {
        Some(live) => Reply::json(200, live).into(),
        None => not_found("published channel", id),
    }
}

/// Adds the origins a channel allows: the WebSocket endpoint lets them in besides its own list.
pub(crate) fn collect_origins(channel: &Value, into: &mut BTreeSet<String>) {
    let origins = channel.pointer("/webchatSettings/corsAllowedOrigins").and_then(Value::as_array);
    let room = ORIGINS_MAX.saturating_sub(into.len());
    into.extend(origins.into_iter().flatten().filter_map(Value::as_str).take(room).map(str::to_ascii_lowercase));
}

fn external_key(tenant: &str, external: &str) -> String {
    format!("{tenant}\n{external}")
}

/// The version is the store's affair: a stale one in the body must not come back out of a later GET.
fn without_version(body: &Map<String, Value>, id: &str) -> Value {
    let mut value = body.clone();
    value.remove("version");
    value.insert("id".to_owned(), Value::from(id));
    Value::Object(value)
}

fn problem(body: &Map<String, Value>, id: Option<&str>) -> Option<String> {
    if id.is_some_and(|id| body.get("id").is_some_and(|own| own != id)) {
        return Some("id differs from the id in the path".to_owned());
    }
    if !body.get("name").is_some_and(Value::is_string) {
        return Some("name is required".to_owned());
    }
    if body.get("enabled").is_some_and(|enabled| !enabled.is_boolean()) {
        return Some("enabled must be true or false".to_owned());
    }
    let Some(settings) = body.get("webchatSettings").and_then(Value::as_object) else {
        return Some("webchatSettings is required".to_owned());
    };
    for member in ["webchatUrl", "authProviderId"] {
        if settings.get(member).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Some(format!("webchatSettings.{member} is required"));
        }
    }
    let origins = settings.get("corsAllowedOrigins").and_then(Value::as_array);
    let secure = |origin: &Value| origin.as_str().is_some_and(|origin| origin.starts_with("https://"));
    match origins {
        Some(origins) if origins.iter().all(secure) => None,
        _ => Some("webchatSettings.corsAllowedOrigins must be a list of https:// origins".to_owned()),
    }
}
