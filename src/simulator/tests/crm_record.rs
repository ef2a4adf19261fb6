//! CRMs with flat records: each takes, shows and refuses what its documentation says.

use reqwest::Method;
use serde_json::{Value, json};

use super::support::{Rig, answer, rig};

const SALESFORCE: &str = "/crm/services/data/v61.0/sobjects/Social_Thread__c";
const HUBSPOT: &str = "/crm/crm/v3/objects/social_threads";
const DATAVERSE: &str = "/crm/api/data/v9.2/bh_socialthreads(bh_threadid='t1')";
const TICKETS: &str = "/crm/api/v2/tickets";

impl Rig {
    /// A PATCH or POST with one header.
    async fn with(&self, method: Method, path: &str, header: (&str, &str), body: &Value) -> u16 {
        self.send(method, path, &[header], body).await.0
    }

    /// The clock moves into another second.
    async fn later(&self) {
        self.control(Method::POST, "/_sim/clock/advance", &json!({"ms": 1000})).await;
    }
}

fn ticket(value: &Value) -> Value {
    json!({"ticket": value})
}

#[tokio::test]
async fn zendesk_finds_by_external_id_and_updates_safely() {
    let rig = rig().await;
    let found = async || rig.get(&format!("{TICKETS}?external_id=t1")).await.1["tickets"].clone();
    assert_eq!(found().await, json!([]));
    let fields = json!([{"id": 9005, "value": "[{\"id\": \"m1\"}]"}, {"id": 9003, "value": "7"}]);
    let new = json!({"external_id": "t1", "subject": "s", "comment": {"body": "b"}, "custom_fields": fields});
    let bare = json!({"external_id": "t1", "custom_fields": fields});
    assert_eq!(rig.send(Method::POST, TICKETS, &[], &ticket(&bare)).await.0, 422, "a ticket needs a comment");
    assert_eq!(rig.send(Method::POST, TICKETS, &[("idempotency-key", "k")], &ticket(&new)).await.0, 201);
    assert_eq!(rig.send(Method::POST, TICKETS, &[("idempotency-key", "k")], &ticket(&new)).await.0, 201);
    assert_eq!(rig.sim.summary().effects.applied, 1);

    let shown = found().await[0].clone();
    let value = |id: u64| {
        let fields = shown["custom_fields"].as_array().expect("fields");
        fields.iter().find(|field| field["id"] == id).expect("a field")["value"].clone()
    };
    assert_eq!((value(9005), value(9003), value(9002)), (json!("[{\"id\":\"m1\"}]"), json!("7"), json!("OPEN")));
    let path = format!("{TICKETS}/{}", shown["id"]);
    let update = |stamp: &Value, field: u64, value: &str| {
        ticket(&json!({"safe_update": true, "updated_stamp": stamp, "custom_fields": [{"id": field, "value": value}]}))
    };
    let stamp = &shown["updated_at"];
    rig.later().await;
    assert_eq!(rig.send(Method::PUT, &path, &[], &update(&Value::Null, 9002, "x")).await.0, 400);
    assert_eq!(rig.send(Method::PUT, &path, &[], &update(stamp, 1, "x")).await.0, 422, "no such field");
    assert_eq!(rig.send(Method::PUT, &path, &[], &update(stamp, 9005, &"x".repeat(65_537))).await.0, 422);
    assert_eq!(rig.send(Method::PUT, &path, &[], &update(stamp, 9002, "MERGED")).await.0, 200);
    let (status, refusal) = rig.send(Method::PUT, &path, &[], &update(stamp, 9002, "LOST")).await;
    assert_eq!((status, &refusal["error"]), (409, &json!("UpdateConflict")));
    assert_eq!(rig.get(THREAD).await.1["status"], "MERGED", "it is one world");
    assert_eq!(rig.get(&format!("{TICKETS}/1")).await.0, 404);
}

const THREAD: &str = "/crm/threads/t1";

#[tokio::test]
async fn salesforce_judges_whole_seconds() {
    let rig = rig().await;
    let by_key = format!("{SALESFORCE}/Thread_Id__c/t1");
    assert_eq!(rig.get(&by_key).await.0, 404);
    let new = json!({"Thread_Id__c": "t1", "Messages__c": "[]", "Source_Version__c": 7});
    let (status, made) = rig.send(Method::POST, SALESFORCE, &[], &new).await;
    assert_eq!(status, 201);
    let (status, twice) = rig.send(Method::POST, SALESFORCE, &[], &new).await;
    assert_eq!((status, &twice[0]["errorCode"]), (400, &json!("DUPLICATE_VALUE")));
    let path = format!("{SALESFORCE}/{}", made["id"].as_str().expect("an id"));
    let reply = rig.call(Method::GET, &by_key).send().await.expect("an answer");
    let since = reply.headers()["last-modified"].to_str().expect("text").to_owned();
    assert_eq!(answer(reply).await.1["Source_Version__c"], 7);
    assert_eq!(rig.get(&format!("{by_key}?fields=Id,Nothing__c")).await.0, 400);

    let change = json!({"Status__c": "MERGED"});
    let stale = ("if-unmodified-since", "Sun, 01 Mar 2020 10:00:30 GMT");
    assert_eq!(rig.with(Method::PATCH, &path, stale, &change).await, 412);
    assert_eq!(rig.with(Method::PATCH, &path, ("if-unmodified-since", "yesterday"), &change).await, 400);
    assert_eq!(rig.with(Method::PATCH, &path, ("if-unmodified-since", &since), &json!({"Nothing__c": 1})).await, 400);
    let long = json!({"Messages__c": "x".repeat(131_073)});
    assert_eq!(rig.with(Method::PATCH, &path, ("if-unmodified-since", &since), &long).await, 400);
    rig.later().await;
    assert_eq!(rig.with(Method::PATCH, &path, ("if-unmodified-since", &since), &change).await, 204);
    assert_eq!(rig.with(Method::PATCH, &path, ("if-unmodified-since", &since), &change).await, 412);
}

