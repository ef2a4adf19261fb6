//! The Genesys audit trail: made-up entries per channel plus one for every real change, read page by page.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use crate::{
    clock::rfc3339,
    reply::Reply,
    routes,
    world::{Call, Outcome, World},
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

/// Answers `{"entities": [..], "pageSize": n, "nextPageCursor": text or absent}`. The made-up entries lie one minute
/// apart before the end of the window; a cursor names the window it was given for.
pub(crate) fn query(world: &mut World, call: &Call<'_>) -> Outcome {
    let query = match read(call) {
        Ok(query) => query,
        Err(problem) => return Reply::error(400, "bad.request", problem).into(),
    };
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
        body["nextPageCursor"] = Value::from(format!("c.{next}.{}.{}", query.start_ms, query.end_ms));
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

fn read(call: &Call<'_>) -> Result<Query, String> {
    let pairs = routes::form_pairs(call.query);
    let text = |name: &str| -> Option<String> {
        let in_query = pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        in_query.or_else(|| match call.json?.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    };
    let filter = text("filter").ok_or("filter is required, for example entityId:{id}")?;
    let entity = filter.strip_prefix("entityId:").filter(|id| routes::is_well_formed(id));
    let entity = entity.ok_or("filter must be entityId:{id} with a well-formed id")?.to_owned();
    let moment = |name: &str, default_ms: i64| match text(name) {
        None => Ok(default_ms),
        Some(text) => chrono::DateTime::parse_from_rfc3339(&text)
            .map(|at| at.timestamp_millis())
            .map_err(|_| format!("{name} is not an RFC 3339 time")),
    };
    let mut end_ms = moment("endTime", call.now_ms)?;
    let mut start_ms = moment("startTime", end_ms - 7 * 86_400_000)?;
    let page_size = match text("pageSize") {
        None => 100,
        Some(text) => text.parse().ok().filter(|size| (1..=PAGE_MAX).contains(size)).ok_or("pageSize is 1 to 500")?,
    };
    let mut offset = 0;
    if let Some(cursor) = text("cursor").or_else(|| text("nextPageCursor")) {
        let parts: Vec<&str> = cursor.split('.').collect();
        let parsed = match parts.as_slice() {
            ["c", at, start, end] => at.parse().ok().zip(start.parse().ok()).zip(end.parse().ok()),
            _ => None,
        };
        // The window comes from the cursor, so that pages fit together though the clock goes on.
        ((offset, start_ms), end_ms) = parsed.ok_or(FOREIGN_CURSOR)?;
        if ![start_ms, end_ms].iter().all(|at_ms| (0..TIME_END_MS).contains(at_ms)) {
            return Err(FOREIGN_CURSOR.to_owned());
        }
    }
    if start_ms > end_ms {
        return Err("startTime is after endTime".to_owned());
    }
    Ok(Query { entity, start_ms, end_ms, page_size, offset })
}
