//! A stop hands back what has not begun, lets end what runs, and leaves nothing behind.

use std::time::Duration;

use backhaul_engine::WorkerOptions;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use crate::support::{Database, PATIENCE, Toy, ToyEnv, Worker, database, eventually};

async fn nothing_is_left_of_workers(db: &Database) {
    for what in [
        "select count(*) from backhaul.leases",
        "select count(*) from backhaul.workers",
        "select count(*) from backhaul.sleepers",
    ] {
        assert_eq!(db.one::<i64>(what).await, 0, "{what}");
    }
}

/// Jobs in reserve behind a long one go to another worker at once, not when the long one has ended.
///
/// Covers row 204.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_begun_goes_back_and_what_runs_may_end() {
    let db = database().await;
    let env = ToyEnv::new();
    let toys: Vec<Toy> = (0..10).map(|n| if n < 2 { Toy::new(n).act("wait") } else { Toy::new(n) }).collect();
    let ids = db.toys(&toys).await;
    let options = WorkerOptions { concurrency: 2, prefetch: 8, grace: PATIENCE, ..Worker::patient() };
    let stopping = Worker::start_with(db.store.clone(), &env, options);
    eventually("two run and the rest is in reserve", async || {
        env.order("start").len() == 2
            && db.one::<i64>("select coalesce(sum(cardinality(seqs)), 0)::bigint from backhaul.leases").await == 10
    })
    .await;
    stopping.ask_to_stop();
    let other = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("the other worker does the rest", async || env.order("end").len() == 8).await;
    assert_eq!((env.count(Some(0), "end"), env.count(Some(1), "end")), (0, 0));
    env.gate.add_permits(2);
    stopping.stop().await;
    db.drained().await;
    other.stop().await;
    assert_eq!(env.order("start").len(), 10, "nothing ran twice: {:?} {:?}", env.order("start"), db.told(ids[0]).await);
    for id in ids {
        assert_eq!(db.told(id).await, ["job.completed"]);
    }
    nothing_is_left_of_workers(&db).await;
}

/// When the grace is over, what still runs is stopped. It costs no attempt and counts as no rescue.
///
/// Covers row 204.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_what_runs_is_interrupted_and_costs_nothing() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&(0..3).map(|n| Toy::new(n).act("hang").act("ok")).collect::<Vec<_>>()).await;
    let options = WorkerOptions { grace: Duration::from_millis(100), ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("all run", async || env.order("start").len() == 3).await;
    let asked = Instant::now();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(30), "a stop takes at most thirty seconds: {:?}", asked.elapsed());
    nothing_is_left_of_workers(&db).await;
    let state: Vec<(i64, i64, bool)> =
        db.rows("select attempt::bigint, rescues::bigint, errors is null from backhaul.jobs").await;
    assert_eq!(state, [(0, 0, true); 3]);
    let next = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained().await;
    next.stop().await;
    for id in ids {
        assert_eq!(db.told(id).await, ["job.completed"]);
    }
}

/// Finished steps survive an interruption, and their job resumes behind them.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_job_keeps_its_finished_steps() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act("steps then hang").act("steps")]).await[0];
    let options = WorkerOptions { grace: Duration::from_millis(100), ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("its steps are done", async || db.one::<i64>("select count(*) from backhaul.steps").await == 2).await;
    worker.stop().await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps where state = 'done'").await, 2);
    let next = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.drained().await;
    next.stop().await;
    assert_eq!((env.count(Some(1), "step a"), env.count(Some(1), "step b")), (1, 1));
    assert_eq!(db.told(id).await, ["toy.stepped", "toy.stepped", "job.completed"]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 0);
}

/// A worker that has nothing to do leaves at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_leaves_at_once() {
    let db = database().await;
    let options = WorkerOptions { grace: PATIENCE, ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &ToyEnv::new(), options);
    eventually("it sleeps", async || db.one::<i64>("select count(*) from backhaul.sleepers").await == 1).await;
    let asked = Instant::now();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    nothing_is_left_of_workers(&db).await;
}

async fn run(db: &Database, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.store.pool()).await.expect("runs");
}

/// A worker that signs off while one of its settles is still under way hands back what it has then, and not what the
/// settle had put back and another worker has taken since.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_worker_took_meanwhile_is_not_handed_back() {
    let db = database().await;
    let ids = db.toys(&[Toy::new(0), Toy::new(1)]).await;
    let [leaving, next] = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];
    for worker in [leaving, next] {
        run(&db, format!("select backhaul.register_worker('{worker}', 'here', 1, 'test', '{{toy@1}}', 9)")).await;
    }
    let claim = |worker| format!("select * from backhaul.claim('{worker}', '{{toy@1}}', 9, '-infinity')");
    run(&db, claim(leaving)).await;

    // Somebody holds the first job's row. A settle of the second one is about to commit.
    let mut holder = db.store.pool().begin().await.expect("begins");
    let hold = format!("select from backhaul.jobs where id = {} for update", ids[0]);
    sqlx::query(AssertSqlSafe(hold)).execute(&mut *holder).await.expect("locks");
    let mut settle = db.store.pool().begin().await.expect("begins");
    for sql in [
        "select from backhaul.leases for update".to_owned(),
        format!("update backhaul.jobs set seq = null, due_at = clock_timestamp() where id = {}", ids[1]),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *settle).await.expect("puts it back");
    }
    let leave = tokio::spawn({
        let store = db.store.clone();
        async move { sqlx::query("select backhaul.leave($1::uuid)").bind(leaving).execute(store.pool()).await }
    });
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and query like '%backhaul.leave%'";
    let waits_for_the_job = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and query like '%backhaul.leave%'
                   and exists (select from pg_stat_activity h where h.pid = any (pg_blocking_pids(pg_stat_activity.pid))
                               and h.query like 'select from backhaul.jobs%')";
    eventually("the worker signs off", async || db.one::<i64>(waits).await == 1).await;
    settle.commit().await.expect("commits");
    eventually("and waits for the first job", async || db.one::<i64>(waits_for_the_job).await == 1).await;
    run(&db, claim(next)).await;
    holder.rollback().await.expect("rolls back");
    leave.await.expect("no panic").expect("leaves");

    let places: Vec<(i64, bool)> = db.rows("select id, seq is not null from backhaul.jobs order by id").await;
    assert_eq!(places, [(ids[0], false), (ids[1], true)]);
}
