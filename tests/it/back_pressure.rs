//! Claims wait while a sink is too far behind, and for nothing that only looks like it. What runs ends as ever.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use backhaul_engine::{Registry, Sink, WorkerOptions};
use backhaul_sinks::FileSink;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Connection;

use crate::explain;
use crate::support::{Database, Process, Toy, ToyEnv, Worker, binary, database, eventually, scratch, worker_command};

/// Unpublished events from which on claims wait in these tests.
const LIMIT: u64 = 20;

/// Where a file sink is to write and cannot: a directory is in its place.
fn blocked(name: &str) -> PathBuf {
    let file = scratch(name).join("events.jsonl");
    fs::create_dir(&file).expect("creatable");
    file
}

fn let_go(file: &Path) {
    fs::remove_dir(file).expect("an empty directory");
}

/// A worker of toys with a file sink.
fn start(db: &Database, env: &Arc<ToyEnv>, file: &Path) -> Worker {
    let (env, file) = (env.clone(), file.to_owned());
    let registry = move || {
        let mut registry = Registry::new();
        registry.add::<Toy>(env.clone());
        registry
    };
    let sinks = move || vec![Box::new(FileSink::new("file", file.clone())) as Box<dyn Sink>];
    Worker::start_kinds(
        db.store.clone(),
        registry,
        sinks,
        WorkerOptions { unpublished_max: LIMIT, ..Worker::patient() },
    )
}

async fn waited_for(db: &Database) -> bool {
    db.one("select exists (select from backhaul.sinks_waited_for)").await
}

/// Waits until the worker has judged twice more: it knows what was the case at the first time.
async fn judged(db: &Database) {
    for _ in 0..2 {
        let ran = "select ran_at from backhaul.maintenance where task = 'sinks' and isfinite(ran_at)";
        let before: DateTime<Utc> = db.one(ran).await;
        eventually("it judges", async || db.one::<DateTime<Utc>>(ran).await > before).await;
    }
}

async fn caught_up(db: &Database) {
    let known = "select exists (select from backhaul.sinks where caught_up)";
    eventually("the sink is known", async || db.one::<bool>(known).await).await;
}

