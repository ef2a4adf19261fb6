//! Dataverse: a table with an alternate key. A PATCH makes the row or changes it; `If-Match` and `If-None-Match: *` say
//! which of the two is meant. Tags are weak.

use axum::http::header;
use serde_json::{Map, Value, json};

use super::{By, applied, document, fields::Flaw, fields::Installation, put, query};
use crate::{
    reply::Reply,
    world::{Call, Outcome, World, json_object},
};

const SET: &str = "bh_socialthreads";
const ID_FIELD: &str = "bh_threadid";

const INSTALLATION: Installation = Installation {
    fields: [
        "bh_parentthreadid",
        "bh_status",
        "bh_sourceversion",
        "bh_sourceupdatedat",
        "bh_messages",
        "bh_participants",
    ],
    text_units_max: 1_048_576,
    numbers_are_text: false,
};

/// The key in `bh_socialthreads(bh_threadid='t1')`.
pub(super) fn key_of(row: &str) -> Option<&str> {
    row.strip_prefix(SET)?.strip_prefix('(')?.strip_prefix(ID_FIELD)?.strip_prefix("='")?.strip_suffix("')")
}

pub(super) fn handle(world: &mut World, call: &Call<'_>, by: &By) -> Result<Outcome, Reply> {
    match (call.method.as_str(), by) {
        ("GET", By::Thread(id)) => get(world, call, id),
        ("PATCH", By::Thread(id)) => write(world, call, id),
        _ => Err(error(405, "0x80060888", "nothing happens here")),
    }
}

fn get(world: &World, call: &Call<'_>, id: &str) -> Result<Outcome, Reply> {
    let Some(document) = document(world, call, id) else { return Err(missing(id)) };
    let mut row = Map::from_iter([
        ("@odata.etag".to_owned(), Value::from(document.etag())),
        (ID_FIELD.to_owned(), Value::from(id)),
    ]);
    row.extend(INSTALLATION.show(&document.value).into_iter().map(|(field, value)| (field.to_owned(), value)));
    if let Some(wanted) = query(call, "$select") {
        if let Some(stranger) = wanted.split(',').find(|field| !row.contains_key(*field)) {
            return Err(refused(&Flaw::Unknown(stranger.to_owned())));
        }
        row.retain(|field, _| field == "@odata.etag" || wanted.split(',').any(|wanted| wanted == field));
    }
    Ok(Reply::json(200, &Value::Object(row)).into())
}

fn write(world: &mut World, call: &Call<'_>, id: &str) -> Result<Outcome, Reply> {
    let written = json_object(call)?.clone();
    let tag = document(world, call, id).map(|document| document.etag());
    let sent = |name| call.headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    match (sent(header::IF_MATCH), &tag) {
        (Some(_), None) => return Err(missing(id)),
        (Some(wanted), Some(tag)) if wanted != "*" && wanted != tag => {
            return Err(error(412, "0x80060882", "the version of the existing record doesn't match the one given"));
        }
        _ => {}
    }
    if sent(header::IF_NONE_MATCH) == Some("*") && tag.is_some() {
        return Err(error(412, "0x80040237", "a record with matching key values already exists"));
    }
    put(world, call, id, &INSTALLATION, &written).map_err(|flaw| refused(&flaw))?;
    Ok(applied(Reply::empty(204), id, if tag.is_some() { "thread.patch" } else { "thread.create" }))
}

fn missing(id: &str) -> Reply {
    error(404, "0x80060891", &format!("a record with the specified key values does not exist: {id}"))
}

fn refused(flaw: &Flaw) -> Reply {
    match flaw {
        Flaw::Unknown(field) => error(400, "0x80048d19", &format!("the property '{field}' does not exist")),
        Flaw::TooLong(field) => error(400, "0x80044331", &format!("the length of '{field}' exceeded its maximum")),
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": code, "message": message}}))
}
