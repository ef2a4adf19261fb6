//! Every accepted job ends exactly once: done or dead, with one terminal event.

use std::{sync::Arc, time::Duration};

use backhaul_engine::{Failure, Job, JobContext, KindSpec, Registry, WorkerOptions, register_kinds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// Reason, class of the last error and tries of every dead letter, by job.
async fn dead(db: &Database) -> Vec<(i64, String, String, i64)> {
    db.rows("select id, reason, error ->> 'class', attempt::bigint from backhaul.dead_letters order by id").await
}

async fn nothing_left(db: &Database) {
    for what in [
        "select count(*) from backhaul.jobs",
        "select count(*) from backhaul.leases",
        "select count(*) from backhaul.key_holders",
    ] {
        assert_eq!(db.one::<i64>(what).await, 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_end_as_their_failures_say() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db
        .toys(&[
            Toy::new(1),
            Toy::new(2).act("transient").act("ok"),
            Toy::new(3).act("permanent"),
            Toy::new(4).act("conflict"),
            Toy::new(5).act("panic").act("ok"),
            Toy::new(6).act("throttle:200").act("ok"),
        ])
        .await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained().await;
    worker.stop().await;
    assert_eq!(
        dead(&db).await,
        [
            (ids[2], "toy_lost".to_owned(), "permanent".to_owned(), 0),
            (ids[3], "conflict".to_owned(), "conflict".to_owned(), 0)
        ]
    );
    let told = [
        vec!["job.completed"],
        vec!["job.retried", "job.completed"],
        vec!["job.dead"],
        vec!["job.dead"],
        vec!["job.retried", "job.completed"],
        vec!["job.throttled", "job.completed"],
    ];
    for (id, told) in ids.iter().zip(told) {
        assert_eq!(db.told(*id).await, told);
    }
    assert_eq!(db.ends().await, ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>());
    nothing_left(&db).await;
}

/// What a person needs to decide on a conflict stands in its dead letter.
///
/// Covers row 37 in the engine's part.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_keeps_all_three_documents() {
    let db = database().await;
    db.toys(&[Toy::new(1).act("conflict")]).await;
    let worker = Worker::start_with(db.store.clone(), &ToyEnv::new(), Worker::patient());
    db.drained().await;
    worker.stop().await;
    let conflict: Value = db.one("select conflict from backhaul.dead_letters").await;
    assert_eq!(conflict, json!({ "base": {"a": 1}, "ours": {"a": 2}, "theirs": {"a": 3} }));
}

/// The history of a job that used up its tries names each of them, with its status.
///
/// Covers row 24, row 27, row 28.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_errors_is_kept() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act("transient")]).await[0];
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!(env.count(Some(1), "start"), 4, "max_attempts is the number of tries");
    let errors: Value = db.one("select errors from backhaul.dead_letters").await;
    let history: Vec<(&str, i64, i64, &str)> = errors
        .as_array()
        .expect("a list")
        .iter()
        .map(|error| {
            (
                error["code"].as_str().expect("a code"),
                error["http_status"].as_i64().expect("a status"),
                error["attempt"].as_i64().expect("a number"),
                error["message"].as_str().expect("a message"),
            )
        })
        .collect();
    let tries = ["try 0", "try 1", "try 2", "try 3"];
    assert_eq!(history, (0..4).map(|n| ("toy_broke", 503, n, tries[n as usize])).collect::<Vec<_>>());
    assert_eq!(db.one::<Value>("select error -> 'http_status' from backhaul.dead_letters").await, json!(503));
    assert_eq!(db.told(id).await, ["job.retried", "job.retried", "job.retried", "job.dead"]);
}

/// A finished step starts the count of failures anew (contract A13, clause 5): seven failures with four tries, and the
/// job is done.
#[tokio::test(flavor = "multi_thread")]
async fn tries_are_counted_for_each_step() {
    let db = database().await;
    let env = ToyEnv::new();
    let acts = ["transient", "transient", "transient", "step", "transient", "transient", "ok"];
    let done = acts.iter().fold(Toy::new(1), |toy, act| toy.act(act));
    let lost = acts.iter().fold(Toy::new(2), |toy, act| toy.act(if *act == "step" { "transient" } else { act }));
    let ids = db.toys(&[done, lost]).await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!(env.count(Some(1), "start"), 7);
    assert_eq!(dead(&db).await.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [ids[1]]);
    assert_eq!(env.count(Some(2), "start"), 4);
}

/// The same where the worker dies behind the step: the count that the next one finds starts at the step.
#[tokio::test(flavor = "multi_thread")]
async fn tries_are_counted_for_each_step_over_a_crash() {
    let db = database().await;
    let env = ToyEnv::new();
    let acts = ["transient", "transient", "transient", "steps then hang", "transient", "ok"];
    let id = db.toys(&[acts.iter().fold(Toy::new(1), |toy, act| toy.act(act))]).await[0];
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("its steps are done", async || {
        db.hurry().await;
        db.one::<i64>("select count(*) from backhaul.steps where state = 'done'").await == 2
    })
    .await;
    worker.kill().await;
    db.give_up_workers().await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!((env.count(Some(1), "start"), env.count(Some(1), "step a")), (6, 1));
    assert_eq!(db.told(id).await.last().map(String::as_str), Some("job.completed"));
}

/// Kinds that differ from the toy in their constants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hasty {
    hangs: bool,
}

