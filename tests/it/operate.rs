//! `docs/guide/operate.md` says what is true: its commands and its SQL run, its tables name what there is.

use std::{fs, path::Path, process::Command};

use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::support::{Database, Login, binary, database};

/// The guide's text.
pub(crate) fn guide() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/operate.md")).expect("the guide")
}

/// The lines of the fenced blocks of a language, block by block.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let rest = guide.split(&fence).skip(1);
    rest.map(|block| block.split("```").next().unwrap_or_default().trim().to_owned()).collect()
}

/// A job that waits, and a dead letter.
async fn ids(db: &Database) -> (i64, i64) {
    let job = json!({ "kind": "enrichment", "tenant": "acme", "payload": {} });
    let ids = db.enqueue(vec![job.clone(), job]).await;
    let dead = json!([{ "id": ids[1], "reason": "upstream_unavailable",
                        "error": { "code": "upstream_unavailable", "message": "503" } }]);
    sqlx::query("select backhaul.bury($1)").bind(dead).execute(db.store.pool()).await.expect("buries");
    (ids[0], ids[1])
}

/// As an operator's login, in the order of the guide, through a shell as a person would.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_as_an_operator() {
    let db = database().await;
    backhaul_engine::register_kinds(&db.store, &backhaul_workers::kinds()).await.expect("registers");
    db.run("insert into backhaul.sinks (name, kind, target) values ('file', 'file', 'events.jsonl')").await;
    db.run(
        "insert into backhaul.buckets (tenant, name, blocked_until, blocked_why)
         values ('acme', 'cxone/profiles', now() + interval '1 day', 'throttled: 429')",
    )
    .await;
    let operator = Login::of(&db, Some("backhaul_operator")).await;
    let program = Path::new(env!("CARGO_BIN_EXE_backhaul")).parent().expect("a directory").display().to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap_or_default());
    let mut ran = 0;
    for block in blocks(&guide(), "sh") {
        for line in block.lines() {
            assert!(line.starts_with("backhaul "), "{line}");
            let (job, dead) = ids(&db).await;
            let mut shell = Command::new("sh");
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("BACKHAUL_") {
                    shell.env_remove(name);
                }
            }
            let output = shell
                .args(["-c", line])
                .env("PATH", &path)
                .env("DATABASE_URL", &operator.url)
                .env("JOB", job.to_string())
                .env("DEAD", dead.to_string())
                .output()
                .expect("a shell");
            let said = String::from_utf8_lossy(&output.stderr);
            // The doctor finds no worker here, and says so with a code of its own.
            let expected = if line == "backhaul doctor" { [Some(0), Some(5)] } else { [Some(0), Some(0)] };
            assert!(expected.contains(&output.status.code()), "{line}\n{said}");
            assert!(!output.stdout.is_empty(), "{line} says nothing");
            ran += 1;
        }
    }
    assert!(ran > 30, "{ran} commands");
    // They did what they say: everything that was paused, capped and scheduled was let go again.
    let left: i64 = db
        .one(
            "select (select count(*) from backhaul.pauses) + (select count(*) from backhaul.schedules)
                   + (select count(*) from backhaul.caps where kind = 'handshake')",
        )
        .await;
    assert_eq!(left, 0);
    for sql in blocks(&guide(), "sql") {
        let mut connection = operator.connect().await;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("runs");
        assert!(rows.len() >= 10, "the decisions are in the log");
    }
}

/// The table of causes names no code that does not exist. That it names all, `explain.rs` checks for each it meets.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_causes_is_true() {
    let db = database().await;
    let source: String = db
        .one(
            "select string_agg(prosrc, ' ') from pg_proc
             where pronamespace = 'backhaul'::regnamespace and proname like 'explain\\_%'",
        )
        .await;
    let guide = guide();
    let table = guide.split("| code | cause |").nth(1).expect("the table").split("\n\n").next().expect("its rows");
    let cells = table.lines().filter_map(|row| row.split('|').nth(1));
    let documented: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(documented.len() > 15, "{documented:?}");
    for code in documented {
        assert!(source.contains(&format!("'{code}'")), "no job is ever {code}");
    }
}