/// What a command says as JSON, and its exit code.
fn says(db: &Database, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = binary().args(arguments).arg("--json").env("DATABASE_URL", &db.url).output().expect("runs");
    (serde_json::from_slice(&output.stdout).expect("JSON"), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_stop_at_the_limit_and_go_on_once_the_sink_is_let_go() {
    let db = database().await;
    let env = ToyEnv::new();
    let file = blocked("back-pressure");
    let running = db.toys(&[Toy::new(0).act("wait"), Toy::new(1).act("wait")]).await;
    let worker = start(&db, &env, &file);
    eventually("both run", async || env.order("start").len() == 2).await;
    caught_up(&db).await;
    db.toys(&(2..40).map(Toy::new).collect::<Vec<_>>()).await;
    eventually("it is too far behind", async || waited_for(&db).await).await;
    judged(&db).await;

    // What is enqueued now stays where it is, also where a worker starts; what runs ends.
    let late = db.toys(&(100..110).map(Toy::new).collect::<Vec<_>>()).await;
    let second = start(&db, &env, &file);
    eventually("it is there", async || db.one::<i64>("select count(*) from backhaul.workers").await == 2).await;
    env.gate.add_permits(2);
    for job in &running {
        eventually("it ends", async || db.ends().await.contains(&(*job, 1))).await;
    }
    judged(&db).await;
    assert!(env.order("start").iter().all(|n| *n < 100), "claimed in spite of the limit");
    assert_eq!(explain::codes(&db, late[0]).await, ["sink_behind"]);
    let (doctor, code) = says(&db, &["doctor"]);
    assert!(doctor.to_string().contains("so no worker claims jobs"), "{doctor}");
    assert_eq!(code, Some(5));
    let (queue, _) = says(&db, &["queue", "status", "--tenant", "acme"]);
    assert_eq!(queue["sinks_waited_for"][0]["name"], "file", "{queue}");
    let (outbox, _) = says(&db, &["outbox", "status"]);
    assert_eq!(outbox["sinks"][0]["state"], "jobs wait for it", "{outbox}");

    let_go(&file);
    db.drained().await;
    let (doctor, _) = says(&db, &["doctor"]);
    assert!(!doctor.to_string().contains("so no worker claims jobs"), "{doctor}");
    for worker in [worker, second] {
        worker.stop().await;
    }
    let written = fs::read_to_string(&file).expect("the sink's file");
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events").await, written.lines().count() as i64);
}

/// The sink has everything that it can have. That events wait for their place in the order is not its fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_seal_stops_nobody() {
    let db = database().await;
    let env = ToyEnv::new();
    let file = scratch("back-pressure-seal").join("events.jsonl");
    let worker = start(&db, &env, &file);
    caught_up(&db).await;
    let mut seals = sqlx::PgConnection::connect(&db.url).await.expect("connects");
    let mut locked = seals.begin().await.expect("begins");
    sqlx::query("select from backhaul.seal_state for update").execute(&mut *locked).await.expect("locks");
    for batch in 0..3 {
        db.toys(&(0..LIMIT as i64).map(|n| Toy::new(batch * 100 + n)).collect::<Vec<_>>()).await;
        db.drained().await;
        judged(&db).await;
        assert!(!waited_for(&db).await);
    }
    locked.rollback().await.expect("rolls back");
    worker.stop().await;
}

/// Each row of `judge_sinks` as `(sink, holds, changed)`.
async fn judge(db: &Database, max: i64) -> Vec<(String, bool, bool)> {
    sqlx::query_as("select sink, holds, changed from backhaul.judge_sinks('0', $1)")
        .bind(max)
        .fetch_all(db.store.pool())
        .await
        .expect("judges")
}

#[tokio::test]
async fn a_change_is_told_once_and_not_back_and_forth() {
    let db = database().await;
    db.run(
        "select backhaul.append_event('dev.backhaul.x', n, 'acme', 'toy', null, '{}') from generate_series(1, 100) n;
         select backhaul.seal(1000);
         insert into backhaul.sinks (name, kind, target, owned_until, caught_up, position)
         values ('s', 'file', 'there', now() + interval '1 hour', true, 50)",
    )
    .await;
    let told = |holds, changed| vec![("s".to_owned(), holds, changed)];
    assert_eq!(judge(&db, 50).await, told(false, false), "as many as it may be");
    db.run("update backhaul.sinks set position = 49").await;
    assert_eq!(judge(&db, 0).await, told(false, false), "without a limit nobody judges");
    assert_eq!(judge(&db, 50).await, told(true, true));
    assert_eq!(judge(&db, 50).await, told(true, false));
    db.run("update backhaul.sinks set position = 54").await;
    assert_eq!(judge(&db, 50).await, told(true, false), "not yet nine tenths");
    db.run("update backhaul.sinks set position = 55").await;
    assert_eq!(judge(&db, 50).await, told(false, true));
    assert_eq!(judge(&db, 50).await, told(false, false));
}

#[tokio::test]
async fn nobody_waits_for_a_sink_that_is_paused_gone_or_new() {
    let db = database().await;
    db.run(
        "select backhaul.append_event('dev.backhaul.x', n, 'acme', 'toy', null, '{}') from generate_series(1, 100) n;
         select backhaul.seal(1000);
         insert into backhaul.sinks (name, kind, target, owned_until, caught_up, paused)
         values ('gone', 'file', 'there', now() - interval '2 minutes', true, false),
                ('new', 'file', 'there', now() + interval '1 hour', false, false),
                ('paused', 'file', 'there', now() + interval '1 hour', true, true)",
    )
    .await;
    let holding = async || {
        let judged = judge(&db, 50).await.into_iter();
        judged.filter(|(_, holds, _)| *holds).map(|(sink, ..)| sink).collect::<Vec<_>>()
    };
    assert!(holding().await.is_empty());
    // One that was paused has until it has caught up; from then on it is like every other.
    db.run("update backhaul.sinks set paused = false").await;
    assert!(holding().await.is_empty());
    db.run("update backhaul.sinks set position = 100 where name <> 'gone'").await;
    assert!(holding().await.is_empty());
    db.run("update backhaul.sinks set position = 0").await;
    assert_eq!(holding().await, ["new", "paused"]);
}

/// A sink that blocks for long is an alert, one for the fleet; an operator lets jobs go on without it.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_alerted_once_and_may_go_on_without_the_sink() {
    let db = database().await;
    backhaul_engine::register_kinds(&db.store, &backhaul_workers::kinds()).await.expect("registers");
    let file = blocked("back-pressure-alert");
    let dir = file.parent().expect("a directory").to_owned();
    let start = || {
        let mut command = worker_command(&db.url, &dir, &file);
        Process::start(
            command.env("BACKHAUL__WORKER__UNPUBLISHED_MAX", "20").env("BACKHAUL__TELEMETRY__LOG_FORMAT", "json"),
        )
    };
    let workers = [start(), start()];
    caught_up(&db).await;
    db.run(
        "select backhaul.append_event('dev.backhaul.x', n, 'acme', 'toy', null, '{}') from generate_series(1, 100) n",
    )
    .await;
    eventually("it is too far behind", async || waited_for(&db).await).await;
    judged(&db).await;
    let (said, _) = says(&db, &["outbox", "pause", "file", "--why", "its disk is full", "--actor", "ann"]);
    assert_eq!(said["changed"], true);
    eventually("nobody waits", async || !waited_for(&db).await).await;
    let told: Vec<(String, String)> =
        db.rows("select payload ->> 'actor', payload ->> 'sink' from backhaul.outbox_events where type like '%.sink.paused'")
            .await;
    assert_eq!(told, [("ann".to_owned(), "file".to_owned())]);
    let (said, _) = says(&db, &["outbox", "resume", "file"]);
    assert_eq!(said["changed"], true);
    judged(&db).await;
    assert!(!waited_for(&db).await, "it has until it has caught up");
    for worker in workers {
        worker.kill();
    }
    let logs = fs::read_dir(&dir).expect("readable").filter_map(Result::ok).map(|entry| entry.path());
    let logs: String = logs
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map(|path| fs::read_to_string(path).expect("readable"))
        .collect();
    assert_eq!(logs.matches("\"alert\":\"sink_behind\"").count(), 1, "{logs}");
    assert_eq!(logs.matches("claims wait for this sink no longer").count(), 1, "{logs}");
}
