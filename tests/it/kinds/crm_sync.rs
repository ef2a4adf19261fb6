//! The kind `crm-sync` over HTTP where the CRM changes under its hands. What events do by themselves is in
//! `tests/it/crm_sync.rs`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{doors::Doors, profile::Setup, stage::Stage};
use crate::support::eventually;

const KIND: &str = "crm-sync";
const CLASS: &str = "crm/threads";

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "INBOUND"})
}

fn event(version: u64, messages: &[Value]) -> Value {
    let data = json!({"threadId": "t1", "version": version, "messages": messages,
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}]});
    json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().map(|items| items.iter().filter_map(|item| item["id"].as_str()).collect()).unwrap_or_default()
}

/// Syncs version 1 with one message, then version 2 with two, while somebody else acts between its GET and its PATCH.
async fn between_plan_and_push(stage: &Stage, method: Method, change: &Value) -> i64 {
    stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
    let jobs = stage.enqueue(KIND, &[event(2, &[message("m1", "edited"), message("m2", "two")])]).await;
    let mut doors = Doors::close(&stage.database, &[(None, "push-1-1-of-1", "begun")]).await;
    let worker = stage.worker();
    doors.reached(1).await;
    stage.write(method, "threads", "t1", change).await;
    doors.open().await;
    stage.ended().await;
    worker.stop().await;
    jobs[0]
}

/// Covers row 180, row 181, row 179: the CRM's record moved on; the write is refused, made anew on what was read, and
/// loses nobody's change. The precondition is the CRM's own mark, the source's version a member of its own.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_are_kept() {
    let stage = Stage::new().await;
    let theirs = json!({"messages": [message("m1", "one"), message("note", "call back")], "assignee": "u7"});
    between_plan_and_push(&stage, Method::PATCH, &theirs).await;
    stage.all_done().await;
    let record = stage.document("threads", "t1").await;
    assert_eq!(ids(&record["messages"]), ["m1", "m2", "note"]);
    assert_eq!((&record["assignee"], &record["messages"][0]["text"]), (&json!("u7"), &json!("edited")));
    let exchanges = stage.exchanges(CLASS).await;
    assert_eq!(exchanges, ["GET 404", "POST 201", "GET 200", "PATCH 409", "GET 200", "PATCH 200"]);
    let patches = stage.sent(CLASS, "PATCH").await;
    let tags: Vec<&str> = patches.iter().filter_map(|patch| patch["headers"]["if-match"].as_str()).collect();
    assert!(tags.len() == 2 && tags[0] != tags[1] && !tags.contains(&"*"), "{tags:?}");
    for patch in &patches {
        assert_eq!(patch["body"]["sourceVersion"], 2);
        assert!(patch["body"].get("version").is_none(), "nobody guesses the CRM's version");
    }
}

/// Covers row 177: a body that the merge changed has a key of its own; the same body keeps its key.
#[tokio::test(flavor = "multi_thread")]
async fn keys_follow_bodies() {
    let stage = Stage::new().await;
    let theirs = json!({"messages": [message("m1", "one"), message("m2", "two")]});
    between_plan_and_push(&stage, Method::PATCH, &theirs).await;
    stage.all_done().await;
    let patches = stage.sent(CLASS, "PATCH").await;
    assert_eq!(ids(&patches[0]["body"]["addedMessages"]), ["m2"]);
    assert!(ids(&patches[1]["body"]["addedMessages"]).is_empty(), "what stands there is not sent");
    assert_ne!(patches[0]["idempotency_key"], patches[1]["idempotency_key"]);

    let stage = Stage::new().await;
    between_plan_and_push(&stage, Method::PATCH, &json!({"assignee": "u7"})).await;
    stage.all_done().await;
    let patches = stage.sent(CLASS, "PATCH").await;
    assert_eq!(patches[0]["body"], patches[1]["body"]);
    assert_eq!(patches[0]["idempotency_key"], patches[1]["idempotency_key"]);
}

