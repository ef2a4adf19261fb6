//! `docs/guide/enqueue.md` says what is true: its SQL runs, its Python is the one that is tested, its limits are ours.

use std::{fs, path::Path};

use sqlx::AssertSqlSafe;

use crate::support::{Login, database};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// The fenced blocks of a language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{language}") {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
        }
    }
    blocks
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sql_example_runs_as_a_producer() {
    let db = database().await;
    backhaul_engine::register_kinds(&db.store, &backhaul_workers::kinds()).await.expect("registers");
    let producer = Login::of(&db, Some("backhaul_producer")).await;
    let examples = blocks(&read("docs/guide/enqueue.md"), "sql");
    assert!(examples.len() >= 7, "{} examples", examples.len());
    for example in examples {
        let mut connection = producer.connect().await;
        let ran = sqlx::raw_sql(AssertSqlSafe(example.clone())).fetch_all(&mut connection).await;
        let rows = ran.unwrap_or_else(|error| panic!("{error}\n{example}"));
        assert!(!rows.is_empty(), "answers nothing:\n{example}");
    }
    let kinds: String = db.one("select string_agg(distinct kind, ' ' order by kind) from backhaul.jobs").await;
    assert_eq!(kinds, "crm-sync enrichment widget-patch");
    // They are done, and not only taken: a worker would refuse none of them.
    let jobs: Vec<(String, serde_json::Value)> =
        sqlx::query_as("select kind, payload from backhaul.jobs").fetch_all(db.store.pool()).await.expect("the jobs");
    let demands = backhaul_workers::Demands::of(None, chrono::Utc::now(), &|_| None);
    for (kind, payload) in jobs {
        let checked = backhaul_workers::check_payload(&kind, &payload, &demands);
        assert_eq!(checked, Ok(()), "{kind}: {payload}");
    }
    let rejected: i64 = db.one("select count(*) from backhaul.jobs where payload = '{}'").await;
    assert_eq!(rejected, 0);
}

#[test]
fn the_python_example_is_the_tested_program() {
    let program = read("tests/python/enqueue.py");
    let examples = blocks(&read("docs/guide/enqueue.md"), "python");
    assert_eq!(examples.len(), 1);
    assert!(program.contains(&examples[0]), "tests/python/enqueue.py has another `enqueue` than the guide");
}

/// The table of arguments names them all, in order and with their defaults.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_arguments_is_the_functions_own() {
    let db = database().await;
    let signature: String = db.one("select pg_get_function_arguments('backhaul.enqueue'::regproc)").await;
    let guide = read("docs/guide/enqueue.md");
    let rows: Vec<Vec<&str>> = guide
        .lines()
        .skip_while(|line| *line != "## Arguments")
        .skip_while(|line| !line.starts_with("| `"))
        .take_while(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).skip(1).collect())
        .collect();
    let documented: Vec<String> = rows.iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    let declared: Vec<String> = signature
        .split(", ")
        .map(|argument| argument.split(" DEFAULT ").next().unwrap_or_default())
        .map(|argument| argument.replace("timestamp with time zone", "timestamptz"))
        .collect();
    assert_eq!(documented, declared);
    for (row, argument) in rows.iter().zip(signature.split(", ")) {
        let required = !argument.contains(" DEFAULT ");
        assert_eq!(row[2] == "required", required, "{argument}");
        if let Some(text) = argument.split(" DEFAULT ").nth(1).and_then(|default| default.strip_suffix("::text"))
            && text != "NULL"
        {
            assert_eq!(row[2], text, "{argument}");
        }
    }
}

/// Every SQLSTATE of ours that the front door can raise stands in the table of errors.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_errors_is_complete() {
    let db = database().await;
    let source: String = db
        .one("select string_agg(prosrc, ' ') from pg_proc where oid in ('backhaul.enqueue'::regproc, 'backhaul.enqueue_many'::regproc)")
        .await;
    let guide = read("docs/guide/enqueue.md");
    let mut states: Vec<&str> = source.match_indices("'BH0").map(|(at, _)| &source[at + 1..at + 6]).collect();
    states.sort_unstable();
    states.dedup();
    assert_eq!(states, ["BH001", "BH002", "BH003", "BH004", "BH005"]);
    for state in states {
        assert!(guide.contains(&format!("| `{state}` |")), "{state} is not in the guide");
    }
}
