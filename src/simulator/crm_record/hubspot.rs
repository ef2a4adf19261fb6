//! HubSpot: a custom object with a unique property. There are no conditions: the last write wins.

use serde_json::{Map, Value, json};

use super::{By, applied, document, fields::Flaw, fields::Installation, number_of, put, query};
use crate::{
    clock::rfc3339,
    reply::Reply,
    routes::is_well_formed,
    world::{Call, Outcome, World, json_object},
};

pub(super) const OBJECT: &str = "social_threads";
const ID_FIELD: &str = "thread_id";

const INSTALLATION: Installation = Installation {
    fields: ["parent_thread_id", "status", "source_version", "source_updated_at", "messages", "participants"],
    text_units_max: 65_536,
    numbers_are_text: true,
};

pub(super) fn handle(world: &mut World, call: &Call<'_>, by: &By) -> Result<Outcome, Reply> {
    match (call.method.as_str(), by) {
        ("POST", By::Nothing) => create(world, call),
        ("GET" | "PATCH", By::Thread(_)) if query(call, "idProperty").as_deref() != Some(ID_FIELD) => {
            // Without it the id is the object's own number, which nobody here knows.
            Err(error(404, "OBJECT_NOT_FOUND", "Object not found"))
        }
        ("GET" | "PATCH", By::Thread(id)) if document(world, call, id).is_none() => {
            Err(error(404, "OBJECT_NOT_FOUND", "Object not found"))
        }
        ("GET", By::Thread(id)) => {
            let wanted = query(call, "properties").unwrap_or_default();
            Ok(shown(world, call, 200, id, Some(&wanted)).into())
        }
        ("PATCH", By::Thread(id)) => update(world, call, id),
        _ => Err(error(405, "METHOD_NOT_ALLOWED", "nothing happens here")),
    }
}

fn create(world: &mut World, call: &Call<'_>) -> Result<Outcome, Reply> {
    let mut written = properties(call)?;
    let id = written.remove(ID_FIELD);
    let Some(id) = id.as_ref().and_then(Value::as_str).filter(|id| is_well_formed(id)) else {
        return Err(error(400, "VALIDATION_ERROR", "the property thread_id is required"));
    };
    if document(world, call, id).is_some() {
        return Err(error(400, "VALIDATION_ERROR", "another object has this value of thread_id already"));
    }
    put(world, call, id, &INSTALLATION, &written).map_err(|flaw| refused(&flaw))?;
    Ok(applied(shown(world, call, 201, id, None), id, "thread.create"))
}

fn update(world: &mut World, call: &Call<'_>, id: &str) -> Result<Outcome, Reply> {
    let written = properties(call)?;
    put(world, call, id, &INSTALLATION, &written).map_err(|flaw| refused(&flaw))?;
    Ok(applied(shown(world, call, 200, id, None), id, "thread.patch"))
}

fn properties(call: &Call<'_>) -> Result<Map<String, Value>, Reply> {
    let properties = json_object(call)?.get("properties").and_then(Value::as_object).cloned();
    properties.ok_or_else(|| error(400, "VALIDATION_ERROR", "the body needs properties"))
}

/// Properties that were not asked for, and those that do not exist, are left out.
fn shown(world: &World, call: &Call<'_>, status: u16, id: &str, wanted: Option<&str>) -> Reply {
    let Some(document) = document(world, call, id) else { return Reply::empty(404) };
    let mut shown = Map::from_iter([(ID_FIELD.to_owned(), Value::from(id))]);
    shown.extend(INSTALLATION.show(&document.value).into_iter().map(|(field, value)| (field.to_owned(), value)));
    if let Some(wanted) = wanted {
        shown.retain(|field, _| wanted.split(',').any(|wanted| wanted == field));
    }
    let (own, at) = (number_of(call.tenant, id).to_string(), rfc3339(document.modified_ms));
    Reply::json(status, &json!({"id": own, "properties": shown, "updatedAt": at, "archived": false}))
}

fn refused(flaw: &Flaw) -> Reply {
    match flaw {
        Flaw::Unknown(field) => error(400, "VALIDATION_ERROR", &format!("Property \"{field}\" does not exist")),
        Flaw::TooLong(field) => error(400, "VALIDATION_ERROR", &format!("{field} is longer than 65536 characters")),
    }
}

fn error(status: u16, category: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"status": "error", "category": category, "message": message}))
}
