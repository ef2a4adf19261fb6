//! An erasure reaches every copy of a person's data, leaves everybody else's alone, and leaves tombstones where others
//! rely on an order or an answer.

mod copies;

use std::{io::Write as _, process::Stdio};

use backhaul_engine::{KindSpec, register_kinds};
use serde_json::{Value, json};

use self::copies::{Person, holding, snapshot, state_is};
use crate::support::{Database, Login, Toy, ToyEnv, Worker, binary, database, eventually, refusal};

const ANN: Person = Person {
    tenant: "acme",
    id: "6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4",
    email: "ann@example.com",
    phone: "+1 (555) 000-1001",
};

/// Runs the command as a login, with the person's identifiers on standard input.
fn command(url: &str, more: &[&str]) -> Value {
    let mut child = binary()
        .args(["erase", "--tenant", ANN.tenant, "--why", "request 17", "--actor", "kim", "--json", "-"])
        .args(more)
        .env("DATABASE_URL", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let identifiers = format!("{}\n{}\n\n+15550001001\n", ANN.id.to_uppercase(), ANN.email);
    child.stdin.take().expect("piped").write_all(identifiers.as_bytes()).expect("reads");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// One batch of an erasure of Ann.
async fn batch(db: &Database, after: Option<&Value>, rows_max: i32) -> sqlx::Result<(String, i32, i32, Option<Value>)> {
    sqlx::query_as("select * from backhaul.erase('acme', $1, 'kim', 'request 17', $2, $3)")
        .bind(vec![ANN.id, ANN.email, "+15550001001"])
        .bind(after)
        .bind(rows_max)
        .fetch_one(db.store.pool())
        .await
}

/// Batches from `after` to the end; returns the rows that each erased.
async fn rest(db: &Database, mut after: Option<Value>, rows_max: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for _ in 0..1_000 {
        let (_, _, matched, next) = batch(db, after.as_ref(), rows_max).await.expect("erases");
        found.push(matched);
        match next {
            None => return found,
            Some(next) => after = Some(next),
        }
    }
    panic!("an erasure of a few rows does not end");
}

/// Covers row 214: jobs that run, wait, are blocked or dead, their steps and keys, memories, schedules, webhooks, and
/// events that were published or not. No row of any table holds the person afterwards, whatever tables there will be.
#[tokio::test(flavor = "multi_thread")]
async fn no_copy_of_the_person_is_left() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    let toy = json!({"kind": "toy", "tenant": "acme", "payload": Toy::new(1).keyed(ANN.id).act("wait")});
    let running = db.enqueue(vec![toy]).await[0];
    eventually("it runs", async || env.count(Some(1), "start") == 1).await;
    let copies = ANN.fill(&db).await;
    state_is(&db, running, "running").await;
    state_is(&db, copies.blocked, "blocked").await;
    let events: Vec<(i64, uuid::Uuid, String, Option<i64>)> =
        db.rows("select id, event_id, type, job_id from backhaul.events order by id").await;

    let operator = Login::of(&db, Some("backhaul_operator")).await;
    let before = snapshot(&db).await;
    let counted = command(&operator.url, &[]);
    assert_eq!(counted["erasure"], Value::Null);
    assert_eq!(snapshot(&db).await, before, "counting changes nothing");
    let done = command(&operator.url, &["--yes"]);
    assert_eq!(
        done["erased"],
        json!({"schedules": 1, "ingress_events": 2, "jobs": 5, "dead_letters": 1, "memories": 2,
            "idempotency_keys": 2, "events": 3})
    );
    assert_eq!(counted["would_be_erased"], done["erased"], "what is counted is what is erased");
    eventually("the worker lets go", async || {
        db.one::<i64>("select (select count(*) from backhaul.leases) + (select count(*) from backhaul.key_holders)")
            .await
            == 0
    })
    .await;
    worker.stop().await;

    assert_eq!(holding(&db, &ANN).await, Vec::<String>::new());
    assert_eq!(db.told(running).await, ["job.erased"], "nothing that it still reports is written");
    assert_eq!(env.count(Some(1), "end"), 0);
    // The order of events: the same ids in the same places, and every place is taken.
    let ids: Vec<i64> = events.iter().map(|event| event.0).collect();
    let after: Vec<(i64, uuid::Uuid, String, Option<i64>)> =
        sqlx::query_as("select id, event_id, type, job_id from backhaul.events where id = any ($1) order by id")
            .bind(ids)
            .fetch_all(db.store.pool())
            .await
            .expect("reads");
    assert_eq!(after, events);
    let (sealed, all, last): (i64, i64, i64) = db
        .rows(
            "select (select sum(cardinality(event_ids))::bigint from backhaul.seals), (select count(*) from backhaul.events),
                 (select next_seq - 1 from backhaul.seal_state)",
        )
        .await[0];
    assert_eq!((sealed, last), (all, all));
    let uneven: i64 = db
        .one(
            "select count(*) from backhaul.events
             where backhaul.canonical(convert_from(data, 'UTF8')::jsonb) <> convert_from(data, 'UTF8')",
        )
        .await;
    assert_eq!(uneven, 0, "tombstones are canonical as all events are");
    tombstones(&db, &done).await;
    let again = command(&operator.url, &["--yes"]);
    assert_eq!(again["total"], 0, "{again}");
}

/// What tells that it was done, to people and to consumers of events, and tells nothing else.
async fn tombstones(db: &Database, done: &Value) {
    let (actor, why, erased, ended): (String, String, Value, bool) =
        db.rows("select actor, why, erased, ended_at is not null from backhaul.erasures").await.remove(0);
    assert_eq!((actor.as_str(), why.as_str(), &erased, ended), ("kim", "request 17", &done["erased"], true));
    let told: Vec<(Value,)> = db
        .rows(
            "select payload from backhaul.outbox_events
             where type in ('dev.backhaul.events.erased', 'dev.backhaul.erasure.completed') order by event_no",
        )
        .await;
    let named = told[0].0["event_ids"].as_array().expect("a list");
    let marked: Vec<(String,)> = db
        .rows(
            "select event_id::text from backhaul.events where subject like 'erasure/%' and job_id is not null order by id",
        )
        .await;
    assert_eq!(
        named.iter().map(|id| id.as_str().expect("text")).collect::<Vec<_>>(),
        marked.iter().map(|row| &row.0).collect::<Vec<_>>()
    );
    assert_eq!((&told[1].0["erased"], &told[1].0["erasure"]), (&done["erased"], &done["erasure"]));
    let kept: Vec<(Value,)> = db
        .rows("select payload from backhaul.outbox_events where type = 'dev.backhaul.toy.told' order by event_no")
        .await;
    assert_eq!(
        kept[0].0,
        json!({"attempt": 1, "erasure": done["erasure"], "http_status": 200, "job_id": 7, "latency_ms": 12, "status": "SUCCESS"})
    );
}

/// What was erased does not come back by a repetition: of a webhook, or of a producer's request.
#[tokio::test(flavor = "multi_thread")]
async fn repetitions_bring_nothing_back() {
    let db = database().await;
    ANN.fill(&db).await;
    let request = json!({"n": 9, "acts": [ANN.email]});
    let enqueue = "select backhaul.enqueue('toy', $1, 'acme', 'order-17', run_at => '2030-01-01')";
    sqlx::query(enqueue).bind(&request).execute(db.store.pool()).await.expect("enqueues");
    rest(&db, None, 1_000).await;
    let repeated = sqlx::query(enqueue).bind(&request).execute(db.store.pool()).await;
    assert_eq!(refusal(repeated).sqlstate, "BH004", "the key is known, and with it that the request was made");
    ANN.receive(&db).await;
    assert_eq!((db.unfinished().await, holding(&db, &ANN).await), (0, Vec::new()));
}

/// Others of the tenant, also those whose names hold the person's, and the same person at another tenant.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_else_keeps_theirs() {
    let db = database().await;
    let joann = Person {
        id: "6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c40",
        email: "joann@example.com",
        phone: "+1 (555) 000-10011",
        ..ANN
    };
    joann.fill(&db).await;
    Person { tenant: "globex", ..ANN }.fill(&db).await;
    let before = snapshot(&db).await;
    assert_eq!(rest(&db, None, 1_000).await.iter().sum::<i32>(), 0);
    assert_eq!(snapshot(&db).await, before);
}

