//! Who may preview, and at whose pace.

use serde_json::json;

use super::{command, of_payload};
use crate::support::{Login, Upstream};

const KIND: &str = "widget-patch";

/// A preview takes a token of the upstream's limit for each of its calls, and makes none while the limit is closed.
#[tokio::test(flavor = "multi_thread")]
async fn previews_keep_to_the_limits() {
    let upstream = Upstream::start("preview-pace", "", "").await;
    let payload = json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}});
    upstream.database.run("select backhaul.bucket_limit('acme', 'cxone/webchat', 60)").await;
    let tokens = "select floor(tokens)::bigint from backhaul.buckets where name = 'cxone/webchat'";
    let before: i64 = upstream.database.one(tokens).await;
    assert_eq!(of_payload(&upstream, KIND, &payload).await.verdict(), "would_change");
    let after: i64 = upstream.database.one(tokens).await;
    assert!(after < before.max(1), "{before} tokens became {after}");

    upstream
        .database
        .run("update backhaul.buckets set blocked_until = clock_timestamp() + interval '1 hour', blocked_why = '429'")
        .await;
    let refused = of_payload(&upstream, KIND, &payload).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.complaint.contains("rate_limited") && refused.complaint.contains("429"), "{}", refused.complaint);
    assert_eq!(upstream.exchanges("cxone/webchat").await, ["GET 200"]);
}

/// An operator may preview; who may read no payloads may not.
#[tokio::test(flavor = "multi_thread")]
async fn operators_may_preview() {
    let upstream = Upstream::start("preview-roles", "", "").await;
    let jobs = upstream.enqueue(KIND, &[json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}})]).await;
    let job = jobs[0].to_string();
    let args = ["jobs", "preview", &job, "--json"];
    let operator = Login::of(&upstream.database, Some("backhaul_operator")).await;
    let shown = command(&upstream, &operator.url, &args, None).await;
    assert_eq!((shown.code, shown.verdict()), (Some(0), "would_change"), "{shown:?}");
    let reader = Login::of(&upstream.database, Some("backhaul_reader")).await;
    let refused = command(&upstream, &reader.url, &args, None).await;
    assert_ne!(refused.code, Some(0));
    assert!(refused.complaint.contains("permission denied"), "{}", refused.complaint);
}
