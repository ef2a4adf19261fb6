//! Links between threads: a merged child is linked and closed in the CRM, whichever way its parent became known, and no
//! thread becomes its own ancestor.

use reqwest::Method;
use serde_json::{Value, json};

use super::stage::Stage;

const KIND: &str = "crm-sync";

/// A thread without messages.
fn data(id: &str, version: Option<u64>, parent: &Value) -> Value {
    let mut data = json!({"threadId": id, "updatedAt": "2026-01-02T10:00:00Z", "parentThreadId": parent,
        "participants": [{"id": "p1", "role": "CUSTOMER"}], "messages": []});
    if let Some(version) = version {
        data["version"] = json!(version);
    }
    data
}

fn event(event: &str, data: &Value) -> Value {
    json!({"threadId": data["threadId"], "event": event, "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

fn reconcile(id: &str) -> Value {
    json!({"threadId": id, "reconcile": true})
}

impl Stage {
    /// Parent and status of a thread in the CRM.
    async fn link(&self, id: &str) -> (Value, Value) {
        let record = self.document("threads", id).await;
        (record["parentThreadId"].clone(), record["status"].clone())
    }
}

fn closed() -> (Value, Value) {
    (json!("parent"), json!("MERGED"))
}

/// Covers row 169: an event that names the parent closes the child, also where another one has linked it before.
#[tokio::test(flavor = "multi_thread")]
async fn a_linked_child_is_closed() {
    let stage = Stage::new().await;
    let merged = data("a", None, &json!("parent"));
    stage.done(KIND, &[event("THREAD_UPDATED", &merged), event("THREAD_MERGED", &merged)]).await;
    assert_eq!(stage.link("a").await, closed());

    // The event that said so is lost: a later one closes the gap.
    let [first, third] = [(1, json!(null)), (3, json!("parent"))].map(|(v, parent)| data("b", Some(v), &parent));
    stage.write(Method::PUT, "social", "b", &third).await;
    stage.done(KIND, &[event("THREAD_UPDATED", &first), event("THREAD_UPDATED", &third)]).await;
    assert_eq!(stage.link("b").await, closed());

    // It was synced, as linked and open, before a link counted as a merger.
    stage
        .database
        .run(r#"update backhaul.memories set value = value || '{"status": null}' where resource = 'b'"#)
        .await;
    stage.write(Method::PATCH, "threads", "b", &json!({"status": "OPEN"})).await;
    stage.done(KIND, &[event("THREAD_MERGED", &third)]).await;
    assert_eq!(stage.link("b").await, closed());
}

/// Covers row 169, row 197: the source's answer names no event, and the CRM's record may show another status than the one
/// that it was given.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_reconciled() {
    let stage = Stage::new().await;
    stage.write(Method::PUT, "social", "a", &data("a", Some(1), &json!("parent"))).await;
    stage.done(KIND, &[reconcile("a")]).await;
    assert_eq!(stage.link("a").await, closed());
    stage.write(Method::PATCH, "threads", "a", &json!({"status": "OPEN"})).await;
    stage.done(KIND, &[reconcile("a")]).await;
    assert_eq!(stage.link("a").await, closed());
    let told = stage.told("thread.reconciled").await;
    assert_eq!(told[1]["status"], "updated", "{told:?}");
    // The same repair of the same version once more: a CRM that honours keys must not take it for the one before.
    stage.write(Method::PATCH, "threads", "a", &json!({"status": "OPEN"})).await;
    stage.done(KIND, &[reconcile("a")]).await;
    assert_eq!(stage.link("a").await, closed());

    // Split off at the source. The CRM's own statuses are its own.
    stage.write(Method::PUT, "social", "a", &data("a", Some(2), &json!(null))).await;
    stage.done(KIND, &[reconcile("a")]).await;
    assert_eq!(stage.link("a").await, (json!(null), json!("OPEN")));
    stage.write(Method::PATCH, "threads", "a", &json!({"status": "ARCHIVED"})).await;
    stage.done(KIND, &[reconcile("a")]).await;
    assert_eq!(stage.link("a").await, (json!(null), json!("ARCHIVED")));
}

/// Covers row 169: a parent that the source names is judged as one that an event names.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_makes_no_cycle_either() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event("THREAD_MERGED", &data("child", Some(1), &json!("parent")))]).await;
    stage.write(Method::PUT, "social", "parent", &data("parent", Some(1), &json!("child"))).await;
    let jobs = stage.run(KIND, &[reconcile("parent")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "thread_parent_cycle");
    assert_eq!(stage.document("threads", "parent").await, Value::Null);
}
