use serde_json::json;

use super::*;

fn record(messages: Value) -> Record {
    Record::parse(json!({"version": 1, "messages": messages, "participants": []})).expect("a record")
}

fn chunk(messages: Vec<Change>) -> Chunk {
    Chunk { messages, participants: Vec::new(), parent: Told::Nothing, status: None }
}

fn item(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text})
}

/// Covers row 180: what somebody else changed is kept, because only our units are sent.
#[test]
fn changes_of_others_are_left_alone() {
    let base = record(json!([item("m1", "a")]));
    let theirs = record(json!([item("m1", "a"), item("note", "by the CRM")]));
    let chunk = chunk(vec![Change::Update("m1".into(), item("m1", "b")), Change::Add("m2".into(), item("m2", "c"))]);
    assert_eq!(rebase(&chunk, &base, &theirs).expect("no clash"), chunk);
}

#[test]
fn what_already_stands_there_is_not_sent_again() {
    let base = record(json!([item("gone", "x")]));
    let theirs = record(json!([{"id": "m1", "text": "a", "seen": true}]));
    let sent = chunk(vec![Change::Add("m1".into(), item("m1", "a")), Change::Remove("gone".into())]);
    assert_eq!(rebase(&sent, &base, &theirs).expect("no clash"), chunk(Vec::new()));
}

#[test]
fn adds_and_updates_follow_what_stands_there() {
    let base = record(json!([item("m1", "a")]));
    let sent = chunk(vec![Change::Add("m1".into(), item("m1", "b")), Change::Update("m2".into(), item("m2", "c"))]);
    let rebased = rebase(&sent, &base, &base).expect("no clash");
    assert_eq!(
        rebased.messages,
        [Change::Update("m1".into(), item("m1", "b")), Change::Add("m2".into(), item("m2", "c"))]
    );
}

/// The same unit changed by both sides is nobody's to decide but a person's.
#[test]
fn the_same_message_changed_twice_is_a_clash() {
    let base = record(json!([item("m1", "a"), item("m2", "a"), item("m3", "a")]));
    let theirs = record(json!([item("m1", "c"), item("m3", "c")]));
    let sent = chunk(vec![
        Change::Update("m1".into(), item("m1", "b")),
        Change::Update("m2".into(), item("m2", "b")),
        Change::Remove("m3".into()),
    ]);
    let clash = rebase(&sent, &base, &theirs).expect_err("a clash");
    assert_eq!(clash.base["messages/m1"], item("m1", "a"));
    assert_eq!(clash.ours["messages/m1"], item("m1", "b"));
    assert_eq!(clash.theirs["messages/m1"], item("m1", "c"));
    assert_eq!(clash.theirs["messages/m2"], Value::Null, "they removed what we changed");
    assert_eq!(clash.ours["messages/m3"], Value::Null, "we remove what they changed");
}

#[test]
fn parents_and_statuses_are_units_too() {
    let with = |parent: Value| Record::parse(json!({"parentThreadId": parent, "status": "OPEN"})).expect("a record");
    let mut sent = chunk(Vec::new());
    sent.parent = Told::Value("ours".to_owned());
    sent.status = Some("MERGED".to_owned());
    assert_eq!(rebase(&sent, &with(json!(null)), &with(json!(null))).expect("no clash"), sent);
    assert_eq!(rebase(&sent, &with(json!(null)), &with(json!("ours"))).expect("no clash").parent, Told::Nothing);
    assert!(rebase(&sent, &with(json!(null)), &with(json!("theirs"))).is_err());
}

/// A CRM that does not show its items cannot be compared with: the changes stay as they are.
#[test]
fn hidden_items_cannot_be_compared() {
    let hidden = Record::parse(json!({"version": 2})).expect("a record");
    let sent = chunk(vec![Change::Update("m1".into(), item("m1", "b"))]);
    assert_eq!(rebase(&sent, &hidden, &hidden).expect("no clash"), sent);
}

#[test]
fn the_view_holds_what_the_chunks_touch() {
    let record = record(json!([item("m1", "a"), item("other", "private")]));
    let view = view(&record, &[chunk(vec![Change::Remove("m1".into())])]);
    assert_eq!(view.messages.expect("messages").keys().collect::<Vec<_>>(), ["m1"]);
}
