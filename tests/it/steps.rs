//! A finished step never runs again; a begun one says so; what belongs to a step commits with it or not at all.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backhaul_engine::{
    AuditEvent, Begun, Done, Failure, Job, JobContext, KindSpec, Registry, WorkerOptions, register_kinds,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::sync::Semaphore;

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// Two steps with something in between: `between` says what, one entry a try (the last one is repeated): `ok`,
/// `transient`, `permanent` or `wait`.
#[derive(Debug, Serialize, Deserialize)]
struct Stepper {
    n: i64,
    between: Vec<String>,
}

/// One call of a step: its name, its Idempotency-Key, and what was known of it where that is told.
struct Call {
    step: &'static str,
    key: String,
    begun: Option<Begun>,
}

/// What was called and how often it was tried, and a gate to wait at.
struct Calls {
    log: Mutex<Vec<Call>>,
    tries: AtomicUsize,
    gate: Semaphore,
}

impl Calls {
    fn new() -> Arc<Self> {
        Arc::new(Self { log: Mutex::default(), tries: AtomicUsize::default(), gate: Semaphore::new(0) })
    }

    fn note(&self, step: &'static str, key: String, begun: Option<Begun>) {
        self.log.lock().expect("no panic under the lock").push(Call { step, key, begun });
    }

    /// Keys with which a step was called.
    fn keys(&self, step: &str) -> Vec<String> {
        let log = self.log.lock().expect("no panic under the lock");
        log.iter().filter(|call| call.step == step).map(|call| call.key.clone()).collect()
    }

    fn begun(&self) -> Vec<Begun> {
        self.log.lock().expect("no panic under the lock").iter().filter_map(|call| call.begun).collect()
    }

    async fn pass(&self) {
        self.gate.acquire().await.expect("the gate stays").forget();
    }
}

impl Job for Stepper {
    const KIND: &'static str = "stepper";
    type Env = Calls;

    async fn run(&self, env: &Calls, ctx: &mut JobContext) -> Result<(), Failure> {
        let nth = env.tries.fetch_add(1, Ordering::SeqCst);
        let first: String = ctx
            .step("first", |key| async move {
                env.note("first", key.clone(), None);
                let event = AuditEvent { event_type: "toy.first", subject: "toy".into(), data: json!({}) };
                Ok(Done::new(key).audit(event).remember("first", json!(self.n)))
            })
            .await?;
        assert!(first.ends_with("first"), "the stored result comes back");
        match self.between.get(nth.min(self.between.len() - 1)).map(String::as_str) {
            Some("transient") => return Err(Failure::transient("toy_broke", "in between")),
            Some("permanent") => return Err(Failure::permanent("toy_lost", "in between")),
            Some("wait") => env.pass().await,
            _ => {}
        }
        ctx.write_step("second", |key, begun| async move {
            env.note("second", key, Some(begun));
            match self.between.get(nth).map(String::as_str) {
                Some("fail second") => Err(Failure::transient("toy_broke", "in the second step")),
                Some("wait in second") => {
                    env.pass().await;
                    Ok(Done::new(()))
                }
                _ => Ok(Done::new(())),
            }
        })
        .await
    }
}

fn registry(calls: &Arc<Calls>) -> impl Fn() -> Registry + Send + Sync + 'static {
    let calls = calls.clone();
    move || {
        let mut registry = Registry::new();
        registry.add::<Stepper>(calls.clone());
        registry
    }
}

fn start(db: &Database, calls: &Arc<Calls>) -> Worker {
    Worker::start_kinds(db.store.clone(), registry(calls), Vec::new, Worker::patient())
}

async fn stepper(db: &Database, n: i64, between: &[&str]) -> i64 {
    register_kinds(&db.store, &[KindSpec::of::<Stepper>()]).await.expect("registers");
    db.enqueue(vec![json!({ "kind": "stepper", "payload": { "n": n, "between": between } })]).await[0]
}

async fn nothing_left(db: &Database) {
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 0, "steps end with their job");
    assert_eq!(db.one::<i64>("select count(*) from backhaul.leases").await, 0);
}

