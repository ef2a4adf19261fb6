//! A job that takes its worker down is found out without its neighbours paying for it.

use backhaul_engine::WorkerOptions;
use serde_json::json;

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

const NEIGHBOURS: i64 = 6;

/// Starts a worker that rescues whoever was given up.
fn start(db: &Database, env: &std::sync::Arc<ToyEnv>) -> Worker {
    Worker::start_with(db.store.clone(), env, Worker::patient())
}

async fn held(db: &Database) -> i64 {
    db.one("select coalesce(sum(cardinality(seqs)), 0)::bigint from backhaul.leases").await
}

/// Three workers die with the job in their hands: twice beside its neighbours, once alone. Then it is dead, and the
/// neighbours are done.
///
/// Covers row 205 for crashes.
#[tokio::test(flavor = "multi_thread")]
async fn three_crashes_make_a_dead_letter_and_neighbours_survive() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut toys = vec![Toy::new(0).act("hang")];
    toys.extend((1..=NEIGHBOURS).map(|n| Toy::new(n).act("hang").act("hang").act("ok")));
    let ids = db.toys(&toys).await;
    for death in 1..=2 {
        let worker = start(&db, &env);
        eventually("all run", async || env.order("start").len() == ids.len() * death).await;
        worker.kill().await;
        db.give_up_workers().await;
    }
    let worker = start(&db, &env);
    eventually("it runs for the third time", async || env.count(Some(0), "start") == 3).await;
    assert_eq!(held(&db).await, 1, "from its second rescue on it runs alone");
    worker.kill().await;
    db.give_up_workers().await;
    let worker = start(&db, &env);
    db.drained().await;
    worker.stop().await;

    let dead: Vec<(i64, String, i64, i64)> =
        db.rows("select id, reason, attempt::bigint, rescues::bigint from backhaul.dead_letters").await;
    assert_eq!(dead, [(ids[0], "crashed_worker".to_owned(), 0, 2)]);
    assert_eq!(db.told(ids[0]).await, ["job.dead"]);
    for id in &ids[1..] {
        assert_eq!(db.told(*id).await, ["job.completed"]);
    }
    assert_eq!(env.count(Some(0), "start"), 3, "it never ran a fourth time");
    assert_eq!(held(&db).await, 0);
}

/// A job that must run alone waits for the others in hand to end, and others wait for it; all of them end.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_runs_with_nothing_else_in_hand() {
    let db = database().await;
    let env = ToyEnv::new();
    let suspect = db.toys(&[Toy::new(0).act("hang").act("hang").act("wait")]).await[0];
    for death in 1..=2 {
        let worker = start(&db, &env);
        eventually("it runs", async || env.count(Some(0), "start") == death).await;
        worker.kill().await;
        db.give_up_workers().await;
    }
    let worker = start(&db, &env);
    eventually("it runs alone", async || env.count(Some(0), "start") == 3).await;
    db.toys(&(1..20).map(Toy::new).collect::<Vec<_>>()).await;
    assert_eq!((held(&db).await, env.order("start").len()), (1, 3), "nothing is claimed beside it");
    env.gate.add_permits(1);
    db.drained().await;
    worker.stop().await;
    assert_eq!(db.told(suspect).await, ["job.completed"]);
    assert_eq!(env.order("end").len(), 20);
}