impl Job for Hasty {
    const KIND: &'static str = "hasty";
    const MAX_ATTEMPTS: u16 = 2;
    const TIMEOUT: Duration = Duration::from_millis(100);
    type Env = ToyEnv;

    async fn run(&self, env: &ToyEnv, _: &mut JobContext) -> Result<(), Failure> {
        env.note(0, "start");
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

fn start_hasty(db: &Database, env: &Arc<ToyEnv>) -> Worker {
    let env = env.clone();
    let registry = move || {
        let mut registry = Registry::new();
        registry.add::<Hasty>(env.clone());
        registry
    };
    Worker::start_kinds(db.store.clone(), registry, Vec::new, Worker::patient())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_ended_and_counted() {
    let db = database().await;
    let env = ToyEnv::new();
    register_kinds(&db.store, &[KindSpec::of::<Hasty>()]).await.expect("registers");
    let id = db.enqueue(vec![json!({ "kind": "hasty", "payload": { "hangs": true } })]).await[0];
    let worker = start_hasty(&db, &env);
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!(dead(&db).await, [(id, "timed_out".to_owned(), "transient".to_owned(), 1)]);
    assert_eq!(env.count(None, "start"), 2);
    assert_eq!(db.told(id).await, ["job.retried", "job.dead"]);
}

/// A payload of another shape is a dead letter at its first look, and the worker goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_does_not_decode_is_a_dead_letter() {
    let db = database().await;
    let env = ToyEnv::new();
    register_kinds(&db.store, &[KindSpec::of::<Hasty>()]).await.expect("registers");
    let ids = db
        .enqueue(vec![
            json!({ "kind": "hasty", "payload": { "hangs": "ann@example.com" } }),
            json!({ "kind": "hasty", "payload": { "hangs": false, "+15551234567": 1 } }),
            json!({ "kind": "hasty", "payload": { "hangs": false } }),
        ])
        .await;
    let worker = start_hasty(&db, &env);
    db.drained().await;
    worker.stop().await;
    let reason = || ("payload_invalid".to_owned(), "permanent".to_owned());
    assert_eq!(dead(&db).await, [(ids[0], reason().0, reason().1, 0), (ids[1], reason().0, reason().1, 0)]);
    assert_eq!(db.told(ids[2]).await, ["job.completed"]);
    // What is kept of it says where, and quotes nothing of the payload, which may be personal.
    let kept: Vec<(String,)> = db
        .rows(
            "select d.error ->> 'message' from backhaul.dead_letters d
             union all select payload::text from backhaul.outbox_events where type = 'dev.backhaul.job.dead'",
        )
        .await;
    let kept: Vec<String> = kept.into_iter().map(|(text,)| text).collect();
    assert_eq!(kept.iter().filter(|text| text.contains("at hangs, line 1")).count(), 2, "{kept:?}");
    assert!(kept.iter().all(|text| !text.contains("ann@") && !text.contains("1555")), "{kept:?}");
}

/// A newer version of a kind is left to a worker that knows it, and so is a kind that nobody here knows.
///
/// Covers row 209.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_no_worker_knows_is_left_alone() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run(
        "insert into backhaul.kinds (kind, version, max_attempts, timeout, deadline, idempotency_window, payload_bytes_max)
         select kind, 2, max_attempts, timeout, deadline, idempotency_window, payload_bytes_max
         from backhaul.kinds where kind = 'toy'",
    )
    .await;
    let ids = db
        .enqueue(vec![
            json!({ "kind": "toy", "payload": { "n": 1 }, "version": 2 }),
            json!({ "kind": "toy", "payload": { "n": 2 } }),
        ])
        .await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("the known one ends", async || db.unfinished().await == 1).await;
    // Whoever looks for work again and again does not touch it either.
    db.toys(&[Toy::new(3)]).await;
    eventually("later ones end", async || env.count(Some(3), "end") == 1 && db.unfinished().await == 1).await;
    worker.stop().await;
    assert_eq!(env.count(Some(1), "start"), 0);
    let parked: Vec<(i64, String, i64)> = db.rows("select id, state, attempt::bigint from backhaul.job_states").await;
    assert_eq!(parked, [(ids[0], "ready".to_owned(), 0)]);
}

