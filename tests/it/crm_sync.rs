//! The kind `crm-sync` over HTTP: what the CRM holds in the end, and what was sent to get there.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Upstream;

const KIND: &str = "crm-sync";

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "OUTBOUND"})
}

fn event(thread: &str, version: Option<u64>, messages: &[Value]) -> Value {
    let mut data = json!({
        "threadId": thread,
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}],
        "messages": messages,
    });
    if let Some(version) = version {
        data["version"] = json!(version);
    }
    json!({"threadId": thread, "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

fn ids(thread: &Value, list: &str) -> Vec<String> {
    let items = thread[list].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The bodies of the writes to the CRM, oldest first.
async fn writes(upstream: &Upstream) -> Vec<Value> {
    let requests = upstream.requests("crm/threads").await;
    requests.into_iter().filter(|request| request["method"] != "GET").collect()
}

/// Covers row 33, row 163, row 165, row 166, row 167, row 170, row 176, row 181, row 189 and row 192, over four jobs
/// that run in their order.
#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_as_differences() {
    let upstream = Upstream::start("crm-differences", "", "").await;
    let (m1, m2, m3) = (message("m1", "one"), message("m2", "two"), message("m3", "three"));
    let mut edited = message("m1", "edited");
    edited["timestamp"] = json!("2026-01-02T11:00:00+02:00");
    upstream
        .run(
            KIND,
            &[
                event("t1", Some(1), &[m1.clone(), m2.clone()]),
                event("t1", Some(2), &[m1.clone(), m2.clone(), m3.clone()]),
                event("t1", Some(3), &[m1.clone(), m2, m3]),
                event("t1", Some(4), &[edited]),
            ],
        )
        .await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let record = upstream.document("threads", "t1").await;
    assert_eq!(ids(&record, "messages"), ["m1"]);
    assert_eq!(record["messages"][0]["text"], "edited");
    assert_eq!(record["messages"][0]["timestamp"], "2026-01-02T09:00:00Z");
    assert_eq!(record["messages"][0]["direction"], "OUTBOUND");
    assert_eq!(record["sourceVersion"], 4);
    let writes = writes(&upstream).await;
    let bodies: Vec<&Value> = writes.iter().map(|write| &write["body"]).collect();
    assert_eq!(writes.len(), 3, "the third version changed nothing: {writes:?}");
    assert_eq!(ids(bodies[0], "addedMessages"), ["m1", "m2"]);
    assert_eq!(ids(bodies[1], "addedMessages"), ["m3"]);
    assert_eq!(
        (ids(bodies[2], "updatedMessages"), &bodies[2]["removedMessages"]),
        (vec!["m1".into()], &json!(["m2", "m3"]))
    );
    assert_eq!(writes[0]["headers"]["if-none-match"], "*");
    for patch in &writes[1..] {
        assert!(patch["headers"]["if-match"].as_str().is_some_and(|tag| tag != "*"), "{patch}");
        assert!(patch["idempotency_key"].is_string());
    }
    let types = upstream.event_types().await;
    assert_eq!(types, vec!["thread.synced"; 4]);
}

/// Covers row 32, row 178: the answer to a write is lost; it is found to have taken effect and not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_has_one_effect() {
    let upstream = Upstream::start("crm-lost", "", "").await;
    upstream.faults(
        r#"
[[faults]]
name = "lost"
match = { class = "crm/threads", method = "POST" }
when = { first = 1 }
then = { reset = "after_commit" }
[[faults]]
name = "lost too"
match = { class = "crm/threads", method = "PATCH" }
when = { first = 1 }
then = { reset = "after_commit" }
"#,
    );
    let m1 = message("m1", "one");
    let events = [event("t1", Some(1), std::slice::from_ref(&m1)), event("t1", Some(2), &[m1, message("m2", "two")])];
    upstream.run(KIND, &events).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    assert_eq!(ids(&upstream.document("threads", "t1").await, "messages"), ["m1", "m2"]);
    let effects = upstream.simulator.effects(100);
    assert_eq!(effects.len(), 2);
    assert!(effects.iter().all(|effect| effect.count == 1), "{effects:?}");
    assert_eq!(writes(&upstream).await.len(), 2, "nothing was sent twice");
}

/// Covers row 177, row 179, row 180, row 182: 409, then 500 on the reading, then all goes well; what the CRM got from
/// elsewhere is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_merged() {
    let upstream = Upstream::start("crm-conflict", "", "").await;
    let m1 = message("m1", "one");
    upstream.run(KIND, &[event("t1", Some(7), std::slice::from_ref(&m1))]).await;
    let note = json!({"messages": [message("m1", "one"), message("note-of-the-crm", "call back")]});
    upstream.write(Method::PATCH, "threads", "t1", &note).await;
    upstream.faults(
        r#"
[[faults]]
name = "somebody was faster"
match = { class = "crm/threads", method = "PATCH" }
when = { first = 1 }
then = { status = 409 }
[[faults]]
name = "and the reading fails"
match = { class = "crm/threads", method = "GET" }
when = { nth = [2] }
then = { status = 500 }
"#,
    );
    upstream.run(KIND, &[event("t1", Some(8), &[m1, message("m2", "two")])]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let record = upstream.document("threads", "t1").await;
    assert_eq!(ids(&record, "messages"), ["m1", "m2", "note-of-the-crm"]);
    assert_eq!(record["sourceVersion"], 8);
    let exchanges = upstream.exchanges("crm/threads").await;
    assert_eq!(exchanges[2..], ["GET 200", "PATCH 409", "GET 500", "GET 200", "PATCH 200"]);
}

/// Covers row 37 for threads, row 151, row 180: both sides changed one message, and nobody's change is overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn a_clash_is_a_dead_letter() {
    let upstream = Upstream::start("crm-clash", "", "").await;
    upstream.run(KIND, &[event("t1", Some(1), &[message("m1", "one")])]).await;
    // The plan is made; before its write is sent, the worker stops on a closed bucket and somebody edits the message.
    upstream.faults(
        r#"
[[faults]]
name = "not now"
match = { class = "crm/threads", method = "PATCH" }
when = { first = 3 }
then = { status = 503 }
"#,
    );
    let jobs = upstream.enqueue(KIND, &[event("t1", Some(2), &[message("m1", "ours")])]).await;
    let tampered = json!({"messages": [message("m1", "theirs")]});
    let edit = async {
        crate::support::eventually("the write was tried", async || {
            upstream.exchanges("crm/threads").await.contains(&"PATCH 503".to_owned())
        })
        .await;
        upstream.write(Method::PATCH, "threads", "t1", &tampered).await;
    };
    tokio::join!(upstream.work(), edit);
    assert_eq!(upstream.dead().await.get(&jobs[0]).map(String::as_str), Some("conflict"));
    assert_eq!(upstream.document("threads", "t1").await["messages"][0]["text"], "theirs");
}

