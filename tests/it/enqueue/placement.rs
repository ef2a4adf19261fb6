//! Where a new job is placed: never behind a cursor that nobody reads, whatever the transaction of its producer.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::{enqueue, enqueue_many};
use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// Runs a job of each tenant, so that each has a cursor that is awake.
async fn warmed_up(database: &Database, env: &ToyEnv, tenants: &[&str]) {
    let jobs = tenants.iter().map(|tenant| json!({"kind": "toy", "payload": {"n": 0}, "tenant": tenant})).collect();
    database.enqueue(jobs).await;
    eventually("the first jobs end", async || env.count(Some(0), "end") == tenants.len()).await;
}

/// Waits until every cursor sleeps and nobody could still place a job behind one.
async fn fast_asleep(database: &Database) {
    eventually("the cursors sleep", async || {
        database.one::<bool>("select bool_and(settled and not awake) from backhaul.cursors").await
    })
    .await;
}

/// Until this transaction ends, no cursor is put to sleep.
async fn nobody_sleeps(database: &Database) -> PgConnection {
    let mut guard = PgConnection::connect(&database.url).await.expect("connects");
    let sql = "begin; select 1 from backhaul.maintenance where task = 'sweep' for update";
    sqlx::raw_sql(sql).execute(&mut guard).await.expect("locks");
    guard
}

async fn begin(database: &Database, isolation: &str) -> PgConnection {
    let mut producer = PgConnection::connect(&database.url).await.expect("connects");
    let sql = format!("begin isolation level {isolation}; select count(*) from backhaul.cursors");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut producer).await.expect("begins");
    producer
}

async fn commit(mut producer: PgConnection) {
    sqlx::raw_sql("commit").execute(&mut producer).await.expect("commits");
    producer.close().await.expect("closes");
}

/// One job by each door, each for a tenant of its own: a job that is promoted would wake the cursor for the others.
async fn by_both_doors(producer: &mut PgConnection) {
    enqueue(&mut *producer, r#"'toy', '{"n": 1}', tenant => 'one'"#).await.expect("enqueues");
    let batch = r#"[{"kind": "toy", "payload": {"n": 2}, "tenant": "many"}, {"kind": "toy", "payload": {"n": 3}, "tenant": "many"}]"#;
    enqueue_many(&mut *producer, batch).await.expect("enqueues");
}

/// The producer's snapshot shows cursors that are awake; by the time it enqueues, they sleep. A job placed there would
/// never be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_older_than_the_cursors_sleep_loses_no_job() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    let isolations = ["repeatable read", "serializable"];
    for isolation in isolations {
        let guard = nobody_sleeps(&db).await;
        warmed_up(&db, &env, &["one", "many"]).await;
        env.log.lock().expect("no panic under the lock").clear();
        let mut producer = begin(&db, isolation).await;
        let awake: bool = sqlx::query_scalar("select bool_and(awake) from backhaul.cursors")
            .fetch_one(&mut producer)
            .await
            .expect("reads");
        commit(guard).await;
        fast_asleep(&db).await;
        by_both_doors(&mut producer).await;
        commit(producer).await;
        eventually("all run", async || db.unfinished().await == 0).await;
        let mut ran = env.order("end");
        ran.sort_unstable();
        assert_eq!((ran, awake), (vec![1, 2, 3], true), "{isolation}");
    }
    worker.stop().await;
}

/// The usual isolation, with cursors absent, awake and asleep.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_whether_the_cursor_is_absent_awake_or_asleep() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    let guard = nobody_sleeps(&db).await;
    for (when, placed) in [("absent", 0), ("awake", 3)] {
        assert_eq!(placed_by_both_doors(&db, &env).await, placed, "{when}");
    }
    commit(guard).await;
    fast_asleep(&db).await;
    // The first of a batch wakes the cursor for the second.
    assert_eq!(placed_by_both_doors(&db, &env).await, 1, "asleep");
    worker.stop().await;
}

/// How many of the three were placed at once. All have run on return.
async fn placed_by_both_doors(database: &Database, env: &ToyEnv) -> i64 {
    env.log.lock().expect("no panic under the lock").clear();
    let mut producer = begin(database, "read committed").await;
    by_both_doors(&mut producer).await;
    let placed = sqlx::query_scalar("select count(*) from backhaul.jobs where seq = id")
        .fetch_one(&mut producer)
        .await
        .expect("reads");
    commit(producer).await;
    eventually("all run", async || env.count(None, "end") == 3).await;
    placed
}

