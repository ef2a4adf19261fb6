//! The CRM's threads: read, create conditionally, and patch with added, updated and removed members.

use axum::http::header;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    clock::rfc3339,
    documents::{Document, Kind},
    reply::Reply,
    routes,
    settings::ThreadIds,
    world::{Call, Outcome, World, json_object, not_found},
};

/// The lists of a delta: the thread's member, and the delta's names for added, updated and removed ones.
const LISTS: [(&str, [&str; 3]); 2] = [
    ("messages", ["addedMessages", "updatedMessages", "removedMessages"]),
    ("participants", ["addedParticipants", "updatedParticipants", "removedParticipants"]),
];

/// An empty thread.
pub(crate) fn initial(id: &str) -> Value {
    json!({
        "threadId": id,
        "parentThreadId": null,
        "status": "OPEN",
        "sourceVersion": null,
        "updatedAt": null,
        "participants": [],
        "messages": [],
    })
}

fn shown(status: u16, document: &Document) -> Reply {
    let mut value = document.value.clone();
    value["version"] = Value::from(document.version);
    Reply::json(status, &value).with_header(header::ETAG, document.etag())
}

pub(crate) fn get(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    if let Some(document) = world.documents.get(Kind::Thread, call.tenant, id) {
        return shown(200, document).into();
    }
    if !call.settings.create_threads_on_access {
        return not_found("thread", id);
    }
    match world.load(Kind::Thread, call, id) {
        Some(document) => shown(200, document).into(),
        None => not_found("thread", id),
    }
}

pub(crate) fn create(world: &mut World, call: &Call<'_>) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    let Some(id) = body.get("threadId").and_then(Value::as_str).filter(|id| routes::is_well_formed(id)) else {
        return Reply::error(422, "schema", "threadId is required and must be a well-formed id").into();
    };
    if let Some(problem) = problem(body, call, id) {
        return Reply::error(422, "schema", problem).into();
    }
    let conditional = call.headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == b"*");
    if !conditional && call.settings.require_precondition {
        return Reply::error(428, "precondition_required", "create with If-None-Match: *").into();
    }
    if let Some(document) = world.documents.get(Kind::Thread, call.tenant, id) {
        let status = if conditional { 412 } else { 409 };
        let reply = Reply::error(status, "already_exists", "the thread exists: read it and patch it");
        return reply.with_header(header::ETAG, document.etag()).into();
    }
    let mut value = initial(id);
    let detail = apply(&mut value, body, call.now_ms);
    let document = world.documents.put(Kind::Thread, call.tenant, id, value);
    Outcome::applied(shown(201, document), format!("threads/{id}"), "thread.create", Some(detail))
}

pub(crate) fn patch(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    if body.get("threadId").is_some_and(|own| own != id) {
        return Reply::error(422, "schema", "threadId differs from the id in the path").into();
    }
    if let Some(problem) = problem(body, call, id) {
        return Reply::error(422, "schema", problem).into();
    }
    let exists = world.documents.get(Kind::Thread, call.tenant, id).is_some();
    if !exists && !call.settings.create_threads_on_access {
        return not_found("thread", id);
    }
    let Some(document) = world.load(Kind::Thread, call, id) else { return not_found("thread", id) };
    let settings = call.settings;
    // With If-Match the body's version is the source's business; without, it is the CRM version that was read.
    let body_version = if call.headers.contains_key(header::IF_MATCH) { None } else { body.get("version") };
    let precondition = document.precondition(call.headers, body_version);
    if let Some(refusal) =
        precondition.refusal(document, settings.require_precondition, settings.thread_conflict_status)
    {
        return refusal.into();
    }
    let mut value = document.value.clone();
    let detail = apply(&mut value, body, call.now_ms);
    let document = world.documents.put(Kind::Thread, call.tenant, id, value);
    Outcome::applied(shown(200, document), format!("threads/{id}"), "thread.patch", Some(detail))
}

