use reqwest::Method;
use serde_json::{Value, json};

use super::support::{Rig, rig};

const THREAD: &str = "/api/v1/threads/t1";

fn message(id: &str, minute: u32) -> Value {
    json!({"id": id, "text": format!("text of {id}"), "timestamp": format!("2024-01-01T00:{minute:02}:00Z"),
        "authorId": "a1", "direction": "INBOUND"})
}

async fn create(rig: &Rig) -> (u16, Value) {
    let body = json!({
        "threadId": "t1",
        "sourceVersion": 1,
        "updatedAt": "2024-01-01T00:10:00Z",
        "addedMessages": [message("m2", 2), message("m1", 1)],
        "addedParticipants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}],
    });
    rig.send(Method::POST, "/api/v1/threads", &[("if-none-match", "*"), ("idempotency-key", "c1")], &body).await
}

fn ids(thread: &Value, list: &str) -> Vec<String> {
    let members = thread[list].as_array().expect("a list");
    members.iter().map(|member| member["id"].as_str().expect("an id").to_owned()).collect()
}

/// What rows 163, 166, 167, 168, 179 and 184 need of the other side.
#[tokio::test]
async fn a_thread_is_created_and_changed_by_deltas() {
    let rig = rig().await;
    assert_eq!(rig.get(THREAD).await.0, 404);
    let delta = json!({"threadId": "t1", "addedMessages": []});
    assert_eq!(rig.send(Method::PATCH, THREAD, &[("if-match", "1")], &delta).await.0, 404);
    let (status, thread) = create(&rig).await;
    assert_eq!(
        (status, &thread["version"], ids(&thread, "messages")),
        (201, &json!(1), vec!["m1".into(), "m2".into()])
    );

    let delta = json!({
        "threadId": "t1",
        "version": 77,
        "sourceVersion": 7,
        "parentThreadId": "t0",
        "addedMessages": [message("m3", 3)],
        "updatedMessages": [{"id": "m1", "text": "edited"}],
        "removedMessages": ["m2"],
        "updatedParticipants": [{"id": "p1", "role": "AGENT"}],
    });
    let (status, thread) = rig.send(Method::PATCH, THREAD, &[("if-match", "\"1\"")], &delta).await;
    assert_eq!(status, 200, "with If-Match the body's version is the source's business");
    assert_eq!((&thread["version"], &thread["sourceVersion"]), (&json!(2), &json!(7)));
    assert_eq!(ids(&thread, "messages"), ["m1", "m3"]);
    assert_eq!((&thread["messages"][0]["text"], &thread["messages"][0]["authorId"]), (&json!("edited"), &json!("a1")));
    let participant = &thread["participants"][0];
    assert_eq!((&participant["role"], &participant["name"]), (&json!("AGENT"), &json!("Casey")));

    let (_, kept) = rig.send(Method::PATCH, THREAD, &[], &json!({"version": 2, "status": "MERGED"})).await;
    assert_eq!((&kept["parentThreadId"], &kept["status"]), (&json!("t0"), &json!("MERGED")), "absent is unchanged");
    let (_, unlinked) = rig.send(Method::PATCH, THREAD, &[], &json!({"version": 3, "parentThreadId": null})).await;
    assert_eq!(unlinked["parentThreadId"], Value::Null);
    assert_eq!(rig.send(Method::PATCH, THREAD, &[], &json!({"version": 3})).await.0, 409);
    assert_eq!(rig.send(Method::PATCH, THREAD, &[], &json!({"status": "OPEN"})).await.0, 428);
}

#[tokio::test]
async fn creation_is_conditional() {
    let rig = rig().await;
    let body = json!({"threadId": "t1"});
    assert_eq!(rig.send(Method::POST, "/threads", &[], &body).await.0, 428);
    assert_eq!(create(&rig).await.0, 201);
    assert_eq!(create(&rig).await.0, 201, "the same key and body: the first answer");
    assert_eq!(rig.send(Method::POST, "/threads", &[("if-none-match", "*")], &body).await.0, 412);
    assert_eq!(rig.sim.summary().effects.applied, 1);
}

#[tokio::test]
async fn the_schema_is_checked() {
    let rig = rig().await;
    create(&rig).await;
    let long = "x".repeat(5001);
    for delta in [
        json!({"addedMessages": [{"id": "m9", "text": long, "timestamp": "2024-01-01T00:00:00Z", "authorId": "a"}]}),
        json!({"addedMessages": [{"id": "m9", "timestamp": "2024-01-01T00:00:00+00:00", "authorId": "a"}]}),
        json!({"addedParticipants": [{"id": "p9", "role": "BOT"}]}),
        json!({"parentThreadId": "t1"}),
        json!({"version": "1"}),
        json!({"removedMessages": [1]}),
        json!({"threadId": "t2"}),
    ] {
        assert_eq!(rig.send(Method::PATCH, THREAD, &[("if-match", "1")], &delta).await.0, 422, "{delta}");
    }
    let media = json!({"addedMessages": [{"id": "m9", "text": null, "timestamp": "2024-01-01T00:00:00Z",
        "authorId": "a"}]});
    assert_eq!(rig.send(Method::PATCH, THREAD, &[("if-match", "1")], &media).await.0, 200);
    rig.control(Method::PATCH, "/_sim/settings", &json!({"thread_ids": "uuid"})).await;
    assert_eq!(rig.send(Method::PATCH, THREAD, &[("if-match", "2")], &media).await.0, 422);
}

#[tokio::test]
async fn the_source_has_threads_too() {
    let rig = rig().await;
    let path = "/api/v2/interactions/social/threads/t1";
    let (_, first) = rig.get(path).await;
    assert_eq!((ids(&first, "messages").len(), &first["version"]), (3, &json!(1)));
    let (_, changed) = rig.control(Method::PATCH, "/_sim/documents/social/acme/t1", &json!({"version": 9})).await;
    assert_eq!(changed["document"]["version"], 9);
    assert_eq!(rig.get(path).await.1["version"], 9);
}
