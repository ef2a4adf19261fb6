//! Three-way merge of JSON documents: what we want, what stands there, and what stood there when we looked.
//!
//! The unit is the member of an object. A list is one value, unless it is a keyed list: then its items are matched by
//! the members that name them, and each item is one value.

use serde_json::{Map, Value};

/// A list whose items are named by some of their members, such as event listeners by event and action.
#[derive(Debug, Clone, Copy)]
pub struct KeyedList {
    /// JSON pointer of the list; its segments need no escaping.
    pub pointer: &'static str,
    /// The members that together name an item.
    pub key: &'static [&'static str],
}

/// The document that results when both sides' changes since `base` are kept, or the JSON pointers of the members that
/// both sides changed differently.
pub fn three_way(base: &Value, ours: &Value, theirs: &Value, lists: &[KeyedList]) -> Result<Value, Vec<String>> {
    let mut merge = Merge { lists, conflicts: Vec::new() };
    let merged = merge.member(Some(base), Some(ours), Some(theirs), "");
    if merge.conflicts.is_empty() { Ok(merged.unwrap_or(Value::Null)) } else { Err(merge.conflicts) }
}

/// `document` with the members of the sparse `patch` set. Objects are merged; of keyed lists, the items that the patch
/// names get the members that it gives, or are added; everything else is replaced.
pub fn overlay(document: &Value, patch: &Value, lists: &[KeyedList]) -> Value {
    overlay_at(Some(document), patch, lists, "")
}

/// The sparse patch that turns `from` into `to`: only the members that differ, lists as a whole. `None` where nothing
/// differs. Members that `to` lacks are left alone: a sparse patch cannot remove.
pub fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for (name, wanted) in to {
        let changed = match from.get(name) {
            Some(present) => difference(present, wanted),
            None => Some(wanted.clone()),
        };
        if let Some(changed) = changed {
            patch.insert(name.clone(), changed);
        }
    }
    if patch.is_empty() { None } else { Some(Value::Object(patch)) }
}

fn overlay_at(document: Option<&Value>, patch: &Value, lists: &[KeyedList], pointer: &str) -> Value {
    match (document, patch) {
        (_, Value::Object(members)) => {
            let mut result = document.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, wanted) in members {
                let inner = overlay_at(result.get(name), wanted, lists, &format!("{pointer}/{name}"));
                result.insert(name.clone(), inner);
            }
            Value::Object(result)
        }
        (Some(Value::Array(present)), Value::Array(wanted)) => match keyed(lists, pointer) {
            Some(list) => overlay_list(present, wanted, list),
            None => patch.clone(),
        },
        _ => patch.clone(),
    }
}

fn overlay_list(present: &[Value], wanted: &[Value], list: &KeyedList) -> Value {
    let mut result = present.to_vec();
    for item in wanted {
        let key = item_key(item, list);
        let same = result.iter_mut().find(|other| key.is_some() && item_key(other, list) == key);
        match same {
            Some(other) => set_members(other, item),
            None => result.push(item.clone()),
        }
    }
    Value::Array(result)
}

/// Sets the members of `item` in `other`; members that the item does not name stay as they are.
fn set_members(other: &mut Value, item: &Value) {
    let (Some(present), Some(wanted)) = (other.as_object_mut(), item.as_object()) else { return };
    present.extend(wanted.iter().map(|(name, value)| (name.clone(), value.clone())));
}

fn keyed<'l>(lists: &'l [KeyedList], pointer: &str) -> Option<&'l KeyedList> {
    lists.iter().find(|list| list.pointer == pointer)
}

/// The values of an item's naming members; `None` where one is missing.
fn item_key<'v>(item: &'v Value, list: &KeyedList) -> Option<Vec<&'v Value>> {
    list.key.iter().map(|name| item.get(name)).collect()
}

