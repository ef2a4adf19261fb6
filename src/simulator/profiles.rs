//! CXone profiles: read, and patch with the three merge strategies; profiles that share a contact are merged.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{
    clock::rfc3339,
    documents::{Document, Kind},
    reply::Reply,
    world::{Call, Outcome, World, json_object, not_found},
};

/// The document an untouched profile shows.
pub(crate) fn initial(id: &str) -> Value {
    json!({"profileId": id, "attributes": {"origin": "simulator"}, "tags": []})
}

/// Who owns a contact, and which profile a merged one went into.
#[derive(Debug)]
pub(crate) struct Identities {
    owner_of_contact: HashMap<String, String>,
    survivor_of: HashMap<String, String>,
    entries_max: usize,
}

impl Identities {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { owner_of_contact: HashMap::new(), survivor_of: HashMap::new(), entries_max }
    }

    /// The profile that now stands for this id.
    fn survivor<'a>(&'a self, tenant: &str, id: &'a str) -> &'a str {
        let mut current = id;
        // A chain as long as this would take as many merges; the bound keeps a cycle from hanging the server.
        for _ in 0..64 {
            match self.survivor_of.get(&format!("{tenant}/{current}")) {
                Some(next) => current = next,
                None => break,
            }
        }
        current
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.entries_max);
    }
}

#[derive(Clone, Copy)]
enum Strategy {
    Overwrite,
    Append,
    KeepLatest,
}

pub(crate) fn get(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let current = world.identities.survivor(call.tenant, id).to_owned();
    let with_etag = call.settings.profile_etags;
    let Some(document) = world.load(Kind::Profile, call, &current) else { return not_found("profile", id) };
    let mut value = document.value.clone();
    if current != id {
        value["survivorProfileId"] = Value::from(current);
    }
    let reply = Reply::json(200, &value);
    if with_etag { reply.with_header(axum::http::header::ETAG, document.etag()).into() } else { reply.into() }
}

pub(crate) fn patch(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    let (attributes, strategy) = match validate(body, id) {
        Ok(valid) => valid,
        Err(problem) => return Reply::error(400, "validation_failed", problem).into(),
    };
    let current = world.identities.survivor(call.tenant, id).to_owned();
    let Some(document) = world.load(Kind::Profile, call, &current) else { return not_found("profile", id) };
    if call.settings.profile_etags
        && let Some(refusal) = document.precondition(call.headers, None).refusal(document, false, 412)
    {
        return refusal.into();
    }
    let survivor = match call.settings.deduplicate_profiles {
        true => claim_contacts(world, call, &current, attributes),
        false => current.clone(),
    };
    let (mut value, mut hidden) = match world.documents.get(Kind::Profile, call.tenant, &survivor) {
        Some(document) => (document.value.clone(), document.hidden.clone()),
        None => (initial(&survivor), Value::Null),
    };
    let source_time = body.get("sourceUpdatedAt").and_then(Value::as_str).unwrap_or_default();
    let updated = merge(&mut value, &mut hidden, attributes, strategy, source_time, call.settings.append_blindly);
    add_tags(&mut value, body.get("tags"));
    let with_etag = call.settings.profile_etags;
    let document: &mut Document = world.documents.put(Kind::Profile, call.tenant, &survivor, value);
    document.hidden = hidden;
    let mut answer = json!({
        "profileId": id,
        "updatedAttributes": updated,
        "mergeResult": "SUCCESS",
        "deduplicationTrigger": survivor != id,
        "timestamp": rfc3339(call.now_ms),
    });
    if survivor != id {
        answer["survivorProfileId"] = Value::from(survivor.clone());
    }
    let mut reply = Reply::json(200, &answer);
    if with_etag {
        reply = reply.with_header(axum::http::header::ETAG, document.etag());
    }
    let names = attributes.keys().cloned().collect::<Vec<_>>().join(",");
    Outcome::applied(reply, format!("profiles/{survivor}"), "profile.patch", Some(names))
}

fn validate<'a>(body: &'a Map<String, Value>, id: &str) -> Result<(&'a Map<String, Value>, Strategy), String> {
    if body.get("profileId").is_some_and(|own| !own.as_str().is_some_and(|own| own.eq_ignore_ascii_case(id))) {
        return Err("profileId differs from the id in the path".to_owned());
    }
    let attributes = body.get("attributes").and_then(Value::as_object).ok_or("attributes must be an object")?;
    if attributes.len() > 50 {
        return Err(format!("{} attributes; at most 50 are taken", attributes.len()));
    }
    let strategy = match body.get("mergeStrategy").and_then(Value::as_str) {
        Some("OVERWRITE") => Strategy::Overwrite,
        Some("APPEND") => Strategy::Append,
        Some("KEEP_LATEST") => Strategy::KeepLatest,
        _ => return Err("mergeStrategy must be OVERWRITE, APPEND or KEEP_LATEST".to_owned()),
    };
    let source = body.get("sourceSystem").and_then(Value::as_str).unwrap_or_default();
    if source.is_empty() || source.encode_utf16().count() > 64 {
        return Err("sourceSystem must have 1 to 64 characters".to_owned());
    }
    if let Some(tags) = body.get("tags") {
        let texts = tags.as_array().is_some_and(|tags| tags.len() <= 10 && tags.iter().all(Value::is_string));
        if !texts {
            return Err("tags must be at most 10 strings".to_owned());
        }
    }
    Ok((attributes, strategy))
}

