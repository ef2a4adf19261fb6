use reqwest::Method;
use serde_json::{Value, json};

use super::support::rig;

fn bodies() -> [(&'static str, Value); 4] {
    [
        (
            "/api/v2/webhooks",
            json!({"name": "Interaction Router", "url": "https://in.example/a", "scope": "interactions:read",
                "events": ["interaction.created"]}),
        ),
        (
            "/api/v2/webhooks",
            json!({"name": "cxone_profile_enrichment_sync", "url": "https://in.example/b",
                "eventTypes": ["PROFILE_UPDATED"], "secret": "test-secret", "enabled": true}),
        ),
        (
            "/api/v2/webhooks",
            json!({"name": "Webchat Health Monitor", "enabled": true, "event": "routing:conversation:analytic",
                "address": "https://in.example/c", "method": "POST", "filter": "channelType:webchat"}),
        ),
        (
            "/api/v2/interactions/webhooks",
            json!({"name": "crm-social-thread-sync", "uri": "https://in.example/d", "events": ["THREAD_MERGED"],
                "status": "ACTIVE", "filter": {"channel": "SOCIAL"}}),
        ),
    ]
}

/// What rows 93, 129 and 154 need of the other side: a duplicate is told, and the list shows what to repair.
#[tokio::test]
async fn every_body_is_registered_once() {
    let rig = rig().await;
    for (path, body) in bodies() {
        let (status, created) = rig.send(Method::POST, path, &[], &body).await;
        assert_eq!((status, &created["name"]), (201, &body["name"]));
        assert!(created.get("secret").is_none());
        let id = created["id"].as_str().expect("an id").to_owned();
        assert_eq!(id.starts_with("wh_"), path.contains("interactions"));
        let (status, refused) = rig.send(Method::POST, path, &[], &body).await;
        assert_eq!((status, &refused["error"]), (409, &json!("ALREADY_EXISTS")));

        let mut repaired = body.clone();
        let address = ["url", "address", "uri"].into_iter().find(|name| body.get(name).is_some()).expect("one");
        repaired[address] = json!("https://new.example/");
        repaired.as_object_mut().expect("an object").remove("secret");
        let (status, updated) = rig.send(Method::PUT, &format!("{path}/{id}"), &[], &repaired).await;
        assert_eq!((status, &updated[address], &updated["version"]), (200, &json!("https://new.example/"), &json!(2)));
        let (_, listed) = rig.get(path).await;
        let shown = listed["entities"].as_array().expect("a list");
        assert!(shown.iter().any(|hook| hook["id"] == id && hook[address] == "https://new.example/"));
        assert_eq!(listed["entities"], listed["webhooks"]);
    }
    assert_eq!(rig.get("/api/v2/webhooks").await.1["total"], 3, "without a prefix both systems' webhooks are listed");
    assert_eq!(rig.get("/genesys/api/v2/webhooks").await.1["total"], 1);
    let summary = rig.sim.summary();
    assert_eq!(summary.record.by_tenant["acme"]["genesys/webhooks"][&201], 1);
    assert_eq!(summary.effects.applied, 8);
}

#[tokio::test]
async fn what_is_a_duplicate_can_be_chosen() {
    let rig = rig().await;
    let [(path, mut body), ..] = bodies();
    rig.control(Method::PATCH, "/_sim/settings", &json!({"webhook_duplicates": "by_address"})).await;
    assert_eq!(rig.send(Method::POST, path, &[], &body).await.0, 201);
    body["name"] = json!("another name");
    assert_eq!(rig.send(Method::POST, path, &[], &body).await.0, 409);
    rig.control(Method::PATCH, "/_sim/settings", &json!({"webhook_duplicates": "allowed"})).await;
    let (_, twin) = rig.send(Method::POST, path, &[], &body).await;
    let one = format!("{path}/{}", twin["id"].as_str().expect("an id"));
    assert_eq!(rig.call(Method::DELETE, &one).send().await.expect("an answer").status(), 204);
    assert_eq!(rig.get(&one).await.0, 404);
    assert_eq!(rig.send(Method::POST, path, &[], &json!({"name": "no address"})).await.0, 400);
}

#[tokio::test]
async fn listings_can_come_in_pages() {
    let rig = rig().await;
    rig.control(Method::PATCH, "/_sim/settings", &json!({"webhook_page_size": 2})).await;
    let [(path, mut body), ..] = bodies();
    for name in ["a", "b", "c"] {
        body["name"] = json!(name);
        assert_eq!(rig.send(Method::POST, path, &[], &body).await.0, 201);
    }
    let (_, first) = rig.get(path).await;
    assert_eq!((first["entities"].as_array().expect("a list").len(), &first["pageCount"]), (2, &json!(2)));
    let next = first["nextUri"].as_str().expect("a link").to_owned();
    let (_, last) = rig.get(&next).await;
    assert_eq!((&last["entities"][0]["name"], &last["pageNumber"]), (&json!("c"), &json!(2)));
    assert!(last.get("nextUri").is_none());
}
