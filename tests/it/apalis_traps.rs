//! What apalis does out of the box, and our backend must not: one test for each trap that was met.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_engine::{Failure, Job, JobContext, KindSpec, Registry, WorkerOptions, register_kinds};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::chrono::{DateTime, Utc};

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

async fn held(db: &Database) -> i64 {
    db.one("select coalesce(sum(cardinality(seqs)), 0)::bigint from backhaul.leases").await
}

/// Waits until a worker has gone round its periodic tasks some more times: whatever it would do wrong, it has done.
async fn a_while_later(db: &Database) {
    let then: DateTime<Utc> = db.one("select clock_timestamp() + interval '500 ms'").await;
    eventually("the worker has gone round", async || {
        // Before its first round it has gone round at -infinity.
        let since = "select greatest(ran_at, '2000-01-01+00') from backhaul.maintenance where task = 'sweep'";
        db.one::<DateTime<Utc>>(since).await > then
    })
    .await;
}

/// Claiming is unbounded unless it is bounded: so many attempts at once, so many jobs in hand, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_and_jobs_in_hand_are_bounded() {
    let db = database().await;
    let env = ToyEnv::new();
    db.toys(&(0..40).map(|n| Toy::new(n).act("wait")).collect::<Vec<_>>()).await;
    let options = WorkerOptions { concurrency: 4, prefetch: 8, ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("its hands are full", async || held(&db).await == 12 && env.order("start").len() == 4).await;
    a_while_later(&db).await;
    assert_eq!((held(&db).await, env.order("start").len()), (12, 4));
    env.gate.add_permits(40);
    db.drained().await;
    worker.stop().await;
    let mut at_once = 0_i32;
    let log = env.log.lock().expect("no panic under the lock");
    for (_, what) in log.iter() {
        at_once += if what == "start" { 1 } else { -1 };
        assert!(at_once <= 4, "more than four attempts at once");
    }
}

/// A kind with one short try.
#[derive(Debug, Serialize, Deserialize)]
struct Once {
    act: String,
}

impl Job for Once {
    const KIND: &'static str = "once";
    const MAX_ATTEMPTS: u16 = 1;
    const TIMEOUT: Duration = Duration::from_millis(200);
    type Env = Switch;

    async fn run(&self, env: &Switch, _: &mut JobContext) -> Result<(), Failure> {
        match self.act.as_str() {
            "hang" => std::future::pending().await,
            "panic" => panic!("as told"),
            "compute" => {
                env.computing.store(true, Ordering::SeqCst);
                while !env.enough.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[derive(Default)]
struct Switch {
    computing: AtomicBool,
    enough: AtomicBool,
}

async fn start_once(db: &Database, env: &Arc<Switch>, threads: usize) -> Worker {
    register_kinds(&db.store, &[KindSpec::of::<Once>()]).await.expect("registers");
    let env = env.clone();
    let registry = move || {
        let mut registry = Registry::new();
        registry.add::<Once>(env.clone());
        registry
    };
    Worker::start_on(threads, db.store.clone(), registry, Vec::new, Worker::patient())
}

fn once(act: &str) -> serde_json::Value {
    json!({ "kind": "once", "payload": { "act": act } })
}

/// With the stock layers a timed-out or panicked job was recorded as running for ever.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_time_out_or_panic_are_settled() {
    let db = database().await;
    let worker = start_once(&db, &Arc::default(), 1).await;
    let ids = db.enqueue(vec![once("hang"), once("panic"), once("ok")]).await;
    db.drained().await;
    let reasons: Vec<(i64, String)> = db.rows("select id, reason from backhaul.dead_letters order by id").await;
    assert_eq!(reasons, [(ids[0], "timed_out".to_owned()), (ids[1], "panicked".to_owned())]);
    assert_eq!(db.told(ids[2]).await, ["job.completed"]);
    eventually("nothing is recorded as running", async || held(&db).await == 0).await;
    worker.stop().await;
}

/// In the stock backend a payload that did not decode killed the worker and stranded its batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_does_not_decode_harms_nobody_else() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut jobs: Vec<_> = (0..20).map(|n| json!({ "kind": "toy", "payload": { "n": n } })).collect();
    jobs.insert(10, json!({ "kind": "toy", "payload": { "n": "ten" } }));
    let ids = db.enqueue(jobs).await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained().await;
    db.toys(&[Toy::new(100)]).await;
    db.drained().await;
    worker.stop().await;
    assert_eq!(env.order("end").len(), 21);
    let dead: Vec<(i64, String)> = db.rows("select id, reason from backhaul.dead_letters").await;
    assert_eq!(dead, [(ids[10], "payload_invalid".to_owned())]);
}

/// apalis polls all handlers in one task; ours have tasks of their own, so that one which computes holds up none.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_computes_does_not_hold_up_the_others() {
    let db = database().await;
    let env: Arc<Switch> = Arc::default();
    let worker = start_once(&db, &env, 2).await;
    let busy = db.enqueue(vec![once("compute")]).await[0];
    eventually("it computes", async || env.computing.load(Ordering::SeqCst)).await;
    db.enqueue((0..50).map(|_| once("ok")).collect()).await;
    eventually("the others end", async || db.unfinished().await == 1).await;
    assert!(db.told(busy).await.is_empty());
    env.enough.store(true, Ordering::SeqCst);
    db.drained().await;
    worker.stop().await;
}

/// apalis drops what runs when its time to stop is over, and tells nobody. Ours reports each of them interrupted, also
/// those that had not begun.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_reported_interrupted() {
    let db = database().await;
    let env = ToyEnv::new();
    db.toys(&(0..12).map(|n| Toy::new(n).act("hang")).collect::<Vec<_>>()).await;
    let options = WorkerOptions { concurrency: 4, prefetch: 8, grace: Duration::ZERO, ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("its hands are full", async || held(&db).await == 12 && env.order("start").len() == 4).await;
    worker.stop().await;
    let waiting: i64 = db
        .one("select count(*) from backhaul.job_states where state in ('ready', 'scheduled') and attempt = 0 and rescues = 0")
        .await;
    assert_eq!((waiting, held(&db).await), (12, 0));
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events").await, 0);
}

/// An error from a poll ends an apalis worker with everything in flight. The server ends all connections, several
/// times, in the middle of claims, steps and settles: the worker goes on, and every job ends once.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_ends_nothing() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    let mut ids = Vec::new();
    for round in 0..3_i64 {
        let toys: Vec<Toy> =
            (0..100).map(|n| Toy::new(round * 1_000 + n).act(if n % 5 == 0 { "steps" } else { "ok" })).collect();
        ids.extend(db.toys(&toys).await);
        let ended = env.order("end").len();
        eventually("some of them have ended", async || env.order("end").len() > ended).await;
        let broken: i64 = db
            .one(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()",
            )
            .await;
        assert!(broken > 2);
    }
    db.drained_in_a_hurry().await;
    db.toys(&[Toy::new(9_999)]).await;
    eventually("it still works", async || env.count(Some(9_999), "end") == 1 && db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(db.ends().await.iter().filter(|(id, _)| ids.contains(id)).count(), ids.len());
    assert!(db.ends().await.iter().all(|(_, times)| *times == 1));
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
    assert_eq!(held(&db).await, 0);
}
