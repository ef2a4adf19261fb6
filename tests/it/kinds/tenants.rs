//! Tenants are apart: a job works with its own tenant's credentials, limits and memory, whatever its payload names.

use reqwest::Method;
use serde_json::json;

use super::{profile::Setup, stage::Stage};

const PROFILE: &str = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";

/// Covers row 210: a job that names another tenant's profile is refused by the platform, since it comes with its own
/// tenant's token; the other tenant is not touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_cannot_reach_another_tenants_profile() {
    let mut a = Stage::with(Setup { simulator: Some(json!({"strict": true})), ..Setup::default() }).await;
    let b = a.neighbour().await;
    let theirs = json!({"profileId": PROFILE, "attributes": {"tier": "theirs"}, "tags": []});
    b.write(Method::PUT, "profiles", PROFILE, &theirs).await;
    let enrich = json!({"profileId": PROFILE, "attributes": {"tier": "ours"}, "mergeStrategy": "OVERWRITE",
        "sourceSystem": "crm_main"});
    let jobs = a.run("enrichment", &[enrich]).await;
    assert_eq!(a.dead().await[&jobs[0]], "profile_not_found");
    assert_eq!(b.document("profiles", PROFILE).await, theirs);
    assert!(b.requests("profiles").await.is_empty() && b.effects().await.is_empty(), "no request as the other tenant");
}

/// Covers row 210: equal ids of two tenants share no order, no memory and no document.
#[tokio::test(flavor = "multi_thread")]
async fn equal_ids_of_two_tenants_are_two_things() {
    let mut a = Stage::new().await;
    let b = a.neighbour().await;
    let event = |version: u64, text: &str| {
        json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": {
            "threadId": "t1", "version": version, "participants": [],
            "messages": [{"id": "m1", "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1"}]}})
    };
    a.enqueue("crm-sync", &[event(7, "a's")]).await;
    // Behind a's version 7 this would be an old one.
    b.enqueue("crm-sync", &[event(3, "b's")]).await;
    a.work_at_once().await;
    a.all_done().await;
    assert_eq!(a.document("threads", "t1").await["messages"][0]["text"], "a's");
    assert_eq!(b.document("threads", "t1").await["messages"][0]["text"], "b's");
}

/// Covers row 210: a tenant without a connection profile can do nothing, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_a_profile_is_refused() {
    let stage = Stage::new().await;
    let payload = json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}});
    let job = json!({"kind": "widget-patch", "tenant": "stranger", "payload": payload});
    let jobs = stage.database.enqueue(vec![job]).await;
    stage.work_at_once().await;
    assert_eq!(stage.dead().await[&jobs[0]], "profile_missing");
    assert!(stage.requests("webchat").await.is_empty());
}
