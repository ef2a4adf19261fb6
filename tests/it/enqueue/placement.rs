//! Where a new job is placed: never behind a cursor that nobody reads, whatever the transaction of its producer.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::{enqueue, enqueue_many};
use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// Waits until a place behind the cursors may be given, and a job runs there.
async fn warmed_up(database: &Database, env: &ToyEnv) {
    database.toys(&[Toy::new(0)]).await;
    eventually("the first job ends", async || env.count(Some(0), "end") == 1).await;
}

/// Waits until every cursor sleeps and nobody could still place a job behind one.
async fn fast_asleep(database: &Database) {
    eventually("the cursors sleep", async || {
        database.one::<bool>("select bool_and(settled and not awake) from backhaul.cursors").await
    })
    .await;
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

/// The producer's snapshot shows a cursor that is awake; by the time it enqueues, the cursor sleeps. A job placed
/// behind it would never be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_older_than_the_cursors_sleep_loses_no_job() {
    for isolation in ["repeatable read", "serializable"] {
        let db = database().await;
        let env = ToyEnv::new();
        let worker = Worker::start(&db, &env);
        warmed_up(&db, &env).await;
        let mut producer = begin(&db, isolation).await;
        let seen: bool = sqlx::query_scalar("select bool_and(awake) from backhaul.cursors")
            .fetch_one(&mut producer)
            .await
            .expect("reads");
        fast_asleep(&db).await;
        enqueue(&mut producer, r#"'toy', '{"n": 1}'"#).await.expect("enqueues");
        enqueue_many(&mut producer, r#"[{"kind": "toy", "payload": {"n": 2}}, {"kind": "toy", "payload": {"n": 3}}]"#)
            .await
            .expect("enqueues");
        commit(producer).await;
        eventually("all run", async || db.unfinished().await == 0).await;
        worker.stop().await;
        let mut ran = env.order("end");
        ran.sort_unstable();
        assert_eq!((ran, seen), (vec![0, 1, 2, 3], true), "{isolation}");
    }
}

/// The usual isolation, with the cursor awake, asleep and absent.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_whether_the_cursor_is_absent_awake_or_asleep() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    warmed_up(&db, &env).await;
    let mut producer = begin(&db, "read committed").await;
    enqueue(&mut producer, r#"'toy', '{"n": 1}'"#).await.expect("enqueues");
    let direct: bool =
        sqlx::query_scalar("select seq = id from backhaul.jobs").fetch_one(&mut producer).await.expect("reads");
    commit(producer).await;
    eventually("the job behind the cursor runs", async || env.count(Some(1), "end") == 1).await;
    fast_asleep(&db).await;
    db.toys(&[Toy::new(2), Toy::new(3)]).await;
    eventually("the jobs that wake the cursor run", async || env.count(None, "end") == 4).await;
    worker.stop().await;
    assert!(direct, "a job behind a cursor that is awake is placed at once");
}

/// A place is taken at the insert and seen at the commit: others run past it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_commits_late_is_not_forgotten() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    warmed_up(&db, &env).await;
    let mut slow = begin(&db, "read committed").await;
    enqueue(&mut slow, r#"'toy', '{"n": 1}'"#).await.expect("enqueues");
    enqueue_many(&mut slow, r#"[{"kind": "toy", "payload": {"n": 2}}]"#).await.expect("enqueues");
    let places: i64 = sqlx::query_scalar("select count(*) from backhaul.jobs where seq is not null")
        .fetch_one(&mut slow)
        .await
        .expect("reads");
    assert_eq!(places, 2, "both have their places already");
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
