use reqwest::Method;
use serde_json::{Value, json};

use super::support::{Rig, rig};

const ONE: &str = "0b5e7c1a-0000-4000-8000-000000000001";
const TWO: &str = "0b5e7c1a-0000-4000-8000-000000000002";

async fn patch(rig: &Rig, id: &str, strategy: &str, attributes: Value, more: Value) -> (u16, Value) {
    let mut body = json!({"attributes": attributes, "mergeStrategy": strategy, "sourceSystem": "crm"});
    crate::documents::merge_patch(&mut body, &more);
    rig.send(Method::PATCH, &format!("/api/v2/profiles/{id}"), &[], &body).await
}

async fn attributes(rig: &Rig, id: &str) -> Value {
    let (status, profile) = rig.get(&format!("/api/v2/profiles/{id}")).await;
    assert_eq!(status, 200);
    profile["attributes"].clone()
}

#[tokio::test]
async fn the_three_strategies_differ() {
    let rig = rig().await;
    let (status, reply) = patch(&rig, ONE, "OVERWRITE", json!({"tier": "gold", "cities": ["Oslo"]}), json!({})).await;
    assert_eq!((status, &reply["mergeResult"], &reply["updatedAttributes"]), (200, &json!("SUCCESS"), &json!(2)));
    assert_eq!(reply["deduplicationTrigger"], false);

    let more = json!({"tier": "silver", "cities": ["Oslo", "Bergen"], "note": "new"});
    patch(&rig, ONE, "APPEND", more, json!({"tags": ["a"]})).await;
    let now = attributes(&rig, ONE).await;
    assert_eq!(
        (&now["tier"], &now["cities"], &now["note"]),
        (&json!("gold"), &json!(["Oslo", "Bergen"]), &json!("new"))
    );

    let at = |time: &str| json!({"sourceUpdatedAt": time});
    patch(&rig, ONE, "KEEP_LATEST", json!({"tier": "b"}), at("2024-05-02T00:00:00Z")).await;
    let (_, older) = patch(&rig, ONE, "KEEP_LATEST", json!({"tier": "a"}), at("2024-05-02T01:00:00+02:00")).await;
    assert_eq!((&older["updatedAttributes"], &attributes(&rig, ONE).await["tier"]), (&json!(0), &json!("b")));
}

/// What row 126 needs of the other side: an upstream whose APPEND is not idempotent.
#[tokio::test]
async fn append_can_be_blind() {
    let rig = rig().await;
    rig.control(Method::PATCH, "/_sim/settings", &json!({"append_blindly": true})).await;
    for _ in 0..2 {
        patch(&rig, ONE, "APPEND", json!({"cities": ["Oslo"]}), json!({})).await;
    }
    assert_eq!(attributes(&rig, ONE).await["cities"], json!(["Oslo", "Oslo"]));
    let effects = rig.sim.summary().effects;
    assert_eq!((effects.duplicates, effects.repeated_without_key), (0, 1));
}

/// What row 128 needs of the other side.
#[tokio::test]
async fn profiles_that_share_a_contact_are_merged() {
    let rig = rig().await;
    patch(&rig, ONE, "OVERWRITE", json!({"email": "Casey@Example.com"}), json!({})).await;
    patch(&rig, TWO, "OVERWRITE", json!({"tier": "gold"}), json!({})).await;
    let (_, merged) = patch(&rig, TWO, "OVERWRITE", json!({"email": "casey@example.com"}), json!({})).await;
    assert_eq!((&merged["deduplicationTrigger"], &merged["survivorProfileId"]), (&json!(true), &json!(ONE)));
    assert_eq!(attributes(&rig, ONE).await["tier"], "gold", "the survivor takes over what it lacked");
    let (_, followed) = rig.get(&format!("/api/v2/profiles/{TWO}")).await;
    assert_eq!((&followed["profileId"], &followed["survivorProfileId"]), (&json!(ONE), &json!(ONE)));
    rig.control(Method::PATCH, "/_sim/settings", &json!({"deduplicate_profiles": false})).await;
    let third = TWO.replace("02", "03");
    let (_, separate) = patch(&rig, &third, "OVERWRITE", json!({"email": "casey@example.com"}), json!({})).await;
    assert_eq!(separate["deduplicationTrigger"], false);
}

#[tokio::test]
async fn bad_payloads_are_refused() {
    let rig = rig().await;
    let many: serde_json::Map<String, Value> = (0..51).map(|at| (format!("a{at}"), json!(1))).collect();
    for (strategy, attributes, more) in [
        ("REPLACE", json!({}), json!({})),
        ("APPEND", json!([]), json!({})),
        ("APPEND", Value::Object(many), json!({})),
        ("APPEND", json!({}), json!({"sourceSystem": ""})),
        ("APPEND", json!({}), json!({"tags": [1]})),
        ("APPEND", json!({}), json!({"profileId": TWO})),
    ] {
        assert_eq!(patch(&rig, ONE, strategy, attributes, more).await.0, 400, "{strategy}");
    }
}

#[tokio::test]
async fn profiles_can_carry_tags() {
    let rig = rig().await;
    rig.control(Method::PATCH, "/_sim/settings", &json!({"profile_etags": true})).await;
    let path = format!("/api/v2/profiles/{ONE}");
    let read = rig.call(Method::GET, &path).send().await.expect("an answer");
    let etag = read.headers()["etag"].to_str().expect("text").to_owned();
    let body = json!({"attributes": {"a": 1}, "mergeStrategy": "OVERWRITE", "sourceSystem": "crm"});
    assert_eq!(rig.send(Method::PATCH, &path, &[("if-match", &etag)], &body).await.0, 200);
    assert_eq!(rig.send(Method::PATCH, &path, &[("if-match", &etag)], &body).await.0, 412);
}
