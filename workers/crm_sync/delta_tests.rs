use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::crm_sync::{
    settings::Role,
    thread::{Message, Participant, ThreadEvent},
};

fn settings() -> CrmSyncSettings {
    CrmSyncSettings::default()
}

fn message(id: &str, text: &str) -> Message {
    Message {
        id: id.to_owned(),
        text: Told::Value(text.to_owned()),
        at: chrono::DateTime::UNIX_EPOCH,
        author_id: "p1".to_owned(),
        direction: None,
        attachments: Vec::new(),
    }
}

fn participant(id: &str, role: Role) -> Participant {
    Participant { id: id.to_owned(), role, name: Told::Nothing, platform_id: Told::Nothing }
}

fn thread(version: u64, messages: Vec<Message>) -> Thread {
    Thread {
        id: "t1".to_owned(),
        event: Some(ThreadEvent::Updated),
        version: Some(version),
        updated_at: chrono::DateTime::UNIX_EPOCH,
        parent: Told::Nothing,
        participants: Some(Vec::new()),
        messages: Some(messages),
    }
}

fn texts(ids: &[&str]) -> Vec<Message> {
    ids.iter().map(|id| message(id, "text")).collect()
}

fn synced(thread: &Thread) -> Snapshot {
    Snapshot::empty("salt".to_owned()).after(thread, &settings())
}

fn kinds(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Add(id, _) => format!("+{id}"),
            Change::Update(id, _) => format!("~{id}"),
            Change::Remove(id) => format!("-{id}"),
        })
        .collect()
}

/// Covers row 163: the first event adds everything.
#[test]
fn the_first_event_is_a_full_add() {
    let delta = Delta::since(&Snapshot::empty(String::new()), &thread(1, texts(&["m1", "m2"])), &settings());
    assert_eq!(kinds(&delta.messages), ["+m1", "+m2"]);
}

/// Covers row 165: the third version adds what is new since the second, nothing else.
#[test]
fn later_events_add_only_what_is_new() {
    let mut snapshot = Snapshot::empty(String::new());
    for (version, ids) in [(1, &["m1", "m2"][..]), (2, &["m1", "m2", "m3"])] {
        snapshot = snapshot.after(&thread(version, texts(ids)), &settings());
    }
    let delta = Delta::since(&snapshot, &thread(3, texts(&["m1", "m2", "m3", "m4"])), &settings());
    assert_eq!(kinds(&delta.messages), ["+m4"]);
}

/// Covers row 166: what a split takes away is removed.
#[test]
fn a_split_removes() {
    let delta = Delta::since(&synced(&thread(1, texts(&["m1", "m2", "m3"]))), &thread(2, texts(&["m1"])), &settings());
    assert_eq!(kinds(&delta.messages), ["-m2", "-m3"]);
}

/// Covers row 167: changed texts and roles are updates.
#[test]
fn changes_of_content_are_updates() {
    let mut before = thread(1, texts(&["m1", "m2"]));
    before.participants = Some(vec![participant("p1", Role::Customer), participant("p2", Role::Agent)]);
    let mut after = thread(2, vec![message("m1", "edited"), message("m2", "text")]);
    after.participants = Some(vec![participant("p1", Role::Agent)]);
    let delta = Delta::since(&synced(&before), &after, &settings());
    assert_eq!(kinds(&delta.messages), ["~m1"]);
    assert_eq!(kinds(&delta.participants), ["~p1", "-p2"]);
    assert_eq!(delta.len(), 3);
}

/// Covers row 168: an absent parent changes nothing, a null parent unlinks.
#[test]
fn the_parent_is_unlinked_only_when_told() {
    let mut linked = thread(1, Vec::new());
    linked.parent = Told::Value("t2".to_owned());
    let snapshot = synced(&linked);
    let mut next = thread(2, Vec::new());
    assert_eq!(Delta::since(&snapshot, &next, &settings()).parent, Told::Nothing);
    next.parent = Told::Null;
    assert_eq!(Delta::since(&snapshot, &next, &settings()).parent, Told::Null);
}

