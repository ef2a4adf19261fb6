//! Salesforce: a custom object with an external id field. `If-Unmodified-Since` is judged in whole seconds, and entity
//! tags are for accounts only.

use axum::http::header;
use serde_json::{Map, Value, json};

use super::{By, applied, document, fields::Flaw, fields::Installation, number_of, put, query, thread_numbered};
use crate::{
    clock::http_date,
    reply::Reply,
    routes::is_well_formed,
    world::{Call, Outcome, World, json_object},
};

pub(super) const OBJECT: &str = "Social_Thread__c";
pub(super) const ID_FIELD: &str = "Thread_Id__c";
/// What stands before the number in an id of this object: three letters, as in every id of Salesforce.
const PREFIX: &str = "a0X";

const INSTALLATION: Installation = Installation {
    fields: [
        "Parent_Thread_Id__c",
        "Status__c",
        "Source_Version__c",
        "Source_Updated_At__c",
        "Messages__c",
        "Participants__c",
    ],
    text_units_max: 131_072,
    numbers_are_text: false,
};

pub(super) fn handle(world: &mut World, call: &Call<'_>, by: &By) -> Result<Outcome, Reply> {
    let thread = match by {
        By::Nothing => None,
        By::Thread(id) => Some(id.clone()),
        By::Own(own) => own
            .strip_prefix(PREFIX)
            .and_then(|number| u64::from_str_radix(number, 36).ok())
            .and_then(|number| thread_numbered(world, call, number)),
    };
    match (call.method.as_str(), by, thread) {
        ("POST", By::Nothing, _) => create(world, call),
        ("GET", By::Thread(_) | By::Own(_), Some(id)) => get(world, call, &id),
        ("PATCH", By::Own(_), Some(id)) => update(world, call, &id),
        ("GET" | "PATCH", By::Own(_), None) => Err(missing()),
        _ => Err(error(405, "METHOD_NOT_ALLOWED", "nothing happens here")),
    }
}

fn get(world: &World, call: &Call<'_>, id: &str) -> Result<Outcome, Reply> {
    let Some(document) = document(world, call, id) else { return Err(missing()) };
    let at = chrono::DateTime::from_timestamp_millis(document.modified_ms).unwrap_or_default();
    let mut record = Map::from_iter([
        ("attributes".to_owned(), json!({"type": OBJECT})),
        ("Id".to_owned(), own_id(call, id).into()),
        ("LastModifiedDate".to_owned(), at.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string().into()),
        (ID_FIELD.to_owned(), id.into()),
    ]);
    record.extend(INSTALLATION.show(&document.value).into_iter().map(|(field, value)| (field.to_owned(), value)));
    if let Some(wanted) = query(call, "fields") {
        let wanted: Vec<&str> = wanted.split(',').collect();
        if let Some(stranger) = wanted.iter().find(|field| !record.contains_key(**field)) {
            return Err(refused(&Flaw::Unknown((*stranger).to_owned())));
        }
        record.retain(|field, _| field == "attributes" || wanted.contains(&field.as_str()));
    }
    let modified = http_date(document.modified_ms);
    Ok(Reply::json(200, &Value::Object(record)).with_header(header::LAST_MODIFIED, modified).into())
}

fn create(world: &mut World, call: &Call<'_>) -> Result<Outcome, Reply> {
    let mut written = json_object(call)?.clone();
    let id = written.remove(ID_FIELD);
    let Some(id) = id.as_ref().and_then(Value::as_str).filter(|id| is_well_formed(id)) else {
        return Err(error(400, "REQUIRED_FIELD_MISSING", "the thread's id is missing"));
    };
    if document(world, call, id).is_some() {
        return Err(error(
            400,
            "DUPLICATE_VALUE",
            "duplicate value found: Thread_Id__c duplicates value on another record",
        ));
    }
    put(world, call, id, &INSTALLATION, &written).map_err(|flaw| refused(&flaw))?;
    let reply = Reply::json(201, &json!({"id": own_id(call, id), "success": true, "errors": []}));
    Ok(applied(reply, id, "thread.create"))
}

fn update(world: &mut World, call: &Call<'_>, id: &str) -> Result<Outcome, Reply> {
    let written = json_object(call)?;
    if let Some(since) = call.headers.get(header::IF_UNMODIFIED_SINCE) {
        let since = since.to_str().ok().and_then(|since| chrono::DateTime::parse_from_rfc2822(since).ok());
        let Some(since) = since else { return Err(error(400, "INVALID_HEADER", "If-Unmodified-Since is no date")) };
        if document(world, call, id).is_some_and(|document| document.modified_ms / 1000 > since.timestamp()) {
            return Err(error(412, "PRECONDITION_FAILED", "the record was modified since"));
        }
    }
    put(world, call, id, &INSTALLATION, written).map_err(|flaw| refused(&flaw))?;
    Ok(applied(Reply::empty(204), id, "thread.patch"))
}

fn own_id(call: &Call<'_>, id: &str) -> String {
    let mut number = number_of(call.tenant, id);
    let mut digits = Vec::new();
    while number > 0 {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().fold(PREFIX.to_owned(), |id, digit| format!("{id}{digit}"))
}

fn missing() -> Reply {
    error(404, "NOT_FOUND", "the requested resource does not exist")
}

fn refused(flaw: &Flaw) -> Reply {
    match flaw {
        Flaw::Unknown(field) => error(400, "INVALID_FIELD", &format!("No such column '{field}' on {OBJECT}")),
        Flaw::TooLong(field) => error(400, "STRING_TOO_LONG", &format!("{field}: data value too large")),
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!([{"errorCode": code, "message": message}]))
}