/// Of a busy fleet one worker lets go of everything for a job that must run alone. The others work on.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_costs_one_worker_and_not_the_fleet() {
    let db = database().await;
    let env = ToyEnv::new();
    let small = |concurrency| WorkerOptions { concurrency, prefetch: 0, ..Worker::patient() };
    db.toys(&[Toy::new(0).act("wait")]).await;
    let full = Worker::start_with(db.store.clone(), &env, small(1));
    eventually("it is full", async || env.count(Some(0), "start") == 1).await;
    let roomy = Worker::start_with(db.store.clone(), &env, small(2));
    db.toys(&[Toy::new(1).act("wait")]).await;
    eventually("the other has one too", async || env.count(Some(1), "start") == 1).await;
    db.enqueue(vec![json!({ "kind": "toy", "run_at": "2030-01-01T00:00:00Z", "payload": Toy::new(2) })]).await;
    db.run(
        "update backhaul.jobs set rescues = 2, due_at = clock_timestamp(), lane = (select id from backhaul.lanes)
         where due_at > clock_timestamp();
         update backhaul.maintenance set ran_at = clock_timestamp(), worker = (
             select worker from backhaul.leases l join backhaul.jobs j on j.seq = any (l.seqs) and j.payload ->> 'n' = '0')
         where task = 'alone'",
    )
    .await;
    db.toys(&(10..20).map(Toy::new).collect::<Vec<_>>()).await;
    eventually("the roomy one works on", async || (10..20).all(|n| env.count(Some(n), "end") == 1)).await;
    assert_eq!(env.count(Some(2), "start"), 0, "neither has empty hands");
    env.gate.add_permits(2);
    db.drained().await;
    assert_eq!(env.count(Some(2), "end"), 1);
    full.stop().await;
    roomy.stop().await;
}

/// A job that must run alone comes due while another of its ordering key runs: it waits for that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_waits_for_its_ordering_key() {
    let db = database().await;
    let env = ToyEnv::new();
    let later = json!({ "kind": "toy", "run_at": "2030-01-01T00:00:00Z", "payload": Toy::new(0).keyed("k") });
    let suspect = db.enqueue(vec![later]).await[0];
    db.toys(&[Toy::new(1).keyed("k").act("wait")]).await;
    let worker = start(&db, &env);
    eventually("the other one runs", async || env.count(Some(1), "start") == 1).await;
    db.run(
        "select backhaul.register_worker('00000000-0000-4000-8000-000000000001', 'here', 1, 'test', '{toy@1}', 1);
         update backhaul.jobs set rescues = 2, due_at = clock_timestamp(), lane = (select id from backhaul.lanes)
         where due_at is not null",
    )
    .await;
    let claimed: Vec<(i64,)> =
        db.rows("select id from backhaul.claim_alone('00000000-0000-4000-8000-000000000001', '{toy@1}')").await;
    assert_eq!(claimed, []);
    assert_eq!(db.one::<Option<i64>>("select backhaul.waits_alone('{toy@1}')").await, None, "it waits for its key");
    env.gate.add_permits(1);
    db.drained().await;
    worker.stop().await;
    assert_eq!((env.order("start"), db.told(suspect).await), (vec![1, 0], vec!["job.completed".to_owned()]));
}

/// The next of its ordering key goes on when a job has crashed its last worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_job_lets_the_next_of_its_key_go_on() {
    let db = database().await;
    let env = ToyEnv::new();
    db.toys(&[Toy::new(0).keyed("k").act("hang"), Toy::new(1).keyed("k")]).await;
    for death in 1..=3 {
        let worker = start(&db, &env);
        eventually("it runs", async || env.count(Some(0), "start") == death).await;
        worker.kill().await;
        db.give_up_workers().await;
    }
    let worker = start(&db, &env);
    db.drained().await;
    worker.stop().await;
    assert_eq!(env.order("start"), [0, 0, 0, 1]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
}

/// A job that panics at every try uses up its tries; the others of its batch do not notice.
///
/// Covers row 205.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_always_panics_is_dead_after_its_tries() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut toys = vec![Toy::new(0).act("panic")];
    toys.extend((1..20).map(Toy::new));
    let ids = db.toys(&toys).await;
    let worker = start(&db, &env);
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!(env.count(Some(0), "start"), 4);
    assert_eq!(db.told(ids[0]).await, ["job.retried", "job.retried", "job.retried", "job.dead"]);
    let dead: Vec<(i64, String, String)> =
        db.rows("select id, reason, error ->> 'message' from backhaul.dead_letters").await;
    assert_eq!(dead, [(ids[0], "panicked".to_owned(), "toy 0 panics".to_owned())]);
    assert_eq!(env.order("end").len(), 19);
}

