use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use super::support::{rig, rig_with};
use crate::{SimOptions, Simulator};

const WIDGET: &str = "/api/v2/digitalmessaging/webchat/configurations/cfg_1";

/// What row 36 needs of the other side: somebody else who changes the document.
#[tokio::test]
async fn another_writer_moves_the_version() {
    let rig = rig().await;
    rig.get(WIDGET).await;
    let path = "/_sim/documents/widgets/acme/cfg_1";
    let (_, first) = rig.get(path).await;
    let (_, second) = rig.control(Method::PATCH, path, &json!({"layout": {"zIndex": 1}})).await;
    assert_eq!((&second["version"], &second["document"]["layout"]["zIndex"]), (&json!(2), &json!(1)));
    assert_ne!(first["etag"], second["etag"]);
    let old = first["etag"].as_str().expect("a tag");
    assert_eq!(rig.send(Method::PATCH, WIDGET, &[("if-match", old)], &json!({"theme": {}})).await.0, 409);
    assert_eq!(rig.control(Method::PUT, path, &json!({"configurationId": "cfg_1"})).await.1["version"], 3);
    assert_eq!(rig.get("/_sim/documents/widgets/acme").await.1["ids"], json!(["cfg_1"]));
    assert_eq!(rig.control(Method::DELETE, path, &json!({})).await.1["deleted"], true);
    assert_eq!(rig.get(path).await.0, 404);
    assert_eq!(rig.get("/_sim/documents/nonsense/acme/x").await.0, 404);
    assert_eq!(rig.sim.summary().effects.applied, 0, "another writer is not in the ledger");
}

#[tokio::test]
async fn the_record_is_filtered_and_holds_no_token() {
    let rig = rig().await;
    rig.get(WIDGET).await;
    let theme = json!({"theme": {"primaryColor": "#fff"}});
    rig.send(Method::PATCH, WIDGET, &[("if-match", "1"), ("idempotency-key", "k9")], &theme).await;
    let (_, all) = rig.get("/_sim/record").await;
    assert_eq!(all["requests"].as_array().map(Vec::len), Some(3), "the control plane is not recorded");
    assert!(!all.to_string().contains(&rig.token) && !all.to_string().contains("sim-secret"));
    let (_, one) = rig.get("/_sim/record?method=patch&tenant=acme&class=webchat&key=k9&path=cfg_1&status=200").await;
    let request = &one["requests"][0];
    assert_eq!((&request["body"], &request["headers"]["if-match"]), (&theme, &json!("1")));
    assert_eq!((&request["token"], &request["applied"]), (&json!(1), &json!(true)));
    let since = request["seq"].as_u64().expect("a number");
    let (_, none) = rig.get(&format!("/_sim/record?since={since}")).await;
    assert_eq!(none["requests"], json!([]));
    assert_eq!(rig.get("/_sim/record?tennant=acme").await.0, 400, "a misspelt filter would match everything");
    assert_eq!(rig.get("/_sim/record?limit=many").await.0, 400);
    let (_, summary) = rig.get("/_sim/summary").await;
    assert_eq!(summary["by_tenant"]["acme"]["cxone/webchat"]["200"], 2);
    rig.control(Method::POST, "/_sim/reset", &json!({})).await;
    let after = rig.sim.summary();
    assert_eq!((after.record.requests, after.effects.applied, after.documents), (0, 0, 0));
    assert_eq!(rig.get(WIDGET).await.0, 200, "tokens outlive a reset");
    rig.control(Method::POST, "/_sim/reset", &json!({"tokens": true})).await;
    assert_eq!(rig.get(WIDGET).await.0, 401, "unless it is asked for");
}

#[tokio::test]
async fn settings_are_checked() {
    let rig = rig().await;
    for bad in [
        json!({"widget_conflict_status": 410}),
        json!({"limits": {"cxone/profile": 1}}),
        json!({"limits": {"cxone/profiles": 0}}),
        json!({"nonsense": true}),
    ] {
        assert_eq!(rig.control(Method::PATCH, "/_sim/settings", &bad).await.0, 400, "{bad}");
    }
    let (_, lifted) = rig.control(Method::PATCH, "/_sim/settings", &json!({"limits": {"cxone/profiles": null}})).await;
    assert!(lifted["limits"].get("cxone/profiles").is_none());
    assert!(rig.sim.settings().unlimited().limits.is_empty());
}

