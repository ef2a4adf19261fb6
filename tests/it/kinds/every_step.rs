//! Each kind with each of its steps repeated, with each of its answers lost, and with a worker killed at each row that
//! its steps write: one effect each.
//!
//! The rows are not listed here: a first job writes them down, and then there is one job for each of them. The
//! simulator of these tests knows no idempotency keys and takes duplicates, so that nothing but conditions and readings
//! back keeps a write from happening twice.

mod cases;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::cases::{
    ADVANCE, ASYNC_AUDIT, CREATE, CREATE_LATER, CRM_SYNC, Case, DELIVER, ENRICHMENT, ENRICHMENT_LATER, HANDSHAKE,
    HANDSHAKE_LATER, NOTE, PUBLISH, RECONCILE, ROLLBACK, WIDGET_LATER, WIDGET_PATCH,
};
use super::{
    doors::{self, Doors},
    profile::Setup,
    stage::Stage,
};

/// The pair of jobs that nobody disturbs.
const UNDISTURBED: usize = 1_000;

impl Case {
    async fn stage(&self) -> Stage {
        let simulator = Some(json!({
            "honour_idempotency_keys": false, "append_blindly": true, "webhook_duplicates": "allowed",
            // A job that looks again needs a settle, which a job of its batch before a door would hold up.
            "audit_looks": 0,
            "strict": self.strict,
        }));
        let (kinds, probe) = (self.kinds.to_owned(), self.probe.to_owned());
        let stage = Stage::with(Setup { kinds, probe, simulator, ..Setup::default() }).await;
        for (class, method, status) in self.answers {
            stage.fault(class, method, json!({}), json!({"status": status, "commit": true})).await;
        }
        stage
    }

    /// Every job has ended as it should.
    async fn check_ends(&self, stage: &Stage) {
        match self.dies_of {
            None => stage.all_done().await,
            Some(reason) => {
                let dead = stage.dead().await;
                assert!(dead.values().all(|own| own == reason), "{dead:?}");
                let done: i64 = stage
                    .database
                    .one("select count(*) from backhaul.events where type = 'dev.backhaul.job.completed'")
                    .await;
                assert_eq!(done, 0);
            }
        }
    }

    /// Of one width, so that no id is a part of another.
    fn id(&self, n: usize) -> String {
        if self.kind == "enrichment" { format!("00000000-0000-4000-8000-{n:012}") } else { format!("r{n:06}") }
    }

    async fn enqueue(&self, stage: &Stage, numbers: impl IntoIterator<Item = usize>) -> Vec<i64> {
        let tls = stage.tls().await;
        let payloads: Vec<Value> = numbers.into_iter().map(|n| (self.payload)(stage, n, &self.id(n), &tls)).collect();
        stage.enqueue(self.kind, &payloads).await
    }

    /// Enqueues the disturbed jobs, with the first one of each pair done before.
    async fn enqueue_seconds(&self, stage: &Stage, count: usize) -> (Vec<usize>, Vec<i64>) {
        let numbers: Vec<usize> = (0..count).map(|n| 2 * n + 1).collect();
        if self.kind == "enrichment" {
            self.enqueue(stage, numbers.iter().map(|n| n - 1)).await;
            stage.work_at_once().await;
        }
        self.before(stage, &numbers).await;
        let jobs = self.enqueue(stage, numbers.iter().copied()).await;
        (numbers, jobs)
    }

    async fn before(&self, stage: &Stage, numbers: &[usize]) {
        if let Some(payload) = self.before {
            Self { payload, before: None, ..*self }.enqueue(stage, numbers.iter().copied()).await;
            stage.work_at_once().await;
        }
    }