/// Merges a delta into a thread; answers what it added, updated and removed.
fn apply(thread: &mut Value, delta: &Map<String, Value>, now_ms: i64) -> String {
    let mut parts = Vec::new();
    for (list, [added, updated, removed]) in LISTS {
        let count = |name: &str| delta.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        parts.push(format!("{list} +{} ~{} -{}", count(added), count(updated), count(removed)));
        let mut members: Vec<Value> = thread[list].as_array_mut().map(std::mem::take).unwrap_or_default();
        // An index by id, because a thread may hold tens of thousands of messages.
        let id_of = |member: &Value| member.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut at_of: std::collections::HashMap<String, usize> =
            members.iter().enumerate().map(|(at, member)| (id_of(member), at)).collect();
        for name in [added, updated] {
            for new in delta.get(name).and_then(Value::as_array).into_iter().flatten() {
                match at_of.get(&id_of(new)) {
                    // What the delta leaves out, such as an unknown name, stays as it is.
                    Some(&at) => overlay(&mut members[at], new),
                    None => {
                        at_of.insert(id_of(new), members.len());
                        members.push(new.clone());
                    }
                }
            }
        }
        let gone: std::collections::HashSet<&str> =
            delta.get(removed).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        members.retain(|member| !member.get("id").and_then(Value::as_str).is_some_and(|id| gone.contains(id)));
        if list == "messages" {
            members.sort_by_cached_key(|message| (message["timestamp"].as_str().map(str::to_owned), id_of(message)));
        }
        thread[list] = Value::Array(members);
    }
    for member in ["parentThreadId", "status", "sourceVersion"] {
        // Absent means unchanged, and null is a value: it unlinks a parent.
        if let Some(value) = delta.get(member) {
            thread[member] = value.clone();
        }
    }
    thread["updatedAt"] = delta.get("updatedAt").cloned().unwrap_or_else(|| Value::from(rfc3339(now_ms)));
    parts.join(", ")
}

fn overlay(member: &mut Value, new: &Value) {
    if let (Some(member), Some(new)) = (member.as_object_mut(), new.as_object()) {
        for (name, value) in new {
            member.insert(name.clone(), value.clone());
        }
    }
}

/// The CRM's schema.
fn problem(body: &Map<String, Value>, call: &Call<'_>, id: &str) -> Option<String> {
    if call.settings.thread_ids == ThreadIds::Uuid && Uuid::try_parse(id).is_err() {
        return Some("threadId is not a UUID".to_owned());
    }
    for name in ["version", "sourceVersion"] {
        if body.get(name).is_some_and(|version| !version.is_null() && version.as_u64().is_none()) {
            return Some(format!("{name} must be an integer from 0"));
        }
    }
    if body.get("updatedAt").is_some_and(|at| !is_utc(at)) {
        return Some("updatedAt must be an RFC 3339 time in UTC, ending in Z".to_owned());
    }
    if let Some(parent) = body.get("parentThreadId") {
        let well_formed = parent.as_str().is_some_and(|parent| routes::is_well_formed(parent) && parent != id);
        if !parent.is_null() && !well_formed {
            return Some("parentThreadId must be another thread's id or null".to_owned());
        }
    }
    let mut messages = 0;
    for (list, [added, updated, removed]) in LISTS {
        for name in [added, updated, removed] {
            let Some(value) = body.get(name) else { continue };
            let Some(items) = value.as_array() else { return Some(format!("{name} must be a list")) };
            messages += if list == "messages" { items.len() } else { 0 };
            for (at, item) in items.iter().enumerate() {
                let problem = match (name == removed, list) {
                    (true, _) => (!item.is_string()).then_some("must be an id"),
                    (false, "messages") => message_problem(item, name == added),
                    (false, _) => participant_problem(item),
                };
                if let Some(problem) = problem {
                    return Some(format!("{name}[{at}] {problem}"));
                }
            }
        }
    }
    let most = call.settings.thread_messages_max;
    (most > 0 && messages > most).then(|| format!("{messages} messages in one write; at most {most} are taken"))
}

fn message_problem(message: &Value, complete: bool) -> Option<&'static str> {
    let text = message.get("text");
    if !message.get("id").is_some_and(Value::is_string) {
        Some("needs a string id")
    } else if text.is_some_and(|text| !text.is_null() && !text.is_string()) {
        Some("has a text that is no string")
    } else if text.and_then(Value::as_str).is_some_and(|text| text.encode_utf16().count() > 5000) {
        Some("has a text of more than 5000 characters")
    } else if message.get("timestamp").map_or(complete, |at| !is_utc(at)) {
        Some("needs an RFC 3339 timestamp in UTC, ending in Z")
    } else if message.get("authorId").map_or(complete, |author| !author.is_string()) {
        Some("needs a string authorId")
    } else {
        None
    }
}

fn participant_problem(participant: &Value) -> Option<&'static str> {
    let role = participant.get("role");
    let known = |role: &Value| matches!(role.as_str(), Some("CUSTOMER" | "AGENT" | "SYSTEM"));
    if !participant.get("id").is_some_and(Value::is_string) {
        Some("needs a string id")
    } else if role.is_some_and(|role| !known(role)) {
        Some("has a role other than CUSTOMER, AGENT, SYSTEM")
    } else if participant.get("name").is_some_and(|name| !name.is_string()) {
        Some("has a name that is no string")
    } else {
        None
    }
}

fn is_utc(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(text).is_ok())
}
