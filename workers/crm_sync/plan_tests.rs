use serde_json::json;

use super::*;
use crate::crm_sync::{delta::Change, envelope, thread::ThreadEvent};

fn settings() -> CrmSyncSettings {
    CrmSyncSettings::default()
}

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": null})
}

fn thread(version: u64, messages: &[Value]) -> Thread {
    let envelope = json!({"event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z",
        "data": {"threadId": "t1", "version": version, "messages": messages, "participants": []}});
    envelope::event(&envelope, &settings()).expect("a valid envelope")
}

fn synced(thread: &Thread) -> Snapshot {
    Snapshot::empty("salt".to_owned()).after(thread, &settings())
}

fn record(source_version: u64, messages: &[Value]) -> Option<(Value, Standing)> {
    let standing = Standing { etag: Some("W/\"41\"".to_owned()), version: Some(41), ..Standing::default() };
    Some((json!({"version": 41, "sourceVersion": source_version, "messages": messages, "participants": []}), standing))
}

fn kinds(plan: &Plan) -> Vec<String> {
    let shown = |change: &Change| match change {
        Change::Add(id, _) => format!("+{id}"),
        Change::Update(id, _) => format!("~{id}"),
        Change::Remove(id) => format!("-{id}"),
    };
    plan.chunks.iter().flat_map(|chunk| chunk.messages.iter().map(shown)).collect()
}

/// Covers row 163, row 164, row 184: an unknown thread is created with all it has.
#[test]
fn a_thread_the_crm_lacks_is_created_whole() {
    let first = thread(1, &[message("m1", "a"), message("m2", "b")]);
    let plan = difference(None, None, &first, &settings()).expect("a plan");
    assert_eq!(
        (kinds(&plan), plan.standing.clone(), plan.needs_source),
        (vec!["+m1".into(), "+m2".into()], None, false)
    );
    let repaired = repair(None, None, &first, &settings()).expect("a plan");
    assert_eq!(kinds(&repaired), ["+m1", "+m2"]);
    // It was synced before and the CRM lost it: the difference alone would leave it half.
    let second = thread(2, &[message("m1", "a"), message("m2", "b"), message("m3", "c")]);
    let plan = difference(None, Some(&synced(&first)), &second, &settings()).expect("a plan");
    assert_eq!(kinds(&plan), ["+m1", "+m2", "+m3"]);
    let mut partial = second;
    partial.participants = None;
    assert!(difference(None, Some(&synced(&first)), &partial, &settings()).expect("a plan").needs_source);
}

/// Covers row 165: against a known state only the difference is sent.
#[test]
fn a_known_thread_gets_the_difference() {
    let first = thread(1, &[message("m1", "a")]);
    let second = thread(2, &[message("m1", "a"), message("m2", "b")]);
    let read = record(1, &[message("m1", "a")]);
    let plan = difference(read, Some(&synced(&first)), &second, &settings()).expect("a plan");
    assert_eq!(kinds(&plan), ["+m2"]);
    assert_eq!(plan.standing.and_then(|standing| standing.version), Some(41));
}

#[test]
fn what_the_crm_has_already_is_not_sent() {
    let first = thread(1, &[message("m1", "a"), message("m2", "b")]);
    let plan = difference(record(0, &[message("m1", "a")]), None, &first, &settings()).expect("a plan");
    assert_eq!(kinds(&plan), ["+m2"], "a thread the CRM had before");
    let second = thread(2, &[message("m2", "edited"), message("m3", "c")]);
    let read = record(1, &[message("m3", "c")]);
    let plan = difference(read, Some(&synced(&first)), &second, &settings()).expect("a plan");
    assert_eq!(kinds(&plan), ["+m2"], "m1 is gone, m3 is there, m2 was lost");
    assert_eq!(plan.chunks.len(), 1, "the new source version is still to be told");
}

/// Covers row 197: the CRM's record counts, not what was remembered.
#[test]
fn repairs_compare_with_the_record() {
    let source = thread(4, &[message("m1", "a"), message("m2", "b")]);
    let read = || record(4, &[message("m1", "tampered"), message("m2", "b")]);
    let plan = repair(read(), Some(&synced(&source)), &source, &settings()).expect("a plan");
    assert_eq!(kinds(&plan), ["~m1"]);
    let whole = record(4, &[message("m1", "a"), message("m2", "b")]);
    assert!(repair(whole, Some(&synced(&source)), &source, &settings()).expect("a plan").chunks.is_empty());
    let behind = record(3, &[message("m1", "a"), message("m2", "b")]);
    assert_eq!(repair(behind, None, &source, &settings()).expect("a plan").chunks.len(), 1);
    let broken = Some((json!([]), Standing::default()));
    assert_eq!(repair(broken, None, &source, &settings()).expect_err("no thread").code(), "crm_reply_invalid");
}

/// Covers row 174: of source and event the newer one describes the thread.
#[test]
fn the_newest_description_counts() {
    let (old, new) = (thread(6, &[]), thread(7, &[]));
    let version = |thread: Option<Thread>| thread.and_then(|thread| thread.version);
    assert_eq!(version(newest(Some(new.clone()), Some(old.clone()))), Some(7));
    assert_eq!(version(newest(Some(old.clone()), Some(new.clone()))), Some(7));
    assert_eq!(version(newest(None, Some(new.clone()))), Some(7));
    assert_eq!(newest(None, None), None);
    let mut fetched = new;
    fetched.event = None;
    assert_eq!(newest(Some(fetched), Some(old)).and_then(|thread| thread.event), Some(ThreadEvent::Updated));
}

#[test]
fn plans_survive_their_storage() {
    let plan = difference(record(0, &[]), None, &thread(1, &[message("m1", "a")]), &settings()).expect("a plan");
    let stored = serde_json::to_value(&plan).expect("JSON");
    assert_eq!(serde_json::from_value::<Plan>(stored).expect("a plan"), plan);
}
