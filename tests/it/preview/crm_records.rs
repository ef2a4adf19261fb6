//! Previews of `crm-sync` with CRMs that keep a thread as one flat record.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_same_request, command, of_job, of_payload, rows};
use crate::support::{FLAVOURS, Upstream, eventually};

const KIND: &str = "crm-sync";
const CLASS: &str = "crm/threads";

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "OUTBOUND"})
}

fn event(version: u64, messages: &[Value]) -> Value {
    let data = json!({"threadId": "t1", "version": version, "updatedAt": "2026-01-02T10:00:00Z", "messages": messages,
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}]});
    json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

async fn writes(upstream: &Upstream) -> Vec<Value> {
    let requests = upstream.requests(CLASS).await;
    requests.into_iter().filter(|request| request["method"] != "GET").collect()
}

/// The announced request is the product's own and is the one that is sent; what people said is hidden in it, although it
/// stands there as one text, and the difference is told item by item.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_what_is_sent() {
    for flavour in &FLAVOURS {
        let (name, lines) = (format!("preview-{}", flavour.name), flavour.profile(""));
        let upstream = Upstream::start_with_crm(&name, "", "", (flavour.base, &lines)).await;
        let announced = async |job: i64| {
            let args = ["jobs", "preview", &job.to_string(), "--json", "--personal-data"];
            command(&upstream, &upstream.database.url, &args, None).await
        };
        let jobs = upstream.enqueue(KIND, &[event(1, &[message("m1", "one"), message("m2", "two")])]).await;
        let before = rows(&upstream).await;
        let hidden = of_job(&upstream, jobs[0]).await;
        assert_eq!(hidden.verdict(), "would_change", "{name}: {hidden:?}");
        let pointers = ["/messages/m1", "/messages/m2", "/participants/p1", "/sourceVersion", "/updatedAt"];
        assert_eq!(hidden.pointers("difference"), pointers, "{name}");
        assert!(!hidden.text.contains("Casey") && !hidden.text.contains("two"), "{name}: {}", hidden.text);
        let create = announced(jobs[0]).await;
        assert_eq!(rows(&upstream).await, before, "{name}");
        upstream.work().await;
        assert_same_request(&create.said["request"], &writes(&upstream).await[0]);

        let jobs = upstream.enqueue(KIND, &[event(2, &[message("m1", "uno")])]).await;
        let change = announced(jobs[0]).await;
        assert_eq!(change.pointers("difference"), ["/messages/m1/text", "/messages/m2", "/sourceVersion"], "{name}");
        upstream.work().await;
        assert_same_request(&change.said["request"], &writes(&upstream).await[1]);
        assert!(upstream.dead().await.is_empty(), "{name}");
        assert_eq!(of_payload(&upstream, KIND, &event(2, &[message("m1", "uno")])).await.verdict(), "already_applied");
    }
}

/// A job that waits for what the CRM has promised says so, and announces no second request.
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_is_told() {
    let upstream = Upstream::start("preview-crm-promise", "", "").await;
    upstream.faults(
        "[[faults]]\nname = \"later\"\nmatch = { class = \"crm/threads\", method = \"POST\" }\n\
         then = { status = 202, commit = false }",
    );
    let payload = event(1, &[message("m1", "one")]);
    let jobs = upstream.enqueue(KIND, std::slice::from_ref(&payload)).await;
    let working = async {
        eventually("the CRM promises", async || !writes(&upstream).await.is_empty()).await;
        eventually("the promise is waited for", async || {
            upstream.database.one::<bool>("select exists (select from backhaul.jobs where due_at is not null)").await
        })
        .await;
        let waiting = of_job(&upstream, jobs[0]).await;
        assert!(waiting.note("accepted a request for later"), "{waiting:?}");
        assert_eq!(waiting.said.get("request"), None, "{waiting:?}");
        let mut kept = payload["data"].clone();
        kept["sourceVersion"] = json!(1);
        upstream.write(Method::PUT, "threads", "t1", &kept).await;
    };
    tokio::join!(upstream.work(), working);
    assert_eq!(writes(&upstream).await.len(), 1);
    assert!(upstream.dead().await.is_empty());
}
