//! What happens to a widget's change when the callback that tells of it is refused, lost or forbidden.

use backhaul_outbound::{redact::Secret, sign};
use serde_json::{Value, json};

use super::{profile::HOOK_SECRET, stage::Stage};
use crate::support::eventually;

const KIND: &str = "widget-patch";
const CLASS: &str = "webchat";

fn with_callback(id: &str, url: &str) -> Value {
    json!({"configurationId": id, "theme": {"primary": "#abc"}, "callbackUrl": url})
}

/// Covers row 57: a receiver that answers 500 for ever has not been told, whatever else went well.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_fails_is_never_completed() {
    let stage = Stage::new().await;
    stage.fault("callback", "POST", json!({}), json!({"status": 500})).await;
    let jobs = stage.run(KIND, &[with_callback("cfg_1", &stage.callback_url())]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "callback_failed");
    assert_eq!(stage.errors(jobs[0]).await.len(), 4, "each try is in the history");
    let failed = &stage.told("widget.callback_failed").await[0];
    assert_eq!(failed["side_effects"], json!({"purge": "completed", "callback": "failed"}));
    assert_eq!(failed["status"], "updated");
    for (kind, data) in stage.events().await {
        assert_ne!(data["side_effects"]["callback"], "completed", "{kind}");
    }
}

/// Covers row 58: nobody listens at the callback's address; the change is live and said to be, and the callback waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_callback_leaves_the_change_live() {
    let stage = Stage::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let jobs = stage.enqueue(KIND, &[with_callback("cfg_1", &format!("http://{closed}/"))]).await;
    let worker = stage.worker();
    eventually("the callback is tried again later", async || {
        stage.database.one::<bool>("select coalesce((select attempt > 0 from backhaul.jobs), false)").await
    })
    .await;
    assert_eq!(stage.event_types().await, ["widget.validated", "widget.patched", "widget.purged"]);
    assert_eq!(stage.told("widget.patched").await[0]["status"], "updated");
    assert_eq!(stage.document("widgets", "cfg_1").await["theme"]["primaryColor"], "#abc");
    assert!(stage.dead().await.is_empty());
    eventually("the tries are used up", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    assert_eq!(stage.dead().await[&jobs[0]], "callback_failed");
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1);
}

/// Covers row 60: three tries of one callback carry one id and signatures that verify.
#[tokio::test(flavor = "multi_thread")]
async fn callbacks_are_signed_under_one_id() {
    let stage = Stage::new().await;
    let then = json!({"status": 503, "commit": true});
    stage.fault("callback", "POST", json!({"first": 2}), then).await;
    stage.done(KIND, &[with_callback("cfg_1", &stage.callback_url())]).await;
    let callbacks = stage.callbacks().await;
    assert_eq!(callbacks.len(), 3);
    let secrets = [Secret::new(HOOK_SECRET)];
    for callback in &callbacks {
        let header = |name: &str| callback["headers"][name].as_str().expect("a header");
        assert_eq!(header("webhook-id"), callbacks[0]["headers"]["webhook-id"]);
        let body = callback["body"].as_str().expect("text");
        let at: i64 = header("webhook-timestamp").parse().expect("seconds");
        assert!(sign::verify(&secrets, header("webhook-id"), at, body.as_bytes(), header("webhook-signature")));
        assert!(!sign::verify(&secrets, header("webhook-id"), at, b"{}", header("webhook-signature")));
        let told: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(told["event"], "widget_customization_applied");
        assert_eq!((&told["configurationId"], &told["theme"]["primaryColor"]), (&json!("cfg_1"), &json!("#abc")));
        assert_eq!(body, callbacks[0]["body"], "one event, one body");
    }
}

/// Covers row 59: a callback that may not be called is refused before anything is changed.
#[tokio::test(flavor = "multi_thread")]
async fn forbidden_callbacks_are_refused_first() {
    let stage = Stage::new().await;
    let urls = ["https://169.254.169.254/", "https://10.0.0.1/", "https://[::ffff:127.0.0.1]/", "https://0x7f000001/"];
    let payloads: Vec<Value> =
        urls.iter().enumerate().map(|(number, url)| with_callback(&format!("cfg_{number}"), url)).collect();
    let jobs = stage.run(KIND, &payloads).await;
    let dead = stage.dead().await;
    assert!(jobs.iter().all(|job| dead[job] == "address_not_allowed"), "{dead:?}");
    assert!(stage.exchanges(CLASS).await.is_empty());
}

/// Covers row 20: a receiver that asked for peace gets it from every job, whichever of them it told.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_receiver_is_left_alone_by_other_jobs() {
    let stage = Stage::new().await;
    stage.fault("callback", "POST", json!({"first": 1}), json!({"status": 429, "retry_after_s": 600})).await;
    stage.enqueue(KIND, &[with_callback("cfg_1", &stage.callback_url())]).await;
    let worker = stage.worker();
    eventually("the first is refused", async || stage.sent("callback", "POST").await.len() == 1).await;
    let waiting = "select count(*) from backhaul.jobs where due_at > now() + interval '5 minutes' and attempt = 0";
    eventually("it waits", async || stage.database.one::<i64>(waiting).await == 1).await;
    stage.enqueue(KIND, &[with_callback("cfg_2", &stage.callback_url())]).await;
    eventually("so does the second", async || stage.database.one::<i64>(waiting).await == 2).await;
    assert_eq!(stage.sent("callback", "POST").await.len(), 1, "the second was not sent");
    assert_eq!(stage.told("widget.purged").await.len(), 2, "what comes before the callback was done");
    eventually("both are told in the end", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
    assert_eq!(stage.sent("callback", "POST").await.len(), 3);
}
