//! What is refused: by name, with an SQLSTATE, with advice, and alike by both doors.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{Answer, enqueue, enqueue_many};
use crate::support::{Database, database, refusal};

/// A job with what is wrong about it, the SQLSTATE of `enqueue`, and how the reason begins.
fn wrong_jobs() -> Vec<(Value, &'static str, &'static str)> {
    let toy = |extra: Value| {
        let mut job = json!({"kind": "toy", "payload": {"n": 1}});
        let members = job.as_object_mut().expect("an object");
        members.extend(extra.as_object().expect("an object").clone());
        job
    };
    let long = |length: usize| "x".repeat(length);
    vec![
        (json!({"kind": null, "payload": {}}), "BH005", "invalid_argument: kind is missing"),
        (json!({"kind": "toys", "payload": {}}), "BH001", "unknown_kind: toys"),
        (json!({"kind": "Toy", "payload": {}}), "BH001", "unknown_kind: Toy"),
        (json!({"kind": long(100_000), "payload": {}}), "BH001", "unknown_kind: xxx"),
        (toy(json!({"version": 2})), "BH001", "unknown_kind: toy version 2"),
        (toy(json!({"version": 0})), "BH005", "invalid_argument: version must be"),
        (toy(json!({"version": 70_000})), "BH005", "invalid_argument: version must be"),
        (json!({"kind": "toy", "payload": []}), "BH002", "payload_not_object: payload is array"),
        (json!({"kind": "toy", "payload": "{}"}), "BH002", "payload_not_object: payload is string"),
        (json!({"kind": "toy", "payload": null}), "BH002", "payload_not_object: payload is"),
        (json!({"kind": "toy", "payload": 7}), "BH002", "payload_not_object: payload is number"),
        (json!({"kind": "toy", "payload": {"n": long(300_000)}}), "BH003", "payload_too_large: 300"),
        (toy(json!({"tenant": null})), "BH005", "invalid_argument: tenant"),
        (toy(json!({"tenant": ""})), "BH005", "invalid_argument: tenant"),
        (toy(json!({"tenant": "a b"})), "BH005", "invalid_argument: tenant"),
        (toy(json!({"tenant": "acme\n"})), "BH005", "invalid_argument: tenant"),
        (toy(json!({"tenant": "../acme"})), "BH005", "invalid_argument: tenant"),
        (toy(json!({"tenant": long(65)})), "BH005", "invalid_argument: tenant"),
        (toy(json!({"idempotency_key": ""})), "BH005", "invalid_argument: idempotency_key"),
        (toy(json!({"idempotency_key": long(257)})), "BH005", "invalid_argument: idempotency_key"),
        (toy(json!({"priority": "urgent"})), "BH005", "invalid_argument: priority"),
        (toy(json!({"priority": "2"})), "BH005", "invalid_argument: priority"),
        (toy(json!({"ordering_key": ""})), "BH005", "invalid_argument: ordering_key"),
        (toy(json!({"ordering_key": long(513)})), "BH005", "invalid_argument: ordering_key"),
        (toy(json!({"max_attempts": 0})), "BH005", "invalid_argument: max_attempts"),
        (toy(json!({"max_attempts": 1_001})), "BH005", "invalid_argument: max_attempts"),
        (toy(json!({"max_attempts": 2_000_000_000})), "BH005", "invalid_argument: max_attempts"),
        (toy(json!({"run_at": "infinity"})), "BH005", "invalid_argument: run_at"),
        (toy(json!({"run_at": "-infinity"})), "BH005", "invalid_argument: run_at"),
        (toy(json!({"run_at": "2999-01-01T00:00:00Z"})), "BH005", "invalid_argument: run_at"),
        (toy(json!({"run_at": "1970-01-01T00:00:00Z"})), "BH005", "invalid_argument: run_at"),
        (toy(json!({"deadline": "2001-01-01T00:00:00Z"})), "BH005", "invalid_argument: deadline"),
        (
            toy(json!({"run_at": "2000-06-01T00:00:00Z", "deadline": "2000-07-01T00:00:00Z"})),
            "BH005",
            "invalid_argument: deadline",
        ),
        // A worker that reads these would have no number for them.
        (toy(json!({"deadline": "infinity"})), "BH005", "invalid_argument: deadline"),
        (toy(json!({"deadline": "290000-01-01T00:00:00Z"})), "BH005", "invalid_argument: deadline"),
        (toy(json!({"traceparent": ""})), "BH005", "invalid_argument: traceparent"),
        (toy(json!({"traceparent": "00-XYZ"})), "BH005", "invalid_argument: traceparent"),
    ]
}

