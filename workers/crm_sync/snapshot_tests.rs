use serde_json::{Value, json};

use super::*;
use crate::crm_sync::envelope;

fn settings() -> CrmSyncSettings {
    CrmSyncSettings::default()
}

fn thread(event: &str, version: Option<u64>, messages: &[(&str, &str)]) -> Thread {
    let messages: Vec<Value> = messages
        .iter()
        .map(|(id, text)| json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1"}))
        .collect();
    let envelope = json!({"event": event, "timestamp": "2026-01-02T10:00:00Z",
        "data": {"threadId": "t1", "version": version, "messages": messages, "participants": []}});
    envelope::event(&envelope, &settings()).expect("a valid envelope")
}

fn updated(version: Option<u64>, messages: &[(&str, &str)]) -> Thread {
    thread("THREAD_UPDATED", version, messages)
}

fn synced(thread: &Thread) -> Snapshot {
    Snapshot::empty("salt".to_owned()).after(thread, &settings())
}

#[test]
fn the_next_version_is_pushed_as_a_difference() {
    let snapshot = synced(&updated(Some(4), &[("m1", "a")]));
    assert_eq!(snapshot.read(&updated(Some(5), &[("m1", "a"), ("m2", "b")]), &settings()), Reading::Difference);
}

/// Covers row 172: nine is less than ten.
#[test]
fn versions_compare_as_numbers() {
    let snapshot = synced(&updated(Some(9), &[("m1", "a")]));
    assert_eq!(snapshot.read(&updated(Some(10), &[("m1", "b")]), &settings()), Reading::Difference);
}

/// Covers row 173.
#[test]
fn an_equal_version_with_other_content_is_reconciled() {
    let snapshot = synced(&updated(Some(4), &[("m1", "a")]));
    assert_eq!(snapshot.read(&updated(Some(4), &[("m1", "a")]), &settings()), Reading::Known);
    let other = updated(Some(4), &[("m1", "changed")]);
    assert_eq!(snapshot.read(&other, &settings()), Reading::Reconcile("same_version_other_content"));
}

/// Covers row 174: a late version may hold what nobody saw; a gap too.
#[test]
fn late_versions_and_gaps_are_reconciled() {
    let snapshot = synced(&updated(Some(7), &[("m1", "a")]));
    let late = updated(Some(6), &[("m1", "a"), ("m0", "unseen")]);
    assert_eq!(snapshot.read(&late, &settings()), Reading::Reconcile("late_version"));
    assert_eq!(snapshot.read(&updated(Some(6), &[("m1", "a")]), &settings()), Reading::Known, "nothing unseen in it");
    assert_eq!(snapshot.read(&updated(Some(9), &[("m1", "a")]), &settings()), Reading::Reconcile("version_gap"));
}

/// Covers row 171: without versions, content decides.
#[test]
fn unversioned_events_are_compared_by_content() {
    let first = updated(None, &[("m1", "a")]);
    let snapshot = synced(&first);
    assert_eq!(snapshot.read(&first, &settings()), Reading::Known);
    assert_eq!(snapshot.read(&updated(None, &[("m1", "b")]), &settings()), Reading::Difference);
    let versioned = synced(&updated(Some(3), &[("m1", "a")]));
    assert_eq!(versioned.read(&updated(None, &[("m1", "b")]), &settings()), Reading::Difference);
    assert_eq!(versioned.after(&updated(None, &[]), &settings()).version, Some(3), "a known version is not forgotten");
}

/// Covers row 171: what an older event lacks may have come since.
#[test]
fn late_events_without_version_are_reconciled() {
    let now = updated(None, &[("m1", "a"), ("m2", "b")]);
    let snapshot = synced(&now);
    let mut late = updated(None, &[("m1", "a")]);
    late.updated_at = now.updated_at - chrono::TimeDelta::seconds(1);
    assert_eq!(snapshot.read(&late, &settings()), Reading::Reconcile("late_update"));
    late.updated_at = now.updated_at;
    assert_eq!(snapshot.read(&late, &settings()), Reading::Difference);
    let versioned = updated(Some(3), &[("m1", "a"), ("m2", "b")]);
    late.updated_at = now.updated_at - chrono::TimeDelta::seconds(1);
    assert_eq!(
        synced(&versioned).read(&late, &settings()),
        Reading::Reconcile("late_update"),
        "its version is unknown"
    );
}

/// Covers row 165: the state is the whole thread, not the last difference.
#[test]
fn the_snapshot_is_complete() {
    let one = synced(&updated(Some(1), &[("m1", "a"), ("m2", "b")]));
    let two = one.after(&updated(Some(2), &[("m1", "a"), ("m2", "b"), ("m3", "c")]), &settings());
    assert_eq!(two.messages.keys().collect::<Vec<_>>(), ["m1", "m2", "m3"]);
    assert!(two.updated_at > DateTime::UNIX_EPOCH);
}

/// Covers row 169: a merged child is closed, and open again when it is split off.
#[test]
fn merged_children_are_closed() {
    let mut child = thread("THREAD_MERGED", Some(2), &[]);
    child.parent = Told::Value("t2".to_owned());
    let before = synced(&updated(Some(1), &[]));
    assert_eq!(status_change(&before, &child, &settings()).as_deref(), Some("MERGED"));
    let merged = before.after(&child, &settings());
    assert_eq!((merged.parent.as_deref(), merged.status.as_deref()), (Some("t2"), Some("MERGED")));
    let mut split = thread("THREAD_SPLIT", Some(3), &[]);
    split.parent = Told::Null;
    assert_eq!(status_change(&merged, &split, &settings()).as_deref(), Some("OPEN"));
    // Whichever event brings the parent, or none: the one that said so may be lost.
    let mut linked = thread("THREAD_UPDATED", Some(2), &[]);
    linked.parent = Told::Value("t2".to_owned());
    linked.event = None;
    assert_eq!(status_change(&before, &linked, &settings()).as_deref(), Some("MERGED"));
    assert_eq!(status_change(&merged, &linked, &settings()), None);
    // What was linked and left open is not known yet.
    let open = Snapshot { status: None, ..merged.clone() };
    assert_eq!((merged.covers(&linked, &settings()), open.covers(&linked, &settings())), (true, false));
    // The thread that takes others in has no parent, and stays open.
    assert_eq!(status_change(&before, &thread("THREAD_MERGED", Some(2), &[]), &settings()), None);
}

#[test]
fn it_survives_its_storage_and_holds_no_text() {
    let snapshot = synced(&updated(Some(u64::MAX), &[("m1", "a secret text")]));
    let stored = serde_json::to_value(&snapshot).expect("JSON");
    assert!(!stored.to_string().contains("secret"));
    assert_eq!(serde_json::from_value::<Snapshot>(stored).expect("a snapshot"), snapshot);
    let other = Snapshot::empty("pepper".to_owned()).after(&updated(Some(1), &[("m1", "a secret text")]), &settings());
    assert_ne!(other.messages, snapshot.messages, "the salt is part of the hash");
}
