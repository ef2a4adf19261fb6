//! A job of `crm-sync` that comes back, from a failure, from the dead letters or from a killed worker, undoes nothing that
//! was synced since, asks again what may have changed, and tells its end once.

use reqwest::Method;
use serde_json::{Value, json};

use super::{doors::Doors, profile::Setup, stage::Stage};
use crate::support::eventually;

const KIND: &str = "crm-sync";
const CRM: &str = "crm/threads";
const SOURCE: &str = "cxone/interactions";

fn data(version: u64, messages: &[&str]) -> Value {
    let message = |id: &&str| json!({"id": id, "text": "text", "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "INBOUND"});
    json!({"threadId": "t1", "version": version, "updatedAt": "2026-01-02T10:00:00Z",
        "participants": [{"id": "p1", "role": "CUSTOMER"}],
        "messages": messages.iter().map(message).collect::<Vec<_>>()})
}

fn event(data: &Value) -> Value {
    json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

fn reconcile() -> Value {
    json!({"threadId": "t1", "reconcile": true})
}

impl Stage {
    /// What the source answers from now on.
    async fn source(&self, data: &Value) {
        self.write(Method::PUT, "social", "t1", data).await;
    }

    /// Ids of the messages of `t1` in the CRM.
    pub(super) async fn messages(&self) -> Vec<String> {
        let record = self.document("threads", "t1").await;
        let messages = record["messages"].as_array().cloned().unwrap_or_default();
        messages.iter().filter_map(|message| message["id"].as_str().map(str::to_owned)).collect()
    }

    async fn replay(&self, job: i64) {
        sqlx::query("select backhaul.dead_replay($1, 'u1', 'mended')")
            .bind(job)
            .execute(self.database.store.pool())
            .await
            .expect("replays");
        self.work_at_once().await;
    }
}

/// Covers row 174, row 207: a dead letter's plan was made before a newer version was synced. Its replay does not bring
/// back the message and the parent that the newer version took away.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_event_undoes_nothing_newer() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(&data(6, &["m1"]))]).await;
    stage.fault(CRM, "PATCH", json!({"first": 1}), json!({"status": 403})).await;
    let mut seventh = data(7, &["m1", "m7"]);
    seventh["parentThreadId"] = json!("t0");
    let jobs = stage.run(KIND, &[event(&seventh)]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "forbidden");

    let mut eighth = data(8, &["m1", "m8"]);
    eighth["parentThreadId"] = json!(null);
    stage.source(&eighth).await;
    stage.run(KIND, &[event(&eighth)]).await;
    stage.replay(jobs[0]).await;
    stage.all_done().await;
    let record = stage.document("threads", "t1").await;
    assert_eq!(stage.messages().await, ["m1", "m8"]);
    assert_eq!((&record["parentThreadId"], &record["status"]), (&json!(null), &json!("OPEN")));
    assert_eq!(record["sourceVersion"], 8);
    assert_eq!(stage.sent(CRM, "PATCH").await.len(), 2, "the replay finds the record as it should be");

    // What it remembered is true: what the next version takes away goes.
    stage.done(KIND, &[event(&data(9, &["m1"]))]).await;
    assert_eq!(stage.messages().await, ["m1"]);
}

/// Covers row 166, row 197: what a job had added before it died is not the CRM's own, and goes with the next version that
/// lacks it; what the CRM had of its own stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_job_left_behind_is_removed() {
    let stage = Stage::with(Setup { kinds: "[kinds.crm-sync]\nchunk = 1\n".to_owned(), ..Setup::default() }).await;
    stage.fault(CRM, "PATCH", json!({"nth": [1, 5]}), json!({"status": 403})).await;
    // Of a thread that was never synced,
    stage.run(KIND, &[event(&data(1, &["m1", "m2"]))]).await;
    assert_eq!(stage.messages().await, ["m1"]);
    let mut own = stage.document("threads", "t1").await["messages"].clone();
    own.as_array_mut().expect("a list").push(json!({"id": "own", "text": "call back"}));
    stage.write(Method::PATCH, "threads", "t1", &json!({"messages": own})).await;
    stage.run(KIND, &[event(&data(2, &["m2"]))]).await;
    assert_eq!(stage.messages().await, ["own", "m2"]);

    // and of one that was.
    stage.run(KIND, &[event(&data(3, &["m2", "m3", "m4"]))]).await;
    assert_eq!(stage.messages().await, ["own", "m2", "m3"]);
    assert_eq!(stage.dead().await.len(), 2);
    let fourth = data(4, &["m2"]);
    stage.source(&fourth).await;
    stage.run(KIND, &[event(&fourth)]).await;
    assert_eq!(stage.messages().await, ["own", "m2"]);
    let memory: Value = stage.database.one("select value from backhaul.memories where resource = 't1'").await;
    assert_eq!(memory.get("unfinished"), None, "nothing is left of it");
}

/// Covers row 197, row 207: what the source said before the job died says nothing about the source of today.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_reconciliation_asks_again() {
    let stage = Stage::new().await;
    stage.source(&data(1, &["m1"])).await;
    stage.fault(CRM, "GET", json!({"first": 1}), json!({"status": 403})).await;
    let jobs = stage.run(KIND, &[reconcile()]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "forbidden");

    let second = data(2, &["m1", "m2"]);
    stage.source(&second).await;
    stage.run(KIND, &[event(&second)]).await;
    stage.replay(jobs[0]).await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);
    assert_eq!(stage.exchanges(SOURCE).await, ["GET 200", "GET 200"]);
    let told = stage.told("thread.reconciled").await;
    assert_eq!((told.len(), &told[0]["status"], &told[0]["source_version"]), (1, &json!("up_to_date"), &json!(2)));
}

