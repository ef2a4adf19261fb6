//! `enqueue_many`: a batch is as good as its single jobs, in order.

use std::time::Instant;

use serde_json::{Value, json};

use super::enqueue_many;
use crate::support::{ToyEnv, Worker, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_answer_for_each_job_in_the_order_of_the_batch() {
    let db = database().await;
    let toy = |n: i64, key: Option<&str>| json!({"kind": "toy", "payload": {"n": n}, "idempotency_key": key});
    let first = Value::Array(vec![toy(1, Some("a")), toy(2, None)]).to_string();
    let first = enqueue_many(db.store.pool(), &first).await.expect("answers");
    let (a, free) = (first[0].1.expect("an id"), first[1].1.expect("an id"));
    assert!(a < free, "ids in input order");
    let batch = vec![
        toy(3, None),
        toy(1, Some("a")),
        json!({"kind": "toy", "payload": 5}),
        toy(4, Some("b")),
        toy(4, Some("b")),
        toy(5, Some("b")),
        json!({"kind": "toy", "payload": 5, "idempotency_key": "c"}),
        toy(6, Some("c")),
        toy(9, Some("a")),
        toy(7, None),
    ];
    let answers = enqueue_many(db.store.pool(), &Value::Array(batch).to_string()).await.expect("answers");
    let outcomes: Vec<(i32, &str)> =
        answers.iter().map(|(position, _, outcome, _)| (*position, outcome.as_str())).collect();
    assert_eq!(
        outcomes,
        [
            (1, "inserted"),
            (2, "duplicate"),
            (3, "rejected"),
            (4, "inserted"),
            (5, "duplicate"),
            (6, "rejected"),
            (7, "rejected"),
            // The rejected job before it did not use the key up.
            (8, "inserted"),
            (9, "rejected"),
            (10, "inserted"),
        ]
    );
    assert_eq!((answers[1].1, answers[4].1), (Some(a), answers[3].1));
    for (index, reason) in
        [(5, "idempotency_key_reused: "), (8, "idempotency_key_reused: "), (2, "payload_not_object: ")]
    {
        assert!(answers[index].3.as_deref().unwrap_or_default().starts_with(reason), "{:?}", answers[index]);
    }
    let stored: Vec<(i64, i64)> = sqlx::query_as("select id, (payload ->> 'n')::bigint from backhaul.jobs order by id")
        .fetch_all(db.store.pool())
        .await
        .expect("reads");
    let id = |index: usize| answers[index].1.expect("an id");
    assert_eq!(stored, [(a, 1), (free, 2), (id(0), 3), (id(3), 4), (id(7), 6), (id(9), 7)]);
}

/// Ids and places follow the batch, so jobs of one priority start in its order; priorities come first.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_runs_in_its_order_within_a_priority() {
    let db = database().await;
    let env = ToyEnv::new();
    let jobs: Vec<Value> = (0..200)
        .map(|n| {
            let priority = ["low", "critical", "backfill", "normal", "high"][n % 5];
            json!({"kind": "toy", "payload": {"n": n}, "priority": priority})
        })
        .collect();
    let answers = enqueue_many(db.store.pool(), &Value::Array(jobs).to_string()).await.expect("answers");
    assert!(answers.is_sorted_by_key(|(_, id, _, _)| *id), "ids in input order");
    let options = backhaul_engine::WorkerOptions { concurrency: 1, prefetch: 0, ..Worker::options() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("all end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let order = env.order("start");
    assert_eq!(order.len(), 200);
    for (rank, remainder) in [(0, 1), (1, 4), (2, 3), (3, 0), (4, 2)] {
        let expected: Vec<i64> = (0..200).filter(|n| n % 5 == remainder).collect();
        let ran = &order[rank * 40..(rank + 1) * 40];
        assert_eq!(ran, expected, "priority {rank}");
    }
}

/// What jobs have in common is looked up once, and 1 and 1.0 are equal as JSON: a tenant's name is its text.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_equal_do_not_make_two_jobs_alike() {
    let db = database().await;
    let rows = [
        r#"{"kind": "toy", "payload": {"n": 1}, "tenant": 12}"#,
        r#"{"kind": "toy", "payload": {"n": 2}, "tenant": 12.0}"#,
        r#"{"kind": "toy", "payload": {"n": 3}, "version": 1.0}"#,
        r#"{"kind": "toy", "payload": {"n": 4}, "version": 1}"#,
    ];
    let answers = enqueue_many(db.store.pool(), &format!("[{}]", rows.join(","))).await.expect("answers");
    let outcomes: Vec<&str> = answers.iter().map(|(_, _, outcome, _)| outcome.as_str()).collect();
    assert_eq!(outcomes, ["inserted", "inserted", "rejected", "inserted"], "{answers:?}");
    let tenants: String = db.one("select string_agg(tenant, ' ' order by id) from backhaul.jobs").await;
    assert_eq!(tenants, "12 12.0 default");
}

/// Keys are found by hash. Compared pair by pair, those of a batch of 8,000 took a hundred times as long as its jobs.
#[tokio::test(flavor = "multi_thread")]
async fn keys_do_not_make_a_long_batch_slow() {
    let db = database().await;
    let mut producer = db.store.pool().acquire().await.expect("connects");
    let mut took = Vec::new();
    for keyed in [false, true] {
        let job =
            |n: i64| json!({"kind": "toy", "payload": {"n": n}, "idempotency_key": keyed.then(|| format!("k{n}"))});
        let batch = Value::Array((0..8_000).map(job).collect()).to_string();
        let started = Instant::now();
        let answers = enqueue_many(&mut *producer, &batch).await.expect("answers");
        took.push(started.elapsed());
        assert!(answers.len() == 8_000 && answers.iter().all(|(_, _, outcome, _)| outcome == "inserted"));
    }
    assert!(took[1] < took[0] * 15, "{took:?}");
}

/// A payload that is nested beyond what a worker reads is a dead letter by name, and harms nobody.
#[tokio::test(flavor = "multi_thread")]
async fn nesting_beyond_reading_is_a_dead_letter() {
    let db = database().await;
    let env = ToyEnv::new();
    let deep = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
    let batch = format!(
        r#"[{{"kind": "toy", "payload": {{"n": 1, "key": {deep}}}, "ordering_key": "k"}}, {{"kind": "toy", "payload": {{"n": 2}}}}]"#
    );
    let answers = enqueue_many(db.store.pool(), &batch).await.expect("answers");
    let worker = Worker::start(&db, &env);
    eventually("both end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let dead: Vec<(i64, String)> =
        sqlx::query_as("select id, reason from backhaul.dead_letters").fetch_all(db.store.pool()).await.expect("reads");
    assert_eq!(dead, [(answers[0].1.expect("an id"), "payload_invalid".to_owned())]);
    assert_eq!(env.count(Some(2), "end"), 1);
}