/// The receiver under test is the simulator's own callback endpoint.
#[tokio::test]
async fn events_are_generated_signed_and_delivered() {
    let rig = rig().await;
    for (channel, path) in [
        ("voice", "/data/customer/phoneNumber"),
        ("chat", "/data/customer/email"),
        ("sms", "/data/message/body"),
        ("social", "/data/messages/2/text"),
    ] {
        let url = rig.url(&format!("/callbacks/{channel}"));
        let order = json!({"url": url, "channel": channel, "count": 2, "secret": "test-secret", "event_id": "e1",
            "headers": {"webhook-id": "d1"}});
        let (status, answer) = rig.control(Method::POST, "/_sim/generate", &order).await;
        assert_eq!((status, &answer["delivered"]), (200, &json!(2)), "{answer}");
        let (_, listed) = rig.get(&format!("/_sim/callbacks?path={channel}")).await;
        let raw = listed["callbacks"][1]["body"].as_str().expect("a raw body");
        let event: Value = serde_json::from_str(raw).expect("JSON");
        assert!(event.pointer(path).is_some_and(Value::is_string), "{event}");
        assert_eq!(event["eventId"], "e1");
        assert_eq!(listed["callbacks"][1]["headers"]["webhook-id"], "d1");
    }
    let summary = rig.sim.summary();
    assert_eq!((summary.callbacks, summary.effects.applied, summary.record.replays), (8, 4, 4), "one effect an id");
    let (status, _) = rig.control(Method::POST, "/_sim/generate", &json!({"url": rig.url("/nowhere")})).await;
    assert_eq!(status, 502);
    let order = json!({"url": "http://example.com/"});
    assert_eq!(rig.control(Method::POST, "/_sim/generate", &order).await.0, 400);
}

/// The short form: one event, by parameters.
#[tokio::test]
async fn one_event_is_generated_by_its_channel() {
    let rig = rig().await;
    let generate =
        async |more: &str| rig.control(Method::POST, &format!("/simulator/generate?{more}"), &json!({})).await;
    let (status, answer) = generate(&format!("channel=sms&secret=s&url={}", rig.url("/callbacks/one"))).await;
    assert_eq!((status, &answer["status"]), (200, &json!("delivered")), "{answer}");
    assert!(answer["payloadId"].as_str().is_some_and(|id| id.starts_with("sim-")), "{answer}");
    let (_, listed) = rig.get("/_sim/callbacks?path=one").await;
    assert!(listed["callbacks"][0]["body"].as_str().is_some_and(|body| body.contains("+15550002002")), "{listed}");
    let (status, answer) = generate(&format!("url={}", rig.url("/nowhere"))).await;
    assert_eq!((status, &answer["status"]), (500, &json!("failed")), "{answer}");
    assert_eq!(generate("channel=fax").await.0, 400);
}

/// What row 178 needs of the other side: racing repeats of one request have one effect.
#[tokio::test]
async fn racing_repeats_have_one_effect() {
    let rig = Arc::new(rig().await);
    let mut racing = JoinSet::new();
    for _ in 0..50 {
        let rig = rig.clone();
        racing.spawn(async move {
            let body = json!({"attributes": {"a": 1}, "mergeStrategy": "OVERWRITE", "sourceSystem": "crm"});
            rig.send(Method::PATCH, "/api/v2/profiles/p1", &[("idempotency-key", "k1")], &body).await.0
        });
    }
    assert!(racing.join_all().await.into_iter().all(|status| status == 200));
    let summary = rig.sim.summary();
    assert_eq!((summary.effects.applied, summary.record.replays), (1, 49));
}

#[tokio::test]
async fn stopping_frees_the_port_and_drops_connections() {
    let rig = rig_with(SimOptions::default()).await;
    let port = rig.sim.address().port();
    let url = rig.url("/mute/webchat");
    let http = rig.http.clone();
    let waiting = tokio::spawn(async move { http.get(url).send().await });
    let arrived = async {
        while !rig.sim.summary().record.by_tenant.contains_key("-") {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), arrived).await.expect("the request arrives");
    rig.sim.stop().await;
    assert!(waiting.await.expect("no panic").is_err(), "a held request ends with the server");
    let again = Simulator::start(SimOptions { port, tls: false, ..SimOptions::default() }).await.expect("a free port");
    assert_eq!(again.address().port(), port);
    assert!(Simulator::start(SimOptions { port, tls: false, ..SimOptions::default() }).await.is_err());
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let rig = rig_with(SimOptions { tls: false, body_bytes_max: 1000, ..SimOptions::default() }).await;
    let body = json!({"theme": {"fontFamily": "x".repeat(2000)}});
    assert_eq!(rig.send(Method::PATCH, WIDGET, &[("if-match", "1")], &body).await.0, 413);
}
