use reqwest::Method;
use serde_json::json;

use super::support::{answer, rig};

const PATH: &str = "/api/v2/digitalmessaging/webchat/configurations/cfg_1";

/// What rows 34, 35 and 36 need of the other side: a weak tag, and a conflict that a re-read resolves.
#[tokio::test]
async fn a_patch_needs_the_tag_that_was_read() {
    let rig = rig().await;
    let read = rig.call(Method::GET, PATH).send().await.expect("an answer");
    let etag = read.headers()["etag"].to_str().expect("text").to_owned();
    assert!(etag.starts_with("W/\""));
    let (_, document) = answer(read).await;
    assert_eq!(document["theme"]["primaryColor"], "#0073e6");

    let body = json!({"configurationId": "cfg_1", "theme": {"primaryColor": "#fff"}});
    assert_eq!(rig.send(Method::PATCH, PATH, &[], &body).await.0, 428);
    let (status, patched) = rig.send(Method::PATCH, PATH, &[("if-match", &etag)], &body).await;
    assert_eq!((status, &patched["theme"]["primaryColor"]), (200, &json!("#fff")));
    assert_eq!(patched["theme"]["widgetSize"], "medium", "a partial patch keeps the rest");
    assert_eq!(rig.send(Method::PATCH, PATH, &[("if-match", &etag)], &body).await.0, 409);

    rig.control(Method::PATCH, "/_sim/settings", &json!({"widget_conflict_status": 412})).await;
    assert_eq!(rig.send(Method::PATCH, PATH, &[("if-match", &etag)], &body).await.0, 412);
    let other = json!({"configurationId": "cfg_2"});
    assert_eq!(rig.send(Method::PATCH, PATH, &[("if-match", "*")], &other).await.0, 400);
    assert_eq!(rig.send(Method::POST, &format!("{PATH}/cache/purge"), &[], &json!({})).await.0, 204);
    assert_eq!(rig.sim.summary().effects.applied, 2);
}

#[tokio::test]
async fn a_key_is_answered_once_and_belongs_to_its_body() {
    let rig = rig().await;
    let body = json!({"theme": {"primaryColor": "#fff"}});
    let headers = [("if-match", "\"1\""), ("idempotency-key", "k1")];
    rig.get(PATH).await;
    let first = rig.send(Method::PATCH, PATH, &headers, &body).await;
    let second = rig.send(Method::PATCH, PATH, &headers, &body).await;
    assert_eq!((first.0, &first), (200, &second), "the tag has moved on, and still the first answer comes");
    let other = json!({"theme": {"primaryColor": "#000"}});
    assert_eq!(rig.send(Method::PATCH, PATH, &headers, &other).await.0, 422);
    let summary = rig.sim.summary();
    assert_eq!((summary.effects.applied, summary.effects.duplicates), (1, 0));
    assert_eq!((summary.record.replays, summary.idempotency_conflicts), (1, 1));

    // A product that does not know the header applies it again, and the ledger says so.
    rig.control(Method::PATCH, "/_sim/settings", &json!({"honour_idempotency_keys": false})).await;
    let again = [("if-match", "*"), ("idempotency-key", "k1")];
    assert_eq!(rig.send(Method::PATCH, PATH, &again, &body).await.0, 200);
    assert_eq!(rig.sim.summary().effects.duplicates, 1);
    let (_, listed) = rig.get("/_sim/effects?duplicates=true").await;
    assert_eq!((&listed["effects"][0]["count"], &listed["effects"][0]["key"]), (&json!(2), &json!("k1")));
}

/// Covers row 15 on the server's side: an encoded path is one id, and not a well-formed one.
#[tokio::test]
async fn ids_and_bodies_are_checked() {
    let rig = rig().await;
    let traversal = "/api/v2/digitalmessaging/webchat/configurations/..%2F..%2F..%2Fwebhooks";
    assert_eq!(rig.get(traversal).await.0, 400);
    let plain = rig.call(Method::PATCH, PATH).body("{}").send().await.expect("an answer");
    assert_eq!(plain.status(), 415);
    let broken = rig.call(Method::PATCH, PATH).header("content-type", "application/json").body("{").send().await;
    assert_eq!(broken.expect("an answer").status(), 400);
    rig.control(Method::PATCH, "/_sim/settings", &json!({"strict": true})).await;
    assert_eq!(rig.get(PATH).await.0, 404);
}
