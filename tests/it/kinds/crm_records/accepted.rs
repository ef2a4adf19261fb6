//! A CRM that answers 202 has promised, and done nothing yet.

use reqwest::Method;
use serde_json::{Value, json};

use super::{CLASS, KIND, event, message, stage};
use crate::{
    kinds::stage::Stage,
    support::{FLAVOURS, eventually},
};

/// Runs the job until it has looked for its change a few times, lets the CRM do what it promised, and works on.
async fn promised_then_kept(stage: &Stage, payload: &Value, kept: &Value) {
    let before = stage.sent(CLASS, "GET").await.len();
    stage.enqueue(KIND, std::slice::from_ref(payload)).await;
    let worker = stage.worker();
    eventually("the change is looked for", async || {
        stage.spare_pauses().await;
        stage.writes().await.iter().any(|write| write["status"] == 202)
            && stage.sent(CLASS, "GET").await.len() >= before + 5
    })
    .await;
    assert!(stage.event_types().await.is_empty(), "a promise is no success");
    assert_eq!(stage.database.one::<i64>("select count(*) from backhaul.jobs").await, 1);
    stage.write(Method::PATCH, "threads", "t1", kept).await;
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
}

/// What an event tells, as a record of the simulator's world.
fn kept(payload: &Value) -> Value {
    let mut kept = payload["data"].clone();
    kept["sourceVersion"] = kept["version"].take();
    kept
}

/// A promised record is looked for until it shows, is not sent again, and is told once.
#[tokio::test(flavor = "multi_thread")]
async fn a_promised_record_is_looked_for() {
    let first = event(1, &[message("m1", "one")]);
    for flavour in &FLAVOURS {
        let stage = stage(flavour, "").await;
        stage.fault(CLASS, flavour.creates(), json!({}), json!({"status": 202, "commit": false})).await;
        promised_then_kept(&stage, &first, &kept(&first)).await;
        assert_eq!(stage.writes().await.len(), 1, "{}", flavour.name);
        assert_eq!(stage.event_types().await, ["thread.synced"], "{}", flavour.name);
        assert_eq!(stage.told("thread.synced").await[0]["http_status"], 202);
        // It is remembered as any other: the same event says nothing new.
        stage.done(KIND, std::slice::from_ref(&first)).await;
        assert_eq!(stage.writes().await.len(), 1, "{}", flavour.name);
    }
}

/// The same with the contract's own threads, in several requests: each waits for the one before to show.
#[tokio::test(flavor = "multi_thread")]
async fn a_promised_delta_is_looked_for() {
    let setup =
        crate::kinds::profile::Setup { kinds: "[kinds.crm-sync]\nchunk = 1\n".to_owned(), ..Default::default() };
    let stage = Stage::with(setup).await;
    stage.fault(CLASS, "POST", json!({"first": 1}), json!({"status": 202, "commit": false})).await;
    let two = event(1, &[message("m1", "one"), message("m2", "two")]);
    let one = event(1, &[message("m1", "one")]);
    promised_then_kept(&stage, &two, &kept(&one)).await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);
    assert_eq!(stage.written().await, ["POST 202", "PATCH 200"]);
    assert_eq!(stage.event_types().await, ["thread.synced"]);
}

/// Somebody else changes the same while the promise is waited for: that is a conflict, not a wait without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_that_somebody_overtakes_is_a_conflict() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 202, "commit": false})).await;
    let jobs = stage.enqueue(KIND, &[event(2, &[message("m1", "ours")])]).await;
    let worker = stage.worker();
    eventually("the change is promised", async || !stage.sent(CLASS, "PATCH").await.is_empty()).await;
    stage.write(Method::PATCH, "threads", "t1", &json!({"messages": [message("m1", "theirs")]})).await;
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    assert_eq!(stage.dead().await[&jobs[0]], "conflict");
    assert_eq!(stage.document("threads", "t1").await["messages"][0]["text"], "theirs");
}
