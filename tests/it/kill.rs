//! Workers are killed again and again and Postgres once, while 2,000 jobs flow: nothing is lost, and nothing that the
//! upstream accepted is applied twice.

use std::{collections::HashMap, path::Path};

use backhaul_engine::Store;
use serde_json::{Value, json};
use sqlx::types::Json;

use crate::support::{Process, Server, SimulatorProcess, TERMINAL, binary, eventually, run, scratch, worker_process};

const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];
const JOBS: usize = 2_000;
const KILLS: usize = 12;

/// Covers row 201 for processes: kill -9 at any time, each job done or dead-lettered, none lost.
#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_and_a_killed_postgres_lose_nothing() {
    let dir = scratch("kill");
    let server = Server::start(&dir).await;
    let url = server.url.clone();
    run(binary().arg("migrate").env("DATABASE_URL", &url));
    let simulator = SimulatorProcess::start(&dir, &TENANTS).await;
    let store = Store::connect(&url, 4, false).await.expect("connects");
    let ids = enqueue(&store).await;

    let mut workers: Vec<Process> = (0..3).map(|_| start_worker(&url, &simulator, &dir)).collect();
    for kill in 0..KILLS {
        let before = unfinished(&store).await;
        if before == Some(0) {
            break;
        }
        // Some progress between two kills, so that they strike at ever new places.
        progress(&store, before).await;
        workers.remove(0).kill();
        workers.push(start_worker(&url, &simulator, &dir));
        if kill == KILLS / 2 {
            server.restart_at_once();
        }
    }
    eventually("all jobs end", async || unfinished(&store).await == Some(0)).await;
    check_jobs(&store, &ids).await;
    check_events(&store, ids.len(), &dir.join("events.jsonl")).await;
    check_effects(&store, &simulator, &ids).await;
    drop(workers);
    drop(server);
    std::fs::remove_dir_all(dir).expect("removable");
}

fn start_worker(url: &str, simulator: &SimulatorProcess, dir: &Path) -> Process {
    worker_process(url, &simulator.profiles, &dir.join("events.jsonl"))
}

async fn enqueue(store: &Store) -> Vec<i64> {
    let jobs: Vec<Value> = (0..JOBS)
        .map(|n| {
            let tenant = TENANTS[n % TENANTS.len()];
            let payload = if n % 2 == 0 {
                json!({
                    "profileId": format!("00000000-0000-4000-8000-{n:012x}"), "mergeStrategy": "OVERWRITE",
                    "sourceSystem": "kill-test", "attributes": { "orders": n },
                })
            } else {
                json!({ "configurationId": format!("cfg_{n}"), "theme": { "primary": format!("#{n:06x}") } })
            };
            json!({ "kind": if n % 2 == 0 { "enrichment" } else { "widget-patch" }, "tenant": tenant, "payload": payload })
        })
        .collect();
    let rows: Vec<(Option<i64>, Option<String>)> =
        sqlx::query_as("select job_id, reason from backhaul.enqueue_many($1)")
            .bind(Json(jobs))
            .fetch_all(store.pool())
            .await
            .expect("enqueues");
    rows.into_iter().map(|(id, reason)| id.unwrap_or_else(|| panic!("{reason:?}"))).collect()
}

/// None while Postgres is away.
async fn unfinished(store: &Store) -> Option<i64> {
    sqlx::query_scalar("select count(*) from backhaul.jobs").fetch_one(store.pool()).await.ok()
}

async fn progress(store: &Store, before: Option<i64>) {
    eventually("progress", async || match (before, unfinished(store).await) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(now)) => now + 60 <= before || now == 0,
    })
    .await;
}

async fn check_jobs(store: &Store, ids: &[i64]) {
    let dead: Vec<(i64, String)> =
        sqlx::query_as("select id, reason from backhaul.dead_letters").fetch_all(store.pool()).await.expect("reads");
    // A job may have been in hand at three kills; nothing else may die.
    assert!(dead.iter().all(|(_, reason)| reason == "crashed_worker"), "{dead:?}");
    assert!(dead.len() < ids.len() / 20, "{} of {} jobs died", dead.len(), ids.len());
    let left: i64 = sqlx::query_scalar("select count(*) from backhaul.steps s where not exists (select from backhaul.dead_letters d where d.id = s.job_id)")
        .fetch_one(store.pool())
        .await
        .expect("reads");
    assert_eq!(left, 0, "steps of finished jobs are gone");
}

async fn check_events(store: &Store, jobs: usize, file: &Path) {
    let terminal: Vec<(i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select job_id, count(*) from backhaul.events where {TERMINAL} group by 1"
    )))
    .fetch_all(store.pool())
    .await
    .expect("reads");
    assert_eq!(terminal.len(), jobs);
    assert!(terminal.iter().all(|(_, count)| *count == 1), "one terminal event per job");
    eventually("everything is sealed and published", async || {
        sqlx::query_scalar::<_, bool>(
            "select (select count(*) from backhaul.events) = (select next_seq - 1 from backhaul.seal_state)
                and (select next_seq - 1 from backhaul.seal_state) = (select position from backhaul.sinks where name = 'file')",
        )
        .fetch_one(store.pool())
        .await
        .unwrap_or(false)
    })
    .await;
    let seals: Vec<(i64, i64)> =
        sqlx::query_as("select first_seq, cardinality(event_ids)::bigint from backhaul.seals order by 1")
            .fetch_all(store.pool())
            .await
            .expect("reads");
    let mut next = 1;
    for (first, count) in seals {
        assert_eq!(first, next, "sequence numbers are dense");
        next += count;
    }
    let text = std::fs::read_to_string(file).expect("the sink wrote");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("whole lines")).collect();
    let sequences: Vec<&str> = lines.iter().map(|line| line["sequence"].as_str().expect("a string")).collect();
    assert_eq!(i64::try_from(lines.len()).expect("fits") + 1, next, "each event stands in the file once");
    assert!(sequences.is_sorted(), "in order");
}

/// The simulator's own ledger: each write carried an idempotency key, and none took effect twice.
async fn check_effects(store: &Store, simulator: &SimulatorProcess, ids: &[i64]) {
    let ledger = simulator.get("/_sim/effects?limit=10000").await;
    let totals = &ledger["totals"];
    assert_eq!((totals["duplicates"].as_u64(), totals["evicted"].as_u64()), (Some(0), Some(0)), "{totals}");
    let mut written: HashMap<&str, u64> = HashMap::new();
    for effect in ledger["effects"].as_array().expect("a list") {
        // Purging a cache twice is harmless, and it has no condition that could keep it from happening twice.
        if !effect["what"].as_str().is_some_and(|what| what.contains("purge")) {
            *written.entry(effect["resource"].as_str().expect("named")).or_default() +=
                effect["count"].as_u64().expect("a number");
        }
    }
    let again: Vec<&Value> = (ledger["effects"].as_array().expect("a list").iter())
        .filter(|effect| {
            !effect["what"].as_str().is_some_and(|what| what.contains("purge"))
                && written.get(effect["resource"].as_str().expect("named")) != Some(&1)
        })
        .collect();
    assert!(again.is_empty(), "each resource was written once: {again:#?}");
    let dead: Vec<i64> =
        sqlx::query_scalar("select id from backhaul.dead_letters").fetch_all(store.pool()).await.expect("reads");
    assert!(written.len() >= ids.len() - dead.len(), "{} of {} resources were written", written.len(), ids.len());
    assert!(written.len() <= ids.len());
}
