//! The demo: it ends by itself, its numbers add up, what it prints works, and it takes nobody's work away.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;

use crate::support::{Database, binary, empty_database, target_dir};

/// Runs a command in the demo's directory, as a person there would.
fn run(database: &Database, dir: &Path, arguments: &[&str]) -> Output {
    let mut command = binary();
    command.args(arguments).current_dir(dir).env("DATABASE_URL", &database.url);
    command.output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn directory() -> PathBuf {
    let dir = target_dir().join(format!("demo-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// Covers row 33: one happy path per kind against the simulator, from a producer's SQL to the published event.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_well_prints_commands_that_work_and_starts_clean() {
    let (database, dir) = (empty_database().await, directory());
    let first = run(&database, &dir, &["demo"]);
    let told = text(&first);
    assert!(first.status.success(), "{told}");
    for part in
        ["crm-sync", "enrichment", "handshake", "widget-patch", "P99", "SIGKILL", "429", "What the simulator received"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let terminal =
        "select count(*) from backhaul.events where type in ('dev.backhaul.job.completed', 'dev.backhaul.job.dead')";
    let (ended, jobs) = (database.one::<i64>(terminal).await, "select count(distinct job_id) from backhaul.events");
    assert!(ended >= 200, "{ended}");
    assert_eq!(ended, database.one::<i64>(jobs).await, "each job ended once");
    let events = fs::read_to_string(dir.join(".backhaul/demo/events.jsonl")).expect("the file of events");
    assert_eq!(i64::try_from(events.lines().count()), Ok(database.one("select count(*) from backhaul.events").await));
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).expect("one event a line");
        assert_eq!(event["specversion"], "1.0");
    }

    // Each command is run as it was printed, without the note behind it.
    let commands: Vec<&str> =
        told.lines().filter_map(|line| line.trim_start().strip_prefix(env!("CARGO_BIN_EXE_backhaul"))).collect();
    assert!(commands.len() >= 5, "{told}");
    for command in commands {
        let (command, _) = command.trim_start().split_once("  ").unwrap_or((command.trim(), ""));
        let shell = format!("{} {command}", env!("CARGO_BIN_EXE_backhaul"));
        let mut sh = std::process::Command::new("sh");
        let output =
            sh.args(["-c", &shell]).current_dir(&dir).env("DATABASE_URL", &database.url).output().expect("a shell");
        assert!(output.status.success(), "{shell}: {}", text(&output));
    }

    // A second run begins clean, whatever the first one left.
    let second = run(&database, &dir, &["demo"]);
    assert!(second.status.success(), "{}", text(&second));
    assert_eq!(database.one::<i64>(terminal).await, ended);

    // Somebody else's work is not thrown away.
    let job =
        ["enqueue", "crm-sync", "--tenant", "somebody", "--payload", "{\"threadId\": \"t\", \"reconcile\": true}"];
    assert!(run(&database, &dir, &job).status.success());
    let refused = run(&database, &dir, &["demo"]);
    assert!(!refused.status.success() && text(&refused).contains("--reset"), "{}", text(&refused));
    assert_eq!(database.one::<i64>("select count(*) from backhaul.jobs where tenant = 'somebody'").await, 1);
    fs::remove_dir_all(&dir).expect("removed");
}