    /// The rows that the steps of an undisturbed pair write, in order.
    async fn rows(&self, stage: &Stage) -> Vec<(String, String)> {
        self.before(stage, &[UNDISTURBED, UNDISTURBED + 1]).await;
        doors::record_rows(&stage.database).await;
        for n in [UNDISTURBED, UNDISTURBED + 1] {
            self.enqueue(stage, [n]).await;
            stage.work_at_once().await;
        }
        self.check_ends(stage).await;
        let mut rows = Vec::new();
        for row in doors::recorded_rows(&stage.database).await {
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        assert!(!rows.is_empty(), "a job that writes no row has nothing to lose");
        rows
    }

    /// How many writes one resource was sent: everything but readings and the purge, which does no harm.
    fn writes(&self, requests: &[Value], id: &str) -> usize {
        let is_write = |request: &&Value| {
            let path = request["path"].as_str().unwrap_or_default();
            let body = &request["body"];
            let named = path.ends_with(&format!("/{id}")) && !path.starts_with("/callbacks")
                || body["threadId"] == id
                || body["externalId"] == id
                || body["name"].as_str().is_some_and(|name| name.ends_with(&format!("- {id}")));
            named && request["method"] != "GET" && request["status"] != 409
        };
        requests.iter().filter(is_write).count()
    }

    /// Every job is done, has told each thing once, and has written no more than an undisturbed one.
    async fn check(&self, stage: &Stage, numbers: &[usize], jobs: &[i64]) {
        self.check_ends(stage).await;
        let mut requests = Vec::new();
        for class in self.calls.iter().map(|(class, ..)| class).collect::<BTreeSet<_>>() {
            requests.extend(stage.requests(class).await);
        }
        let expected = self.writes(&requests, &self.id(UNDISTURBED + 1));
        assert!(expected > 0 || self.kind == "deliver");
        for n in numbers {
            let id = self.id(*n);
            assert_eq!(self.writes(&requests, &id), expected, "writes to {id}");
            self.check_document(stage, &id).await;
        }
        for job in jobs {
            let told: Vec<(String,)> = sqlx::query_as(
                "select type from backhaul.events where job_id = $1 and type not in
                 ('dev.backhaul.job.retried', 'dev.backhaul.job.throttled') group by 1 having count(*) > 1",
            )
            .bind(job)
            .fetch_all(stage.database.store.pool())
            .await
            .expect("reads");
            assert!(told.is_empty(), "told once: {told:?}");
        }
    }

    async fn check_document(&self, stage: &Stage, id: &str) {
        match self.kind {
            "widget-patch" => {
                let document = stage.document("widgets", id).await;
                assert_eq!(document["theme"]["primaryColor"], "#abc");
                assert_eq!(document["eventListeners"].as_array().map(Vec::len), Some(2), "{document}");
                check_deliveries(stage, id).await;
            }
            "deliver" => check_deliveries(stage, id).await,
            "crm-sync" => {
                let thread = stage.document("threads", id).await;
                assert_eq!(thread["messages"].as_array().map(Vec::len), Some(3), "{thread}");
            }
            // The platform chose its id. That it was made once has been counted.
            "handshake" if self.strict => {}
            "handshake" => {
                let name = if self.dies_of.is_none() { "Web shop".to_owned() } else { format!("Channel {id}") };
                assert_eq!(stage.document("channels", id).await["name"], name);
            }
            "enrichment" => {
                // The profile that is left is the first one of the pair; this server adds what it is sent.
                let second: usize = id.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
                let document = stage.document("profiles", &self.id(second - 1)).await;
                assert_eq!(document["attributes"]["interests"], json!([second - 1, second]), "{document}");
            }
            other => panic!("{other} has no check here"),
        }
    }
}

/// However often something was told, a receiver knows it by its id.
async fn check_deliveries(stage: &Stage, resource: &str) {
    let told = stage.callbacks().await;
    let ids: BTreeSet<String> = told
        .iter()
        .filter(|callback| callback["path"].as_str().is_some_and(|path| path.ends_with(resource)))
        .map(|callback| callback["headers"]["webhook-id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1, "{resource}");
}

/// Kills a worker process with one job before each row, in the moment between a call and its checkpoint (or, for a row
/// `begun`, between the step before and the call), and lets another process end them all.
async fn killed_at_every_row(case: Case) {
    let stage = case.stage().await;
    let rows = case.rows(&stage).await;
    // One more, of whose steps nothing is left: everything is repeated.
    let (numbers, jobs) = case.enqueue_seconds(&stage, rows.len() + 1).await;
    let stops: Vec<(Option<i64>, &str, &str)> = (rows.iter().chain(rows.last()).zip(&jobs))
        .map(|((name, state), job)| (Some(*job), name.as_str(), state.as_str()))
        .collect();
    let mut doors = Doors::close(&stage.database, &stops).await;
    let process = stage.process();
    doors.reached(i64::try_from(stops.len()).expect("fits")).await;
    process.kill();
    doors.forget().await;
    sqlx::query("delete from backhaul.steps where job_id = $1")
        .bind(jobs.last())
        .execute(stage.database.store.pool())
        .await
        .expect("forgets");
    stage.database.give_up_workers().await;
    doors.open().await;
    let process = stage.process();
    stage.ended().await;
    process.kill();
    let (number, numbers) = numbers.split_last().expect("jobs");
    case.check(&stage, numbers, &jobs[..numbers.len()]).await;
    case.check_document(&stage, &case.id(*number)).await;
}

/// Loses each checkpoint once, so that the same worker repeats each step; and each kind of answer.
async fn repeated(case: Case) {
    let stage = case.stage().await;
    let rows = case.rows(&stage).await;
    let (numbers, jobs) = case.enqueue_seconds(&stage, rows.len() + case.calls.len()).await;
    let refusals: Vec<(i64, &str, &str)> =
        rows.iter().zip(&jobs).map(|((name, state), job)| (*job, name.as_str(), state.as_str())).collect();
    doors::refuse_once(&stage.database, &refusals).await;
    for ((class, method, in_body), n) in case.calls.iter().zip(&numbers[rows.len()..]) {
        let part = if *in_body { "body_contains" } else { "path_contains" };
        let matching = json!({"class": class, "method": method, part: case.id(*n)});
        stage.fault_where(matching, json!({"first": 1}), json!({"reset": "after_commit"})).await;
    }
    stage.work_at_once().await;
    assert_eq!(doors::refused(&stage.database).await, i64::try_from(refusals.len()).expect("fits"));
    let faults = stage.get("faults").await;
    let rules = faults["faults"].as_array().expect("a list");
    let losses = rules.iter().filter(|rule| rule.to_string().contains("after_commit"));
    assert_eq!(losses.clone().count(), case.calls.len());
    for rule in losses {
        assert_eq!(rule["fired"], 1, "{rule}");
    }
    case.check(&stage, &numbers, &jobs).await;
}

/// Covers row 55, row 201 for widgets: killed after the PATCH and before anything is known of it, the PATCH stays one;
/// purge and callback run; the trail has each step once.
#[tokio::test(flavor = "multi_thread")]
async fn widget_patch_killed_at_every_row() {
    killed_at_every_row(WIDGET_PATCH).await;
}

/// Covers row 32, row 126, row 201 for profiles.
#[tokio::test(flavor = "multi_thread")]
async fn enrichment_killed_at_every_row() {
    killed_at_every_row(ENRICHMENT).await;
}

/// Covers row 178, row 201 for threads: killed after the CRM's 200.
#[tokio::test(flavor = "multi_thread")]
async fn crm_sync_killed_at_every_row() {
    killed_at_every_row(CRM_SYNC).await;
}

/// Covers row 158, row 201 for channels: killed at any page of the audit trail, and after every write.
#[tokio::test(flavor = "multi_thread")]
async fn handshake_killed_at_every_row() {
    killed_at_every_row(HANDSHAKE).await;
}

/// Covers row 201 for deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn deliver_killed_at_every_row() {
    killed_at_every_row(DELIVER).await;
}

/// Covers row 60 for deliveries: an answer that is lost, or a checkpoint, repeats the delivery under the same id.
#[tokio::test(flavor = "multi_thread")]
async fn deliver_repeated() {
    repeated(DELIVER).await;
}

/// Covers row 32 for widgets.
#[tokio::test(flavor = "multi_thread")]
async fn widget_patch_repeated() {
    repeated(WIDGET_PATCH).await;
}

/// Covers row 32, row 126 for profiles.
#[tokio::test(flavor = "multi_thread")]
async fn enrichment_repeated() {
    repeated(ENRICHMENT).await;
}

/// Covers row 178 for threads.
#[tokio::test(flavor = "multi_thread")]
async fn crm_sync_repeated() {
    repeated(CRM_SYNC).await;
}

/// Covers row 162, row 201: killed after the channel was made, it stays one.
#[tokio::test(flavor = "multi_thread")]
async fn creation_killed_at_every_row() {
    killed_at_every_row(CREATE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_repeated() {
    repeated(CREATE).await;
}

/// Covers row 178, row 201 for events that change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn known_events_killed_at_every_row() {
    killed_at_every_row(ADVANCE).await;
    killed_at_every_row(NOTE).await;
}

/// Covers row 153, row 158 for channels.
#[tokio::test(flavor = "multi_thread")]
async fn handshake_repeated() {
    repeated(HANDSHAKE).await;
}

/// Covers row 30, row 201: accepted for later, then killed at each look; nothing is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_writes_killed_at_every_row() {
    killed_at_every_row(WIDGET_LATER).await;
    killed_at_every_row(ENRICHMENT_LATER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_writes_repeated() {
    repeated(WIDGET_LATER).await;
    repeated(ENRICHMENT_LATER).await;
}

/// Covers row 30, row 201 for channels.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_channels_killed_at_every_row() {
    killed_at_every_row(HANDSHAKE_LATER).await;
    killed_at_every_row(CREATE_LATER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_channels_repeated() {
    repeated(HANDSHAKE_LATER).await;
    repeated(CREATE_LATER).await;
}

/// Covers row 178, row 201 for reconciliations.
#[tokio::test(flavor = "multi_thread")]
async fn reconcile_killed_at_every_row() {
    killed_at_every_row(RECONCILE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_repeated() {
    repeated(RECONCILE).await;
}

/// Covers row 158, row 201 for audit queries that the platform works on in the background.
#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_audit_killed_at_every_row() {
    killed_at_every_row(ASYNC_AUDIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_audit_repeated() {
    repeated(ASYNC_AUDIT).await;
}

/// Covers row 142, row 201: killed at any moment of putting it back, the old channel stands there again, and was put
/// back once.
#[tokio::test(flavor = "multi_thread")]
async fn rollback_killed_at_every_row() {
    killed_at_every_row(ROLLBACK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_repeated() {
    repeated(ROLLBACK).await;
}

/// The same where a draft is edited: both states are published, each once.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_killed_at_every_row() {
    killed_at_every_row(PUBLISH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_repeated() {
    repeated(PUBLISH).await;
}
