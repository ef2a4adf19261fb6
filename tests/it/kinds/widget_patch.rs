//! The kind `widget-patch` over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use super::{doors::Doors, profile::Setup, stage::Stage};
use crate::support::eventually;

const KIND: &str = "widget-patch";
const CLASS: &str = "webchat";

fn primary(id: &str, colour: &str) -> Value {
    json!({"configurationId": id, "theme": {"primary": colour}})
}

/// Covers row 33, row 34, row 38, row 39, row 40, row 62: one patch, from the reading to the callback.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_sparse_conditional_and_told() {
    let stage = Stage::new().await;
    let standing = json!([{"eventType": "widget_open", "action": "log_to_external", "payload": {"n": 1}}]);
    stage.write(Method::PATCH, "widgets", "cfg_1", &json!({"eventListeners": standing})).await;
    let before = stage.document("widgets", "cfg_1").await;
    let payload = json!({
        "configurationId": "cfg_1",
        "theme": {"primary": "#abc"},
        "eventListeners": [{"event": "message_sent", "action": "track_latency", "payload": {"k": "v"}}],
        "callbackUrl": stage.callback_url(),
    });
    stage.done(KIND, &[payload]).await;

    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 200", "POST 204"]);
    let patch = &stage.sent(CLASS, "PATCH").await[0];
    let read_tag = stage.get(&format!("documents/widgets/{}/cfg_1", stage.tenant)).await;
    let tag = patch["headers"]["if-match"].as_str().expect("a precondition");
    assert!(tag.starts_with("W/\"") && read_tag["etag"] != tag, "{tag}");
    assert_eq!(
        patch["body"],
        json!({
            "configurationId": "cfg_1",
            "theme": {"primaryColor": "#abc"},
            "eventListeners": [standing[0], {"eventType": "message_sent", "action": "track_latency", "payload": {"k": "v"}}],
        }),
        "no defaults, no layout, no metadata, and nobody's listener lost"
    );
    let after = stage.document("widgets", "cfg_1").await;
    assert_eq!(after["theme"]["primaryColor"], "#abc");
    assert_eq!((&after["layout"], &after["theme"]["fontFamily"]), (&before["layout"], &before["theme"]["fontFamily"]));

    let events = stage.events().await;
    let types: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(types, ["widget.validated", "widget.patched", "widget.purged", "widget.callback_delivered"]);
    let patched = &events[1].1;
    assert_eq!((&patched["etag_before"], &patched["tenant"]), (&json!(tag), &json!(stage.tenant)));
    let actor: String = stage.database.one("select session_user::text").await;
    assert_eq!(patched["actor"], actor, "who enqueued it, never a constant");
    for member in ["attempt", "request_id", "http_status", "latency_ms", "etag_after", "side_effects"] {
        assert!(!patched[member].is_null(), "{member}");
    }
}

/// Covers row 62: the event of a job that fails its schema has every member too, and says what it knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_payload_is_audited_and_makes_no_call() {
    let stage = Stage::new().await;
    let jobs = stage.run(KIND, &[primary("cfg_1", "red;} body{display:none")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "invalid_payload");
    assert!(stage.exchanges(CLASS).await.is_empty());
    let failed = &stage.told("widget.failed").await[0];
    assert_eq!(failed["validation"]["isValid"], false);
    for member in ["etag_before", "request_id", "side_effects", "http_status", "latency_ms"] {
        assert!(failed.get(member).is_some(), "{member} is there, though null");
    }
    assert!(!failed.to_string().contains("display"), "no part of the payload");
}

/// Covers row 5: a 401 is answered by one new token and one repetition; a second one stops the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_401_is_refreshed_once() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"status": 401})).await;
    stage.done(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 401", "PATCH 200", "POST 204"]);
    assert_eq!(stage.exchanges("cxone/token").await.len(), 2, "the first token and one refresh");
    let tokens: Vec<Value> = stage.sent(CLASS, "PATCH").await.iter().map(|patch| patch["token"].clone()).collect();
    assert_ne!(tokens[0], tokens[1], "the repetition has the new token");

    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({"first": 2}), json!({"status": 401})).await;
    let jobs = stage.run(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "auth_blocked");
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 401", "PATCH 401"]);
    assert_eq!(stage.exchanges("cxone/token").await.len(), 2);
}