/// Covers row 170: the same content under a new version is an empty delta.
#[test]
fn a_new_version_without_changes_is_empty() {
    let delta = Delta::since(&synced(&thread(1, texts(&["m1"]))), &thread(2, texts(&["m1"])), &settings());
    assert!(delta.is_empty());
}

#[test]
fn an_event_that_is_silent_on_messages_changes_none() {
    let mut silent = thread(2, Vec::new());
    silent.messages = None;
    assert!(Delta::since(&synced(&thread(1, texts(&["m1"]))), &silent, &settings()).is_empty());
}

/// Covers row 197: the CRM's actual record decides, and what the CRM added by itself stays.
#[test]
fn a_tampered_record_is_repaired() {
    let source = thread(4, texts(&["m1", "m2", "m3"]));
    let mut old = thread(3, texts(&["m1", "m2", "m3", "gone"]));
    old.event = None;
    let record = Record::parse(json!({"version": 41, "messages": [
        {"id": "m1", "text": "tampered", "timestamp": "1970-01-01T00:00:00Z", "authorId": "p1"},
        {"id": "m2", "text": "text", "timestamp": "1970-01-01T00:00:00.000+00:00", "authorId": "p1", "seen": true},
        {"id": "gone", "text": "text"},
        {"id": "note-of-the-crm", "text": "call back"}
    ]}))
    .expect("a record");
    let delta = Delta::against(&record, &synced(&old), &source, &settings());
    assert_eq!(kinds(&delta.messages), ["+m3", "~m1", "-gone"]);
    let whole = Record::parse(json!({"messages": source.messages.as_ref().expect("messages").iter()
        .map(Item::wire).collect::<Vec<_>>()}))
    .expect("a record");
    assert!(Delta::against(&whole, &synced(&source), &source, &settings()).is_empty(), "up to date");
}

/// Covers row 169, row 197: the status that the record shows counts, not the one that was remembered.
#[test]
fn a_tampered_status_is_repaired() {
    let with = |status: Value| Record::parse(json!({"parentThreadId": "t2", "status": status})).expect("a record");
    let mut child = thread(2, Vec::new());
    child.parent = Told::Value("t2".to_owned());
    let merged = synced(&child);
    let status = |record: &Record, thread: &Thread, snapshot: &Snapshot| {
        Delta::against(record, snapshot, thread, &settings()).status
    };
    assert_eq!(status(&with(json!("OPEN")), &child, &merged).as_deref(), Some("MERGED"));
    assert_eq!(status(&with(json!("MERGED")), &child, &merged), None);
    assert_eq!(status(&with(json!(null)), &child, &merged), None, "a CRM that shows no status keeps what it was given");
    let nothing = Snapshot::empty(String::new());
    assert_eq!(status(&with(json!(null)), &child, &nothing).as_deref(), Some("MERGED"));
    child.parent = Told::Null;
    assert_eq!(status(&with(json!("MERGED")), &child, &nothing).as_deref(), Some("OPEN"));
    assert_eq!(status(&with(json!("ARCHIVED")), &child, &nothing), None, "the CRM's own");
    assert_eq!(status(&with(json!("ARCHIVED")), &child, &merged).as_deref(), Some("OPEN"));
    child.parent = Told::Nothing;
    assert_eq!(status(&with(json!("OPEN")), &child, &merged), None);
}

/// Covers row 200: 50,000 messages in under a second, without optimisation.
#[test]
fn long_threads_are_compared_in_linear_time() {
    let ids: Vec<String> = (0..50_000).map(|n| format!("message-{n:05}")).collect();
    let before = thread(1, ids.iter().map(|id| message(id, "text")).collect());
    let after = thread(2, ids.iter().rev().map(|id| message(id, "other")).collect());
    let snapshot = synced(&before);
    let started = Instant::now();
    let delta = Delta::since(&snapshot, &after, &settings());
    let elapsed = started.elapsed();
    assert_eq!(delta.messages.len(), 50_000);
    // Every message with every other one would take a minute.
    assert!(elapsed < Duration::from_secs(10), "took {elapsed:?}");
}