/// An upstream's words hold a character that Postgres stores in no text: what is told of the job has another one in its
/// place, and the jobs that are settled with it do not notice.
///
/// Covers row 205.
#[tokio::test(flavor = "multi_thread")]
async fn words_that_postgres_cannot_store_doom_nobody() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut toys = vec![Toy::new(0).act("nul"), Toy::new(1).act("nul conflict")];
    toys.extend((2..20).map(Toy::new));
    let ids = db.toys(&toys).await;
    let worker = start(&db, &env);
    db.drained().await;
    worker.stop().await;
    assert_eq!(env.order("start").len(), ids.len(), "each runs once");
    let dead: Vec<(String, Option<serde_json::Value>)> =
        db.rows("select error ->> 'message', conflict from backhaul.dead_letters order by id").await;
    assert_eq!(dead[0].0, "a \u{fffd} from outside");
    let conflict = serde_json::json!({ "base": { "\u{fffd}": 1 }, "ours": ["\u{fffd}"], "theirs": "\u{fffd}" });
    assert_eq!(dead[1].1, Some(conflict));
    let told: serde_json::Value =
        db.one("select payload from backhaul.outbox_events where type = 'dev.backhaul.toy.nul'").await;
    assert_eq!(told["\u{fffd}"], serde_json::json!(["\u{fffd}"]));
}

/// Postgres refuses the outcome of one job for a value in it: that job is dead with Postgres's words, and those that are
/// settled with it do not notice. None of them runs again.
///
/// Covers row 205.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_postgres_does_not_store_holds_up_nobody() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run("alter table backhaul.events add constraint not_this check (type <> 'dev.backhaul.toy.nul')").await;
    // All at the gate, so that one settle has many of them.
    let mut toys: Vec<_> = (0..12).map(|n| Toy::new(n).act("wait")).collect();
    toys[5] = Toy::new(5).act("wait nul").keyed("k");
    toys.push(Toy::new(12).keyed("k"));
    let ids = db.toys(&toys).await;
    let worker = start(&db, &env);
    eventually("all run", async || env.order("start").len() == 12).await;
    env.gate.add_permits(12);
    db.drained().await;
    worker.stop().await;
    assert_eq!(env.order("start").len(), ids.len(), "each runs once");
    for (n, id) in ids.iter().enumerate() {
        let end = if n == 5 { "job.dead" } else { "job.completed" };
        assert_eq!(db.told(*id).await, [end], "toy {n}");
    }
    let dead: Vec<(i64, String, String)> =
        db.rows("select id, reason, error ->> 'message' from backhaul.dead_letters").await;
    assert_eq!((dead.len(), dead[0].0, dead[0].1.as_str()), (1, ids[5], "outcome_refused"));
    assert!(dead[0].2.contains("not_this"), "{}", dead[0].2);
    assert_eq!(held(&db).await, 0);
}

/// Postgres refuses what a step found: the job is dead at once, because every further try would make the call again.
///
/// Covers row 205.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_postgres_does_not_store_is_not_taken_again() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run("alter table backhaul.steps add constraint not_this check (name <> 'b')").await;
    let id = db.toys(&[Toy::new(0).act("steps")]).await[0];
    let worker = start(&db, &env);
    db.drained().await;
    worker.stop().await;
    assert_eq!((env.count(None, "step a"), env.count(None, "step b")), (1, 1));
    assert_eq!(db.told(id).await, ["toy.stepped", "job.dead"]);
    let dead: Vec<(String, String)> = db.rows("select reason, error ->> 'message' from backhaul.dead_letters").await;
    assert_eq!(dead[0].0, "store_refused");
    assert!(dead[0].1.contains("not_this"), "{}", dead[0].1);
}