/// Covers row 29, row 32: a success without a body, and one whose answer is lost, are read back and not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_answer_does_not_show_is_read_back() {
    for then in [json!({"empty_204": true}), json!({"malformed_json": true}), json!({"reset": "after_commit"})] {
        let stage = Stage::new().await;
        stage.fault(CLASS, "PATCH", json!({}), then.clone()).await;
        stage.done(KIND, &[primary("cfg_1", "#abc")]).await;
        assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1, "{then}");
        assert_eq!(stage.sent(CLASS, "GET").await.len(), 2, "{then}");
        assert_eq!(stage.effects().await["widgets/cfg_1 widget.patch"], 1, "{then}");
        assert_eq!(stage.told("widget.patched").await[0]["status"], "updated", "{then}");
    }
}

/// Covers row 30 for widgets: 202 is not yet done; the change is looked for, and not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_change_is_confirmed() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 202, "commit": false})).await;
    stage.enqueue(KIND, &[primary("cfg_1", "#abc")]).await;
    let worker = stage.worker();
    eventually("the change is looked for", async || {
        stage.spare_pauses().await;
        stage.sent(CLASS, "GET").await.len() >= 4
    })
    .await;
    assert!(stage.sent(CLASS, "POST").await.is_empty(), "nothing is purged before the change shows");
    stage.write(Method::PATCH, "widgets", "cfg_1", &json!({"theme": {"primaryColor": "#abc"}})).await;
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1);
    assert_eq!(stage.event_types().await, ["widget.validated", "widget.patched", "widget.confirmed", "widget.purged"]);
}

/// Covers row 35: 412 is a conflict as 409 is.
#[tokio::test(flavor = "multi_thread")]
async fn a_412_is_a_conflict() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"status": 412})).await;
    stage.done(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 412", "GET 200", "PATCH 200", "POST 204"]);
    let real = Stage::with(Setup { simulator: Some(json!({"widget_conflict_status": 412})), ..Setup::default() }).await;
    between_read_and_patch(&real, &json!({"layout": {"zIndex": 7}})).await;
    real.all_done().await;
    assert_eq!(real.exchanges(CLASS).await[1], "PATCH 412");
}

/// Runs a job that sets the primary colour of `cfg_1`; another writer changes the document between its GET and PATCH.
async fn between_read_and_patch(stage: &Stage, change: &Value) -> i64 {
    let jobs = stage.enqueue(KIND, &[primary("cfg_1", "#bbb")]).await;
    let mut doors = Doors::close(&stage.database, &[(None, "patch", "begun")]).await;
    let worker = stage.worker();
    doors.reached(1).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200"]);
    stage.write(Method::PATCH, "widgets", "cfg_1", change).await;
    doors.open().await;
    stage.ended().await;
    worker.stop().await;
    jobs[0]
}

/// Covers row 36: somebody else changed another member, and both changes stay.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_are_kept() {
    let stage = Stage::new().await;
    between_read_and_patch(&stage, &json!({"layout": {"zIndex": 7}})).await;
    stage.all_done().await;
    let document = stage.document("widgets", "cfg_1").await;
    assert_eq!((&document["layout"]["zIndex"], &document["theme"]["primaryColor"]), (&json!(7), &json!("#bbb")));
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 409", "GET 200", "PATCH 200", "POST 204"]);
    let patches = stage.sent(CLASS, "PATCH").await;
    assert_ne!(patches[0]["headers"]["if-match"], patches[1]["headers"]["if-match"], "a tag that was read, each time");
    assert_ne!(patches[0]["idempotency_key"], patches[1]["idempotency_key"]);
}

/// Covers row 37: both changed one member; nothing more is written, and a person sees all three documents.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_same_member_are_for_a_person() {
    let stage = Stage::new().await;
    stage.write(Method::PATCH, "widgets", "cfg_1", &json!({"theme": {"primaryColor": "#aaa"}})).await;
    let job = between_read_and_patch(&stage, &json!({"theme": {"primaryColor": "#ccc"}})).await;
    assert_eq!(stage.dead().await[&job], "conflict");
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 409", "GET 200"]);
    assert_eq!(stage.document("widgets", "cfg_1").await["theme"]["primaryColor"], "#ccc");
    let sides: (sqlx::types::Json<Value>,) =
        stage.database.rows("select conflict from backhaul.dead_letters").await.remove(0);
    let colour = |side: &str| sides.0[side]["theme"]["primaryColor"].clone();
    assert_eq!((colour("base"), colour("ours"), colour("theirs")), (json!("#aaa"), json!("#bbb"), json!("#ccc")));
}

