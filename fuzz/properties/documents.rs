//! Whole documents: merging them, and finding personal data in them.

use backhaul_workers::{
    merge::{self, KeyedList},
    personal_data::{self, Context},
};
use serde_json::Value;

use super::{json, text};

const LISTS: &[KeyedList] = &[KeyedList { pointer: "/list", key: &["id"] }];

/// Who changed nothing loses nothing and wins nothing, and both sides agree on what is a conflict.
pub(super) fn merge(bytes: &[u8]) {
    let Some(Value::Array(documents)) = json(bytes) else { return };
    let [base, ours, theirs, ..] = &documents[..] else { return };
    assert_eq!(merge::three_way(base, ours, base).as_ref(), Ok(ours));
    assert_eq!(merge::three_way(base, base, theirs).as_ref(), Ok(theirs));
    assert_eq!(merge::three_way(base, ours, ours).as_ref(), Ok(ours));
    let (left, right) = (merge::three_way(base, ours, theirs), merge::three_way(base, theirs, ours));
    assert_eq!(left.is_err(), right.is_err(), "{left:?} and {right:?}");
    if let Ok(merged) = &left {
        assert_eq!(merge::three_way(base, ours, merged).as_ref(), Ok(merged), "a repetition changes nothing");
    }
    match merge::difference(ours, theirs) {
        None => {}
        Some(patch) => assert_eq!(merge::difference(&merge::overlay(ours, &patch, &[]), theirs), None),
    }
    // An item without a name is a new one each time.
    let nameless = |list: &Vec<Value>| list.iter().any(|item| item.get("id").is_none());
    if !ours.get("list").and_then(Value::as_array).is_some_and(nameless) {
        let once = merge::overlay(base, ours, LISTS);
        assert_eq!(merge::overlay(&once, ours, LISTS), once, "an overlay can be repeated");
        assert_eq!(merge::rebase(base, ours, base, LISTS).as_ref(), Ok(&once));
        assert_eq!(merge::rebase(base, ours, &once, LISTS).as_ref(), Ok(&once), "a repetition changes nothing");
        if let Ok(merged) = merge::rebase(base, ours, theirs, LISTS) {
            assert_eq!(merge::overlay(&merged, ours, LISTS), merged, "what the patch names holds");
        }
    }
}

/// Findings lie on characters, in order, without overlap; where they are masked, nothing is found any more, and all
/// else stays.
pub(super) fn personal_data(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    for context in [Context::None, Context::Phone, Context::Ssn] {
        let mut end = 0;
        for span in personal_data::find(text, context) {
            assert!(span.start >= end && span.start < span.end && text.get(span.start..span.end).is_some(), "{span:?}");
            end = span.end;
        }
    }
    let masked = personal_data::mask_all(text);
    assert_eq!(personal_data::find(&masked, Context::None), [], "{masked:?}");
    let Some(document) = json(bytes) else { return };
    let masked = personal_data::mask(&document, &|_| true);
    let left: Vec<_> =
        personal_data::scan(&masked).into_iter().filter(|found| found.place == personal_data::Place::Value).collect();
    assert!(left.is_empty(), "{left:?} in {masked}");
    assert_eq!(personal_data::mask(&document, &|_| false), document);
}
