//! What an operator decides about: told whole, without anybody's data, and one that is gone stops no other.

use std::{process::Output, time::Instant};

use serde_json::{Value, json};

use super::{code, errors, json_of, on};
use crate::support::{Database, Toy, binary, database, target_dir};

/// Dead letters of these toys, each with an error.
async fn dead(database: &Database, count: i64, error: &Value) -> Vec<String> {
    let toys: Vec<Toy> = (0..count).map(Toy::new).collect();
    let ids = database.toys(&toys).await;
    let letters: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "reason": "broken", "error": error })).collect();
    let bury = sqlx::query("select backhaul.bury($1)").bind(Value::Array(letters));
    bury.execute(database.store.pool()).await.expect("buries");
    ids.iter().map(i64::to_string).collect()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_stops_no_other() {
    let database = database().await;
    let ids = dead(&database, 5, &json!({ "code": "broken", "message": "x" })).await;
    for (verb, pair) in [("discard", &ids[..2]), ("replay", &ids[2..4])] {
        let output = on(&database, &["dead", verb, &pair[0], "999999", &pair[1], "--why", "a test", "--json"]);
        assert_eq!(code(&output), Some(3), "{}", errors(&output));
        assert!(errors(&output).contains("999999") && !errors(&output).contains(&pair[0]), "{}", errors(&output));
        let outcomes: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&outcomes[1]["outcome"], outcomes.as_array().map(Vec::len)), (&json!("not_found"), Some(3)));
    }
    assert_eq!(database.one::<i64>("select count(*) from backhaul.dead_letters").await, 1);
    let output = on(&database, &["jobs", "cancel", &ids[2], "999999", &ids[3], "--why", "a test"]);
    assert_eq!(code(&output), Some(3), "{}", errors(&output));
    assert!(printed(&output).contains("2 jobs cancelled"), "{}", printed(&output));

    dead(&database, 2, &json!({ "code": "broken", "message": "x" })).await;
    let output = on(&database, &["dead", "discard", "--code", "broken", "--why", "x", "--limit", "2"]);
    assert!(printed(&output).contains("2 of 3 dead letters would be discarded"), "{}", printed(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_whole_and_nobodys_data() {
    let database = database().await;
    let message = format!("the upstream said {} and nothing else", "very ".repeat(30));
    let conflict = json!({ "base": { "email": "old@example.com" }, "ours": { "email": "mine@example.com" },
                           "theirs": { "email": "theirs@example.com" } });
    let error = json!({ "code": "conflict", "message": message, "conflict": conflict });
    let id = dead(&database, 1, &error).await.remove(0);
    let shown = printed(&on(&database, &["dead", "show", &id]));
    assert!(shown.contains(&message), "{shown}");
    assert!(printed(&on(&database, &["jobs", "show", &id])).contains(&message));
    assert!(shown.contains("normal") && shown.contains("/email"), "{shown}");
    let as_json = on(&database, &["dead", "show", &id, "--json"]);
    assert!(!shown.contains("@example.com") && !printed(&as_json).contains("@example.com"), "{shown}");
    let as_json = json_of(&as_json);
    assert_eq!((&as_json["conflict"], &as_json["priority"]), (&json!({ "differs": ["/email"] }), &json!("normal")));
    assert_eq!(json_of(&on(&database, &["dead", "show", &id, "--payload", "--json"]))["conflict"], conflict);
    assert!(printed(&on(&database, &["dead", "show", &id, "--payload"])).contains("theirs@example.com"));
}

#[test]
fn a_refused_connection_is_told_at_once() {
    let started = Instant::now();
    let output = binary().args(["--database-url", "postgres://x:y@127.0.0.1:1/none", "doctor"]).output().expect("runs");
    assert_eq!(code(&output), Some(4), "{}", errors(&output));
    assert!(errors(&output).to_lowercase().contains("connection refused"), "{}", errors(&output));
    assert!(started.elapsed().as_secs() < 8, "it waited for the pool: {:?}", started.elapsed());
}

/// Where the environment names nobody, the audit trail has the database's login.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_a_name_is_the_databases_login() {
    let database = database().await;
    let id = database.toys(&[Toy::new(1)]).await[0].to_string();
    let mut command = binary();
    command.args(["jobs", "cancel", &id, "--why", "x"]).env("DATABASE_URL", &database.url);
    command.env_remove("USER").env_remove("LOGNAME").env_remove("SUDO_USER");
    assert_eq!(code(&command.output().expect("runs")), Some(0));
    let same: bool = database
        .one("select payload ->> 'actor' = session_user from backhaul.outbox_events where type like '%cancelled'")
        .await;
    assert!(same);
}

#[test]
fn profiles_and_routes_are_checked_with_the_settings() {
    let dir = target_dir().join(format!("config-check-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("profiles")).expect("a directory");
    std::fs::write(dir.join("profiles/acme.toml"), "[cxone]\nbase = \"x\"\n[kinds.nobody]\n").expect("written");
    std::fs::write(dir.join("routes.toml"), "[[sources]]\ncolour = \"red\"\n").expect("written");
    let mut command = binary();
    command.args(["config", "check"]).env("BACKHAUL__PROFILES__DIR", dir.join("profiles"));
    command.env("BACKHAUL__INGRESS__ROUTES", dir.join("routes.toml"));
    let output = command.output().expect("runs");
    std::fs::remove_dir_all(&dir).expect("removed");
    let complaint = errors(&output);
    assert_eq!(code(&output), Some(2), "{complaint}");
    assert!(complaint.contains("acme.toml") && complaint.contains("routes.toml"), "{complaint}");
}