/// Covers row 37 for threads, row 180: both changed one message; the other one's text stays, and a person decides.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_same_message_are_for_a_person() {
    let stage = Stage::new().await;
    let job = between_plan_and_push(&stage, Method::PATCH, &json!({"messages": [message("m1", "theirs")]})).await;
    assert_eq!(stage.dead().await[&job], "conflict");
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1, "no further write");
    assert_eq!(stage.document("threads", "t1").await["messages"][0]["text"], "theirs");
    let sides: (sqlx::types::Json<Value>,) =
        stage.database.rows("select conflict from backhaul.dead_letters").await.remove(0);
    let text = |side: &str| sides.0[side]["messages/m1"]["text"].clone();
    assert_eq!((text("base"), text("ours"), text("theirs")), (json!("one"), json!("edited"), json!("theirs")));
}

/// Covers row 184: the thread is gone when the write arrives; it is created, and is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_vanishes_is_created_whole() {
    let stage = Stage::new().await;
    let source = json!({"threadId": "t1", "version": 2, "updatedAt": "2026-01-02T10:00:00Z",
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}],
        "messages": [message("m1", "edited"), message("m2", "two")]});
    stage.write(Method::PUT, "social", "t1", &source).await;
    between_plan_and_push(&stage, Method::DELETE, &json!({})).await;
    stage.all_done().await;
    let record = stage.document("threads", "t1").await;
    assert_eq!(ids(&record["messages"]), ["m1", "m2"]);
    assert_eq!(ids(&record["participants"]), ["p1"], "also what the difference did not tell");
    let patches = stage.sent(CLASS, "PATCH").await;
    assert_eq!(patches[0]["status"], 404);
    assert_eq!(stage.sent(CLASS, "POST").await.len(), 2);
    assert_eq!(stage.sent(CLASS, "POST").await[1]["headers"]["if-none-match"], "*");
}

/// Covers row 184: the answer to a write is lost, and the thread is gone when it is looked at; it is created, and is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_vanishes_behind_a_lost_answer_is_created_whole() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
    let source = json!({"threadId": "t1", "version": 2, "updatedAt": "2026-01-02T10:00:00Z",
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}],
        "messages": [message("m1", "one"), message("m2", "two")]});
    stage.write(Method::PUT, "social", "t1", &source).await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"reset": "before"})).await;
    stage.enqueue(KIND, &[event(2, &[message("m1", "one"), message("m2", "two")])]).await;
    let worker = stage.worker();
    eventually("the answer is lost", async || stage.exchanges(CLASS).await.contains(&"PATCH 0".to_owned())).await;
    stage.write(Method::DELETE, "threads", "t1", &json!({})).await;
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
    let record = stage.document("threads", "t1").await;
    assert_eq!((ids(&record["messages"]), ids(&record["participants"])), (vec!["m1", "m2"], vec!["p1"]));
}

/// Covers row 179, row 181 in the other modes: the version that was read goes back as it was read.
#[tokio::test(flavor = "multi_thread")]
async fn the_precondition_takes_the_form_of_the_profile() {
    for (mode, in_header) in [("body_version", false), ("if_match_version", true)] {
        let crm = format!("occ = {{ mode = \"{mode}\" }}");
        let stage = Stage::with(Setup { crm, ..Setup::default() }).await;
        // The CRM counts its own versions.
        let record = json!({"threadId": "t1", "messages": [], "participants": [], "status": "OPEN"});
        for _ in 0..3 {
            stage.write(Method::PUT, "threads", "t1", &record).await;
        }
        let version = stage.get(&format!("documents/threads/{}/t1", stage.tenant)).await["version"].clone();
        assert!(version.as_u64().is_some_and(|version| version > 1), "{version}");
        stage.done(KIND, &[event(7, &[message("m1", "one")])]).await;
        let patch = &stage.sent(CLASS, "PATCH").await[0];
        assert_eq!((&patch["status"], &patch["body"]["sourceVersion"]), (&json!(200), &json!(7)));
        let header = patch["headers"]["if-match"].as_str();
        assert_eq!(header.map(str::to_owned), in_header.then(|| format!("\"{version}\"")));
        assert_eq!(patch["body"].get("version"), (!in_header).then_some(&version));
    }
}