/// Takes the fault away without a lock on its table, which could deadlock with the sealer.
const MENDED: &str =
    "create or replace function refuse() returns trigger language plpgsql as $$ begin return new; end $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_step_is_not_repeated_after_a_retry() {
    let db = database().await;
    let calls = Calls::new();
    let id = stepper(&db, 1, &["transient", "transient", "ok"]).await;
    let worker = start(&db, &calls);
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!((calls.keys("first").len(), calls.keys("second").len()), (1, 1));
    assert_eq!(db.told(id).await, ["toy.first", "job.retried", "job.retried", "job.completed"]);
    nothing_left(&db).await;
}

/// Covers row 55 in the engine's part: a crash after a checkpoint resumes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_step_is_not_repeated_after_a_crash() {
    let db = database().await;
    let calls = Calls::new();
    let id = stepper(&db, 1, &["wait", "ok"]).await;
    let worker = start(&db, &calls);
    eventually("it waits behind the first step", async || {
        db.one::<i64>("select count(*) from backhaul.steps where state = 'done'").await == 1
    })
    .await;
    worker.kill().await;
    db.give_up_workers().await;
    let worker = Worker::start_kinds(db.store.clone(), registry(&calls), Vec::new, Worker::options());
    db.drained().await;
    worker.stop().await;
    assert_eq!((calls.tries.load(Ordering::SeqCst), calls.keys("first").len(), calls.keys("second").len()), (2, 1, 1));
    assert_eq!(db.told(id).await, ["toy.first", "job.completed"]);
    nothing_left(&db).await;
}

/// Covers row 207: a replay resumes, with the same keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_step_is_not_repeated_after_a_replay() {
    let db = database().await;
    let calls = Calls::new();
    let id = stepper(&db, 1, &["fail second", "permanent", "ok"]).await;
    let worker = start(&db, &calls);
    db.drained_in_a_hurry().await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 1);
    let replayed: i64 = sqlx::query_scalar("select backhaul.dead_replay($1, 'a test', 'mended')")
        .bind(id)
        .fetch_one(db.store.pool())
        .await
        .expect("replays");
    assert_eq!(replayed, id);
    db.drained().await;
    worker.stop().await;
    assert_eq!(calls.keys("first").len(), 1);
    let second = calls.keys("second");
    assert_eq!(second.len(), 2);
    assert_eq!(second[0], second[1], "a step's key is the same for every try and replay");
    assert_eq!(calls.begun(), [Begun::Now, Begun::OutcomeUnknown]);
    assert_eq!(db.told(id).await, ["toy.first", "job.retried", "job.dead", "job.replayed", "job.completed"]);
    nothing_left(&db).await;
}

/// Another payload is another request: its steps run, also those that were done for the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_with_another_payload_starts_from_the_beginning() {
    let db = database().await;
    let calls = Calls::new();
    let id = stepper(&db, 1, &["permanent"]).await;
    let worker = start(&db, &calls);
    db.drained().await;
    sqlx::query("select backhaul.dead_replay($1, 'a test', 'mended', $2)")
        .bind(id)
        .bind(json!({ "n": 2, "between": ["ok"] }))
        .execute(db.store.pool())
        .await
        .expect("replays");
    db.drained().await;
    worker.stop().await;
    assert_eq!(calls.keys("first").len(), 2);
    nothing_left(&db).await;
}

/// No two steps share an Idempotency-Key, be they of one job or of two.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_every_job_has_a_key_of_its_own() {
    let db = database().await;
    let calls = Calls::new();
    for n in 0..20 {
        stepper(&db, n, &["ok"]).await;
    }
    let worker = start(&db, &calls);
    db.drained().await;
    worker.stop().await;
    let keys: HashSet<String> = calls.keys("first").into_iter().chain(calls.keys("second")).collect();
    assert_eq!(keys.len(), 40);
}

