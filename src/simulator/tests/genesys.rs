use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::support::rig;

const CHANNEL: &str = "/api/v2/webchat/channels/c1";

/// What row 150 needs of the other side: every form of the version.
#[tokio::test]
async fn a_channel_is_replaced_under_its_version() {
    let rig = rig().await;
    let (_, mut channel) = rig.get(CHANNEL).await;
    assert_eq!(channel["version"], 1);
    channel.as_object_mut().expect("an object").remove("version");
    assert_eq!(rig.send(Method::PUT, CHANNEL, &[], &channel).await.0, 428);
    let (_, second) = rig.send(Method::PUT, CHANNEL, &[("if-match", "1")], &channel).await;
    assert_eq!(second["version"], 2);
    assert_eq!(rig.send(Method::PUT, CHANNEL, &[("if-match", "1")], &channel).await.0, 409);
    assert_eq!(rig.send(Method::PUT, CHANNEL, &[("if-match", "\"2\"")], &channel).await.1["version"], 3);
    channel["version"] = json!(3);
    channel["extra"] = json!({"kept": true});
    let (_, fourth) = rig.send(Method::PUT, CHANNEL, &[], &channel).await;
    assert_eq!((&fourth["version"], &fourth["extra"]["kept"]), (&json!(4), &json!(true)));
    channel["enabled"] = json!("yes");
    assert_eq!(rig.send(Method::PUT, CHANNEL, &[("if-match", "4")], &channel).await.0, 400);
}

/// What row 162 needs of the other side.
#[tokio::test]
async fn a_channel_is_created_once_per_external_id() {
    let rig = rig().await;
    let settings = json!({"webchatUrl": "https://c.example", "authProviderId": "p", "corsAllowedOrigins": []});
    let body = json!({"name": "New", "externalId": "ext-1", "webchatSettings": settings});
    let (status, created) = rig.send(Method::POST, "/api/v2/webchat/channels", &[], &body).await;
    assert_eq!((status, &created["version"]), (201, &json!(1)));
    let (status, twin) = rig.send(Method::POST, "/api/v2/webchat/channels", &[], &body).await;
    assert_eq!((status, &twin["id"]), (409, &created["id"]));
    let (_, found) = rig.get("/api/v2/webchat/channels?externalId=ext-1").await;
    assert_eq!((&found["total"], &found["entities"][0]["id"]), (&json!(1), &created["id"]));
}

/// What rows 157 and 158 need of the other side: pages that fit together.
#[tokio::test]
async fn the_audit_trail_is_read_in_pages() {
    let rig = rig().await;
    let (_, channel) = rig.get(CHANNEL).await;
    rig.send(Method::PUT, CHANNEL, &[("if-match", "1")], &channel).await;
    let (mut ids, mut cursor, mut pages) = (BTreeSet::new(), None::<String>, 0);
    let total = loop {
        let mut path = "/api/v2/audits/query?filter=entityId:c1&pageSize=100".to_owned();
        if let Some(cursor) = &cursor {
            path.push_str(&format!("&cursor={cursor}"));
        }
        let (status, page) = rig.get(&path).await;
        assert_eq!(status, 200);
        pages += 1;
        for entity in page["entities"].as_array().expect("a list") {
            assert!(ids.insert(entity["id"].as_str().expect("an id").to_owned()), "an entry came twice");
        }
        match page.get("nextPageCursor").and_then(Value::as_str) {
            Some(next) => cursor = Some(next.to_owned()),
            None => break page["total"].clone(),
        }
        assert!(pages < 10, "the trail ends");
        // The window is the cursor's: pages fit together though the clock goes on.
        rig.sim.advance_clock(10);
    };
    assert_eq!((pages, ids.len(), total), (3, 251, json!(251)));
    assert!(ids.contains("audit-c1-change-1"));
    let query = json!({"filter": "entityId:c1", "pageSize": 7, "startTime": "2024-01-01T00:00:00Z"});
    let (_, posted) = rig.send(Method::POST, "/genesys/api/v2/audits/query", &[], &query).await;
    assert_eq!(posted["entities"].as_array().map(Vec::len), Some(7));
    for bad in ["filter=entityId:a%20OR%20b", "filter=entityId:c1&cursor=x", "filter=entityId:c1&pageSize=0"] {
        assert_eq!(rig.get(&format!("/api/v2/audits/query?{bad}")).await.0, 400, "{bad}");
    }
}
