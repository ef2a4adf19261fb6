//! What Genesys accepts for later (202) is no success until it shows: writes, creations and publications of channels.

use reqwest::Method;
use serde_json::{Value, json};

use super::{profile::Setup, stage::Stage};
use crate::support::eventually;

const KIND: &str = "handshake";
const CLASS: &str = "genesys/channels";

fn apply(id: &str) -> Value {
    json!({"mode": "apply", "channelId": id, "channel": {"name": "Web shop", "enabled": true,
        "webchatUrl": "https://chat.example.com/new", "corsAllowedOrigins": ["https://allowed.example"],
        "authProviderId": "auth-1", "webchatId": "webchat-1"}})
}

/// The status of each event that the kind told, with its type.
async fn told(stage: &Stage) -> Vec<(String, String)> {
    let status = |data: &Value| data["status"].as_str().unwrap_or_default().to_owned();
    stage.events().await.into_iter().map(|(kind, data)| (kind, status(&data))).collect()
}

fn row(kind: &str, status: &str) -> (String, String) {
    (kind.to_owned(), status.to_owned())
}

/// Covers row 30 for channels: the write and its publication are looked for until they show, each sent once, and the
/// publication is not asked for before the write stands.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_writes_are_looked_for_until_they_show() {
    let kinds = "[kinds.handshake]\npublish = true\n".to_owned();
    let simulator = Some(json!({"channel_looks": 3}));
    let stage = Stage::with(Setup { kinds, simulator, ..Setup::default() }).await;
    stage.done(KIND, &[apply("ch_1")]).await;
    assert_eq!(
        stage.exchanges(CLASS).await,
        ["GET 200", "PUT 202", "GET 200", "GET 200", "GET 200", "POST 202", "GET 404", "GET 404", "GET 200"]
    );
    assert_eq!(
        told(&stage).await,
        [
            row("handshake.applied", "accepted"),
            row("handshake.confirmed", "confirmed"),
            row("handshake.published", "accepted"),
            row("handshake.confirmed", "confirmed"),
        ]
    );
    assert_eq!(stage.document("channels", "ch_1").await["name"], "Web shop");
}

/// A channel that the platform makes later has no id until then: it is found by its external id, and what follows goes
/// to the id that it was given.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_creation_is_found_by_its_external_id() {
    let kinds = "[kinds.handshake]\ncreate_missing = true\n".to_owned();
    let simulator = Some(json!({"channel_looks": 3, "strict": true}));
    let stage = Stage::with(Setup { kinds, simulator, ..Setup::default() }).await;
    let mut payload = apply("shop-1");
    payload["healthCallbackUrl"] = json!("https://hooks.example.com/health");
    stage.done(KIND, &[payload]).await;
    assert_eq!(stage.sent(CLASS, "POST").await.len(), 1);
    let ids = stage.get(&format!("documents/channels/{}", stage.tenant)).await;
    let id = ids["ids"][0].as_str().expect("one channel").to_owned();
    assert_eq!(stage.document("channels", &id).await["externalId"], "shop-1");
    assert_eq!(stage.told("handshake.webhook_ensured").await[0]["resource_id"], id);
    assert_eq!(told(&stage).await[1], row("handshake.confirmed", "confirmed"));
}

/// Accepts the next write of a channel without ever carrying it out, and lets a job look for it at least twice.
async fn never_carried_out(stage: &Stage) -> (i64, crate::support::Worker) {
    stage.fault(CLASS, "PUT", json!({}), json!({"status": 202})).await;
    let jobs = stage.enqueue(KIND, &[apply("ch_1")]).await;
    let worker = stage.worker();
    eventually("the change is looked for", async || {
        stage.spare_pauses().await;
        stage.sent(CLASS, "GET").await.len() >= 4
    })
    .await;
    assert!(stage.dead().await.is_empty());
    (jobs[0], worker)
}

async fn until_dead(stage: &Stage, job: i64) -> String {
    eventually("the job dies", async || {
        stage.spare_pauses().await;
        stage.dead().await.contains_key(&job)
    })
    .await;
    stage.dead().await[&job].clone()
}

/// A change that never shows is told as such after an hour. That much time passes is made of a step that is older than
/// it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_never_shows_has_an_end() {
    let stage = Stage::new().await;
    let (job, worker) = never_carried_out(&stage).await;
    let aged = sqlx::query(
        "update backhaul.steps set output = jsonb_set(output, '{accepted_at}', to_jsonb(clock_timestamp() - interval '61 minutes'))
         where job_id = $1 and name = 'put'",
    )
    .bind(job)
    .execute(stage.database.store.pool())
    .await
    .expect("a step");
    assert_eq!(aged.rows_affected(), 1);
    assert_eq!(until_dead(&stage, job).await, "channel_update_stuck");
    worker.stop().await;
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 1);
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.apply_failed"]);
}

/// Somebody else gives a member that the job names another value meanwhile: the change will never show, and a person
/// decides.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_end_the_wait() {
    let stage = Stage::new().await;
    let (job, worker) = never_carried_out(&stage).await;
    stage.write(Method::PATCH, "channels", "ch_1", &json!({"name": "Theirs"})).await;
    assert_eq!(until_dead(&stage, job).await, "conflict");
    worker.stop().await;
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 1);
}

/// A document that says of itself that the platform is still at work on it is not there yet, whatever it shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_pending_document_is_not_there_yet() {
    let stage = Stage::new().await;
    let (_, worker) = never_carried_out(&stage).await;
    let settings = json!({"webchatUrl": "https://chat.example.com/new", "corsAllowedOrigins": ["https://allowed.example"],
        "authProviderId": "auth-1", "webchatId": "webchat-1"});
    let shown = json!({"name": "Web shop", "status": "Pending", "webchatSettings": settings});
    stage.write(Method::PATCH, "channels", "ch_1", &shown).await;
    let looks = stage.sent(CLASS, "GET").await.len();
    eventually("it is looked for on", async || {
        stage.spare_pauses().await;
        stage.sent(CLASS, "GET").await.len() >= looks + 2
    })
    .await;
    assert_eq!(stage.event_types().await, ["handshake.applied"]);
    stage.write(Method::PATCH, "channels", "ch_1", &json!({"status": "Active"})).await;
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
}
