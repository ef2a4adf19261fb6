//! Bringing a database to this program's schema: at any time, by several at once, again after a crash, and never back.

use std::{
    process::{Child, Output, Stdio},
    time::Duration,
};

use backhaul_engine::{
    KindSpec, Registry, Store, StoreError, WorkerOptions, check_version, known_version, migrate, register_kinds,
    run_worker,
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Database, Toy, ToyEnv, Worker, binary, database, empty_database, eventually};

/// Starts `backhaul migrate` on the database.
fn process(database: &Database) -> Child {
    let mut command = binary();
    command.args(["migrate", "--json"]).env("DATABASE_URL", &database.url);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("does not panic").expect("ends")
}

fn told(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Everything in our schema: names of relations, functions with their bodies, and constraints.
async fn fingerprint(database: &Database) -> String {
    database
        .one(
            "select md5(string_agg(what, e'\\n' order by what)) from (
                 select c.relkind::text || ' ' || c.relname from pg_class c where relnamespace = 'backhaul'::regnamespace
                 union all select pg_get_functiondef(p.oid) || p.proacl::text from pg_proc p
                 where p.pronamespace = 'backhaul'::regnamespace
                 union all select conname || pg_get_constraintdef(oid) from pg_constraint
                 where connamespace = 'backhaul'::regnamespace) x (what)",
        )
        .await
}