/// The same job as a call of `backhaul.enqueue`.
fn as_call(job: &Value) -> String {
    let literal = |value: &Value, of: &str| match value {
        Value::Null => format!("null::{of}"),
        Value::String(text) if of != "jsonb" => format!("'{}'::{of}", text.replace('\'', "''")),
        other => format!("'{}'::{of}", other.to_string().replace('\'', "''")),
    };
    let arguments = job.as_object().expect("an object").iter().map(|(name, value)| {
        let of = match name.as_str() {
            "payload" => "jsonb",
            "run_at" | "deadline" => "timestamptz",
            "max_attempts" | "version" => "integer",
            _ => "text",
        };
        format!("{name} => {}", literal(value, of))
    });
    arguments.collect::<Vec<_>>().join(", ")
}

async fn nothing_is_there(database: &Database) {
    let left: i64 = database
        .one("select (select count(*) from backhaul.jobs) + (select count(*) from backhaul.idempotency_keys)")
        .await;
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_a_name_a_sqlstate_and_advice() {
    let db = database().await;
    for (job, sqlstate, begins) in wrong_jobs() {
        let refused = refusal(enqueue(db.store.pool(), &as_call(&job)).await);
        let shown: String = job.to_string().chars().take(200).collect();
        assert_eq!(refused.sqlstate, sqlstate, "{shown}: {refused:?}");
        assert!(refused.message.starts_with(begins), "{shown}: {}", refused.message);
        assert!(refused.message.len() < 200, "a message is for people: {}", refused.message.len());
        assert!(!refused.hint.is_empty(), "{shown}: {refused:?}");
    }
    nothing_is_there(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_refuses_the_same_and_takes_the_rest() {
    let db = database().await;
    let wrong = wrong_jobs();
    let good = json!({"kind": "toy", "payload": {"n": 1}});
    // A good one before, between and after.
    let mut batch = vec![good.clone()];
    for (job, _, _) in &wrong {
        batch.extend([job.clone(), good.clone()]);
    }
    let answers = enqueue_many(db.store.pool(), &Value::Array(batch).to_string()).await.expect("answers");
    assert_eq!(answers.len(), wrong.len() * 2 + 1);
    for (index, (position, id, outcome, reason)) in answers.iter().enumerate() {
        assert_eq!(usize::try_from(*position), Ok(index + 1));
        if index % 2 == 0 {
            assert_eq!((outcome.as_str(), reason), ("inserted", &None), "row {position}");
            assert!(id.is_some());
        } else {
            let (_, _, begins) = &wrong[index / 2];
            let reason = reason.as_deref().unwrap_or_default();
            assert_eq!((outcome.as_str(), id), ("rejected", &None), "{begins}");
            assert!(reason.starts_with(begins), "{begins}: {reason}");
            assert!(reason.len() < 200, "a reason is for people: {}", reason.len());
        }
    }
    let jobs: i64 = db.one("select count(*) from backhaul.jobs").await;
    assert_eq!(usize::try_from(jobs), Ok(wrong.len() + 1));
}

/// What only a batch can get wrong: the shape of a row.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_rows_are_rejected_one_by_one() {
    let db = database().await;
    let unknown = "m".repeat(100_000);
    let rows = [
        (r#"7"#.to_owned(), "invalid_argument: a job is a JSON object"),
        (r#"null"#.to_owned(), "invalid_argument: a job is a JSON object"),
        (r#""kind""#.to_owned(), "invalid_argument: a job is a JSON object"),
        (r#"["kind", "toy"]"#.to_owned(), "invalid_argument: a job is a JSON object"),
        (r#"{}"#.to_owned(), "invalid_argument: kind is missing"),
        (r#"{"kind": "toy"}"#.to_owned(), "payload_not_object: payload is missing"),
        (r#"{"kind": ["toy"], "payload": {}}"#.to_owned(), r#"unknown_kind: ["toy"]"#),
        (r#"{"kind": "toy", "payload": {}, "idempotencykey": "k"}"#.to_owned(), "invalid_argument: unknown member"),
        (format!(r#"{{"kind": "toy", "payload": {{}}, "{unknown}": 1}}"#), "invalid_argument: unknown member mmm"),
        (
            r#"{"kind": "toy", "payload": {}, "idempotency_key": {}}"#.to_owned(),
            "invalid_argument: idempotency_key must be",
        ),
        (
            r#"{"kind": "toy", "payload": {}, "idempotency_key": false}"#.to_owned(),
            "invalid_argument: idempotency_key must be",
        ),
        (
            r#"{"kind": "toy", "payload": {}, "ordering_key": ["a"]}"#.to_owned(),
            "invalid_argument: ordering_key must be",
        ),
        (r#"{"kind": "toy", "payload": {}, "max_attempts": "many"}"#.to_owned(), "invalid_argument: max_attempts"),
        (r#"{"kind": "toy", "payload": {}, "max_attempts": 2.5}"#.to_owned(), "invalid_argument: max_attempts"),
        (r#"{"kind": "toy", "payload": {}, "max_attempts": -1}"#.to_owned(), "invalid_argument: max_attempts"),
        (r#"{"kind": "toy", "payload": {}, "max_attempts": 1e400}"#.to_owned(), "invalid_argument: max_attempts"),
        (r#"{"kind": "toy", "payload": {}, "version": "one"}"#.to_owned(), "invalid_argument: version"),
        (
            r#"{"kind": "toy", "payload": {}, "run_at": "not a time"}"#.to_owned(),
            "invalid_argument: run_at is not a timestamp",
        ),
        (
            r#"{"kind": "toy", "payload": {}, "run_at": "2030-02-31T00:00:00Z"}"#.to_owned(),
            "invalid_argument: run_at is not a timestamp",
        ),
        (
            r#"{"kind": "toy", "payload": {}, "run_at": 1893456000}"#.to_owned(),
            "invalid_argument: run_at is not a timestamp",
        ),
        (
            r#"{"kind": "toy", "payload": {}, "deadline": ""}"#.to_owned(),
            "invalid_argument: deadline is not a timestamp",
        ),
    ];
    let batch = format!("[{}]", rows.iter().map(|(row, _)| row.as_str()).collect::<Vec<_>>().join(","));
    let answers = enqueue_many(db.store.pool(), &batch).await.expect("answers");
    assert_eq!(answers.len(), rows.len());
    for ((position, id, outcome, reason), (row, begins)) in answers.iter().zip(&rows) {
        let reason = reason.as_deref().unwrap_or_default();
        assert_eq!((outcome.as_str(), id), ("rejected", &None), "row {position}: {reason}");
        assert!(reason.starts_with(begins), "row {position}, {}: {reason}", &row[..row.len().min(80)]);
        assert!(reason.len() < 200, "a reason is for people: {}", reason.len());
    }
    nothing_is_there(&db).await;
}

/// Null members are as good as absent ones, and a number in quotes is a number.
#[tokio::test(flavor = "multi_thread")]
async fn harmless_spellings_are_taken() {
    let db = database().await;
    let rows = [
        r#"{"kind": "toy", "payload": {}, "idempotency_key": null, "priority": null, "run_at": null, "ordering_key": null,
            "max_attempts": null, "deadline": null, "traceparent": null, "version": null}"#,
        r#"{"kind": "toy", "payload": {}, "max_attempts": "3", "version": "1"}"#,
        r#"{"kind": "toy", "payload": {}, "idempotency_key": 4711, "tenant": 12}"#,
        r#"{"kind": "toy", "payload": {"n": "\uD83D\uDE00", "deep": [[[[[[[[1]]]]]]]], "big": 123456789012345678901234567890}}"#,
    ];
    let answers = enqueue_many(db.store.pool(), &format!("[{}]", rows.join(","))).await.expect("answers");
    for (position, _, outcome, reason) in answers {
        assert_eq!(outcome, "inserted", "row {position}: {reason:?}");
    }
    let seen: String =
        db.one("select string_agg(concat_ws(' ', tenant, max_attempts, idempotency_key), ',' order by id) from backhaul.jobs").await;
    assert_eq!(seen, "default 4,default 3,12 4 4711,default 4");
}

/// What is not JSON for Postgres does not reach the function: the statement fails, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_fails_the_statement_alone() {
    let db = database().await;
    let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
    for (text, sqlstate) in [
        (r#"[{"kind": "toy", "payload": {"n": "\u0000"}}]"#, "22P05"),
        (r#"[{"kind": "toy", "payload": {"n": "\ud800"}}]"#, "22P02"),
        (r#"[{"kind": "toy", "payload": {}"#, "22P02"),
        ("", "22P02"),
        (deep.as_str(), "54001"),
    ] {
        let refused = refusal(enqueue_many(db.store.pool(), text).await);
        assert_eq!(refused.sqlstate, sqlstate, "{refused:?}");
    }
    nothing_is_there(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_none_or_too_long_is_refused_whole() {
    let db = database().await;
    for batch in [r#"{"kind": "toy", "payload": {}}"#, r#""toy""#, "7", "null"] {
        let refused = refusal(enqueue_many(db.store.pool(), batch).await);
        assert_eq!(refused.sqlstate, "BH005", "{batch}");
        assert!(refused.message.contains("array") && refused.hint.contains("[{"), "{refused:?}");
    }
    let nothing: sqlx::Result<Vec<Answer>> =
        sqlx::query_as("select position, job_id, outcome, reason from backhaul.enqueue_many(null)")
            .fetch_all(db.store.pool())
            .await;
    assert_eq!(refusal(nothing).sqlstate, "BH005");
    let repeated = |times: usize| format!("[{}]", vec![r#"{"kind":"toy","payload":{}}"#; times].join(","));
    let refused = refusal(enqueue_many(db.store.pool(), &repeated(10_001)).await);
    assert_eq!(refused.sqlstate, "BH005");
    assert!(refused.message.contains("10001") && refused.hint.contains("split"), "{refused:?}");
    nothing_is_there(&db).await;
    assert_eq!(enqueue_many(db.store.pool(), &repeated(10_000)).await.expect("enqueues").len(), 10_000);
    assert_eq!(enqueue_many(db.store.pool(), "[]").await.expect("enqueues").len(), 0);
}

/// Whoever can write the table directly is held to what workers can read.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_worker_could_read_do_not_store() {
    let db = database().await;
    let plain = "insert into backhaul.jobs (kind, tenant, payload, max_attempts, due_at, deadline_at, ordering_key)";
    for (values, constraint) in [
        ("'toy', 'default', '{}', 4, now(), 'infinity', null", "instant_check"),
        ("'toy', 'default', '{}', 4, '-infinity', now(), null", "instant_check"),
        ("'toy', 'default', '{}', 4, now(), '290000-01-01', null", "instant_check"),
        ("'toy', 'default', '[]', 4, now(), now(), null", "payload_check"),
        ("'toy', 'default', '{}', 0, now(), now(), null", "tries_check"),
        ("'toy', 'default', '{}', 4, null, now(), null", "jobs_state"),
    ] {
        let sql = format!("{plain} values ({values})");
        let refused = refusal(sqlx::query(AssertSqlSafe(sql)).execute(db.store.pool()).await);
        assert_eq!(refused.sqlstate, "23514", "{values}: {refused:?}");
        assert!(refused.message.contains(constraint), "{values}: {refused:?}");
    }
}