#[test]
fn the_new_commands_have_help_with_examples() {
    for command in [
        &["queue"][..],
        &["queue", "status"],
        &["queue", "pause"],
        &["queue", "resume"],
        &["queue", "cap"],
        &["queue", "weight"],
        &["queue", "share"],
        &["queue", "open"],
        &["schedules"],
        &["schedules", "list"],
        &["schedules", "add"],
        &["schedules", "pause"],
        &["jobs", "explain"],
        &["jobs", "reschedule"],
        &["jobs", "reprioritize"],
        &["erase"],
        &["stats"],
        &["outbox"],
        &["outbox", "pause"],
    ] {
        let output = binary().args(command).arg("--help").output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("Examples:"), "{command:?}: {text}");
    }
}

/// What a script relies on: codes for what does not exist and for what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_apart_what_is_wrong() {
    let db = database().await;
    let code = |arguments: &[&str]| {
        let output = binary().args(arguments).env("DATABASE_URL", &db.url).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, expected) in [
        (&["schedules", "pause", "nobody"][..], 3),
        (&["schedules", "trigger", "nobody"], 3),
        (&["schedules", "add", "a", "--kind", "toy", "--cron", "99 * * * *", "--payload", "{}"], 2),
        (&["schedules", "add", "a", "--kind", "toy", "--cron", "0 0 30 2 *", "--payload", "{}"], 2),
        (&["schedules", "add", "a", "--kind", "toy", "--cron", "@daily", "--timezone", "Mars", "--payload", "{}"], 2),
        (&["schedules", "add", "a", "--kind", "enrichment", "--cron", "@daily", "--payload", "{}"], 2),
        (&["schedules", "add", "a", "--kind", "nothing", "--cron", "@daily", "--payload", "{}"], 2),
        (&["schedules", "add", "a", "--kind", "toy", "--cron", "@daily", "--payload", "no json"], 2),
        (&["queue", "pause", "--why", "x"], 2),
        (&["queue", "pause", "--kind", "toy"], 2),
        (&["queue", "pause", "--kind", "nothing", "--why", "x"], 2),
        (&["queue", "pause", "--all", "--tenant", "acme", "--why", "x"], 2),
        (&["queue", "cap", "--kind", "toy"], 2),
        (&["queue", "cap", "--kind", "nothing", "--max", "3"], 2),
        (&["queue", "weight", "--kind", "nothing", "--tenant", "acme", "--weight", "3"], 2),
        (&["queue", "share", "--tenant", "acme", "--bucket", "nonsense", "--share", "0.5"], 2),
        (&["queue", "share", "--tenant", "acme", "--bucket", "a/b", "--share", "1.5"], 2),
        (&["queue", "open", "--tenant", "acme", "--bucket", "a/b", "--why", "x"], 3),
        (&["queue", "open", "--tenant", "acme", "--bucket", "a/b"], 2),
        (&["outbox", "pause", "nobody", "--why", "x"], 3),
        (&["outbox", "pause", "file"], 2),
        (&["outbox", "resume", "nobody"], 3),
        (&["jobs", "reschedule", "999999", "--at", "now"], 3),
        (&["jobs", "reschedule", "1", "--at", "soon"], 2),
        (&["jobs", "explain", "999999"], 3),
    ] {
        let (is, said) = code(arguments);
        assert_eq!(is, Some(expected), "{arguments:?}: {said}");
    }
}

/// A slip of the hand in a tenant's name holds back nobody, which is said; a tenant that is known is not remarked on.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_nobody_is_remarked_on() {
    let db = database().await;
    db.enqueue(vec![json!({ "kind": "toy", "tenant": "acme", "payload": {"n": 1} })]).await;
    db.run("insert into backhaul.buckets (tenant, name) values ('paced', 'cxone/profiles')").await;
    let profiles = crate::support::scratch("pause-profiles");
    fs::write(profiles.join("profiled.toml"), "").expect("writes");
    for (tenant, known) in [("acme", true), ("paced", true), ("profiled", true), ("nosuch", false)] {
        let output = binary()
            .args(["queue", "pause", "--tenant", tenant, "--why", "x"])
            .env("DATABASE_URL", &db.url)
            .env("BACKHAUL__PROFILES__DIR", &profiles)
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), said.contains("nothing is known of a tenant")),
            (Some(0), !known),
            "{tenant}: {said}"
        );
    }
    assert_eq!(db.one::<i64>("select count(*) from backhaul.pauses").await, 4);
}