#[tokio::test]
async fn hubspot_lets_the_last_write_win() {
    let rig = rig().await;
    let path = format!("{HUBSPOT}/t1?idProperty=thread_id");
    assert_eq!(rig.get(&path).await.0, 404);
    let new = json!({"properties": {"thread_id": "t1", "messages": "[]", "source_version": "7"}});
    assert_eq!(rig.send(Method::POST, HUBSPOT, &[], &new).await.0, 201);
    assert_eq!(rig.send(Method::POST, HUBSPOT, &[], &new).await.0, 400, "the property is unique");
    let (_, shown) = rig.get(&format!("{path}&properties=source_version,status,nothing")).await;
    assert_eq!(shown["properties"], json!({"source_version": "7", "status": "OPEN"}));
    assert_eq!(rig.get(&format!("{HUBSPOT}/t1")).await.0, 404, "that would be the object's own id");
    let change = |name: &str, value: &str| json!({"properties": {name: value}});
    assert_eq!(rig.with(Method::PATCH, &path, ("if-match", "\"old\""), &change("status", "MERGED")).await, 200);
    assert_eq!(rig.send(Method::PATCH, &path, &[], &change("nothing", "x")).await.0, 400);
    assert_eq!(rig.send(Method::PATCH, &path, &[], &change("messages", &"x".repeat(65_537))).await.0, 400);
    assert_eq!(rig.send(Method::PATCH, &path, &[], &change("status", "")).await.0, 200);
    assert_eq!(rig.get(THREAD).await.1["status"], Value::Null, "an empty text clears");
}

#[tokio::test]
async fn dataverse_makes_and_changes_by_one_request() {
    let rig = rig().await;
    assert_eq!(rig.get(DATAVERSE).await.0, 404);
    let row = json!({"bh_messages": "[]", "bh_sourceversion": 7});
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-match", "W/\"1-1\""), &row).await, 404, "nothing to change");
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-none-match", "*"), &row).await, 204);
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-none-match", "*"), &row).await, 412);
    let (_, shown) = rig.get(&format!("{DATAVERSE}?$select=bh_sourceversion")).await;
    let tag = shown["@odata.etag"].as_str().expect("a tag");
    assert_eq!(shown, json!({"@odata.etag": tag, "bh_sourceversion": 7}));
    assert_eq!(rig.get(&format!("{DATAVERSE}?$select=nothing")).await.0, 400);
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-match", tag), &json!({"nothing": 1})).await, 400);
    let long = json!({"bh_messages": "x".repeat(1_048_577)});
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-match", tag), &long).await, 400);
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-match", tag), &json!({"bh_status": "MERGED"})).await, 204);
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-match", tag), &json!({"bh_status": "LOST"})).await, 412);
    assert_eq!(rig.get(THREAD).await.1["status"], "MERGED");
}

/// Each product has its own headers; without `retry_after` they are all that a client is told.
#[tokio::test]
async fn limits_are_told_in_the_products_own_words() {
    let rig = rig().await;
    let settings = json!({"limits": {"crm/threads": 1}, "retry_after": false});
    rig.control(Method::PATCH, "/_sim/settings", &settings).await;
    let ask = async |path: &str| rig.call(Method::GET, path).send().await.expect("an answer");
    let tickets = ask(&format!("{TICKETS}?external_id=t1")).await;
    assert_eq!(
        (tickets.status().as_u16(), &tickets.headers()["x-rate-limit-remaining"]),
        (200, &"0".parse().expect("text"))
    );
    let refused = ask(&format!("{TICKETS}?external_id=t1")).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().get("retry-after").is_none() && refused.headers().contains_key("ratelimit-reset"));
    for (path, header) in [
        (format!("{SALESFORCE}/Thread_Id__c/t1"), "sforce-limit-info"),
        (format!("{HUBSPOT}/t1?idProperty=thread_id"), "x-hubspot-ratelimit-remaining"),
        (DATAVERSE.to_owned(), "x-ms-ratelimit-burst-remaining-xrm-requests"),
    ] {
        assert!(ask(&path).await.headers().contains_key(header), "{path}");
    }
}

/// Another writer comes in between on the occasions that a rule names.
#[tokio::test]
async fn another_writer_can_be_scripted() {
    let rig = rig().await;
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-none-match", "*"), &json!({})).await, 204);
    let tag = rig.get(DATAVERSE).await.1["@odata.etag"].as_str().expect("a tag").to_owned();
    let other = json!({"kind": "threads", "id": "t1", "patch": {"status": "THEIRS"}});
    let rule = |other: &Value| json!({"name": "other", "match": {"method": "PATCH"}, "when": {"first": 1}, "then": {"other_writer": other}});
    assert_eq!(
        rig.control(Method::POST, "/_sim/faults", &rule(&json!({"kind": "no", "id": "t1", "patch": {}}))).await.0,
        400
    );
    assert_eq!(rig.control(Method::POST, "/_sim/faults", &rule(&other)).await.0, 200);
    assert_eq!(rig.with(Method::PATCH, DATAVERSE, ("if-match", &tag), &json!({"bh_status": "OURS"})).await, 412);
    assert_eq!(rig.get(THREAD).await.1["status"], "THEIRS");
}
