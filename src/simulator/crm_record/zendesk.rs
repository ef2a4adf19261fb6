//! Zendesk: tickets with custom fields. `external_id` finds a ticket, and `safe_update` with `updated_stamp` inside the
//! ticket keeps a write from overwriting another's.

use serde_json::{Map, Value, json};

use super::{By, applied, document, fields::Flaw, fields::Installation, number_of, put, query, thread_numbered};
use crate::{
    documents::Document,
    reply::Reply,
    routes::is_well_formed,
    world::{Call, Outcome, World, json_object},
};

const INSTALLATION: Installation = Installation {
    fields: ["9001", "9002", "9003", "9004", "9005", "9006"],
    text_units_max: 65_536,
    numbers_are_text: true,
};
/// Attributes of a ticket that the simulator takes without keeping them.
const TAKEN: [&str; 4] = ["subject", "comment", "tags", "external_id"];

pub(super) fn handle(world: &mut World, call: &Call<'_>, by: &By) -> Result<Outcome, Reply> {
    match (call.method.as_str(), by) {
        ("GET", By::Nothing) => {
            let Some(id) = query(call, "external_id") else {
                return Err(error(400, "RequiredParameterMissing", "the simulator lists tickets by external_id only"));
            };
            let tickets: Vec<Value> =
                document(world, call, &id).map(|document| ticket(call, &id, document)).into_iter().collect();
            Ok(Reply::json(200, &json!({"tickets": tickets, "count": tickets.len(), "next_page": null})).into())
        }
        ("POST", By::Nothing) => create(world, call),
        ("GET" | "PUT", By::Own(number)) => {
            let thread = number.parse().ok().and_then(|number| thread_numbered(world, call, number));
            match thread {
                None => Err(error(404, "RecordNotFound", "Not found")),
                Some(id) if call.method == "PUT" => update(world, call, &id),
                Some(id) => Ok(shown(world, call, 200, &id).into()),
            }
        }
        _ => Err(error(405, "MethodNotAllowed", "nothing happens here")),
    }
}

fn create(world: &mut World, call: &Call<'_>) -> Result<Outcome, Reply> {
    let (ticket, written) = sent(call)?;
    let Some(id) = ticket.get("external_id").and_then(Value::as_str).filter(|id| is_well_formed(id)) else {
        return Err(error(422, "RecordInvalid", "the simulator's tickets need an external_id"));
    };
    if !ticket.get("comment").is_some_and(Value::is_object) {
        return Err(error(422, "RecordInvalid", "Description: cannot be blank"));
    }
    if document(world, call, id).is_some() {
        return Err(error(
            422,
            "RecordInvalid",
            "the simulator holds one ticket of an external_id; Zendesk takes several",
        ));
    }
    put(world, call, id, &INSTALLATION, &written).map_err(|flaw| refused(&flaw))?;
    Ok(applied(shown(world, call, 201, id), id, "thread.create"))
}

fn update(world: &mut World, call: &Call<'_>, id: &str) -> Result<Outcome, Reply> {
    let (ticket, written) = sent(call)?;
    if ticket.get("safe_update").is_some_and(|safe| safe == true) {
        let stamp = ticket.get("updated_stamp").and_then(Value::as_str);
        let Some(stamp) = stamp.and_then(|stamp| chrono::DateTime::parse_from_rfc3339(stamp).ok()) else {
            return Err(error(400, "RecordInvalid", "safe_update needs an updated_stamp"));
        };
        let stands = document(world, call, id).map(|document| document.modified_ms / 1000);
        if stands != Some(stamp.timestamp()) {
            return Err(error(409, "UpdateConflict", "the ticket has changed since updated_stamp"));
        }
    }
    put(world, call, id, &INSTALLATION, &written).map_err(|flaw| refused(&flaw))?;
    Ok(applied(shown(world, call, 200, id), id, "thread.patch"))
}

/// The ticket of a write, and its custom fields by number.
type Sent<'a> = (&'a Map<String, Value>, Map<String, Value>);

/// Reads a write, whose fields all have to be there.
fn sent<'a>(call: &Call<'a>) -> Result<Sent<'a>, Reply> {
    let Some(ticket) = json_object(call)?.get("ticket").and_then(Value::as_object) else {
        return Err(error(400, "RequiredParameterMissing", "the body needs a ticket"));
    };
    let known = |name: &str| TAKEN.contains(&name) || ["custom_fields", "safe_update", "updated_stamp"].contains(&name);
    if let Some(stranger) = ticket.keys().find(|name| !known(name)) {
        return Err(refused(&Flaw::Unknown(stranger.clone())));
    }
    let mut written = Map::new();
    for field in ticket.get("custom_fields").and_then(Value::as_array).into_iter().flatten() {
        written.insert(field["id"].to_string(), field["value"].clone());
    }
    Ok((ticket, written))
}

fn shown(world: &World, call: &Call<'_>, status: u16, id: &str) -> Reply {
    let ticket = document(world, call, id).map(|document| ticket(call, id, document));
    Reply::json(status, &json!({"ticket": ticket}))
}

fn ticket(call: &Call<'_>, id: &str, document: &Document) -> Value {
    let number = |field: &str| field.parse::<u64>().unwrap_or_default();
    let fields = INSTALLATION.show(&document.value);
    let fields: Vec<Value> =
        fields.into_iter().map(|(field, value)| json!({"id": number(field), "value": value})).collect();
    let at = chrono::DateTime::from_timestamp(document.modified_ms / 1000, 0).unwrap_or_default();
    json!({
        "id": number_of(call.tenant, id),
        "external_id": id,
        "status": "open",
        "subject": "Social thread",
        "updated_at": at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "custom_fields": fields,
        "fields": fields,
    })
}

fn refused(flaw: &Flaw) -> Reply {
    match flaw {
        Flaw::Unknown(field) => error(422, "RecordInvalid", &format!("there is no field {field}")),
        Flaw::TooLong(field) => {
            error(422, "RecordInvalid", &format!("{field}: is too long (maximum 65536 characters)"))
        }
    }
}

fn error(status: u16, code: &str, description: &str) -> Reply {
    Reply::json(status, &json!({"error": code, "description": description}))
}
