//! Idempotency keys: one request, one job, whoever asks how often and at the same time.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{sync::Barrier, task::JoinSet};

use super::{enqueue, enqueue_many, enqueued};
use crate::support::{Database, ToyEnv, Worker, database, eventually, refusal};

const CALL: &str = r#"'toy', '{"n": 1, "acts": []}', idempotency_key => 'order-17'"#;

/// A batch of one.
async fn many(database: &Database, payload: Value, key: &str) -> (String, Option<i64>) {
    let batch = json!([{"kind": "toy", "payload": payload, "idempotency_key": key}]).to_string();
    let answers = enqueue_many(database.store.pool(), &batch).await.expect("answers");
    let (_, id, outcome, reason) = answers.into_iter().next().expect("one row");
    assert_eq!(reason.is_some(), outcome == "rejected");
    (outcome, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_answered_with_the_first_job() {
    let db = database().await;
    let (id, outcome) = enqueued(&db, CALL).await;
    assert_eq!(outcome, "inserted");
    // The order of members and blanks are not part of a request.
    for again in [CALL, r#"'toy', '{ "acts":[],  "n":1 }', idempotency_key => 'order-17', priority => 'low'"#] {
        assert_eq!(enqueued(&db, again).await, (id, "duplicate".to_owned()));
    }
    assert_eq!(many(&db, json!({"acts": [], "n": 1}), "order-17").await, ("duplicate".to_owned(), Some(id)));
    // Also once the job is done and gone.
    let env = ToyEnv::new();
    let worker = Worker::start(&db, &env);
    eventually("it ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(enqueued(&db, CALL).await, (id, "duplicate".to_owned()));
    assert_eq!((db.unfinished().await, env.count(None, "start")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_payload_is_refused_by_name() {
    let db = database().await;
    let (id, _) = enqueued(&db, CALL).await;
    let refused = refusal(enqueue(db.store.pool(), r#"'toy', '{"n": 2}', idempotency_key => 'order-17'"#).await);
    assert_eq!(refused.sqlstate, "BH004");
    assert!(refused.message.starts_with("idempotency_key_reused: ") && refused.message.contains(&id.to_string()));
    assert!(refused.hint.contains("new key"), "{refused:?}");
    let batch = r#"[{"kind": "toy", "payload": {"n": 2}, "idempotency_key": "order-17"}]"#;
    let answers = enqueue_many(db.store.pool(), batch).await.expect("answers");
    let reason = answers[0].3.as_deref().unwrap_or_default();
    assert!(reason.starts_with("idempotency_key_reused: ") && reason.contains(&id.to_string()), "{reason}");
    assert_eq!((answers[0].1, answers[0].2.as_str()), (None, "rejected"));
    assert_eq!(db.unfinished().await, 1);
}

/// Covers row 210 for keys: they belong to a tenant and a kind.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_or_kind_has_keys_of_its_own() {
    let db = database().await;
    db.run(
        "insert into backhaul.kinds select 'other', version, max_attempts, timeout, deadline, idempotency_window,
            payload_bytes_max, ordering_paths, pacing from backhaul.kinds",
    )
    .await;
    let mut ids = BTreeSet::new();
    for (kind, tenant) in [("toy", "default"), ("toy", "acme"), ("other", "default"), ("other", "acme")] {
        let call = format!(r#"'{kind}', '{{"n": 1}}', tenant => '{tenant}', idempotency_key => 'k'"#);
        let (id, outcome) = enqueued(&db, &call).await;
        assert_eq!(outcome, "inserted", "{kind} {tenant}");
        ids.insert(id);
        assert_eq!(enqueued(&db, &call).await, (id, "duplicate".to_owned()));
    }
    assert_eq!(ids.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_begins_anew() {
    let db = database().await;
    let (first, _) = enqueued(&db, CALL).await;
    let expire = "update backhaul.idempotency_keys set expires_at = clock_timestamp() - interval '1 second'";
    db.run(expire).await;
    let (second, outcome) = enqueued(&db, CALL).await;
    assert_eq!(outcome, "inserted");
    assert!(second > first);
    assert_eq!(enqueued(&db, CALL).await, (second, "duplicate".to_owned()));
    // Another payload is another request now; the bulk door sees it the same way.
    db.run(expire).await;
    let (outcome, third) = many(&db, json!({"n": 3}), "order-17").await;
    assert_eq!(outcome, "inserted");
    assert!(third > Some(second));
    assert_eq!(many(&db, json!({"n": 3}), "order-17").await, ("duplicate".to_owned(), third));
    // The window is the kind's.
    let hours: f64 = db
        .one(
            "select (extract(epoch from expires_at - clock_timestamp()) / 3600)::float8 from backhaul.idempotency_keys",
        )
        .await;
    assert!((71.9..=72.0).contains(&hours), "{hours}");
}

async fn backend(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.expect("reads")
}

async fn waits_for_a_lock(database: &Database, pid: i32) {
    eventually("the second producer waits", async || {
        sqlx::query_scalar("select exists (select from pg_locks where pid = $1 and not granted)")
            .bind(pid)
            .fetch_one(database.store.pool())
            .await
            .expect("reads")
    })
    .await;
}

/// The second producer waits for the first one's commit, and is answered by how that ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_waits_for_the_one_before_it() {
    let db = database().await;
    for (end, expected) in [("commit", "duplicate"), ("rollback", "inserted")] {
        for bulk in [false, true] {
            db.run("delete from backhaul.jobs; delete from backhaul.idempotency_keys").await;
            let mut first = PgConnection::connect(&db.url).await.expect("connects");
            sqlx::raw_sql("begin").execute(&mut first).await.expect("begins");
            let (id, outcome) = enqueue(&mut first, CALL).await.expect("enqueues");
            assert_eq!(outcome, "inserted");
            let mut second = PgConnection::connect(&db.url).await.expect("connects");
            let pid = backend(&mut second).await;
            let waiting = tokio::spawn(async move {
                if bulk {
                    let batch = r#"[{"kind": "toy", "payload": {"n": 1, "acts": []}, "idempotency_key": "order-17"}]"#;
                    let answers = enqueue_many(&mut second, batch).await.expect("answers");
                    (answers[0].1.expect("an id"), answers[0].2.clone())
                } else {
                    enqueue(&mut second, CALL).await.expect("answers")
                }
            });
            waits_for_a_lock(&db, pid).await;
            sqlx::raw_sql(end).execute(&mut first).await.expect("ends");
            let (answered, outcome) = waiting.await.expect("does not panic");
            assert_eq!(outcome, expected, "{end}, bulk {bulk}");
            assert_eq!(answered == id, end == "commit", "{end}, bulk {bulk}");
            assert_eq!(db.unfinished().await, 1, "{end}, bulk {bulk}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_producers_at_once_one_inserts() {
    let db = database().await;
    let producers = 10;
    let together = Arc::new(Barrier::new(producers));
    let mut racing = JoinSet::new();
    for _ in 0..producers {
        let (pool, together) = (db.store.pool().clone(), together.clone());
        racing.spawn(async move {
            let mut producer = pool.acquire().await.expect("connects");
            together.wait().await;
            enqueue(&mut *producer, CALL).await.expect("answers")
        });
    }
    let answers = racing.join_all().await;
    let ids: BTreeSet<i64> = answers.iter().map(|(id, _)| *id).collect();
    let inserted = answers.iter().filter(|(_, outcome)| outcome == "inserted").count();
    assert_eq!((ids.len(), inserted, db.unfinished().await), (1, 1, 1), "{answers:?}");
}

/// A third producer holds the key in the middle: each batch then has half of the keys, and would wait for the other's
/// half if both did not take them in the same order.
#[tokio::test(flavor = "multi_thread")]
async fn batches_with_the_same_keys_in_opposite_order_do_not_deadlock() {
    let db = database().await;
    let mut middle = PgConnection::connect(&db.url).await.expect("connects");
    sqlx::raw_sql("begin").execute(&mut middle).await.expect("begins");
    enqueue(&mut middle, r#"'toy', '{"n": 1}', idempotency_key => 'k050'"#).await.expect("enqueues");
    let keys: Vec<String> = (0..100).map(|n| format!("k{n:03}")).collect();
    let batch = |keys: Vec<&String>| {
        let jobs: Vec<Value> =
            keys.iter().map(|key| json!({"kind": "toy", "payload": {"n": 1}, "idempotency_key": key})).collect();
        Value::Array(jobs).to_string()
    };
    let mut waiting = Vec::new();
    for batch in [batch(keys.iter().collect()), batch(keys.iter().rev().collect())] {
        let mut producer = PgConnection::connect(&db.url).await.expect("connects");
        let pid = backend(&mut producer).await;
        waiting.push(tokio::spawn(async move { enqueue_many(&mut producer, &batch).await }));
        waits_for_a_lock(&db, pid).await;
    }
    sqlx::raw_sql("rollback").execute(&mut middle).await.expect("rolls back");
    let mut inserted = 0;
    for batch in waiting {
        let answers = batch.await.expect("does not panic").expect("no deadlock");
        inserted += answers.iter().filter(|(_, _, outcome, _)| outcome == "inserted").count();
        assert!(answers.iter().all(|(_, id, outcome, _)| id.is_some() && outcome != "rejected"));
    }
    assert_eq!((inserted, db.unfinished().await), (100, 100));
}

/// In a stricter isolation a key that was taken meanwhile cannot be seen: the statement asks to be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_stricter_isolation_is_told_to_try_again() {
    let db = database().await;
    let mut strict = PgConnection::connect(&db.url).await.expect("connects");
    let begin = "begin isolation level repeatable read; select count(*) from backhaul.jobs";
    sqlx::raw_sql(begin).execute(&mut strict).await.expect("begins");
    let (id, _) = enqueued(&db, CALL).await;
    let refused = refusal(enqueue(&mut strict, CALL).await);
    assert_eq!(refused.sqlstate, "40001", "{refused:?}");
    sqlx::raw_sql("rollback").execute(&mut strict).await.expect("rolls back");
    sqlx::raw_sql(begin).execute(&mut strict).await.expect("begins");
    assert_eq!(enqueue(&mut strict, CALL).await.expect("answers"), (id, "duplicate".to_owned()));
}