/// A resource that changes faster than it can be written ends in a conflict after three readings, and not later.
#[tokio::test(flavor = "multi_thread")]
async fn conflicts_end() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 409})).await;
    let jobs = stage.run(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "conflict");
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 4);
    assert_eq!(stage.sent(CLASS, "GET").await.len(), 4);
}

/// Covers row 56: a purge has tries and a status of its own, and leaves the change alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_fails_by_itself() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "POST", json!({"first": 2}), json!({"status": 503})).await;
    stage.done(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 200", "POST 503", "POST 503", "POST 204"]);
    assert_eq!(stage.told("widget.purged").await.len(), 1);
}

/// Covers row 56, row 207: a purge that fails for good is a failed purge of a live change, and a replay goes on there.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_behind_the_last_step() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "POST", json!({}), json!({"status": 503})).await;
    let jobs = stage.run(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "upstream_unavailable");
    let failed = &stage.told("widget.purge_failed").await[0];
    assert_eq!((&failed["status"], &failed["side_effects"]["purge"]), (&json!("updated"), &json!("failed")));
    let purges = stage.sent(CLASS, "POST").await;
    assert_eq!(purges.len(), 4);

    stage.no_faults().await;
    sqlx::query("select backhaul.dead_replay($1, 'u1', 'the gateway is up again')")
        .bind(jobs[0])
        .execute(stage.database.store.pool())
        .await
        .expect("replays");
    stage.work_at_once().await;
    stage.all_done().await;
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1, "what was written is not written again");
    assert_eq!(stage.sent(CLASS, "GET").await.len(), 1);
    let replayed = stage.sent(CLASS, "POST").await;
    assert_eq!(replayed.len(), 5);
    assert_eq!(replayed[4]["idempotency_key"], purges[0]["idempotency_key"], "under the same key");
}

/// Covers row 63: two jobs of one configuration run one after the other, in the order in which they were enqueued.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_configuration_do_not_race() {
    let stage = Stage::new().await;
    // Each request takes long enough for the next job to overtake it, if it could.
    stage.fault(CLASS, "PATCH", json!({}), json!({"delay_ms": 40})).await;
    let colours = ["#111", "#222", "#333", "#444"];
    stage.done(KIND, &colours.map(|colour| primary("cfg_1", colour))).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 200", "POST 204"].repeat(4), "no overlap, no conflict");
    let sent: Vec<Value> =
        stage.sent(CLASS, "PATCH").await.iter().map(|patch| patch["body"]["theme"]["primaryColor"].clone()).collect();
    assert_eq!(sent, colours);
}

/// Covers row 25: words in a body decide nothing, the status does.
#[tokio::test(flavor = "multi_thread")]
async fn a_400_that_mentions_429_is_permanent() {
    let stage = Stage::new().await;
    let then = json!({"status": 400, "body": {"error": "colour 429 invalid"}});
    stage.fault(CLASS, "PATCH", json!({}), then).await;
    let jobs = stage.run(KIND, &[primary("cfg_1", "#abc")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "widget_rejected");
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1);
}

/// Covers row 61: everything was done and nothing published when the worker was killed; the next one publishes it.
#[tokio::test(flavor = "multi_thread")]
async fn events_survive_a_kill_before_they_are_published() {
    let stage = Stage::new().await;
    let mut sealing = stage.database.store.pool().begin().await.expect("begins");
    sqlx::query("select from backhaul.seal_state for update").execute(&mut *sealing).await.expect("locks");
    stage.enqueue(KIND, &[primary("cfg_1", "#abc")]).await;
    let process = stage.process();
    stage.ended().await;
    process.kill();
    sealing.rollback().await.expect("lets go");
    let published = || std::fs::read_to_string(stage.events_file()).unwrap_or_default();
    assert!(!published().contains("widget.patched"), "nothing was relayed before the kill");
    let process = stage.process();
    eventually("the events arrive", async || published().contains("job.completed")).await;
    process.kill();
    for told in ["widget.validated", "widget.patched", "widget.purged", "job.completed"] {
        assert_eq!(published().matches(&format!("\"dev.backhaul.{told}\"")).count(), 1, "{told}");
    }
}