/// The items with their keys; `None` where an item has no key or two share one, so that matching would guess.
fn index<'v>(items: &'v [Value], list: &KeyedList) -> Option<Vec<(Vec<&'v Value>, &'v Value)>> {
    let mut indexed: Vec<(Vec<&Value>, &Value)> = Vec::with_capacity(items.len());
    for item in items {
        let key = item_key(item, list)?;
        if indexed.iter().any(|(other, _)| *other == key) {
            return None;
        }
        indexed.push((key, item));
    }
    Some(indexed)
}

struct Merge<'l> {
    lists: &'l [KeyedList],
    conflicts: Vec<String>,
}

impl Merge<'_> {
    /// Absence is a value like any other: `None` means that the member is not there.
    fn member(
        &mut self,
        base: Option<&Value>,
        ours: Option<&Value>,
        theirs: Option<&Value>,
        pointer: &str,
    ) -> Option<Value> {
        if ours == theirs || base == ours {
            return theirs.cloned();
        }
        if base == theirs {
            return ours.cloned();
        }
        match (ours, theirs) {
            (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
                Some(self.object(base.and_then(Value::as_object), ours, theirs, pointer))
            }
            (Some(Value::Array(ours)), Some(Value::Array(theirs))) => {
                let base = base.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                match self.list(base, ours, theirs, pointer) {
                    Some(merged) => Some(merged),
                    None => self.conflict(pointer, Some(&Value::Array(theirs.clone()))),
                }
            }
            _ => self.conflict(pointer, theirs),
        }
    }

    fn conflict(&mut self, pointer: &str, theirs: Option<&Value>) -> Option<Value> {
        self.conflicts.push(pointer.to_owned());
        theirs.cloned()
    }

    fn object(
        &mut self,
        base: Option<&Map<String, Value>>,
        ours: &Map<String, Value>,
        theirs: &Map<String, Value>,
        pointer: &str,
    ) -> Value {
        let mut merged = Map::new();
        let added = ours.keys().filter(|name| !theirs.contains_key(*name));
        for name in theirs.keys().chain(added) {
            let base = base.and_then(|base| base.get(name));
            let inner = self.member(base, ours.get(name), theirs.get(name), &format!("{pointer}/{name}"));
            if let Some(inner) = inner {
                merged.insert(name.clone(), inner);
            }
        }
        Value::Object(merged)
    }

    /// Their order stands, our additions follow in our order. `None` where the list is not a keyed one.
    fn list(&mut self, base: &[Value], ours: &[Value], theirs: &[Value], pointer: &str) -> Option<Value> {
        let list = *keyed(self.lists, pointer)?;
        let (base, ours, theirs) = (index(base, &list)?, index(ours, &list)?, index(theirs, &list)?);
        let find = |items: &[(Vec<&Value>, &Value)], key: &[&Value]| {
            items.iter().find(|(other, _)| other == key).map(|(_, item)| (*item).clone())
        };
        let mut merged = Vec::new();
        let added = ours.iter().filter(|(key, _)| find(&theirs, key).is_none());
        for (key, _) in theirs.iter().chain(added) {
            let (was, want, is) = (find(&base, key), find(&ours, key), find(&theirs, key));
            let item = if want == is || was == want {
                is
            } else if was == is {
                want
            } else {
                let name: Vec<String> = key.iter().map(|part| part.to_string().replace('"', "")).collect();
                self.conflict(&format!("{pointer}/{}", name.join("+")), is.as_ref())
            };
            merged.extend(item);
        }
        Some(Value::Array(merged))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LISTENERS: &[KeyedList] = &[KeyedList { pointer: "/eventListeners", key: &["eventType", "action"] }];

    fn listener(event: &str, action: &str, payload: u8) -> Value {
        json!({"eventType": event, "action": action, "payload": {"n": payload}})
    }

    /// Covers row 36: the other writer changed the layout, we the primary colour; both stay.
    #[test]
    fn changes_of_different_members_are_both_kept() {
        let base = json!({"theme": {"primaryColor": "#aaa", "widgetSize": "medium"}, "layout": {"zIndex": 1}});
        let ours = overlay(&base, &json!({"theme": {"primaryColor": "#bbb"}}), LISTENERS);
        let theirs = json!({"theme": {"primaryColor": "#aaa", "widgetSize": "medium"}, "layout": {"zIndex": 2}});
        let merged = three_way(&base, &ours, &theirs, LISTENERS).expect("no conflict");
        assert_eq!(merged["theme"]["primaryColor"], "#bbb");
        assert_eq!(merged["layout"]["zIndex"], 2);
        assert_eq!(difference(&theirs, &merged), Some(json!({"theme": {"primaryColor": "#bbb"}})));
    }

    /// Covers row 37: base A, ours B, theirs C.
    #[test]
    fn the_same_member_changed_twice_is_a_conflict() {
        let base = json!({"theme": {"primaryColor": "#aaa"}});
        let ours = json!({"theme": {"primaryColor": "#bbb"}});
        let theirs = json!({"theme": {"primaryColor": "#ccc"}});
        assert_eq!(three_way(&base, &ours, &theirs, LISTENERS), Err(vec!["/theme/primaryColor".to_owned()]));
    }

    #[test]
    fn an_equal_change_is_no_conflict() {
        let base = json!({"a": 1});
        let both = json!({"a": 2});
        assert_eq!(three_way(&base, &both, &both, LISTENERS), Ok(both.clone()));
        assert_eq!(difference(&both, &both), None);
    }

    #[test]
    fn removal_and_change_of_one_member_conflict() {
        let base = json!({"a": 1, "b": 1});
        assert_eq!(three_way(&base, &json!({"a": 2, "b": 1}), &json!({"b": 1}), &[]), Err(vec!["/a".to_owned()]));
        assert_eq!(three_way(&base, &json!({"a": 1, "b": 2}), &json!({"b": 1}), &[]), Ok(json!({"b": 2})));
    }

    /// Covers row 40: listeners are merged by event and action.
    #[test]
    fn keyed_lists_are_merged_by_their_key() {
        let base = json!({"eventListeners": [listener("widget_open", "track_latency", 1)]});
        let patch = json!({"eventListeners": [listener("message_sent", "log_to_external", 2)]});
        let ours = overlay(&base, &patch, LISTENERS);
        assert_eq!(ours["eventListeners"].as_array().map(Vec::len), Some(2));
        let theirs = json!({"eventListeners": [
            listener("widget_open", "track_latency", 1), listener("widget_close", "track_latency", 3)]});
        let merged = three_way(&base, &ours, &theirs, LISTENERS).expect("no conflict");
        assert_eq!(
            merged["eventListeners"],
            json!([
                listener("widget_open", "track_latency", 1),
                listener("widget_close", "track_latency", 3),
                listener("message_sent", "log_to_external", 2),
            ])
        );
    }

    #[test]
    fn one_item_changed_by_both_sides_is_a_conflict() {
        let document = |payload| json!({"eventListeners": [listener("widget_open", "track_latency", payload)]});
        let conflicts = three_way(&document(1), &document(2), &document(3), LISTENERS);
        assert_eq!(conflicts, Err(vec!["/eventListeners/widget_open+track_latency".to_owned()]));
    }

    /// Two listeners under one key cannot be told apart, so a list with changes on both sides is a conflict.
    #[test]
    fn ambiguous_keys_are_not_guessed() {
        let twice = |payload| json!({"eventListeners": [listener("a", "b", 1), listener("a", "b", payload)]});
        let ours = overlay(&twice(1), &json!({"eventListeners": [listener("c", "d", 1)]}), LISTENERS);
        assert!(three_way(&twice(1), &ours, &twice(1), LISTENERS).is_ok());
        assert_eq!(three_way(&twice(1), &ours, &twice(2), LISTENERS), Err(vec!["/eventListeners".to_owned()]));
    }
}