/// A job whose deadline passed before it could run is dead without a try.
///
/// Covers row 21.
#[tokio::test(flavor = "multi_thread")]
async fn a_passed_deadline_is_a_dead_letter() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1)]).await[0];
    db.run("update backhaul.jobs set deadline_at = clock_timestamp() - interval '1 s'").await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained().await;
    worker.stop().await;
    assert_eq!(dead(&db).await, [(id, "deadline_exceeded".to_owned(), "permanent".to_owned(), 0)]);
    assert_eq!(env.count(Some(1), "start"), 0);
}

/// Refused for ever: the deadline ends it.
///
/// Covers row 21.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_throttled_for_ever_ends_at_its_deadline() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act("throttle:50")]).await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("it is tried again and again", async || env.count(Some(1), "start") > 1).await;
    db.run("update backhaul.jobs set deadline_at = clock_timestamp()").await;
    db.drained().await;
    worker.stop().await;
    let dead = dead(&db).await;
    assert_eq!((dead[0].0, dead[0].3), (id[0], 0));
    assert!(dead[0].1 == "deadline_exceeded" || dead[0].2 == "deadline", "{dead:?}");
    assert_eq!(db.ends().await, [(id[0], 1)]);
}

/// Ten refusals and then success: done, and no try was counted.
///
/// Covers row 20.
#[tokio::test(flavor = "multi_thread")]
async fn being_throttled_costs_no_attempt() {
    let db = database().await;
    let env = ToyEnv::new();
    let toy = (0..10).fold(Toy::new(1), |toy, _| toy.act("throttle:1")).act("transient").act("ok");
    let id = db.toys(&[toy]).await[0];
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!(env.count(Some(1), "start"), 12);
    let attempt: Value = db
        .one("select convert_from(data, 'UTF8')::jsonb -> 'attempt' from backhaul.events where type like '%.completed'")
        .await;
    assert_eq!(attempt, json!(1), "of twelve tries the one that broke was counted");
    assert_eq!(db.told(id).await.iter().filter(|told| *told == "job.throttled").count(), 10);
}

/// A hundred jobs of one tenant are refused for a minute, before four workers. Another tenant's job does not wait, the
/// refused ones hold no slot, and they are done once the bucket is open again.
///
/// Covers row 19, row 20.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_bucket_holds_no_slot_and_no_other_tenant() {
    let db = database().await;
    let env = ToyEnv::new();
    let job = |n: i64, tenant: &str, toy: Toy| json!({ "kind": "toy", "tenant": tenant, "payload": Toy { n, ..toy } });
    let refused = Toy::new(0).act("throttle:60000").act("ok");
    db.enqueue((0..100).map(|n| job(n, "a", refused.clone())).collect()).await;
    let options = WorkerOptions { concurrency: 2, prefetch: 2, ..Worker::patient() };
    let workers = [(); 4].map(|()| Worker::start_with(db.store.clone(), &env, options.clone()));
    eventually("the bucket is closed and the refused ones are put back", async || {
        db.one::<bool>("select exists (select from backhaul.buckets where blocked_until > clock_timestamp() + '50 s')")
            .await
            && db.one::<i64>("select count(*) from backhaul.leases").await == 0
    })
    .await;
    let tried = env.order("start").len();
    assert!(tried <= 32, "{tried} were tried although the first refusal closed the bucket for all");
    let other = db.enqueue(vec![job(1_000, "b", Toy::new(0))]).await[0];
    eventually("the other tenant's job ends", async || env.count(Some(1_000), "end") == 1).await;
    eventually("its end is told", async || db.told(other).await == ["job.completed"]).await;
    let took: f64 = db
        .one("select extract(epoch from e.occurred_at - (convert_from(data, 'UTF8')::jsonb ->> 'enqueued_at')::timestamptz)::float8
              from backhaul.events e where tenant = 'b'")
        .await;
    assert!(took < 5.0, "{took} s");
    assert_eq!(env.order("start").len(), tried + 1, "nobody of the closed bucket was tried meanwhile");
    assert_eq!(db.one::<i64>("select count(*) from backhaul.leases").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.jobs where attempt = 0").await, 100);

    db.run("update backhaul.buckets set blocked_until = null").await;
    eventually("all end", async || {
        db.hurry().await;
        // Those that had not been tried close the bucket again at their first try.
        db.run("update backhaul.buckets set blocked_until = null").await;
        db.unfinished().await == 0
    })
    .await;
    for worker in workers {
        worker.stop().await;
    }
    assert!(dead(&db).await.is_empty());
    nothing_left(&db).await;
}