/// Covers row 37 for threads, row 207: where nothing was synced since, a replay goes on with its plan, and so still knows
/// what stood there when it was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_still_sees_who_changed_the_same() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(&data(1, &["m1"]))]).await;
    stage.fault(CRM, "PATCH", json!({"first": 1}), json!({"status": 403})).await;
    let mut second = data(2, &["m1"]);
    second["messages"][0]["text"] = json!("ours");
    let jobs = stage.run(KIND, &[event(&second)]).await;
    let mut theirs = data(1, &["m1"])["messages"].clone();
    theirs[0]["text"] = json!("theirs");
    stage.write(Method::PATCH, "threads", "t1", &json!({"messages": theirs})).await;
    stage.replay(jobs[0]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "conflict");
    assert_eq!(stage.document("threads", "t1").await["messages"][0]["text"], "theirs");
}

/// A late event for a source that lags: it is asked anew at every try.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_catches_up_is_found_so() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(&data(7, &["m1"]))]).await;
    stage.source(&data(5, &["m1"])).await;
    let late = event(&data(6, &["m1", "m2"]));
    let caught_up = data(7, &["m1", "m2"]);

    stage.enqueue(KIND, std::slice::from_ref(&late)).await;
    let worker = stage.worker();
    eventually("the source is asked", async || !stage.exchanges(SOURCE).await.is_empty()).await;
    stage.source(&caught_up).await;
    stage.ended().await;
    worker.stop().await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);

    // It lags again, until the job is dead.
    stage.source(&data(5, &["m1"])).await;
    let before = stage.exchanges(SOURCE).await.len();
    let jobs = stage.run(KIND, &[event(&data(6, &["m1", "m3"]))]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "source_behind");
    assert_eq!(stage.exchanges(SOURCE).await.len(), before + 4, "once a try");
    stage.source(&data(8, &["m1", "m2", "m3"])).await;
    stage.replay(jobs[0]).await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2", "m3"]);
}

/// The CRM answers, `times` times in a row, that it has no such thread, each time that it was read a moment before. The
/// record itself stays, so that there is nothing to send as soon as the CRM shows it again.
async fn vanishing(stage: &Stage, times: u64) -> i64 {
    stage.done(KIND, &[event(&data(1, &["m1"]))]).await;
    let second = data(2, &["m1", "m2"]);
    stage.source(&second).await;
    // The first pass is a difference and sends it with its second PATCH; each later one has first to find something.
    let refused: Vec<u64> = std::iter::once(1).chain(3..=times + 1).collect();
    let hidden: Vec<u64> = (2..=times).map(|pass| 2 * pass - 1).collect();
    stage.fault(CRM, "PATCH", json!({"nth": refused}), json!({"status": 404})).await;
    stage.fault(CRM, "GET", json!({"nth": hidden}), json!({"merge_body": {"messages": []}})).await;
    stage.run(KIND, &[event(&second)]).await[0]
}

/// Covers row 184: a thread that is lost twice is looked at again, by the next try and by a replay.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_is_lost_again_is_looked_at_again() {
    let stage = Stage::new().await;
    vanishing(&stage, 2).await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);
    assert_eq!(stage.sent(CRM, "PATCH").await.iter().filter(|patch| patch["status"] == 404).count(), 2);
    assert_eq!(stage.event_types().await, ["thread.synced", "thread.reconciled"]);

    let stage = Stage::new().await;
    let job = vanishing(&stage, 9).await;
    assert_eq!(stage.dead().await[&job], "crm_thread_vanished");
    let passes = stage.sent(CRM, "PATCH").await.iter().filter(|patch| patch["status"] == 404).count();
    assert_eq!(passes, 5, "not for ever");
    stage.no_faults().await;
    stage.replay(job).await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);
}

/// Covers row 199, row 201 for threads: killed behind its last step, whose event is told, a job ends without another.
#[tokio::test(flavor = "multi_thread")]
async fn killed_behind_the_last_step_it_tells_its_end_once() {
    let stage = Stage::new().await;
    stage.done(KIND, &[event(&data(1, &["m1"]))]).await;
    let mut doors = Doors::close(&stage.database, &[]).await;
    stage
        .database
        .run(
            "create function test.settle() returns trigger language plpgsql security definer as $$
             begin perform pg_advisory_xact_lock_shared(7); return old; end $$;
             create trigger settle before delete on backhaul.jobs for each row execute function test.settle()",
        )
        .await;
    stage.enqueue(KIND, &[event(&data(2, &["m1", "m2"]))]).await;
    let process = stage.process();
    doors.reached(1).await;
    process.kill();
    doors.forget().await;
    stage.database.give_up_workers().await;
    doors.open().await;
    let process = stage.process();
    stage.ended().await;
    process.kill();
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1", "m2"]);
    assert_eq!(stage.event_types().await, ["thread.synced", "thread.synced"]);
}
