//! Somebody else changes a record while it is written.

use reqwest::Method;
use serde_json::{Value, json};

use super::{CLASS, KIND, event, message, stage};
use crate::{
    kinds::{doors::Doors, stage::Stage},
    support::{DATAVERSE, FLAVOURS, Flavour, HUBSPOT},
};

/// Syncs version 1 with one message, then version 2 with two, while somebody else acts between the plan and the push.
async fn between_plan_and_push(stage: &Stage, method: Method, change: &Value) -> i64 {
    stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
    let jobs = stage.enqueue(KIND, &[event(2, &[message("m1", "edited"), message("m2", "two")])]).await;
    let mut doors = Doors::close(&stage.database, &[(None, "push-1-1-of-1", "begun")]).await;
    let worker = stage.worker();
    doors.reached(1).await;
    stage.write(method, "threads", "t1", change).await;
    doors.open().await;
    crate::support::eventually("all jobs end", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    jobs[0]
}

/// The record changes in the last moment, between the reading that a write is made from and the write: it is refused,
/// made anew on what stands there, and loses nobody's change.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_the_last_moment_is_kept() {
    for (flavour, status) in FLAVOURS.iter().filter_map(|flavour| Some((flavour, flavour.refuses?))) {
        let stage = stage(flavour, "").await;
        stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
        let theirs = json!({"messages": [message("m1", "one"), message("note", "call back")]});
        let other = json!({"other_writer": {"kind": "threads", "id": "t1", "patch": theirs}});
        stage.fault(CLASS, flavour.changes, json!({"first": 1}), other).await;
        stage.done(KIND, &[event(2, &[message("m1", "edited"), message("m2", "two")])]).await;

        let statuses: Vec<Value> = stage.writes().await.iter().map(|write| write["status"].clone()).collect();
        let [made, changed] = flavour.done;
        assert_eq!(statuses, [json!(made), json!(status), json!(changed)], "{}", flavour.name);
        assert_eq!(stage.messages().await, ["m1", "m2", "note"], "{}", flavour.name);
        assert_eq!(stage.document("threads", "t1").await["messages"][0]["text"], "edited");
    }
}

/// HubSpot has no conditions. What changed until the reading before the write is seen and kept; that is all that can be
/// seen.
#[tokio::test(flavor = "multi_thread")]
async fn without_conditions_the_last_reading_is_what_counts() {
    let stage = stage(&HUBSPOT, "").await;
    let theirs = json!({"messages": [message("m1", "one"), message("note", "call back")]});
    between_plan_and_push(&stage, Method::PATCH, &theirs).await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2", "note"]);
    assert_eq!(stage.exchanges(CLASS).await[3..], ["GET 200", "GET 200", "PATCH 200"]);
}

/// Both changed one message; the other one's text stays, nothing is sent, and a person decides.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_same_message_are_for_a_person() {
    for flavour in &FLAVOURS {
        let stage = stage(flavour, "").await;
        let theirs = json!({"messages": [message("m1", "theirs")]});
        let job = between_plan_and_push(&stage, Method::PATCH, &theirs).await;
        assert_eq!(stage.dead().await[&job], "conflict", "{}", flavour.name);
        assert_eq!(stage.writes().await.len(), 1, "{}", flavour.name);
        assert_eq!(stage.document("threads", "t1").await["messages"][0]["text"], "theirs");
    }
}

/// The record is gone when the write is made: a new one is made, and is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_vanishes_is_made_whole() {
    let stage = stage(&DATAVERSE, "").await;
    let mut source = event(2, &[message("m1", "edited"), message("m2", "two")])["data"].clone();
    source["participants"] = json!([{"id": "p1", "role": "CUSTOMER", "name": "Casey"}]);
    stage.write(Method::PUT, "social", "t1", &source).await;
    between_plan_and_push(&stage, Method::DELETE, &json!({})).await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);
    let participants = stage.document("threads", "t1").await["participants"].clone();
    assert_eq!(participants[0]["id"], "p1", "also what the difference did not tell");
}

/// Somebody makes the record between the reading and the creation: a product that has a condition or a unique field
/// refuses the second, and what stands there is changed instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_appears_is_changed() {
    let appears = async |flavour: &Flavour| {
        let stage = stage(flavour, "").await;
        let theirs = json!({"messages": [message("note", "call back")]});
        let other = json!({"other_writer": {"kind": "threads", "id": "t1", "patch": theirs}});
        stage.fault(CLASS, flavour.creates(), json!({"first": 1}), other).await;
        stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
        assert_eq!(stage.messages().await, ["m1", "note"], "{}", flavour.name);
        assert_eq!(stage.writes().await.len(), 2, "{}: {:?}", flavour.name, stage.written().await);
    };
    for flavour in &FLAVOURS {
        appears(flavour).await;
    }
}
