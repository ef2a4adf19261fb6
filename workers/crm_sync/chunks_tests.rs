use serde_json::json;

use super::*;

fn thread(version: Option<u64>) -> Thread {
    Thread {
        id: "t1".to_owned(),
        event: None,
        version,
        updated_at: chrono::DateTime::UNIX_EPOCH,
        parent: Told::Nothing,
        participants: None,
        messages: None,
    }
}

fn adds(count: usize) -> Vec<Change> {
    (0..count).map(|n| Change::Add(format!("m{n}"), json!({"id": format!("m{n}"), "text": "x"}))).collect()
}

fn delta(messages: Vec<Change>, participants: Vec<Change>) -> Delta {
    Delta { messages, participants, parent: Told::Value("t2".to_owned()), status: Some("MERGED".to_owned()) }
}

/// Covers row 200: 250 new messages are three ordered requests with keys of their own.
#[test]
fn long_deltas_are_split_in_order() {
    let chunks = split(delta(adds(250), adds(3)), 100);
    assert_eq!(chunks.iter().map(|chunk| chunk.messages.len()).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(chunks[0].participants.len(), 3);
    assert_eq!(chunks[1].messages[0].id(), "m100");
    assert!(chunks[0].status.is_none() && chunks[2].status.is_some(), "the thread is closed last");
    let thread = thread(Some(7));
    let keys: std::collections::HashSet<String> = chunks
        .iter()
        .map(|chunk| idempotency_key("acme", &thread, &Value::Object(chunk.body(&thread)), None))
        .collect();
    assert_eq!(keys.len(), 3);
}

#[test]
fn an_empty_delta_is_still_one_request() {
    assert_eq!(split(delta(Vec::new(), Vec::new()), 100).len(), 1);
    assert_eq!(split(delta(adds(100), Vec::new()), 100).len(), 1);
}

/// Covers row 177, row 178: the key follows the body; the same body has the same key however often it is built.
#[test]
fn keys_name_their_bodies() {
    let seven = thread(Some(7));
    let body = |n| split(delta(adds(n), Vec::new()), 100)[0].body(&seven);
    let key_of = |tenant, thread: &Thread, body| idempotency_key(tenant, thread, &Value::Object(body), None);
    let key = key_of("acme", &seven, body(1));
    assert_eq!(key, key_of("acme", &seven, body(1)));
    assert_ne!(key, key_of("acme", &seven, body(2)));
    assert_ne!(key, key_of("globex", &seven, body(1)), "two tenants share no key");
    assert_ne!(key, key_of("acme", &thread(Some(8)), body(1)));
    let repair = |job, replays| idempotency_key("acme", &seven, &Value::Object(body(1)), Some(Life { job, replays }));
    assert!(repair(1, 0) == repair(1, 0) && repair(1, 0) != key, "a repair is no event");
    assert!(repair(1, 0) != repair(2, 0) && repair(1, 0) != repair(1, 1), "and the next one is another");
    assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

/// Covers row 179, row 192: the source's version is a member of its own, and there is no other.
#[test]
fn bodies_have_the_wire_names() {
    let changes = vec![
        Change::Add("a".into(), json!({"id": "a"})),
        Change::Update("u".into(), json!({"id": "u"})),
        Change::Remove("r".into()),
    ];
    let body = split(delta(changes, Vec::new()), 100)[0].body(&thread(Some(7)));
    assert_eq!(
        Value::Object(body),
        json!({
            "threadId": "t1", "sourceVersion": 7, "updatedAt": "1970-01-01T00:00:00Z",
            "addedMessages": [{"id": "a"}], "updatedMessages": [{"id": "u"}], "removedMessages": ["r"],
            "addedParticipants": [], "updatedParticipants": [], "removedParticipants": [],
            "parentThreadId": "t2", "status": "MERGED"
        })
    );
    let plain = Chunk { messages: Vec::new(), participants: Vec::new(), parent: Told::Nothing, status: None };
    let body = plain.body(&thread(None));
    assert!(!body.contains_key("sourceVersion") && !body.contains_key("parentThreadId"));
}

#[test]
fn a_done_chunk_is_recognised() {
    let chunk = split(delta(adds(1), Vec::new()), 100).remove(0);
    let record = |message: Value, version: u64| {
        Record::parse(json!({"messages": [message], "participants": [], "sourceVersion": version,
            "parentThreadId": "t2", "status": "MERGED"}))
        .expect("a record")
    };
    let thread = thread(Some(7));
    assert!(chunk.is_done(&record(json!({"id": "m0", "text": "x", "more": 1}), 7), &thread));
    assert!(!chunk.is_done(&record(json!({"id": "m0", "text": "y"}), 7), &thread));
    assert!(!chunk.is_done(&record(json!({"id": "m0", "text": "x"}), 6), &thread), "the version is still to be told");
    assert!(!chunk.is_done(&Record::parse(json!({"version": 3})).expect("a record"), &thread), "nothing to see");
}