/// A crash between the begin of a write and its end: the next try learns that its outcome is unknown.
///
/// Covers row 32 in the engine's part.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_begun_and_not_ended_has_an_unknown_outcome() {
    let db = database().await;
    let calls = Calls::new();
    stepper(&db, 1, &["wait in second", "ok"]).await;
    let worker = start(&db, &calls);
    eventually("it is inside the write", async || !calls.keys("second").is_empty()).await;
    worker.kill().await;
    db.give_up_workers().await;
    let worker = Worker::start_kinds(db.store.clone(), registry(&calls), Vec::new, Worker::options());
    db.drained().await;
    worker.stop().await;
    assert_eq!(calls.begun(), [Begun::Now, Begun::OutcomeUnknown]);
    let keys = calls.keys("second");
    assert_eq!(keys[0], keys[1]);
    nothing_left(&db).await;
}

/// A fault in any of the three writes of a checkpoint leaves none of them behind.
///
/// Covers row 203.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_commits_with_its_event_and_its_memory_or_not_at_all() {
    for (table, when) in [("steps", "true"), ("events", "new.type = 'dev.backhaul.toy.first'"), ("memories", "true")] {
        let db = database().await;
        let calls = Calls::new();
        let sql = format!(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'a fault'; end $$;
             create trigger refuse before insert on backhaul.{table} for each row when ({when}) execute function refuse()"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.store.pool()).await.expect("plants the fault");
        let id = stepper(&db, 1, &["ok"]).await;
        let worker = start(&db, &calls);
        eventually("the fault was met", async || db.told(id).await.first().is_some_and(|told| told == "job.retried"))
            .await;
        for what in ["select count(*) from backhaul.steps", "select count(*) from backhaul.memories"] {
            assert_eq!(db.one::<i64>(what).await, 0, "fault in {table}: {what}");
        }
        db.run(MENDED).await;
        db.drained_in_a_hurry().await;
        worker.stop().await;
        // A slow machine may meet the fault more than once before it is mended; each meeting is told and runs once.
        let told = db.told(id).await;
        let met = told.iter().take_while(|told| *told == "job.retried").count();
        assert!(met >= 1, "fault in {table}: {told:?}");
        assert_eq!(told[met..], ["toy.first", "job.completed"], "fault in {table}");
        assert_eq!(calls.keys("first").len(), met + 1, "without its checkpoint the step runs again");
        assert_eq!(db.one::<i64>("select value::bigint from backhaul.memories where resource = 'first'").await, 1);
        nothing_left(&db).await;
    }
}

/// The end of a job commits with its events or not at all: where the event cannot be written, the job is not gone.
///
/// Covers row 203.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_end_without_its_event() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run(
        "create function refuse() returns trigger language plpgsql as $$ begin
             raise 'a fault' using errcode = '53100'; end $$;
         create trigger refuse before insert on backhaul.events for each row
             when (new.type = 'dev.backhaul.job.completed') execute function refuse()",
    )
    .await;
    let id = db.toys(&[Toy::new(1)]).await[0];
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("it has run", async || env.count(Some(1), "end") == 1).await;
    assert_eq!(db.unfinished().await, 1);
    db.run(MENDED).await;
    db.drained().await;
    worker.stop().await;
    assert_eq!(env.count(Some(1), "start"), 1, "the settle waits for the database; the job does not run again");
    assert_eq!(db.told(id).await, ["job.completed"]);
}

/// The step of a job that was cancelled meanwhile is refused, before anybody stops the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_jobs_step_is_refused() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act("wait steps")]).await[0];
    // Its heartbeat would stop the job; this one beats once and never again.
    let silent = WorkerOptions { heartbeat: Duration::from_secs(600), ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &env, silent);
    eventually("it runs", async || env.count(Some(1), "start") == 1).await;
    let said: String = sqlx::query_scalar("select backhaul.cancel($1, 'a test', null)")
        .bind(id)
        .fetch_one(db.store.pool())
        .await
        .expect("cancels");
    assert_eq!(said, "cancelled_running");
    env.gate.add_permits(1);
    eventually("it ends", async || env.count(Some(1), "end") == 1).await;
    worker.stop().await;
    assert_eq!((env.count(Some(1), "step a"), env.count(Some(1), "step b")), (1, 0), "its first checkpoint ends it");
    assert_eq!(db.told(id).await, ["job.cancelled"]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.memories").await, 0);
    nothing_left(&db).await;
}
