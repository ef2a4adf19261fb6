//! What each argument does, and what stands in for those that are left out.

use serde_json::{Value, json};

use super::{enqueue, enqueue_many, enqueued};
use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// The stored job as JSON.
async fn stored(database: &Database, id: i64) -> Value {
    sqlx::query_scalar(
        "select to_jsonb(j) || jsonb_build_object('lives', extract(epoch from deadline_at - coalesce(due_at, enqueued_at)),
             'by_me', enqueued_by = session_user)
         from backhaul.jobs j where id = $1",
    )
    .bind(id)
    .fetch_one(database.store.pool())
    .await
    .expect("the job is stored")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_and_a_payload_are_enough() {
    let db = database().await;
    let (id, outcome) = enqueued(&db, r#"kind => 'toy', payload => '{"n": 1}'"#).await;
    assert_eq!(outcome, "inserted");
    let job = stored(&db, id).await;
    for (column, expected) in [
        ("tenant", json!("default")),
        ("priority", json!(2)),
        ("version", json!(1)),
        ("attempt", json!(0)),
        ("max_attempts", json!(4)),
        ("ordering_key", json!(null)),
        ("idempotency_key", json!(null)),
        ("traceparent", json!(null)),
        ("payload", json!({"n": 1})),
        ("by_me", json!(true)),
    ] {
        assert_eq!(job[column], expected, "{column} of {job}");
    }
    // The kind's deadline, counted from the moment the job may first run.
    let lives = job["lives"].as_f64().expect("a number");
    assert!((lives - 86_400.0).abs() < 1.0, "{lives}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_argument_is_stored_by_both_doors() {
    let db = database().await;
    let (one, _) = enqueued(
        &db,
        r#"kind => 'toy', payload => '{"n": 1}', tenant => 'acme', idempotency_key => 'k-1', priority => 'critical',
           run_at => now() + interval '1 hour', ordering_key => 'cart-7', max_attempts => 9,
           deadline => now() + interval '2 hours', version => 1,
           traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'"#,
    )
    .await;
    let at = |hours: i64| (chrono::Utc::now() + chrono::TimeDelta::hours(hours)).to_rfc3339();
    let batch = json!([{
        "kind": "toy", "payload": {"n": 1}, "tenant": "acme", "idempotency_key": "k-2", "priority": "critical",
        "run_at": at(1), "ordering_key": "cart-7", "max_attempts": 9, "deadline": at(2), "version": 1,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }]);
    let answers = enqueue_many(db.store.pool(), &batch.to_string()).await.expect("enqueues");
    let (one, many) = (stored(&db, one).await, stored(&db, answers[0].1.expect("an id")).await);
    for job in [&one, &many] {
        assert_eq!((&job["tenant"], &job["priority"]), (&json!("acme"), &json!(0)), "{job}");
        assert_eq!((&job["ordering_key"], &job["max_attempts"]), (&json!("cart-7"), &json!(9)), "{job}");
        assert_eq!(job["traceparent"], json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert!(job["due_at"].is_string() && job["seq"].is_null(), "{job}");
        let lives = job["lives"].as_f64().expect("a number");
        assert!((lives - 3_600.0).abs() < 1.0, "{job}");
    }
    assert_eq!((&one["idempotency_key"], &many["idempotency_key"]), (&json!("k-1"), &json!("k-2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_its_time_and_lives_from_then_on() {
    let db = database().await;
    let env = ToyEnv::new();
    let (far, _) = enqueued(&db, r#"'toy', '{"n": 1}', run_at => now() + interval '1 hour'"#).await;
    let job = stored(&db, far).await;
    let lives = job["lives"].as_f64().expect("a number");
    assert!((lives - 86_400.0).abs() < 1.0, "the deadline counts from run_at: {job}");
    db.run("create table due as select now() + interval '400 ms' as at").await;
    let (near, _) = enqueued(&db, r#"'toy', '{"n": 2}', run_at => (select at from due)"#).await;
    let worker = Worker::start(&db, &env);
    eventually("the near job ends", async || db.unfinished().await == 1).await;
    worker.stop().await;
    assert_eq!(env.order("start"), [2]);
    let early: bool = db.one("select min(occurred_at) < (select at from due) from backhaul.events").await;
    assert!(!early, "job {near} ran before its time");
    let state: String = db.one("select state from backhaul.job_states").await;
    assert_eq!(state, "scheduled");
}

/// A time that has passed means now: the job must not be over before it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_in_the_past_means_now() {
    let db = database().await;
    let env = ToyEnv::new();
    enqueued(&db, r#"'toy', '{"n": 1}', run_at => '2001-01-01T00:00:00Z'"#).await;
    let batch = json!([{"kind": "toy", "payload": {"n": 2}, "run_at": "2001-01-01T00:00:00Z"}]);
    enqueue_many(db.store.pool(), &batch.to_string()).await.expect("enqueues");
    let worker = Worker::start(&db, &env);
    eventually("both end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let dead: i64 = db.one("select count(*) from backhaul.dead_letters").await;
    assert_eq!((dead, env.count(None, "end")), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_missed_its_deadline_is_dead_without_a_try() {
    let db = database().await;
    let env = ToyEnv::new();
    enqueued(&db, r#"'toy', '{"n": 1}', deadline => clock_timestamp() + interval '50 ms'"#).await;
    eventually("the deadline passes", async || {
        db.one::<bool>("select deadline_at < clock_timestamp() from backhaul.jobs").await
    })
    .await;
    let worker = Worker::start(&db, &env);
    eventually("it ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let reason: String = db.one("select reason from backhaul.dead_letters").await;
    assert_eq!((reason.as_str(), env.count(None, "start")), ("deadline_exceeded", 0));
}

/// Covers row 102: platforms write UUIDs in both cases, and mean the same resource.
#[tokio::test(flavor = "multi_thread")]
async fn the_ordering_key_is_read_from_the_payload_without_case() {
    let db = database().await;
    let env = ToyEnv::new();
    let upper = Toy::new(1).keyed("8C3A6F0E-5B1D-4F57-9B5E-0A1B2C3D4E5F").act("wait");
    let lower = Toy::new(2).keyed("8c3a6f0e-5b1d-4f57-9b5e-0a1b2c3d4e5f");
    let payload = serde_json::to_string(&upper).expect("serialises");
    let (first, _) = enqueued(&db, &format!("'toy', '{payload}'")).await;
    let second = db.toys(&[lower]).await[0];
    let keys: Vec<String> = sqlx::query_scalar("select ordering_key from backhaul.jobs order by id")
        .fetch_all(db.store.pool())
        .await
        .expect("reads");
    assert_eq!(keys, ["toy/8c3a6f0e-5b1d-4f57-9b5e-0a1b2c3d4e5f"; 2]);
    let worker = Worker::start(&db, &env);
    eventually("the second waits behind the first", async || {
        let states: Vec<(i64, String)> = sqlx::query_as("select id, state from backhaul.job_states order by id")
            .fetch_all(db.store.pool())
            .await
            .expect("reads");
        states == [(first, "running".to_owned()), (second, "blocked".to_owned())]
    })
    .await;
    env.gate.add_permits(1);
    eventually("both end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let log: Vec<_> = env.log.lock().expect("no panic under the lock").clone();
    let told: Vec<_> = log.iter().map(|(n, what)| (*n, what.as_str())).collect();
    assert_eq!(told, [(1, "start"), (1, "end"), (2, "start"), (2, "end")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_producers_own_wins_and_no_key_orders_nothing() {
    let db = database().await;
    for (arguments, expected) in [
        (r#"'toy', '{"n": 1, "key": "Cart"}', ordering_key => 'Mine'"#, Some("Mine")),
        (r#"'toy', '{"n": 1, "key": "Cart"}'"#, Some("toy/cart")),
        (r#"'toy', '{"n": 1, "key": null}'"#, None),
        (r#"'toy', '{"n": 1}'"#, None),
    ] {
        let (id, _) = enqueued(&db, arguments).await;
        assert_eq!(stored(&db, id).await["ordering_key"].as_str(), expected, "{arguments}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_rolled_back_leaves_nothing() {
    let db = database().await;
    let call = r#"'toy', '{"n": 1}', idempotency_key => 'once'"#;
    let mut transaction = db.store.pool().begin().await.expect("begins");
    let (lost, outcome) = enqueue(&mut *transaction, call).await.expect("enqueues");
    assert_eq!(outcome, "inserted");
    let batch = json!([{"kind": "toy", "payload": {"n": 2}, "idempotency_key": "twice"}]);
    enqueue_many(&mut *transaction, &batch.to_string()).await.expect("enqueues");
    transaction.rollback().await.expect("rolls back");
    let left: i64 =
        db.one("select (select count(*) from backhaul.jobs) + (select count(*) from backhaul.idempotency_keys)").await;
    assert_eq!(left, 0);
    let (kept, outcome) = enqueued(&db, call).await;
    assert_eq!(outcome, "inserted");
    assert!(kept > lost, "an id is not given twice");
}