/// Applies the attributes; answers how many changed.
fn merge(
    value: &mut Value,
    hidden: &mut Value,
    attributes: &Map<String, Value>,
    strategy: Strategy,
    source_time: &str,
    append_blindly: bool,
) -> usize {
    if !value["attributes"].is_object() {
        value["attributes"] = json!({});
    }
    if !hidden.is_object() {
        *hidden = json!({});
    }
    let mut updated = 0;
    for (name, new) in attributes {
        let slot = &mut value["attributes"][name.as_str()];
        let before = slot.clone();
        match strategy {
            Strategy::Overwrite => *slot = new.clone(),
            Strategy::Append => append(slot, new, append_blindly),
            Strategy::KeepLatest => {
                let known = hidden.get(name).and_then(Value::as_str).unwrap_or_default();
                if is_newer(source_time, known) {
                    *slot = new.clone();
                    hidden[name.as_str()] = Value::from(source_time);
                }
            }
        }
        updated += usize::from(*slot != before);
    }
    updated
}

fn append(slot: &mut Value, new: &Value, blindly: bool) {
    match (&mut *slot, new) {
        (Value::Array(list), Value::Array(added)) => {
            for item in added {
                if blindly || !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        (Value::Array(list), one) if blindly || !list.contains(one) => list.push(one.clone()),
        (Value::Null, new) => *slot = new.clone(),
        _ => {}
    }
}

/// Without a source time the write is taken as the newest; an equal time is applied again, so that a repeat is
/// harmless and a correction within the same instant is not lost.
fn is_newer(source_time: &str, known: &str) -> bool {
    let read = |text: &str| chrono::DateTime::parse_from_rfc3339(text).ok();
    match (read(source_time), read(known)) {
        (Some(new), Some(known)) => new >= known,
        _ => true,
    }
}

fn add_tags(value: &mut Value, tags: Option<&Value>) {
    let Some(added) = tags.and_then(Value::as_array) else { return };
    if !value["tags"].is_array() {
        value["tags"] = json!([]);
    }
    if let Some(list) = value["tags"].as_array_mut() {
        for tag in added {
            if !list.contains(tag) {
                list.push(tag.clone());
            }
        }
    }
}

/// Notes the contacts among the attributes. Where another profile owns one, this profile is merged into that one;
/// answers the profile that remains.
fn claim_contacts(world: &mut World, call: &Call<'_>, id: &str, attributes: &Map<String, Value>) -> String {
    let contacts: Vec<String> =
        attributes.iter().filter_map(|(name, value)| contact(call.tenant, name, value.as_str()?)).collect();
    let other = contacts
        .iter()
        .filter_map(|contact| world.identities.owner_of_contact.get(contact))
        .map(|owner| world.identities.survivor(call.tenant, owner).to_owned())
        .find(|owner| owner != id);
    let survivor = other.unwrap_or_else(|| id.to_owned());
    if survivor != id {
        absorb(world, call, id, &survivor);
    }
    let identities = &mut world.identities;
    for contact in contacts {
        if identities.owner_of_contact.len() < identities.entries_max {
            identities.owner_of_contact.entry(contact).or_insert_with(|| survivor.clone());
        }
    }
    survivor
}

/// Moves what the survivor lacks over to it, and the id with it.
fn absorb(world: &mut World, call: &Call<'_>, loser: &str, survivor: &str) {
    let lost = world.documents.get(Kind::Profile, call.tenant, loser).map(|document| document.value.clone());
    world.documents.remove(Kind::Profile, call.tenant, loser);
    world.identities.survivor_of.insert(format!("{}/{loser}", call.tenant), survivor.to_owned());
    let Some(lost) = lost else { return };
    let Some(document) = world.load(Kind::Profile, call, survivor) else { return };
    if let (Some(from), Some(to)) = (lost["attributes"].as_object(), document.value["attributes"].as_object_mut()) {
        for (name, value) in from {
            to.entry(name.as_str()).or_insert_with(|| value.clone());
        }
    }
    add_tags(&mut document.value, lost.get("tags"));
}

/// The key of an e-mail address or phone number, by the attribute's name.
fn contact(tenant: &str, name: &str, value: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    if name.contains("email") || name.contains("e_mail") {
        Some(format!("{tenant}/email/{}", value.trim().to_lowercase()))
    } else if name.contains("phone") {
        let digits: String = value.chars().filter(char::is_ascii_digit).collect();
        (digits.len() >= 7).then(|| format!("{tenant}/phone/{digits}"))
    } else {
        None
    }
}
