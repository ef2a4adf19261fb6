//! Previews of `crm-sync`: which items would change, and whether somebody else changed them first.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_same_request, command, of_job, of_payload, rows};
use crate::support::Upstream;

const KIND: &str = "crm-sync";
const CLASS: &str = "crm/threads";

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "OUTBOUND"})
}

fn event(version: u64, messages: &[Value]) -> Value {
    let data = json!({
        "threadId": "t1", "version": version, "messages": messages,
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}],
    });
    json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

async fn writes(upstream: &Upstream) -> Vec<Value> {
    let requests = upstream.requests(CLASS).await;
    requests.into_iter().filter(|request| request["method"] != "GET").collect()
}

async fn revealed(upstream: &Upstream, job: i64) -> super::Answer {
    let args = ["jobs", "preview", &job.to_string(), "--json", "--personal-data"];
    command(upstream, &upstream.database.url, &args, None).await
}

/// A thread is created, changed and left alone, each as announced, and what people said is shown on demand only.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_what_is_sent() {
    let upstream = Upstream::start("preview-crm", "", "").await;
    let (m1, m2) = (message("m1", "one"), message("m2", "two"));
    let jobs = upstream.enqueue(KIND, &[event(1, &[m1.clone(), m2])]).await;
    let before = rows(&upstream).await;
    let hidden = of_job(&upstream, jobs[0]).await;
    assert_eq!((hidden.verdict(), hidden.code), ("would_change", Some(0)), "{hidden:?}");
    let pointers = ["/messages/m1", "/messages/m2", "/participants/p1", "/sourceVersion", "/updatedAt"];
    assert_eq!(hidden.pointers("difference"), pointers);
    assert_eq!(hidden.said["difference"][0]["after"]["text"], "[hidden]");
    assert!(!hidden.text.contains("Casey") && !hidden.text.contains("\"one\""), "{}", hidden.text);
    assert_eq!(hidden.said.get("current"), None, "there is no such thread");
    let create = revealed(&upstream, jobs[0]).await;
    assert_eq!(create.said["difference"][0]["after"]["text"], "one");
    assert_eq!(rows(&upstream).await, before);
    assert_eq!(upstream.exchanges(CLASS).await, ["GET 404"; 2]);
    upstream.work().await;
    assert_same_request(&create.said["request"], &writes(&upstream).await[0]);

    let jobs = upstream.enqueue(KIND, &[event(2, &[message("m1", "uno")])]).await;
    let patch = revealed(&upstream, jobs[0]).await;
    assert_eq!(
        patch.said["difference"],
        json!([
            {"pointer": "/messages/m1/text", "before": "one", "after": "uno"},
            {"pointer": "/messages/m2", "before": message("m2", "two")},
            {"pointer": "/sourceVersion", "before": 1, "after": 2},
        ])
    );
    upstream.work().await;
    assert_same_request(&patch.said["request"], &writes(&upstream).await[1]);
    assert!(upstream.dead().await.is_empty());

    let known = of_payload(&upstream, KIND, &event(2, &[message("m1", "uno")])).await;
    assert_eq!((known.verdict(), known.code), ("already_applied", Some(0)));
    let idle = of_payload(&upstream, KIND, &event(3, &[message("m1", "uno")])).await;
    assert_eq!(idle.verdict(), "already_applied");
    assert_eq!(writes(&upstream).await.len(), 2);
}

/// The CRM holds everything already, from elsewhere: a change is announced for none of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_there_is_no_difference() {
    let upstream = Upstream::start("preview-crm-standing", "", "").await;
    let mut data = event(1, &[message("m1", "one")])["data"].clone();
    data["sourceVersion"] = json!(1);
    data["updatedAt"] = json!("2026-01-02T10:00:00Z");
    upstream.write(Method::PUT, "threads", "t1", &data).await;
    let standing = of_payload(&upstream, KIND, &event(1, &[message("m1", "one")])).await;
    assert_eq!((standing.verdict(), &standing.said["difference"]), ("already_applied", &json!([])), "{standing:?}");
    assert!(standing.note("change nothing by it"));
    let more = of_payload(&upstream, KIND, &event(1, &[message("m1", "one"), message("m2", "two")])).await;
    assert_eq!(more.pointers("difference"), ["/messages/m2"]);
}