/// Covers row 182: the reading after a 409 fails; that is a failure of the reading, and is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reading_after_a_conflict_is_tried_again() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"status": 409})).await;
    stage.fault(CLASS, "GET", json!({"nth": [2]}), json!({"status": 500})).await;
    stage.done(KIND, &[event(2, &[message("m1", "one"), message("m2", "two")])]).await;
    let exchanges = stage.exchanges(CLASS).await;
    assert_eq!(exchanges[2..], ["GET 200", "PATCH 409", "GET 500", "GET 200", "PATCH 200"]);
}

/// Covers row 175: two events at once for one thread are worked on one after the other, whoever works on them.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_thread_are_serial() {
    let stage = Stage::new().await;
    stage.fault_where(json!({"class": CLASS}), json!({}), json!({"delay_ms": 20})).await;
    let mut messages = Vec::new();
    let events: Vec<Value> = (1..=4)
        .map(|version| {
            messages.push(message(&format!("m{version}"), "text"));
            event(version, &messages)
        })
        .collect();
    stage.enqueue(KIND, &events).await;
    let workers = [stage.worker(), stage.worker()];
    stage.ended().await;
    for worker in workers {
        worker.stop().await;
    }
    stage.all_done().await;
    let mut expected = vec!["GET 404", "POST 201"];
    expected.extend(["GET 200", "PATCH 200"].repeat(3));
    assert_eq!(stage.exchanges(CLASS).await, expected, "no overlap, no conflict");
    let added: Vec<Value> =
        stage.sent(CLASS, "PATCH").await.iter().map(|patch| patch["body"]["addedMessages"][0]["id"].clone()).collect();
    assert_eq!(added, ["m2", "m3", "m4"]);
}

/// Covers row 193, row 192: a name or a platform id that an event does not tell overwrites nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_told_overwrites_nothing() {
    let stage = Stage::new().await;
    let mut first = event(1, &[]);
    first["data"]["participants"][0]["platformId"] = json!("social-1");
    let mut second = event(2, &[]);
    second["data"]["participants"] = json!([{"id": "p1", "role": "AGENT"}]);
    stage.done(KIND, &[first, second]).await;
    let participant = stage.document("threads", "t1").await["participants"][0].clone();
    assert_eq!(participant, json!({"id": "p1", "role": "AGENT", "name": "Casey", "platformId": "social-1"}));
    let sent = &stage.sent(CLASS, "PATCH").await[0]["body"]["updatedParticipants"][0];
    assert!(sent.get("name").is_none() && sent.get("platformId").is_none(), "{sent}");
}

/// Covers row 199: every event that was taken is told as synced, reconciled, ignored or failed, once.
#[tokio::test(flavor = "multi_thread")]
async fn the_counts_add_up() {
    let stage = Stage::new().await;
    let source = json!({"threadId": "t1", "version": 2, "updatedAt": "2026-01-02T10:00:00Z",
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}],
        "messages": [message("m1", "one"), message("m2", "two")]});
    stage.write(Method::PUT, "social", "t1", &source).await;
    let mut bad = event(3, &[]);
    bad["data"]["participants"][0]["role"] = json!("ALIEN");
    let (one, two) = (message("m1", "one"), message("m2", "two"));
    let events = [
        event(1, std::slice::from_ref(&one)),
        event(1, std::slice::from_ref(&one)),
        event(2, &[one.clone(), two]),
        bad,
        event(1, &[one]),
    ];
    stage.run(KIND, &events).await;
    assert_eq!(stage.dead().await.len(), 1);
    let mut told = stage.event_types().await;
    told.sort();
    assert_eq!(
        told,
        ["thread.ignored", "thread.reconciled", "thread.sync_failed", "thread.synced", "thread.synced"],
        "the repeated first version says nothing new; the late one makes the source be asked"
    );
}