/// What stands for the rest of a batch must be due itself: nobody would wake the cursor for them before.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_job_at_the_head_of_a_batch_holds_up_nobody() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    warmed_up(&db, &env, &["default"]).await;
    fast_asleep(&db).await;
    let later = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let batch = json!([
        {"kind": "toy", "payload": {"n": 1}, "run_at": later},
        {"kind": "toy", "payload": {"n": 2}},
        {"kind": "toy", "payload": {"n": 3}},
    ]);
    enqueue_many(db.store.pool(), &batch.to_string()).await.expect("enqueues");
    eventually("the others run", async || db.unfinished().await == 1).await;
    worker.stop().await;
    assert_eq!((env.count(Some(1), "start"), env.count(Some(2), "end"), env.count(Some(3), "end")), (0, 1, 1));
}

/// The first of a batch may be taken away before anybody has promoted it; the rest stands behind a cursor that sleeps.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_batch_runs_without_its_first() {
    let db = database().await;
    let env = ToyEnv::new();
    for (n, decision) in [
        (10, "select backhaul.cancel($1, 'me', 'test')"),
        (20, "select backhaul.reschedule($1, now() + interval '1 day', 'me', 'test')"),
    ] {
        let worker = Worker::start(&db, &env);
        warmed_up(&db, &env, &["default"]).await;
        fast_asleep(&db).await;
        worker.stop().await;
        env.log.lock().expect("no panic under the lock").clear();
        let batch = json!([{"kind": "toy", "payload": {"n": n}}, {"kind": "toy", "payload": {"n": n + 1}}]);
        let answers = enqueue_many(db.store.pool(), &batch.to_string()).await.expect("enqueues");
        sqlx::query(decision).bind(answers[0].1).execute(db.store.pool()).await.expect(decision);
        let worker = Worker::start(&db, &env);
        eventually("the second runs", async || env.count(Some(n + 1), "end") == 1).await;
        worker.stop().await;
        assert_eq!(env.count(Some(n), "start"), 0, "{decision}");
    }
}

/// A place is taken at the insert and seen at the commit: others run past it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_commits_late_is_not_forgotten() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    let guard = nobody_sleeps(&db).await;
    warmed_up(&db, &env, &["default"]).await;
    let mut slow = begin(&db, "read committed").await;
    enqueue(&mut slow, r#"'toy', '{"n": 1}'"#).await.expect("enqueues");
    enqueue_many(&mut slow, r#"[{"kind": "toy", "payload": {"n": 2}}]"#).await.expect("enqueues");
    let places: i64 = sqlx::query_scalar("select count(*) from backhaul.jobs where seq is not null")
        .fetch_one(&mut slow)
        .await
        .expect("reads");
    assert_eq!(places, 2, "both have their places already");
    commit(guard).await;
    for n in 3..8 {
        db.toys(&[Toy::new(n)]).await;
        eventually("a later job runs", async || env.count(Some(n), "end") == 1).await;
    }
    let passed: bool = sqlx::query_scalar(
        "select bool_and(j.seq <= c.position) from backhaul.jobs j
         join backhaul.cursors c on c.lane = j.lane and c.priority = j.priority",
    )
    .fetch_one(&mut slow)
    .await
    .expect("reads");
    assert!(passed, "the cursor has passed them");
    // Long enough for the cursor to fall asleep in between: it may not be taken for settled while we are at work.
    eventually("the cursor sleeps", async || db.one::<bool>("select bool_and(not awake) from backhaul.cursors").await)
        .await;
    commit(slow).await;
    eventually("the stragglers run", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!((env.count(Some(1), "start"), env.count(Some(2), "start")), (1, 1));
}

/// An idle worker is rung at the commit: it does not wait for its next look.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_worker_is_woken() {
    let db = database().await;
    let env = ToyEnv::new();
    let options = backhaul_engine::WorkerOptions { poll: Duration::from_secs(600), ..Worker::options() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("it sleeps", async || db.one::<bool>("select exists (select from backhaul.sleepers)").await).await;
    db.toys(&[Toy::new(1)]).await;
    eventually("it runs", async || env.count(Some(1), "end") == 1).await;
    worker.stop().await;
}