/// Covers row 180 beforehand: both sides changed one message since the dead letter's plan was made.
#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_seen_beforehand() {
    let upstream = Upstream::start("preview-crm-conflict", "", "").await;
    upstream.run(KIND, &[event(1, &[message("m1", "one"), message("m2", "two")])]).await;
    upstream.faults(
        "[[faults]]\nname = \"no\"\nmatch = { class = \"crm/threads\", method = \"PATCH\" }\nthen = { status = 403 }",
    );
    let jobs = upstream.run(KIND, &[event(2, &[message("m1", "uno"), message("m2", "two")])]).await;
    assert_eq!(upstream.dead().await[&jobs[0]], "forbidden");
    upstream.simulator.clear_faults();
    assert_eq!(of_job(&upstream, jobs[0]).await.verdict(), "would_change");

    let theirs = json!({"messages": [message("m1", "eins"), message("m2", "two")]});
    upstream.write(Method::PATCH, "threads", "t1", &theirs).await;
    let conflict = revealed(&upstream, jobs[0]).await;
    assert_eq!((conflict.verdict(), conflict.code), ("would_conflict", Some(5)), "{conflict:?}");
    assert_eq!(conflict.pointers("conflicts"), ["/messages/m1"]);
    let texts = ["base", "ours", "theirs"].map(|side| conflict.said["conflicts"][0][side]["text"].clone());
    assert_eq!(texts, ["one", "uno", "eins"]);
    assert!(!of_job(&upstream, jobs[0]).await.text.contains("eins"), "what people said is hidden in conflicts too");

    upstream.write(Method::PATCH, "threads", "t1", &json!({"messages": [message("m1", "uno")]})).await;
    let left = revealed(&upstream, jobs[0]).await;
    assert_eq!((left.verdict(), left.pointers("difference")), ("would_change", vec!["/sourceVersion"]), "{left:?}");
    sqlx::query("select backhaul.dead_replay($1, 'u1', 'decided')")
        .bind(jobs[0])
        .execute(upstream.database.store.pool())
        .await
        .expect("replays");
    upstream.work().await;
    assert!(upstream.dead().await.is_empty());
    let written = writes(&upstream).await;
    let last = written.last().expect("a write");
    assert_eq!((&left.said["request"]["body"], last["status"].as_u64()), (&last["body"], Some(200)));
}

/// A dead letter is previewed as its replay would run: a newer version was synced since its plan was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_s_plan_may_be_outdated() {
    let upstream = Upstream::start("preview-crm-outdated", "", "").await;
    upstream.run(KIND, &[event(1, &[message("m1", "one")])]).await;
    upstream.faults(
        "[[faults]]\nname = \"no\"\nmatch = { class = \"crm/threads\", method = \"PATCH\" }\nthen = { status = 403 }",
    );
    let jobs = upstream.run(KIND, &[event(2, &[message("m1", "one"), message("m2", "two")])]).await;
    upstream.simulator.clear_faults();
    assert_eq!(of_job(&upstream, jobs[0]).await.pointers("difference"), ["/messages/m2", "/sourceVersion"]);
    let third = event(3, &[message("m1", "one")]);
    upstream.write(Method::PUT, "social", "t1", &third["data"]).await;
    upstream.run(KIND, &[third]).await;
    let outdated = of_job(&upstream, jobs[0]).await;
    assert_eq!((outdated.verdict(), outdated.code), ("already_applied", Some(0)), "{outdated:?}");
    assert!(outdated.note("compared with the source: late_version"), "{outdated:?}");
}

/// A gap in the versions makes the source be asked, in a preview as in a job.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_is_asked_where_an_event_is_not_enough() {
    let upstream = Upstream::start("preview-crm-gap", "", "").await;
    upstream.run(KIND, &[event(1, &[message("m1", "one")])]).await;
    let source = event(5, &[message("m1", "one"), message("m5", "five")])["data"].clone();
    upstream.write(Method::PUT, "social", "t1", &source).await;
    for payload in [event(5, &[message("m5", "five")]), json!({"threadId": "t1", "reconcile": true})] {
        let shown = of_payload(&upstream, KIND, &payload).await;
        assert_eq!(shown.verdict(), "would_change", "{shown:?}");
        assert!(shown.pointers("difference").contains(&"/messages/m5"), "{shown:?}");
        assert!(shown.note("compared with the source"));
    }
    assert_eq!(upstream.exchanges("cxone/interactions").await, ["GET 200"; 2]);
    assert_eq!(writes(&upstream).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_payload_is_told_all_of_its_mistakes() {
    let upstream = Upstream::start("preview-crm-invalid", "", "").await;
    let mut wrong = event(1, &[message("m1", "one")]);
    wrong["data"]["version"] = json!("one");
    wrong["data"]["parentThreadId"] = json!("t1");
    wrong["data"]["messages"][0]["timestamp"] = json!("yesterday");
    let invalid = of_payload(&upstream, KIND, &wrong).await;
    assert_eq!((invalid.verdict(), invalid.code), ("invalid", Some(5)));
    assert_eq!(invalid.pointers("problems"), ["/data/version", "/data/parentThreadId", "/data/messages/0/timestamp"]);
    assert_eq!(upstream.exchanges(CLASS).await, [""; 0]);
}
