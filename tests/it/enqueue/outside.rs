//! Producers that are no part of this program: plain inserts, copy, psql, Python.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{Database, Login, ToyEnv, Worker, binary, database, eventually};

async fn run_all(database: &Database) -> Vec<i64> {
    let env = ToyEnv::new();
    let worker = Worker::start(database, &env);
    eventually("all end", async || database.unfinished().await == 0).await;
    worker.stop().await;
    let mut ran = env.order("end");
    ran.sort_unstable();
    ran
}

/// The owner may write the table itself: what is left out has defaults that work.
#[tokio::test(flavor = "multi_thread")]
async fn plain_inserts_and_copy_are_enough_for_the_owner() {
    let db = database().await;
    db.run(
        r#"insert into backhaul.jobs (kind, tenant, payload, max_attempts, deadline_at)
           values ('toy', 'default', '{"n": 1}', 4, now() + interval '1 day');
           insert into backhaul.jobs (kind, tenant, payload, max_attempts, deadline_at, ordering_key)
           select 'toy', 'acme', jsonb_build_object('n', n), 4, now() + interval '1 day', 'k' from generate_series(2, 4) n"#,
    )
    .await;
    let mut owner = db.store.pool().acquire().await.expect("connects");
    let mut copy = owner
        .copy_in_raw("copy backhaul.jobs (kind, tenant, payload, max_attempts, deadline_at, ordering_key) from stdin")
        .await
        .expect("starts to copy");
    for n in 5..9 {
        let key = if n % 2 == 0 { r"\N" } else { "k" };
        let row = format!("toy\tglobex\t{{\"n\": {n}}}\t4\t2998-01-01\t{key}\n");
        copy.send(row.as_bytes()).await.expect("copies");
    }
    assert_eq!(copy.finish().await.expect("copies"), 4);
    assert_eq!(run_all(&db).await, (1..9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_enqueues() {
    let db = database().await;
    let producer = Login::of(&db, Some("backhaul_producer")).await;
    let call = r#"begin; select outcome from backhaul.enqueue('toy', '{"n": 1}', idempotency_key => 'k'); commit;
                  select outcome from backhaul.enqueue('toy', '{"n": 1}', idempotency_key => 'k');
                  select kind, state from backhaul.my_jobs"#;
    let output = tokio::task::spawn_blocking({
        let url = producer.url.clone();
        move || {
            binary()
                .env("DATABASE_URL", url)
                .args(["db", "psql", "--", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
                .args(["--set", "ON_ERROR_STOP=1", "--command", call])
                .output()
        }
    })
    .await
    .expect("does not panic")
    .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(told.lines().collect::<Vec<_>>(), ["inserted", "duplicate", "toy|ready"]);
    assert_eq!(run_all(&db).await, [1]);
}

/// Runs `tests/python/enqueue.py`. Where the driver is missing it says so, and fails on CI, which installs it.
#[tokio::test(flavor = "multi_thread")]
async fn python_enqueues() {
    let driver = Command::new("python3").args(["-c", "import psycopg"]).output();
    if !driver.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI has no Python with psycopg: install python3-psycopg or `pip install 'psycopg[binary]'`"
        );
        eprintln!("SKIPPED python_enqueues: python3 cannot import psycopg; pip install 'psycopg[binary]'");
        return;
    }
    let db = database().await;
    let producer = Login::of(&db, Some("backhaul_producer")).await;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/enqueue.py");
    let output = tokio::task::spawn_blocking({
        let url = producer.url.clone();
        move || Command::new("python3").arg(program).args([&url, "toy"]).output()
    })
    .await
    .expect("does not panic")
    .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["rolled_back"][1], &told["committed"][1]), (&"inserted".into(), &"inserted".into()));
    assert_eq!((&told["repeated"][1], &told["repeated"][0]), (&"duplicate".into(), &told["committed"][0]));
    assert_eq!(told["refused"]["sqlstate"], "BH004");
    assert!(told["refused"]["hint"].as_str().is_some_and(|hint| hint.contains("new key")), "{told}");
    assert_eq!(told["many"], serde_json::json!(["inserted", "inserted", "rejected"]));
    assert_eq!(run_all(&db).await, [1, 3, 4]);
}