/// Covers row 173, row 174, row 197: gaps, late events and tampering end with what the source says.
#[tokio::test(flavor = "multi_thread")]
async fn reconciling_compares_source_and_record() {
    let upstream = Upstream::start("crm-reconcile", "", "").await;
    let (m1, m2, m3) = (message("m1", "one"), message("m2", "two"), message("m3", "three"));
    let source = |version: u64, messages: &[Value]| {
        json!({"threadId": "t1", "version": version, "updatedAt": "2026-01-02T10:00:00Z",
            "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}], "messages": messages})
    };
    let all = [m1.clone(), m2.clone(), m3.clone()];
    upstream.write(Method::PUT, "social", "t1", &source(7, &all)).await;
    upstream
        .run(KIND, &[event("t1", Some(7), &[m1.clone(), m3.clone()]), event("t1", Some(6), &[m1.clone(), m2.clone()])])
        .await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    assert_eq!(ids(&upstream.document("threads", "t1").await, "messages"), ["m1", "m2", "m3"]);

    let tampered = json!({"messages": [message("m1", "tampered"), m2, m3, message("note", "the CRM's own")]});
    upstream.write(Method::PATCH, "threads", "t1", &tampered).await;
    let reconcile = json!({"threadId": "t1", "reconcile": true});
    upstream.run(KIND, &[reconcile.clone(), reconcile]).await;
    let record = upstream.document("threads", "t1").await;
    assert_eq!(ids(&record, "messages"), ["m1", "m2", "m3", "note"]);
    assert_eq!(record["messages"][0]["text"], "one");
    let statuses: Vec<String> = upstream
        .events()
        .await
        .into_iter()
        .map(|(kind, data)| format!("{kind} {}", data["status"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        statuses,
        [
            "thread.synced created",
            "thread.reconciled updated",
            "thread.reconciled updated",
            "thread.reconciled up_to_date"
        ]
    );
}

/// Covers row 171: without versions, the time tells a late event, which takes nothing back that came since.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_without_version_takes_nothing_back() {
    let upstream = Upstream::start("crm-late", "", "").await;
    let (m1, m2) = (message("m1", "one"), message("m2", "two"));
    let at = |minute: &str, messages: &[Value]| {
        let mut event = event("t1", None, messages);
        event["data"]["updatedAt"] = json!(format!("2026-01-02T10:{minute}:00Z"));
        event
    };
    let newest = at("05", &[m1.clone(), m2]);
    upstream.write(Method::PUT, "social", "t1", &newest["data"]).await;
    upstream.run(KIND, &[newest, at("01", std::slice::from_ref(&m1))]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    assert_eq!(ids(&upstream.document("threads", "t1").await, "messages"), ["m1", "m2"]);
    let (kind, data) = upstream.events().await.remove(1);
    assert_eq!((kind.as_str(), &data["reason"]), ("thread.reconciled", &json!("late_update")));
    upstream.run(KIND, &[at("06", &[m1])]).await;
    assert_eq!(ids(&upstream.document("threads", "t1").await, "messages"), ["m1"]);
}

/// Covers row 164, row 196: a reconciliation of a thread nobody knows is a clear dead letter, of one only the source
/// knows a new thread in the CRM.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_threads_are_reconciled() {
    let upstream = Upstream::start("crm-unknown", "", "").await;
    upstream.run(KIND, &[json!({"threadId": "fresh", "reconcile": true})]).await;
    assert_eq!(ids(&upstream.document("threads", "fresh").await, "messages").len(), 3);
    upstream.faults(
        r#"
[[faults]]
name = "no such thread"
match = { class = "cxone/interactions" }
then = { status = 404 }
"#,
    );
    let jobs = upstream.run(KIND, &[json!({"threadId": "nobodys", "reconcile": true})]).await;
    assert_eq!(upstream.dead().await.get(&jobs[0]).map(String::as_str), Some("source_thread_not_found"));
}

/// Covers row 200: 250 new messages are three requests in order, each with a key of its own.
#[tokio::test(flavor = "multi_thread")]
async fn long_threads_travel_in_chunks() {
    let upstream = Upstream::start("crm-chunks", "", "").await;
    let messages: Vec<Value> = (0..250).map(|n| message(&format!("m{n:03}"), "text")).collect();
    upstream.run(KIND, &[event("t1", Some(1), &messages)]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let writes = writes(&upstream).await;
    let sizes: Vec<usize> = writes.iter().map(|write| ids(&write["body"], "addedMessages").len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert_eq!(writes[1]["body"]["addedMessages"][0]["id"], "m100");
    let keys: std::collections::BTreeSet<&str> =
        writes.iter().filter_map(|write| write["idempotency_key"].as_str()).collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(ids(&upstream.document("threads", "t1").await, "messages").len(), 250);
    let exchanges = upstream.exchanges("crm/threads").await;
    assert_eq!(exchanges, ["GET 404", "POST 201", "PATCH 200", "PATCH 200"], "one reading serves all three");
}

/// Covers row 184: a thread that the CRM lost is whole again after the next event.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_thread_is_created_again() {
    let upstream = Upstream::start("crm-vanished", "", "").await;
    let m1 = message("m1", "one");
    upstream.run(KIND, &[event("t1", Some(1), std::slice::from_ref(&m1))]).await;
    upstream.write(Method::DELETE, "threads", "t1", &json!({})).await;
    upstream.run(KIND, &[event("t1", Some(2), &[m1, message("m2", "two")])]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    assert_eq!(ids(&upstream.document("threads", "t1").await, "messages"), ["m1", "m2"]);
}

/// Covers row 168, row 169: a merged child is linked and closed; an event that says nothing of the parent leaves it.
#[tokio::test(flavor = "multi_thread")]
async fn merged_children_are_linked_and_closed() {
    let upstream = Upstream::start("crm-merged", "", "").await;
    let m1 = message("m1", "one");
    let mut merged = event("child", Some(2), std::slice::from_ref(&m1));
    merged["event"] = json!("THREAD_MERGED");
    merged["data"]["parentThreadId"] = json!("parent");
    upstream.run(KIND, &[event("child", Some(1), std::slice::from_ref(&m1)), merged]).await;
    let record = upstream.document("threads", "child").await;
    assert_eq!((&record["parentThreadId"], &record["status"]), (&json!("parent"), &json!("MERGED")));
    upstream.run(KIND, &[event("child", Some(3), &[m1.clone(), message("m2", "two")])]).await;
    assert_eq!(upstream.document("threads", "child").await["parentThreadId"], "parent");
    let mut split = event("child", Some(4), &[m1]);
    split["event"] = json!("THREAD_SPLIT");
    split["data"]["parentThreadId"] = json!(null);
    let mut cycle = event("parent", Some(1), &[]);
    cycle["data"]["parentThreadId"] = json!("child");
    let jobs = upstream.run(KIND, &[cycle]).await;
    assert_eq!(upstream.dead().await.get(&jobs[0]).map(String::as_str), Some("thread_parent_cycle"));
    upstream.run(KIND, &[split]).await;
    let record = upstream.document("threads", "child").await;
    assert_eq!((&record["parentThreadId"], &record["status"]), (&Value::Null, &json!("OPEN")));
}

/// Covers row 171, row 187, row 191, row 199: an unversioned source is compared by content; a message that is too long or a role
/// nobody mapped stops its own thread and no other.
#[tokio::test(flavor = "multi_thread")]
async fn bad_events_stop_only_their_thread() {
    let extra = "[kinds.crm-sync.roles]\nBOT = \"SYSTEM\"\n";
    let upstream = Upstream::start("crm-bad", "", extra).await;
    let mut bot = event("t3", Some(1), &[]);
    bot["data"]["participants"][0]["role"] = json!("BOT");
    let mut alien = event("t4", Some(1), &[]);
    alien["data"]["participants"][0]["role"] = json!("ALIEN");
    let jobs = upstream
        .run(
            KIND,
            &[
                event("t1", None, &[message("m1", "one")]),
                event("t1", None, &[message("m1", "two")]),
                event("t2", Some(1), &[message("m1", &"x".repeat(5_001))]),
                bot,
                alien,
            ],
        )
        .await;
    let dead = upstream.dead().await;
    assert_eq!(dead.len(), 2, "{dead:?}");
    assert_eq!(dead.get(&jobs[2]).map(String::as_str), Some("thread_text_too_long"));
    assert_eq!(dead.get(&jobs[4]).map(String::as_str), Some("thread_role_unmapped"));
    assert_eq!(upstream.document("threads", "t1").await["messages"][0]["text"], "two");
    assert_eq!(upstream.document("threads", "t3").await["participants"][0]["role"], "SYSTEM");
    let failed: Vec<Value> = upstream
        .events()
        .await
        .into_iter()
        .filter_map(|(kind, data)| (kind == "thread.sync_failed").then_some(data))
        .collect();
    assert_eq!(failed.len(), 2);
    assert_eq!(upstream.events().await.len(), jobs.len(), "every job ends in one event, so that the counts add up");
    assert!(failed.iter().all(|data| data["error"]["code"].is_string() && !data.to_string().contains("xxx")));
}
