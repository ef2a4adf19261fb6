//! The Genesys audit trail: made-up entries per channel plus one for every real change, read page by page.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use crate::{
    clock::rfc3339,
    reply::Reply,
    routes,
    world::{Call, Outcome, World, not_found},
};

/// Real changes remembered per channel.
const CHANGES_MAX: usize = 1000;
/// Channels whose changes are remembered.
const CHANNELS_MAX: usize = 50_000;
/// Largest page.
const PAGE_MAX: usize = 500;
/// Beyond every time a query can name: the year 10000.
const TIME_END_MS: i64 = 253_402_300_800_000;
const FOREIGN_CURSOR: &str = "cursor was not issued by this server";
/// Distance between two made-up entries.
const SPACING_MS: i64 = 60_000;
/// Transactions remembered.
const TRANSACTIONS_MAX: usize = 10_000;

#[derive(Debug, Clone)]
struct Change {
    number: usize,
    action: &'static str,
    detail: String,
    at_ms: i64,
}

/// Real changes by channel.
#[derive(Debug, Default)]
pub(crate) struct AuditTrail {
    by_channel: HashMap<String, (usize, VecDeque<Change>)>,
    transactions: HashMap<String, Transaction>,
}

/// A query that is being worked on.
#[derive(Debug)]
struct Transaction {
    entity: String,
    start_ms: i64,
    end_ms: i64,
    /// How often it was looked at.
    looks: u32,
}

impl AuditTrail {
    pub(crate) fn add(&mut self, tenant: &str, id: &str, action: &'static str, detail: &str, at_ms: i64) {
        let key = format!("{tenant}/{id}");
        if self.by_channel.len() >= CHANNELS_MAX && !self.by_channel.contains_key(&key) {
            return;
        }
        let (count, changes) = self.by_channel.entry(key).or_default();
        *count += 1;
        if changes.len() >= CHANGES_MAX {
            changes.pop_front();
        }
        changes.push_back(Change { number: *count, action, detail: detail.to_owned(), at_ms });
    }
}

/// The parameters of a query, from the query string (GET) or the JSON body (POST).
struct Query {
    entity: String,
    start_ms: i64,
    end_ms: i64,
    page_size: usize,
    offset: usize,
}

/// Answers `{"entities": [..], "pageSize": n, "nextPageCursor": text or absent}`, or, where the body names an interval,
/// 202 with a transaction.
pub(crate) fn query(world: &mut World, call: &Call<'_>) -> Outcome {
    if let Some(interval) = call.json.and_then(|body| body.get("interval")) {
        return match asked(call, interval) {
            Ok(transaction) => begin(world, call, transaction),
            Err(problem) => Reply::error(400, "bad.request", problem).into(),
        };
    }
    match read(call) {
        Ok(query) => page(world, call, &query, "nextPageCursor"),
        Err(problem) => Reply::error(400, "bad.request", problem).into(),
    }
}

/// The query of a body as the real service takes it: an interval, a service, and filters by property.
fn asked(call: &Call<'_>, interval: &Value) -> Result<Transaction, String> {
    let body = call.json.ok_or("a JSON body is required")?;
    if body.get("serviceName").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("serviceName is required".to_owned());
    }
    let (start, end) = interval.as_str().and_then(|text| text.split_once('/')).ok_or("interval is start/end")?;
    let moment = |text: &str| {
        let at = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| "interval is two RFC 3339 times".to_owned())?;
        Ok::<i64, String>(at.timestamp_millis())
    };
    let (start_ms, end_ms) = (moment(start)?, moment(end)?);
    let filters = body.get("filters").and_then(Value::as_array).ok_or("filters are required")?;
    let by_entity = filters.iter().find(|filter| filter.get("property").is_some_and(|name| name == "EntityId"));
    let entity = by_entity.and_then(|filter| filter.get("value")).and_then(Value::as_str);
    let entity = entity.filter(|id| routes::is_well_formed(id)).ok_or("filters must name an EntityId")?.to_owned();
    if start_ms > end_ms || ![start_ms, end_ms].iter().all(|at_ms| (0..TIME_END_MS).contains(at_ms)) {
        return Err("interval ends before it begins".to_owned());
    }
    Ok(Transaction { entity, start_ms, end_ms, looks: 0 })
}

fn begin(world: &mut World, call: &Call<'_>, transaction: Transaction) -> Outcome {
    if world.audit.transactions.len() >= TRANSACTIONS_MAX {
        return Reply::error(507, "full", "the simulator holds no more audit transactions; reset it").into();
    }
    let id = uuid::Uuid::new_v4().to_string();
    world.audit.transactions.insert(format!("{}/{id}", call.tenant), transaction);
    Reply::json(202, &json!({"id": id, "state": "Queued"})).into()
}

/// Answers how a transaction stands: ready once it was looked at often enough.
pub(crate) fn transaction(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let Some(transaction) = world.audit.transactions.get_mut(&format!("{}/{id}", call.tenant)) else {
        return not_found("transaction", id);
    };
    let state = if transaction.looks >= call.settings.audit_looks { "Succeeded" } else { "Running" };
    transaction.looks = transaction.looks.saturating_add(1);
    Reply::json(200, &json!({"id": id, "state": state})).into()
}