/// Every transaction is bounded, and an erasure that was given up in the middle is begun anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_goes_in_batches_and_can_be_given_up() {
    let db = database().await;
    ANN.fill(&db).await;
    let mut after = None;
    for _ in 0..6 {
        after = batch(&db, after.as_ref(), 1).await.expect("erases").3;
        assert!(after.is_some(), "six of more batches");
    }
    let left = holding(&db, &ANN).await.len();
    assert!(left > 0, "it was given up in the middle");
    let found = rest(&db, None, 2).await;
    assert!(found.iter().all(|rows| *rows <= 2), "{found:?}");
    assert_eq!(holding(&db, &ANN).await, Vec::<String>::new());
    let ended: Vec<(bool,)> = db.rows("select ended_at is not null from backhaul.erasures order by begun_at").await;
    assert_eq!(ended, [(false,), (true,)]);
    // The first one, taken up after all, finds nothing and ends.
    assert_eq!(rest(&db, after, 1_000).await.iter().sum::<i32>(), 0);
    assert!(db.one::<bool>("select bool_and(ended_at is not null) from backhaul.erasures").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_found_whole_and_in_every_spelling() {
    let db = database().await;
    for (identifier, text, is_found) in [
        ("4711", "order 4711.", true),
        ("4711", "customer-4711-x", true),
        ("4711", "14711", false),
        ("4711", "line\n4711", true),
        ("ann@example.com", "mail ANN@example.com.", true),
        ("ann@example.com", "<ann@example.com>", true),
        ("ann@example.com", "jo-ann@example.com", false),
        ("ann@example.com", "ann@example.com.au", false),
        ("ann@example.com", "annXexampleXcom", false),
        ("+15550001001", "+1 (555) 000-1001", true),
        ("+1 555 000 1001", "15550001001", true),
        ("+15550001001", "155500010012", false),
        ("Zoë Müller", "Frau Zoë Müller, Bonn", true),
        ("cfg_1.*", "cfg_1abc", false),
    ] {
        let found: bool = sqlx::query_scalar(
            "select backhaul.erasure_text($2) ~* p and backhaul.erasure_text(convert_to($2::text, 'UTF8')) ~* p
             from backhaul.erasure_pattern(array[$1]) p",
        )
        .bind(identifier)
        .bind(json!({ "text": text }))
        .fetch_one(db.store.pool())
        .await
        .expect("compares");
        assert_eq!(found, is_found, "{identifier} in {text}");
    }
}

/// What would find half of the table, or keep the person in the audit trail, is refused before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn careless_erasures_are_refused() {
    let db = database().await;
    register_kinds(&db.store, &[KindSpec::of::<Toy>()]).await.expect("registers");
    for (arguments, code) in [
        ("'acme', '{abc}', 'kim', 'request 17'", "BH005"),
        ("'acme', '{...---...}', 'kim', 'request 17'", "BH005"),
        ("'acme', '{}', 'kim', 'request 17'", "BH005"),
        ("'acme', array['a\"nn@example.com'], 'kim', 'request 17'", "BH005"),
        ("'acme', array[repeat('x', 300)], 'kim', 'request 17'", "BH005"),
        ("'*', '{ann@example.com}', 'kim', 'request 17'", "BH005"),
        ("'acme', '{ann@example.com}', 'kim', null", "BH005"),
        ("'acme', '{ann@example.com}', 'kim', 'asked by Ann@example.com'", "BH005"),
        ("'acme', '{ann@example.com}', 'kim', 'request 17', '{\"area\": \"secrets\"}'", "BH005"),
        ("'acme', '{ann@example.com}', 'kim', 'request 17', '{\"area\": \"jobs\"}'", "BH020"),
        ("'acme', '{ann@example.com}', 'kim', 'request 17', null, 0", "BH005"),
    ] {
        let sql = format!("select * from backhaul.erase({arguments})");
        let refused = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(db.store.pool()).await;
        assert_eq!(refusal(refused).sqlstate, code, "{arguments}");
    }
    assert_eq!(db.one::<i64>("select count(*) from backhaul.erasures").await, 0);
}

/// The job that would have woken its lane is erased before its turn: those behind it are found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_erased_job_leaves_nobody_behind_it_asleep() {
    let db = database().await;
    let env = ToyEnv::new();
    let toy = |n: i64, word: &str| json!({ "kind": "toy", "tenant": "acme", "payload": Toy::new(n).act(word) });
    db.enqueue(vec![toy(0, "ok")]).await;
    let worker = Worker::start(&db, &env);
    db.drained().await;
    eventually("its lane sleeps for good", async || {
        db.one::<bool>("select bool_and(settled) from backhaul.cursors").await
    })
    .await;
    worker.stop().await;
    db.enqueue(vec![toy(1, ANN.email), toy(2, "ok"), toy(3, "ok")]).await;
    assert_eq!(rest(&db, None, 100).await.iter().sum::<i32>(), 1);
    let worker = Worker::start(&db, &env);
    db.drained().await;
    worker.stop().await;
    assert!([0, 2, 3].iter().all(|n| env.count(Some(*n), "end") == 1) && env.order("end").len() == 3);
}
