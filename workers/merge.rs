//! Three-way merge of JSON documents: what we want, what stands there, and what stood there when we looked.
//!
//! The unit is the member of an object. A list is one value, unless it is a keyed list of a patch: then its items are
//! matched by the members that name them, and each item is one value.

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
/// both sides changed differently. A member that `ours` leaves as it was is not ours: theirs stays.
pub fn three_way(base: &Value, ours: &Value, theirs: &Value) -> Result<Value, Vec<String>> {
    let mut conflicts = Vec::new();
    let merged = both(Some(base), Some(ours), Some(theirs), "", &mut conflicts);
    if conflicts.is_empty() { Ok(merged.unwrap_or(Value::Null)) } else { Err(conflicts) }
}

/// `theirs` with the members of the sparse `patch` set, which was meant for `base`; or the JSON pointers of the members
/// that the patch names and that somebody gave another value since. A member that is named is ours whether the patch
/// changes it or says that it stays: the job is done when it holds. Whatever the patch does not name is theirs.
pub fn rebase(base: &Value, patch: &Value, theirs: &Value, lists: &[KeyedList]) -> Result<Value, Vec<String>> {
    let mut conflicts = Vec::new();
    clashes(Some(base), patch, Some(theirs), lists, "", &mut conflicts);
    if conflicts.is_empty() { Ok(overlay(theirs, patch, lists)) } else { Err(conflicts) }
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

/// Absence is a value like any other: `None` means that the member is not there.
fn both(
    base: Option<&Value>,
    ours: Option<&Value>,
    theirs: Option<&Value>,
    pointer: &str,
    conflicts: &mut Vec<String>,
) -> Option<Value> {
    if ours == theirs || base == ours {
        return theirs.cloned();
    }
    if base == theirs {
        return ours.cloned();
    }
    let (Some(Value::Object(ours)), Some(Value::Object(theirs))) = (ours, theirs) else {
        conflicts.push(pointer.to_owned());
        return theirs.cloned();
    };
    let mut merged = Map::new();
    let added = ours.keys().filter(|name| !theirs.contains_key(*name));
    for name in theirs.keys().chain(added) {
        let base = base.and_then(|base| base.get(name));
        let inner = both(base, ours.get(name), theirs.get(name), &format!("{pointer}/{name}"), conflicts);
        if let Some(inner) = inner {
            merged.insert(name.clone(), inner);
        }
    }
    Some(Value::Object(merged))
}

/// Collects what the patch names and cannot set: `theirs` holds neither what it wants nor what stood in `base`.
fn clashes(
    base: Option<&Value>,
    patch: &Value,
    theirs: Option<&Value>,
    lists: &[KeyedList],
    pointer: &str,
    conflicts: &mut Vec<String>,
) {
    if base == theirs || theirs.is_some_and(|theirs| overlay_at(Some(theirs), patch, lists, pointer) == *theirs) {
        return;
    }
    match (patch, theirs) {
        (Value::Object(members), Some(Value::Object(theirs))) => {
            for (name, wanted) in members {
                let base = base.and_then(|base| base.get(name));
                clashes(base, wanted, theirs.get(name), lists, &format!("{pointer}/{name}"), conflicts);
            }
        }
        (Value::Array(wanted), Some(Value::Array(theirs))) => {
            let base = base.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let items = keyed(lists, pointer).and_then(|list| item_clashes(base, wanted, theirs, list));
            match items {
                Some(names) => conflicts.extend(names.iter().map(|name| format!("{pointer}/{name}"))),
                None => conflicts.push(pointer.to_owned()),
            }
        }
        _ => conflicts.push(pointer.to_owned()),
    }
}

/// The names of the items that clash; `None` where items cannot be told apart.
fn item_clashes(base: &[Value], wanted: &[Value], theirs: &[Value], list: &KeyedList) -> Option<Vec<String>> {
    let (base, wanted, theirs) = (index(base, list)?, index(wanted, list)?, index(theirs, list)?);
    let find = |items: &[(Vec<&Value>, &Value)], key: &[&Value]| {
        items.iter().find(|(other, _)| other == key).map(|(_, item)| (*item).clone())
    };
    let mut names = Vec::new();
    for (key, item) in &wanted {
        let (was, is) = (find(&base, key), find(&theirs, key));
        let holds = is.clone().is_some_and(|is| {
            let mut set = is.clone();
            set_members(&mut set, item);
            set == is
        });
        if !holds && was != is {
            let name: Vec<String> = key.iter().map(|part| part.to_string().replace('"', "")).collect();
            names.push(name.join("+"));
        }
    }
    Some(names)
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
        let patch = json!({"theme": {"primaryColor": "#bbb"}});
        let theirs = json!({"theme": {"primaryColor": "#aaa", "widgetSize": "medium"}, "layout": {"zIndex": 2}});
        let merged = rebase(&base, &patch, &theirs, LISTENERS).expect("no conflict");
        assert_eq!(merged["theme"]["primaryColor"], "#bbb");
        assert_eq!(merged["layout"]["zIndex"], 2);
        assert_eq!(difference(&theirs, &merged), Some(patch.clone()));
        assert_eq!(three_way(&base, &overlay(&base, &patch, &[]), &theirs), Ok(merged));
    }

    /// Covers row 37: base A, ours B, theirs C.
    #[test]
    fn the_same_member_changed_twice_is_a_conflict() {
        let base = json!({"theme": {"primaryColor": "#aaa"}});
        let ours = json!({"theme": {"primaryColor": "#bbb"}});
        let theirs = json!({"theme": {"primaryColor": "#ccc"}});
        let conflict = Err(vec!["/theme/primaryColor".to_owned()]);
        assert_eq!(rebase(&base, &ours, &theirs, LISTENERS), conflict);
        assert_eq!(three_way(&base, &ours, &theirs), conflict);
    }

    /// A member that the job names and that stood there already is the job's too: it does not hold if theirs stays.
    /// One that the job does not name is theirs.
    #[test]
    fn a_named_member_that_was_right_before_is_a_conflict() {
        let base = json!({"name": "Shop", "settings": {"origins": ["a"], "id": 1}});
        let patch = json!({"name": "Web shop", "settings": {"origins": ["a"]}});
        let theirs = |origins: Value, id: u8| json!({"name": "Shop", "settings": {"origins": origins, "id": id}});
        let stolen = rebase(&base, &patch, &theirs(json!(["c"]), 1), &[]);
        assert_eq!(stolen, Err(vec!["/settings/origins".to_owned()]));
        let merged = rebase(&base, &patch, &theirs(json!(["a"]), 2), &[]).expect("the id is not named");
        assert_eq!(merged, json!({"name": "Web shop", "settings": {"origins": ["a"], "id": 2}}));
        let gone = json!({"name": "Shop"});
        assert_eq!(rebase(&base, &patch, &gone, &[]), Err(vec!["/settings".to_owned()]));
        let put_back = three_way(&base, &overlay(&base, &patch, &[]), &theirs(json!(["c"]), 1)).expect("theirs stays");
        assert_eq!(put_back["settings"]["origins"], json!(["c"]));
    }

    #[test]
    fn an_equal_change_is_no_conflict() {
        let base = json!({"a": 1});
        let both = json!({"a": 2});
        assert_eq!(rebase(&base, &both, &both, LISTENERS), Ok(both.clone()));
        assert_eq!(three_way(&base, &both, &both), Ok(both.clone()));
        assert_eq!(difference(&both, &both), None);
    }

    #[test]
    fn removal_and_change_of_one_member_conflict() {
        let base = json!({"a": 1, "b": 1});
        assert_eq!(three_way(&base, &json!({"a": 2, "b": 1}), &json!({"b": 1})), Err(vec!["/a".to_owned()]));
        assert_eq!(three_way(&base, &json!({"a": 1, "b": 2}), &json!({"b": 1})), Ok(json!({"b": 2})));
        assert_eq!(rebase(&base, &json!({"a": 2}), &json!({"b": 1}), &[]), Err(vec!["/a".to_owned()]));
    }

    /// Covers row 40: listeners are merged by event and action.
    #[test]
    fn keyed_lists_are_merged_by_their_key() {
        let base = json!({"eventListeners": [listener("widget_open", "track_latency", 1)]});
        let patch = json!({"eventListeners": [listener("message_sent", "log_to_external", 2)]});
        let theirs = json!({"eventListeners": [
            listener("widget_open", "track_latency", 1), listener("widget_close", "track_latency", 3)]});
        let merged = rebase(&base, &patch, &theirs, LISTENERS).expect("no conflict");
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
        let conflict = Err(vec!["/eventListeners/widget_open+track_latency".to_owned()]);
        assert_eq!(rebase(&document(1), &document(2), &document(3), LISTENERS), conflict);
        assert_eq!(rebase(&document(1), &document(1), &document(3), LISTENERS), conflict, "named, so ours");
        let nameless = json!({"eventListeners": [{"eventType": "widget_open", "action": "track_latency"}]});
        assert_eq!(rebase(&document(1), &nameless, &document(3), LISTENERS), Ok(document(3)), "no payload is named");
        let gone = json!({"eventListeners": []});
        assert_eq!(rebase(&document(1), &document(1), &gone, LISTENERS), conflict);
    }

    /// Two listeners under one key cannot be told apart, so a list with changes on both sides is a conflict.
    #[test]
    fn ambiguous_keys_are_not_guessed() {
        let twice = |payload| json!({"eventListeners": [listener("a", "b", 1), listener("a", "b", payload)]});
        let patch = json!({"eventListeners": [listener("c", "d", 1)]});
        assert!(rebase(&twice(1), &patch, &twice(1), LISTENERS).is_ok());
        assert_eq!(rebase(&twice(1), &patch, &twice(2), LISTENERS), Err(vec!["/eventListeners".to_owned()]));
    }
}
