//! What a script relies on: exit codes, JSON, and that no secret is ever printed.

mod backfill;
mod decisions;

use std::process::Output;

use backhaul_engine::Job;
use serde_json::{Value, json};

use crate::support::{Database, Toy, binary, database, target_dir};

/// Runs a command on a test's database.
fn on(database: &Database, arguments: &[&str]) -> Output {
    binary().args(arguments).env("DATABASE_URL", &database.url).output().expect("the binary runs")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", errors(output));
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn all_wrong_settings_are_reported_at_once_with_code_2() {
    let mut command = binary();
    command
        .args(["config", "check"])
        .env("BACKHAUL__WORKER__CONCURRENCY", "many")
        .env("BACKHAUL__WORKER__COLOUR", "red");
    command.env("BACKHAUL__DATABASE__URL", "mysql://u:test-secret@h/d");
    let output = command.output().expect("runs");
    let text = errors(&output);
    assert_eq!(code(&output), Some(2), "{text}");
    for key in ["worker.concurrency", "worker.colour", "database.url"] {
        assert!(text.contains(key), "{text}");
    }
    assert!(!text.contains("test-secret"), "{text}");
}

#[test]
fn a_database_that_cannot_be_reached_is_code_4_and_its_password_stays_secret() {
    let mut command = binary();
    command.args(["jobs", "list"]).env("DATABASE_URL", "postgres://u:test-secret@127.0.0.1:1/d");
    command.env("BACKHAUL__DATABASE__CONNECT_TIMEOUT_S", "2").env("RUST_LOG", "trace");
    let output = command.output().expect("runs");
    assert_eq!(code(&output), Some(4), "{}", errors(&output));
    assert!(!errors(&output).contains("test-secret"));
}

#[test]
fn every_command_has_help_with_examples() {
    let commands = [
        "demo",
        "migrate",
        "work",
        "enqueue",
        "jobs",
        "dead",
        "outbox",
        "backfill",
        "simulate",
        "doctor",
        "db",
        "config",
        "completions",
    ];
    for command in commands {
        let output = binary().args([command, "--help"]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("Examples:"), "{command}: {text}");
    }
    let text = String::from_utf8(binary().arg("--help").output().expect("runs").stdout).expect("UTF-8");
    assert!(text.contains("Exit codes:"), "{text}");
    assert_eq!(code(&binary().arg("no-such-command").output().expect("runs")), Some(2));
}

#[tokio::test]
async fn a_job_is_enqueued_once_shown_and_cancelled() {
    let database = database().await;
    let enqueue = ["enqueue", Toy::KIND, "--tenant", "acme", "--payload", "{\"n\":1}", "--key", "k", "--json"];
    let first = json_of(&on(&database, &enqueue));
    let second = json_of(&on(&database, &enqueue));
    assert_eq!((&first["outcome"], &second["outcome"]), (&json!("inserted"), &json!("duplicate")));
    assert_eq!(first["id"], second["id"]);
    let mut other = enqueue;
    other[5] = "{\"n\":2}";
    let reused = on(&database, &other);
    assert_eq!(code(&reused), Some(2));
    assert!(errors(&reused).contains("idempotency_key_reused"));

    let listed = json_of(&on(&database, &["jobs", "list", "--tenant", "acme", "--json"]));
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    let id = first["id"].to_string();
    assert_eq!(json_of(&on(&database, &["jobs", "show", &id, "--json"]))["job"]["state"], "ready");
    let cancelled = json_of(&on(&database, &["jobs", "cancel", &id, "--why", "a test", "--actor", "tester", "--json"]));
    assert_eq!(cancelled[0]["outcome"], "cancelled");
    // The job is gone; its events say who ended it and why.
    let shown = json_of(&on(&database, &["jobs", "show", &id, "--json"]));
    assert_eq!(shown["job"], Value::Null);
    assert_eq!(shown["events"][0]["payload"]["actor"], "tester");
    assert_eq!(code(&on(&database, &["jobs", "cancel", &id, "--why", "again"])), Some(3));
    assert_eq!(code(&on(&database, &["jobs", "show", "999999"])), Some(3));
}

#[tokio::test]
async fn dead_letters_are_replayed_and_discarded_singly_and_by_filter() {
    let database = database().await;
    let ids = database.toys(&[Toy::new(1), Toy::new(2), Toy::new(3)]).await;
    let dead: Vec<Value> = ids
        .iter()
        .map(|id| json!({ "id": id, "reason": "permanent", "error": { "code": "broken", "message": format!("thing {id}") } }))
        .collect();
    sqlx::query("select backhaul.bury($1)")
        .bind(Value::Array(dead))
        .execute(database.store.pool())
        .await
        .expect("buries");

    let listed = json_of(&on(&database, &["dead", "list", "--code", "broken", "--json"]));
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    let groups = json_of(&on(&database, &["dead", "list", "--group", "--json"]));
    assert_eq!(groups[0]["dead"], 3, "the same failure in the same place is one group: {groups}");

    let one = ids[0].to_string();
    assert_eq!(json_of(&on(&database, &["dead", "replay", &one, "--json"]))[0]["outcome"], "replayed");
    assert_eq!(code(&on(&database, &["dead", "replay", &one])), Some(3));
    // Without --yes a filter only counts.
    assert_eq!(
        json_of(&on(&database, &["dead", "discard", "--code", "broken", "--why", "test", "--json"]))["count"],
        2
    );
    let discarded =
        json_of(&on(&database, &["dead", "discard", "--code", "broken", "--why", "test", "--yes", "--json"]));
    assert_eq!(discarded.as_array().map(Vec::len), Some(2));
    assert_eq!(code(&on(&database, &["dead", "replay"])), Some(2), "neither ids nor a filter");
    assert_eq!(json_of(&on(&database, &["dead", "list", "--json"])), json!([]));
}

#[tokio::test]
async fn doctor_says_what_is_missing() {
    let database = database().await;
    let report = json_of(&on(&database, &["doctor", "--json"]));
    assert_eq!(report["well"], true, "{report}");
    let checks = |report: &Value| -> Vec<String> {
        let list = report["checks"].as_array().expect("checks").iter();
        list.map(|check| {
            format!("{}:{}", check["check"].as_str().unwrap_or_default(), check["level"].as_str().unwrap_or_default())
        })
        .collect()
    };
    assert!(checks(&report).contains(&"schema:ok".to_owned()), "{report}");
    assert!(checks(&report).contains(&"workers:warning".to_owned()), "{report}");

    database.run("drop schema backhaul cascade").await;
    let output = on(&database, &["doctor", "--json"]);
    assert_eq!(code(&output), Some(5));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(checks(&report).contains(&"schema:failure".to_owned()), "{report}");
    assert_eq!(code(&on(&database, &["jobs", "list"])), Some(4), "no schema");
    assert_eq!(json_of(&on(&database, &["migrate", "--json"]))["before"], 0);
    assert!(on(&database, &["jobs", "list"]).status.success());
}

#[tokio::test]
async fn a_backfill_runs_behind_live_work_and_a_second_run_adds_nothing() {
    let database = database().await;
    let dir = target_dir().join(format!("backfill-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let rows: String = (0..2_500).map(|n| format!("{n}\n")).collect();
    let file = dir.join("toys.csv");
    std::fs::write(&file, format!("n:number\n{rows}nonsense\n")).expect("written");
    let (file, rejects) = (file.display().to_string(), dir.join("refused.jsonl").display().to_string());
    let backfill = ["backfill", &file, "--kind", Toy::KIND, "--tenant", "acme", "--rejects", &rejects, "--json"];

    let first = on(&database, &backfill);
    assert_eq!(code(&first), Some(5), "one row was refused: {}", errors(&first));
    let told: Value = serde_json::from_slice(&first.stdout).expect("JSON");
    assert_eq!((&told["enqueued"], &told["refused"]), (&json!(2_500), &json!(1)));
    let refused: Value = serde_json::from_str(&std::fs::read_to_string(&rejects).expect("readable")).expect("one line");
    assert_eq!(refused["line"], 2_502);

    let second: Value = serde_json::from_slice(&on(&database, &backfill).stdout).expect("JSON");
    assert_eq!((&second["enqueued"], &second["known"]), (&json!(0), &json!(2_500)));
    assert_eq!(database.one::<i64>("select count(*) from backhaul.jobs where priority = 4").await, 2_500);
    std::fs::remove_dir_all(&dir).expect("removed");
}