async fn refused_as_newer(store: &Store) {
    let known = known_version();
    let newer = |result: Result<(), StoreError>| match result {
        Err(error @ StoreError::SchemaNewer { found: 9_999, .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let text = newer(check_version(store).await);
    assert!(text.contains("9999") && text.contains(&known.to_string()) && text.contains("newer backhaul"), "{text}");
    newer(migrate(store, &[KindSpec::of::<Toy>()]).await.map(|_| ()));
    newer(work(store).await);
}

async fn work(store: &Store) -> Result<(), StoreError> {
    let stop = CancellationToken::new();
    let running = run_worker(store.clone(), Registry::new, Vec::new, WorkerOptions::default(), stop);
    tokio::time::timeout(Duration::from_secs(20), running).await.expect("is refused at the start")
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_migrate_once() {
    let db = empty_database().await;
    let mut all = JoinSet::new();
    for _ in 0..3 {
        let (store, child) = (db.store.clone(), process(&db));
        all.spawn(async move { told(&ended(child).await)["after"].as_i64() });
        all.spawn(async move { Some(migrate(&store, &[KindSpec::of::<Toy>()]).await.expect("migrates").1) });
    }
    for after in all.join_all().await {
        assert_eq!(after, Some(known_version()));
    }
    let applied: (i64, bool) = {
        let rows: Vec<(i64, bool)> = db.rows("select count(*), bool_and(success) from backhaul.migrations").await;
        rows[0]
    };
    assert_eq!(applied, (known_version(), true));
    // What came of it is what one of them alone makes.
    let alone = database().await;
    assert_eq!(fingerprint(&db).await, fingerprint(&alone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_time_changes_nothing() {
    let db = database().await;
    let known = known_version();
    let before = fingerprint(&db).await;
    assert_eq!(migrate(&db.store, &[KindSpec::of::<Toy>()]).await.expect("migrates"), (known, known));
    let output = told(&ended(process(&db)).await);
    assert_eq!((output["before"].as_i64(), output["after"].as_i64()), (Some(known), Some(known)));
    assert_eq!(fingerprint(&db).await, before);
    check_version(&db.store).await.expect("is ours");
}

/// A program that is older than the database leaves it alone, whichever way it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_left_alone() {
    let db = database().await;
    db.run(
        "insert into backhaul.migrations (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, '', 0)",
    )
    .await;
    let before = fingerprint(&db).await;
    refused_as_newer(&db.store).await;
    let output = ended(process(&db)).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("9999") && text.contains("newer backhaul"), "{text}");
    assert_eq!(fingerprint(&db).await, before);
    let workers: i64 = db.one("select count(*) from backhaul.workers").await;
    assert_eq!(workers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_or_absent_schema_is_not_worked_on() {
    let db = empty_database().await;
    for refused in [check_version(&db.store).await, work(&db.store).await] {
        match refused {
            Err(error @ StoreError::SchemaOlder { found: 0, .. }) => {
                assert!(error.to_string().contains("backhaul migrate"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A process is killed in the middle; the next one goes on where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_migration_is_finished_by_the_next() {
    let db = empty_database().await;
    // Nobody can create this function while we may still do it: the migration with the operators' functions waits for us.
    db.run("create schema backhaul").await;
    let mut blocker = PgConnection::connect(&db.url).await.expect("connects");
    sqlx::raw_sql(
        "begin;
         create function backhaul.cancel(job_id bigint, actor text, why text) returns text language sql as 'select null'",
    )
    .execute(&mut blocker)
    .await
    .expect("blocks");
    let mut child = process(&db);
    eventually("the migration waits in the middle", async || {
        db.one::<bool>(
            "select exists (select from pg_stat_activity where datname = current_database()
             and wait_event_type = 'Lock' and wait_event = 'transactionid')",
        )
        .await
    })
    .await;
    child.kill().expect("is killed");
    ended(child).await;
    sqlx::raw_sql("rollback").execute(&mut blocker).await.expect("lets go");
    let output = told(&ended(process(&db)).await);
    let before = output["before"].as_i64().expect("a version");
    assert!(before < known_version(), "the killed one had not finished: {output}");
    assert_eq!(output["after"].as_i64(), Some(known_version()));
    assert_eq!(fingerprint(&db).await, fingerprint(&database().await).await);
}

/// A migration that fails says why, leaves what was done before it, and holds nothing that would stop the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_migration_stops_nobody() {
    let db = empty_database().await;
    db.run(
        "create schema backhaul;
         create function backhaul.cancel(job_id bigint, actor text, why text) returns text language sql as 'select null'",
    )
    .await;
    let failed = migrate(&db.store, &[]).await;
    match &failed {
        Err(StoreError::Migrate(error)) => assert!(error.to_string().contains("cancel"), "{error}"),
        other => panic!("{other:?}"),
    }
    let reached: i64 = db.one("select max(version) from backhaul.migrations where success").await;
    assert_eq!(reached, 9, "all before the operators' functions");
    db.run("drop function backhaul.cancel").await;
    // By another process: our own connections are still open.
    let output = told(&ended(process(&db)).await);
    assert_eq!((output["before"].as_i64(), output["after"].as_i64()), (Some(reached), Some(known_version())));
}

/// Somebody dropped our schema: migrating makes it anew, and jobs run.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_schema_is_made_anew() {
    let db = database().await;
    db.toys(&[Toy::new(1)]).await;
    db.run("drop schema backhaul cascade").await;
    let done = migrate(&db.store, &[KindSpec::of::<Toy>()]).await.expect("migrates");
    assert_eq!(done, (0, known_version()));
    let env = ToyEnv::new();
    db.toys(&[Toy::new(2)]).await;
    let worker = Worker::start(&db, &env);
    eventually("it runs", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(env.order("end"), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_kinds_are_registered() {
    let db = empty_database().await;
    let output = told(&ended(process(&db)).await);
    let kinds: Vec<(String, i16)> = db.rows("select kind, version from backhaul.kinds order by 1, 2").await;
    let mut specs: Vec<(String, i16)> =
        backhaul_workers::kinds().iter().map(|spec| (spec.kind.to_owned(), spec.version)).collect();
    specs.sort();
    assert_eq!(kinds, specs);
    assert_eq!(output["kinds"].as_u64(), Some(specs.len() as u64));
}

/// A worker adds what is missing. One of an older program that restarts during a roll-out takes nothing back.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_changes_no_constants() {
    let db = database().await;
    register_kinds(&db.store, &[KindSpec { max_attempts: 7, ..KindSpec::of::<Toy>() }]).await.expect("registers");
    let env = ToyEnv::new();
    db.toys(&[Toy::new(1)]).await;
    let worker = Worker::start(&db, &env);
    db.drained().await;
    worker.stop().await;
    let tries = "select max_attempts from backhaul.kinds where kind = 'toy'";
    assert_eq!(db.one::<i16>(tries).await, 7);
    db.run("delete from backhaul.kinds").await;
    let worker = Worker::start(&db, &env);
    eventually("the worker adds its kind", async || db.one::<i64>("select count(*) from backhaul.kinds").await == 1)
        .await;
    worker.stop().await;
    assert_eq!(db.one::<i16>(tries).await, 4);
}

/// The constants of a new build replace the old ones; kinds of other programs stay.
#[tokio::test(flavor = "multi_thread")]
async fn registering_again_updates_and_forgets_nobody() {
    let db = database().await;
    db.run(
        "insert into backhaul.kinds select 'stranger', version, max_attempts, timeout, deadline, idempotency_window,
             payload_bytes_max, ordering_paths, pacing from backhaul.kinds",
    )
    .await;
    let toy = KindSpec::of::<Toy>();
    let changed = KindSpec {
        max_attempts: 7,
        timeout: Duration::from_millis(1_500),
        deadline: Duration::from_secs(60),
        payload_bytes_max: 1_000,
        ordering_key: None,
        pacing: &[],
        ..toy.clone()
    };
    register_kinds(&db.store, &[changed, KindSpec { version: 2, ..toy }]).await.expect("registers");
    let kinds: Value = db
        .one(
            "select jsonb_agg(jsonb_build_array(kind, version, max_attempts, extract(epoch from timeout), payload_bytes_max,
                 ordering_paths is null, pacing) order by kind, version)
             from backhaul.kinds",
        )
        .await;
    assert_eq!(
        kinds,
        json!([
            ["stranger", 1, 4, 20.0, 262_144, false, ["toy/box"]],
            ["toy", 1, 7, 1.5, 1_000, true, []],
            ["toy", 2, 4, 20.0, 262_144, false, ["toy/box"]],
        ])
    );
}