/// Answers `{"id", "entities": [..], "pageSize": n, "cursor": text or absent}` of a transaction that is ready.
pub(crate) fn results(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let Some(transaction) = world.audit.transactions.get(&format!("{}/{id}", call.tenant)) else {
        return not_found("transaction", id);
    };
    if transaction.looks <= call.settings.audit_looks {
        return Reply::error(400, "not.ready", "the transaction has not succeeded yet").into();
    }
    let (entity, start_ms, end_ms) = (transaction.entity.clone(), transaction.start_ms, transaction.end_ms);
    match paged(call, Query { entity, start_ms, end_ms, page_size: 25, offset: 0 }) {
        Ok(query) => page(world, call, &query, "cursor"),
        Err(problem) => Reply::error(400, "bad.request", problem).into(),
    }
}

/// One page. The made-up entries lie one minute apart before the end of the window; a cursor names the window it was
/// given for, and stands in the member `cursor`.
fn page(world: &World, call: &Call<'_>, query: &Query, cursor: &str) -> Outcome {
    let mut entries: Vec<Value> = Vec::new();
    if let Some((_, changes)) = world.audit.by_channel.get(&format!("{}/{}", call.tenant, query.entity)) {
        let within = |change: &&Change| (query.start_ms..=query.end_ms).contains(&change.at_ms);
        entries.extend(changes.iter().filter(within).map(|change| {
            let id = format!("audit-{}-change-{}", query.entity, change.number);
            entry(&id, &query.entity, change.action, &change.detail, change.at_ms)
        }));
    }
    // Only the page that is asked for is made: a trail may have a million entries.
    let room = usize::try_from((query.end_ms - query.start_ms) / SPACING_MS).unwrap_or(0);
    let made_up = room.min(call.settings.audit_entries as usize);
    let total = entries.len() + made_up;
    let page: Vec<Value> = (query.offset..total.min(query.offset.saturating_add(query.page_size)))
        .map(|at| match at.checked_sub(entries.len()) {
            None => entries[at].clone(),
            Some(number) => {
                let at_ms = query.end_ms - SPACING_MS * (number as i64 + 1);
                entry(&format!("audit-{}-{number}", query.entity), &query.entity, "VIEW", "made up", at_ms)
            }
        })
        .collect();
    let next = query.offset + page.len();
    let mut body = json!({"entities": page, "pageSize": query.page_size, "total": total});
    if next < total {
        body[cursor] = Value::from(format!("c.{next}.{}.{}", query.start_ms, query.end_ms));
    }
    Reply::json(200, &body).into()
}

fn entry(id: &str, entity: &str, action: &str, detail: &str, at_ms: i64) -> Value {
    json!({
        "id": id,
        "eventDate": rfc3339(at_ms),
        "action": action,
        "entityType": "WebchatChannel",
        "entity": {"id": entity},
        "user": {"id": "user-1", "name": "Simulated Admin"},
        "message": detail,
    })
}

/// A parameter from the query string, else from the JSON body.
fn text(call: &Call<'_>, name: &str) -> Option<String> {
    let in_query = routes::form_pairs(call.query).into_iter().find(|(own, _)| own == name).map(|(_, value)| value);
    in_query.or_else(|| match call.json?.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn read(call: &Call<'_>) -> Result<Query, String> {
    let text = |name: &str| text(call, name);
    let filter = text("filter").ok_or("filter is required, for example entityId:{id}")?;
    let entity = filter.strip_prefix("entityId:").filter(|id| routes::is_well_formed(id));
    let entity = entity.ok_or("filter must be entityId:{id} with a well-formed id")?.to_owned();
    let moment = |name: &str, default_ms: i64| match text(name) {
        None => Ok(default_ms),
        Some(text) => chrono::DateTime::parse_from_rfc3339(&text)
            .map(|at| at.timestamp_millis())
            .map_err(|_| format!("{name} is not an RFC 3339 time")),
    };
    let end_ms = moment("endTime", call.now_ms)?;
    let start_ms = moment("startTime", end_ms - 7 * 86_400_000)?;
    paged(call, Query { entity, start_ms, end_ms, page_size: 100, offset: 0 })
}

/// The query with the page that the call asks for.
fn paged(call: &Call<'_>, mut query: Query) -> Result<Query, String> {
    if let Some(text) = text(call, "pageSize") {
        let size = text.parse().ok().filter(|size| (1..=PAGE_MAX).contains(size));
        query.page_size = size.ok_or("pageSize is 1 to 500")?;
    }
    if let Some(cursor) = text(call, "cursor").or_else(|| text(call, "nextPageCursor")) {
        let parts: Vec<&str> = cursor.split('.').collect();
        let parsed = match parts.as_slice() {
            ["c", at, start, end] => at.parse().ok().zip(start.parse().ok()).zip(end.parse().ok()),
            _ => None,
        };
        // The window comes from the cursor, so that pages fit together though the clock goes on.
        ((query.offset, query.start_ms), query.end_ms) = parsed.ok_or(FOREIGN_CURSOR)?;
        if ![query.start_ms, query.end_ms].iter().all(|at_ms| (0..TIME_END_MS).contains(at_ms)) {
            return Err(FOREIGN_CURSOR.to_owned());
        }
    }
    if query.start_ms > query.end_ms {
        return Err("startTime is after endTime".to_owned());
    }
    Ok(query)
}
