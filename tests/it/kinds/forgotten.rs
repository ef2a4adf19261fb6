//! What a kind does about a resource that it has forgotten (`worker.memories_days`): what it does about one that it meets
//! for the first time.

use serde_json::{Value, json};

use super::stage::Stage;

impl Stage {
    /// A year passes in which no job writes about any resource.
    async fn forget(&self) {
        self.database.run("update backhaul.memories set updated_at = updated_at - interval '1 year'").await;
        let forgotten: i32 = self.database.one("select backhaul.expire_memories('0', '30 days', 100)").await;
        assert!(forgotten > 0, "nothing was remembered");
    }
}

/// The CRM's record is compared: nothing comes twice, what differs is put right, and what Backhaul itself brought there
/// counts as the CRM's own from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_thread_is_compared_with_the_record() {
    let stage = Stage::new().await;
    let event = |version: u64, messages: &[(&str, &str)]| {
        let message = |(id, text): &(&str, &str)| json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "INBOUND"});
        json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z",
            "data": {"threadId": "t1", "version": version, "updatedAt": "2026-01-02T10:00:00Z",
                "participants": [{"id": "p1", "role": "CUSTOMER"}],
                "messages": messages.iter().map(message).collect::<Vec<_>>()}})
    };
    stage.done("crm-sync", &[event(1, &[("m1", "one"), ("m2", "two")])]).await;
    stage.forget().await;
    stage.done("crm-sync", &[event(2, &[("m2", "two, edited"), ("m3", "three")])]).await;
    let record = stage.document("threads", "t1").await;
    let messages: Vec<(&Value, &Value)> = record["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|message| (&message["id"], &message["text"]))
        .collect();
    assert_eq!(
        messages,
        [(&json!("m1"), &json!("one")), (&json!("m2"), &json!("two, edited")), (&json!("m3"), &json!("three"))]
    );
    // It is remembered again, from here.
    stage.done("crm-sync", &[event(3, &[("m3", "three")])]).await;
    let record = stage.document("threads", "t1").await;
    assert_eq!(record["messages"].as_array().map(Vec::len), Some(2), "{record}");
}

/// The profile's survivor is found out once more; times at the source are not, so that older data may pass once.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_profile_is_enriched_as_if_it_were_new() {
    let (old, left) = ("0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e", "1c62a3b7-8d2e-4d60-8e3f-6e2d8a1b0c4f");
    let stage = Stage::new().await;
    let latest = |profile: &str, time: &str, attributes: Value| {
        json!({"profileId": profile, "attributes": attributes, "mergeStrategy": "KEEP_LATEST",
            "sourceSystem": "crm_main", "sourceUpdatedAt": time})
    };
    let mail = json!({"email": "ann@example.com"});
    stage.done("enrichment", &[latest(left, "2026-01-01T00:00:00Z", mail.clone())]).await;
    stage.done("enrichment", &[latest(old, "2026-01-01T00:00:00Z", mail)]).await;
    stage.done("enrichment", &[latest(old, "2026-02-01T00:00:00Z", json!({"tier": "gold"}))]).await;
    let last = async || {
        let sent = stage.sent("profiles", "PATCH").await.pop().expect("a write");
        let whose = if sent["path"].as_str().is_some_and(|path| path.ends_with(old)) { old } else { left };
        (whose, sent["body"]["attributes"].clone())
    };
    assert_eq!(last().await, (left, json!({"tier": "gold"})));
    stage.forget().await;
    stage.done("enrichment", &[latest(old, "2026-01-15T00:00:00Z", json!({"tier": "silver"}))]).await;
    assert_eq!(last().await, (old, json!({"tier": "silver"})), "only the upstream's own times stand in its way");
    // It is remembered again, from here.
    stage.done("enrichment", &[latest(old, "2026-01-14T00:00:00Z", json!({"tier": "bronze", "city": "Bern"}))]).await;
    assert_eq!(last().await, (left, json!({"city": "Bern"})));
}
