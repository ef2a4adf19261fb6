use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::support::{Rig, rig, rig_with};
use crate::{FaultRule, SimOptions};

const PROFILE: &str = "/api/v2/profiles/p1";

fn body() -> Value {
    json!({"attributes": {"tier": "gold"}, "mergeStrategy": "OVERWRITE", "sourceSystem": "crm"})
}

async fn add(rig: &Rig, rule: Value) {
    let (status, answer) = rig.control(Method::POST, "/_sim/faults", &rule).await;
    assert_eq!(status, 200, "{answer}");
}

/// What rows 32 and 178 need of the other side: a write that was applied and never answered.
#[tokio::test]
async fn a_connection_is_dropped_before_or_after_the_effect() {
    let rig = rig().await;
    let matching = json!({"class": "profiles", "method": "patch"});
    add(&rig, json!({"name": "before", "match": matching, "when": {"first": 1}, "then": {"reset": "before"}})).await;
    add(&rig, json!({"name": "after", "match": matching, "when": {"first": 1}, "then": {"reset": "after_commit"}}))
        .await;
    let send = || rig.call(Method::PATCH, PROFILE).header("idempotency-key", "k1").json(&body()).send();
    assert!(send().await.is_err(), "no answer");
    assert_eq!(rig.sim.summary().effects.applied, 0);
    assert!(send().await.is_err(), "no answer again");
    assert_eq!(rig.sim.summary().effects.applied, 1);
    let third = send().await.expect("an answer");
    assert_eq!((third.status().as_u16(), &third.headers()["idempotent-replayed"]), (200, &"true".parse().unwrap()));
    let summary = rig.sim.summary();
    assert_eq!((summary.effects.applied, summary.effects.duplicates, summary.record.replays), (1, 0, 1));
    assert_eq!(summary.record.by_tenant["acme"]["cxone/profiles"], [(0, 2), (200, 1)].into());
    assert_eq!((summary.record.faults["before"], summary.record.faults["after"]), (1, 1));
    let (_, record) = rig.get("/_sim/record?class=profiles&status=0").await;
    assert_eq!((&record["requests"][0]["applied"], &record["requests"][1]["applied"]), (&json!(false), &json!(true)));
}

/// What rows 14, 16, 26, 29 and 31 need of the other side.
#[tokio::test]
async fn answers_come_wrong_as_scripted() {
    let rig = rig().await;
    let patch = || rig.call(Method::PATCH, PROFILE).json(&body()).send();
    let rules = json!([
        {"name": "busy", "when": {"first": 1}, "then": {"status": 429, "retry_after_date_s": 30}},
        {"name": "moved", "when": {"first": 1}, "then": {"redirect": "http://127.0.0.1:1/x"}},
        {"name": "empty", "when": {"first": 1}, "then": {"empty_204": true}},
        {"name": "partial", "when": {"first": 1}, "then": {"merge_body": {"mergeResult": "PARTIAL"}}},
        {"name": "cut", "when": {"first": 1}, "then": {"malformed_json": true}},
        {"name": "applied-500", "when": {"first": 1}, "then": {"status": 500, "commit": true}},
        {"name": "own", "when": {"first": 1}, "then": {"status": 200, "body": "plain text"}},
        {"name": "endless", "when": {"first": 1}, "then": {"endless_body": true}},
    ]);
    add(&rig, rules).await;
    let busy = patch().await.expect("an answer");
    assert_eq!(busy.status(), 429);
    assert!(busy.headers()["retry-after"].to_str().expect("text").ends_with(" GMT"));
    let moved = patch().await.expect("an answer");
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (302, &"http://127.0.0.1:1/x".parse().unwrap())
    );
    assert_eq!(rig.sim.summary().effects.applied, 0, "these two stand in for the request");
    assert_eq!(patch().await.expect("an answer").status(), 204);
    let partial: Value = patch().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(partial["mergeResult"], "PARTIAL");
    assert!(patch().await.expect("an answer").json::<Value>().await.is_err());
    assert_eq!(patch().await.expect("an answer").status(), 500);
    assert_eq!(rig.sim.summary().effects.applied, 4, "these four came after it");
    assert_eq!(patch().await.expect("an answer").text().await.expect("text"), "plain text");
    let mut endless = patch().await.expect("an answer");
    let mut read = 0;
    while read < 2 * 1024 * 1024 {
        read += endless.chunk().await.expect("it goes on").expect("and on").len();
    }
    assert_eq!(rig.sim.summary().effects.applied, 5);
}

#[tokio::test]
async fn a_delay_holds_the_answer_back() {
    let rig = rig().await;
    add(&rig, json!({"name": "slow", "match": {"path_contains": "profiles"}, "then": {"delay_ms": 120}})).await;
    let began = Instant::now();
    assert_eq!(rig.get(PROFILE).await.0, 200);
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn token_requests_can_be_made_to_fail() {
    let rig = rig().await;
    let rule = json!({"name": "no-lifetime", "match": {"tenant": "acme", "class": "token"},
        "then": {"merge_body": {"expires_in": null}}});
    add(&rig, rule).await;
    let form = [("grant_type", "client_credentials"), ("client_id", "sim-acme"), ("client_secret", "sim-secret")];
    let reply = rig.http.post(rig.url("/oauth/token")).form(&form).send().await.expect("an answer");
    let reply: Value = reply.json().await.expect("JSON");
    assert!(reply.get("expires_in").is_none() && reply.get("access_token").is_some());
}

#[tokio::test]
async fn scripts_are_read_at_start_and_bad_ones_refused() {
    let mut options = SimOptions { tls: false, ..SimOptions::default() };
    let script = "[[faults]]\nname = \"down\"\nmatch = { class = \"profiles\" }\nthen = { status = 503 }\n";
    options.load_faults(script).expect("a valid script");
    let rig = rig_with(options).await;
    assert_eq!(rig.get(PROFILE).await.0, 503);
    for bad in [
        json!({"name": "x", "then": {}}),
        json!({"name": "", "then": {"status": 500}}),
        json!({"name": "x", "then": {"status": 99}}),
        json!({"name": "x", "match": {"clas": "profiles"}, "then": {"status": 500}}),
        json!({"name": "x", "match": {"class": "cxone/profile"}, "then": {"status": 500}}),
        json!({"name": "x", "when": {"every": 0}, "then": {"status": 500}}),
        json!({"name": "x", "when": {"probability": 2}, "then": {"status": 500}}),
    ] {
        assert_eq!(rig.control(Method::POST, "/_sim/faults", &bad).await.0, 400, "{bad}");
    }
    let (_, listed) = rig.get("/_sim/faults").await;
    assert_eq!((&listed["faults"][0]["fired"], listed["faults"].as_array().map(Vec::len)), (&json!(1), Some(1)));
    assert_eq!(rig.control(Method::DELETE, "/_sim/faults?name=down", &json!({})).await.1["removed"], 1);
    assert_eq!(rig.get(PROFILE).await.0, 200);
    let rule: FaultRule = serde_json::from_value(json!({"name": "again", "then": {"status": 502}})).expect("a rule");
    rig.sim.add_faults(vec![rule]).expect("added");
    assert_eq!(rig.get(PROFILE).await.0, 502);
    rig.sim.clear_faults();
    assert_eq!(rig.get(PROFILE).await.0, 200);
}
