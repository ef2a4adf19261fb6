//! A delta, applied to the thread that a record holds.

use std::collections::{HashMap, HashSet};

use backhaul_outbound::profile::MEMBERS;
use chrono::{DateTime, FixedOffset};
use serde_json::{Map, Value};

/// The lists of a thread, and the delta's names for what it adds, updates and removes.
const LISTS: [(&str, [&str; 3]); 2] = [
    ("messages", ["addedMessages", "updatedMessages", "removedMessages"]),
    ("participants", ["addedParticipants", "updatedParticipants", "removedParticipants"]),
];

/// The thread that results when `delta` is applied to `thread`, as the CRM's own threads would do it.
pub(super) fn applied(thread: &Value, delta: &Map<String, Value>) -> Value {
    let mut after = thread.as_object().cloned().unwrap_or_default();
    for (list, [added, updated, removed]) in LISTS {
        let told = |name: &str| delta.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let standing = match after.remove(list) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let gone: HashSet<&str> = told(removed).iter().filter_map(Value::as_str).collect();
        let mut items = overlaid(standing, told(added).iter().chain(told(updated)), &gone);
        if list == "messages" && !told(added).is_empty() {
            items.sort_by_cached_key(|message| (time(message), id(message)));
        }
        after.insert(list.to_owned(), Value::Array(items));
    }
    for member in MEMBERS.iter().filter(|member| !matches!(**member, "messages" | "participants")) {
        // Absent is unchanged, and null is a value: it unlinks a parent.
        if let Some(value) = delta.get(*member) {
            after.insert((*member).to_owned(), value.clone());
        }
    }
    Value::Object(after)
}

/// Each item with the members that a change of it gives; what no change names stays as and where it is.
fn overlaid<'d>(mut items: Vec<Value>, changes: impl Iterator<Item = &'d Value>, gone: &HashSet<&str>) -> Vec<Value> {
    let mut places: HashMap<String, usize> = items.iter().enumerate().map(|(at, item)| (id(item), at)).collect();
    for change in changes {
        match places.get(&id(change)) {
            Some(&at) => {
                if let (Some(item), Some(change)) = (items[at].as_object_mut(), change.as_object()) {
                    item.extend(change.clone());
                }
            }
            None => {
                places.insert(id(change), items.len());
                items.push(change.clone());
            }
        }
    }
    items.retain(|item| !item.get("id").and_then(Value::as_str).is_some_and(|id| gone.contains(id)));
    items
}

fn id(item: &Value) -> String {
    item.get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The order of a conversation is that of its times; what has none, the CRM's own notes, comes first.
fn time(message: &Value) -> Option<DateTime<FixedOffset>> {
    DateTime::parse_from_rfc3339(message.get("timestamp")?.as_str()?).ok()
}
