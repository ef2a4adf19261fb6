//! A backfill enqueues what its kind takes, tells what it does not, and can be followed and taken back whole.

use std::path::PathBuf;

use backhaul_engine::Job;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{code, errors, json_of, on};
use crate::support::{Database, Toy, database, target_dir};

const PROFILE: &str = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";
const CONSTANTS: [&str; 4] = ["--set", "mergeStrategy=OVERWRITE", "--set", "sourceSystem=crm"];

/// A directory of a test's own, gone when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = target_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

async fn with_kinds() -> Database {
    let database = database().await;
    backhaul_engine::register_kinds(&database.store, &backhaul_workers::kinds()).await.expect("registers");
    database
}

async fn jobs(database: &Database) -> i64 {
    database.one("select count(*) from backhaul.jobs").await
}

/// The last thing on standard output, also of a command that failed.
fn said(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", errors(output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_becomes_reasons_and_no_dead_letters() {
    let database = with_kinds().await;
    let dir = Dir::new("backfill-wrong");
    let rejects = dir.0.join("refused.jsonl").display().to_string();
    let backfill = |file: &str, more: &[&str]| {
        let mut arguments = vec!["backfill", file, "--kind", "enrichment", "--tenant", "acme", "--json"];
        arguments.extend(CONSTANTS);
        arguments.extend(more);
        on(&database, &arguments)
    };
    // A heading with another letter, an id that is none, and one row that is right.
    let misspelt = dir.file("misspelt.csv", &format!("profileID,attributes.tier\n{PROFILE},gold\n"));
    let output = backfill(&misspelt, &["--rejects", &rejects]);
    assert_eq!((code(&output), &said(&output)["enqueued"]), (Some(5), &json!(0)), "{}", errors(&output));
    let refused: Value = serde_json::from_str(&std::fs::read_to_string(&rejects).expect("readable")).expect("one line");
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("invalid_payload: ") && reason.contains("/profileId"), "{reason}");
    let mixed = dir.file("mixed.csv", &format!("profileId,attributes.tier\nnobody,gold\n{PROFILE},gold\n"));
    let dry = backfill(&mixed, &["--dry-run"]);
    assert_eq!((&said(&dry)["would_enqueue"], &said(&dry)["refused"]), (&json!(1), &json!(1)));
    assert_eq!(jobs(&database).await, 0, "a dry run enqueues nothing");
    let output = backfill(&mixed, &[]);
    assert_eq!((&said(&output)["enqueued"], &said(&output)["refused"]), (&json!(1), &json!(1)));
    assert!(said(&output)["reasons"][0].as_str().expect("text").starts_with("line 2: "));
    assert_eq!(said(&backfill(&mixed, &["--unchecked"]))["enqueued"], 1, "who insists is let");
    assert_eq!(jobs(&database).await, 2);

    // What is wrong with the file as a whole is told at once, and what is wrong with the command before it is read.
    let twice = dir.file("twice.csv", &format!("profileId,attributes.a,profileId\n{PROFILE},1,{PROFILE}\n"));
    let semicolons = dir.file("semicolons.csv", &format!("profileId;attributes.a\n{PROFILE};1\n"));
    for (file, part) in [(twice, "is there twice"), (semicolons, "with commas")] {
        let output = backfill(&file, &[]);
        assert!(code(&output) == Some(2) && errors(&output).contains(part), "{}", errors(&output));
    }
    for (kind, tenant, more, part) in [
        ("nosuch", "acme", "--json", "unknown_kind"),
        ("enrichment", "a b", "--json", "letters"),
        ("enrichment", "acme", "--deadline=2001-01-01T00:00:00Z", "later than now"),
    ] {
        let output = on(&database, &["backfill", "not-there.csv", "--kind", kind, "--tenant", tenant, more]);
        assert!(code(&output) == Some(2) && errors(&output).contains(part), "{}", errors(&output));
    }
    assert_eq!(jobs(&database).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_payload_is_checked_as_well() {
    let database = with_kinds().await;
    let enqueue = ["enqueue", "enrichment", "--tenant", "acme", "--payload", "{}", "--json"];
    let output = on(&database, &enqueue);
    let complaint = errors(&output);
    assert_eq!(code(&output), Some(2), "{complaint}");
    for member in ["/profileId", "/attributes", "/mergeStrategy", "/sourceSystem"] {
        assert!(complaint.contains(member), "{member}: {complaint}");
    }
    assert_eq!(jobs(&database).await, 0);
    let mut unchecked = enqueue.to_vec();
    unchecked.extend(["--unchecked", "--run-at", "+2h", "--deadline", "+7d"]);
    assert_eq!(json_of(&on(&database, &unchecked))["outcome"], "inserted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_has_the_time_that_it_was_given() {
    let database = with_kinds().await;
    let dir = Dir::new("backfill-times");
    let rows: String = (0..100).map(|n| format!("{PROFILE},{n}\n")).collect();
    let file = dir.file("profiles.csv", &format!("profileId,attributes.n:number\n{rows}"));
    let set = "insert into backhaul.buckets (tenant, name, per_minute, backfill_share)
               values ('acme', 'cxone/profiles', 2, 0.5)";
    database.run(set).await;
    let mut arguments = vec!["backfill", &file, "--kind", "enrichment", "--tenant", "acme", "--json"];
    arguments.extend(CONSTANTS);
    let mut short = arguments.clone();
    short.extend(["--dry-run", "--deadline", "+1h"]);
    // A hundred requests at two a minute, of which backfills may use half.
    let warning = json_of(&on(&database, &short))["warning"].clone();
    assert!(warning.as_str().expect("a warning").contains("cxone/profiles"), "{warning}");
    arguments.extend(["--run-at", "+1h", "--deadline", "+7d", "--max-attempts", "9"]);
    let told = json_of(&on(&database, &arguments));
    assert_eq!((&told["enqueued"], &told["warning"]), (&json!(100), &Value::Null));
    let (least, most, due, tries): (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>, i16) =
        sqlx::query_as("select min(deadline_at), max(deadline_at), min(due_at), min(max_attempts) from backhaul.jobs")
            .fetch_one(database.store.pool())
            .await
            .expect("one row");
    let now: DateTime<Utc> = database.one("select clock_timestamp()").await;
    assert_eq!((least, tries), (most, 9), "all rows have the same");
    assert!((most - now - TimeDelta::days(7)).abs() < TimeDelta::minutes(5), "{most}");
    assert!((due - now - TimeDelta::hours(1)).abs() < TimeDelta::minutes(5), "{due}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_counted_and_taken_back_whole() {
    let database = database().await;
    let dir = Dir::new("backfill-batch");
    for (batch, count) in [("wrong", 30), ("right", 5)] {
        let rows: String = (0..count).map(|n| format!("{n}\n")).collect();
        let file = dir.file("toys.csv", &format!("n:number\n{rows}"));
        let backfill = ["backfill", &file, "--kind", Toy::KIND, "--tenant", "acme", "--batch", batch, "--json"];
        assert_eq!(json_of(&on(&database, &backfill))["enqueued"], count);
    }
    let cancel = ["jobs", "cancel", "--batch", "wrong", "--why", "wrong file", "--limit", "10", "--json"];
    let would = json_of(&on(&database, &cancel));
    assert_eq!((&would["count"], &would["of"]), (&json!(10), &json!(30)), "a filter alone only counts");
    let text = on(&database, &cancel[..8]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("10 of 30 jobs would be cancelled"), "{text:?}");
    assert_eq!(jobs(&database).await, 35);
    let mut sure = cancel.to_vec();
    sure.push("--yes");
    assert_eq!(json_of(&on(&database, &sure)).as_array().map(Vec::len), Some(10));
    // One is done, as a worker would leave it.
    database
        .run(
            "with done as (delete from backhaul.jobs where id = (select max(id) from backhaul.jobs where starts_with(idempotency_key, 'wrong/')) returning id)
             select backhaul.append_event('dev.backhaul.job.completed', id, 'acme', 'toy', null, '{}') from done",
        )
        .await;
    let count = json_of(&on(&database, &["jobs", "count", "--batch", "wrong", "--json"]));
    let by_state = |state: &str| {
        let rows = count.as_array().expect("rows").iter();
        rows.filter(|row| row["state"] == state).map(|row| row["jobs"].as_i64().unwrap_or_default()).sum::<i64>()
    };
    assert_eq!((by_state("done"), by_state("ended")), (1, 10), "{count}");
    assert_eq!(by_state("scheduled") + by_state("ready"), 19, "{count}");
    let mut moved = vec!["jobs", "reschedule", "--batch", "wrong", "--at", "+2d", "--yes", "--json"];
    assert_eq!(json_of(&on(&database, &moved)).as_array().map(Vec::len), Some(19));
    moved[3] = "nobody's";
    assert_eq!(json_of(&on(&database, &moved)), json!([]));
    let rest = ["jobs", "cancel", "--batch", "wrong", "--why", "wrong file", "--yes", "--json"];
    assert_eq!(json_of(&on(&database, &rest)).as_array().map(Vec::len), Some(19));
    assert_eq!(jobs(&database).await, 5, "the other batch is untouched");
    assert_eq!(code(&on(&database, &["jobs", "cancel", "--why", "x"])), Some(2), "neither ids nor a filter");
}
