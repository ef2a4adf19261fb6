//! `backhaul bench` works: every scenario runs at its small size, and its books balance. Never how fast.

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use serde_json::Value;
use tokio::time::timeout;

use crate::support::{PATIENCE, binary, empty_database, target_dir};

/// The small run of one scenario, as its JSON tells it.
async fn small(scenario: &str) -> Value {
    let database = empty_database().await;
    let file = target_dir().join(format!("bench-{}-{scenario}.json", std::process::id()));
    let mut command: Command = binary();
    command.args(["bench", scenario, "--size", "small", "--rounds", "2", "--json"]).arg(&file);
    // A group of its own: a signal to the tests must not reach it twice.
    command.env("DATABASE_URL", &database.url).stdin(Stdio::null()).process_group(0);
    let mut command = tokio::process::Command::from(command);
    let output = timeout(PATIENCE * 3, command.kill_on_drop(true).output()).await.expect("in time").expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {told}");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(table.starts_with("scenario") && table.contains(scenario), "{table}");
    let text = fs::read_to_string(&file).expect("the JSON was written");
    fs::remove_file(&file).expect("removes it");
    serde_json::from_str(&text).expect("JSON")
}

fn count(of: &Value, member: &str) -> u64 {
    of[member].as_u64().unwrap_or_else(|| panic!("{member} in {of}"))
}

/// Everything that was given was done once or is left; every figure was measured in every round.
fn check(report: &Value, scenario: &str, unmeasured: &[&str]) {
    assert_eq!(report["size"], "small");
    assert!(count(&report["machine"], "cores") > 0);
    let [outcome] = report["scenarios"].as_array().expect("scenarios").as_slice() else { panic!("one scenario") };
    assert_eq!(outcome["name"], scenario);
    let rounds = outcome["rounds"].as_array().expect("rounds");
    assert_eq!(rounds.len(), 2);
    for case in rounds.iter().flat_map(|round| round["cases"].as_array().expect("cases")) {
        let (done, given) = (count(case, "done"), case["given"].as_u64().unwrap_or_else(|| count(case, "jobs")));
        assert!(done >= count(case, "jobs"), "{case}");
        assert_eq!(count(case, "started"), done, "nothing ran twice: {case}");
        assert_eq!(done + count(case, "left"), given, "{case}");
        // Beside what is done, a tenant's rest of an earlier part may have left events.
        assert!(case["events"].as_u64().is_none_or(|events| events >= done), "one event for each: {case}");
        assert!(case["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{case}");
        for member in ["wal_bytes_per_job", "commits_per_job", "dead_rows_per_job"] {
            let cost = &case["cost"][member];
            assert!(case["cost"].is_null() || cost.as_f64().is_some_and(|cost| cost >= 0.0), "{case}");
        }
    }
    for figure in outcome["figures"].as_array().expect("figures") {
        let key = figure["key"].as_str().expect("a key");
        assert_eq!(figure["verdict"], "none", "a small run judges nothing: {figure}");
        let values = figure["rounds"].as_array().expect("values");
        if !unmeasured.contains(&key) {
            assert_eq!(values.len(), 2, "{figure}");
            assert!(figure["measured"].is_number(), "{figure}");
        }
    }
}

macro_rules! scenarios {
    ($($name:ident $(, not measured when small: $key:literal)*;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                check(&small(stringify!($name)).await, stringify!($name), &[$($key),*]);
            }
        )*

        /// A scenario that is added to the command must be added here.
        #[test]
        fn none_is_forgotten() {
            let help = binary().args(["bench", "--help"]).output().expect("the binary runs");
            let help = String::from_utf8(help.stdout).expect("UTF-8");
            let (_, list) = help.split_once("Scenarios: ").expect("the list");
            let (list, _) = list.split_once("\n\n").expect("an end of the list");
            let listed: Vec<&str> = list.split(|letter: char| letter == ',' || letter.is_whitespace()).collect();
            let listed: Vec<&str> = listed.into_iter().filter(|name| !name.is_empty()).collect();
            assert_eq!(listed, [$(stringify!($name)),*]);
        }
    };
}

scenarios! {
    throughput;
    latency;
    flow;
    snapshot;
    backlog;
    tenants;
    neighbour;
    scheduled;
    enqueue;
    bucket, not measured when small: "used", not measured when small: "refused";
    http;
    ingress;
    rest;
}

/// An unknown scenario is refused with the list of those there are, and nothing is started.
#[test]
fn an_unknown_scenario_is_refused() {
    let output = binary().args(["bench", "speed"]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the scenarios are throughput, latency"));
}

/// Ctrl-C ends a run early and leaves no database behind.
#[tokio::test]
async fn an_interrupted_run_cleans_up() {
    let database = empty_database().await;
    let mut command: Command = binary();
    command.args(["bench", "throughput", "--size", "medium"]).process_group(0);
    command.env("DATABASE_URL", &database.url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("it starts");
    let pid = child.id().expect("it runs");
    let made = format!("backhaul\\_bench\\_{pid}\\_%");
    let databases = || async {
        let count: i64 = sqlx::query_scalar("select count(*) from pg_database where datname like $1")
            .bind(&made)
            .fetch_one(database.store.pool())
            .await
            .expect("counts");
        count
    };
    crate::support::eventually("a database is made", || async { databases().await > 0 }).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGINT)
        .expect("signals");
    let status = timeout(PATIENCE, child.wait()).await.expect("ends in time").expect("ends");
    assert!(!status.success());
    assert_eq!(databases().await, 0);
}
