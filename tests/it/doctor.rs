//! `backhaul doctor`: it sees what keeps Backhaul from working, and says what it may not look at.

use serde_json::Value;

use crate::explain;
use crate::support::{Login, Toy, binary, database};

/// What the doctor says to a login, and its exit code.
fn doctor(url: &str) -> (Vec<Value>, Option<i32>) {
    let output = binary().args(["doctor", "--json"]).env("DATABASE_URL", url).output().expect("runs");
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (said["checks"].as_array().cloned().unwrap_or_default(), output.status.code())
}

/// The level of a check with what was found and what to do.
fn of(checks: &[Value], name: &str) -> (String, String) {
    let text = |check: &Value, member: &str| check[member].as_str().unwrap_or_default().to_owned();
    let found: Vec<&Value> = checks.iter().filter(|check| check["check"] == name).collect();
    let said = found.iter().map(|check| text(check, "found") + " / " + &text(check, "advice")).collect::<Vec<_>>();
    (found.first().map(|check| text(check, "level")).unwrap_or_default(), said.join("\n"))
}

/// Two of ten slots each; the one has just been heard of, the other not for a minute.
const FRESH: &str = "insert into backhaul.workers (id, host, pid, build, kinds, concurrency)
    values ('00000000-0000-4000-8000-000000000001', 'fresh', 1, 'test', '{toy@1}', 10)";
const DEAD: &str = "insert into backhaul.workers (id, host, pid, build, kinds, concurrency, heartbeat_at)
    values ('00000000-0000-4000-8000-000000000002', 'dead', 2, 'test', '{toy@1}', 10, now() - interval '1 minute')";

/// A worker that was killed leaves its row, and nobody lives who would take it away.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_fleet_is_told() {
    let db = database().await;
    db.run(DEAD).await;
    let (checks, _) = doctor(&db.url);
    let (level, said) = of(&checks, "workers");
    assert!(level == "warning" && said.contains("none is running"), "nothing waits: {said}");

    let ids = db.toys(&[Toy::new(1), Toy::new(2)]).await;
    db.run(
        "select backhaul.promote(100, '-infinity');
         select * from backhaul.claim('00000000-0000-4000-8000-000000000002', '{toy@1}', 1, '-infinity')",
    )
    .await;
    let (checks, code) = doctor(&db.url);
    let (level, said) = of(&checks, "workers");
    assert_eq!((level.as_str(), code), ("failure", Some(5)), "{said}");
    assert!(said.contains("none is running") && said.contains("2 jobs wait"), "{said}");
    assert_eq!(explain::codes(&db, ids[0]).await, ["worker_silent"]);
    assert_eq!(explain::codes(&db, ids[1]).await, ["no_worker"]);
    let (_, remedy): (String, String) =
        db.rows("select code, remedy from backhaul.explain_job((select min(id) from backhaul.jobs))").await.remove(0);
    assert!(remedy.contains("start a worker"), "nobody lives to take it over: {remedy}");

    // One that starts anew does not bring the dead one back to life.
    db.run(FRESH).await;
    db.run("update backhaul.workers set heartbeat = '1 hour' where host = 'fresh'").await;
    db.run("delete from backhaul.kinds where kind <> 'toy'").await;
    let (checks, code) = doctor(&db.url);
    let (level, said) = of(&checks, "workers");
    assert_eq!((level.as_str(), code), ("warning", Some(0)), "{said}");
    assert!(said.contains("1 with 10 slots; 1 more missed their heartbeats"), "{said}");
    assert_eq!(explain::codes(&db, ids[1]).await, ["next"]);
}

/// How long silence is death goes by how often a worker means to be heard of.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_seldom_beats_is_not_dead() {
    let db = database().await;
    db.run(DEAD).await;
    db.run("update backhaul.workers set heartbeat = '30 seconds'").await;
    assert!(!db.one::<bool>("select silent from backhaul.worker_states").await);
    db.run("update backhaul.workers set heartbeat_at = now() - interval '2 minutes'").await;
    assert!(db.one::<bool>("select silent from backhaul.worker_states").await);
}

/// Waiting does not mend a credential, so it is no passing pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_is_told_with_what_to_do() {
    let db = database().await;
    db.run(
        "insert into backhaul.buckets (tenant, name, blocked_until, blocked_why) values
            ('acme', 'cxone/token', now() + interval '1 minute', 'auth_blocked: cxone profile: invalid_client'),
            ('acme', 'cxone/profiles', now() + interval '1 minute', 'throttled: cxone profile answered 429')",
    )
    .await;
    let (checks, code) = doctor(&db.url);
    let (level, said) = of(&checks, "credentials");
    assert_eq!((level.as_str(), code), ("failure", Some(5)), "{said}");
    assert!(said.contains("refused: cxone of acme") && said.contains("client, secret and scopes"), "{said}");
    let (level, said) = of(&checks, "limits");
    assert!(level == "warning" && said.contains("cxone/profiles") && !said.contains("cxone/token"), "{said}");
    assert!(said.contains("backhaul queue open"), "{said}");

    db.run("delete from backhaul.buckets").await;
    let dead = db.toys(&[Toy::new(1)]).await[0];
    let buried = format!(
        "select backhaul.bury('[{{\"id\": {dead}, \"reason\": \"scope_missing\", \"error\": {{\"code\": \"scope_missing\"}}}}]')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(buried)).execute(db.store.pool()).await.expect("buries");
    let (level, said) = of(&doctor(&db.url).0, "credentials");
    assert!(level == "warning" && said.contains("--code scope_missing"), "{said}");
}

/// A login of a limited role is told what it may see, and what it may not is no error and no "ok".
#[tokio::test(flavor = "multi_thread")]
async fn every_login_is_told_what_it_may_see() {
    let db = database().await;
    let others = [
        sqlx::PgPool::connect(&db.url).await.expect("connects"),
        sqlx::PgPool::connect(&db.url).await.expect("connects"),
    ];
    for (role, skipped) in [
        ("backhaul_producer", &["schema", "snapshots", "workers", "queue", "limits", "credentials", "sinks"][..]),
        ("backhaul_ingress", &["snapshots", "workers", "queue", "limits", "credentials", "sinks"]),
        ("backhaul_operator", &["snapshots"]),
        ("backhaul_reader", &["snapshots"]),
        ("backhaul_worker", &["snapshots"]),
    ] {
        let login = Login::of(&db, Some(role)).await;
        let (checks, code) = doctor(&login.url);
        assert_eq!(code, Some(0), "{role}: {checks:?}");
        let unseen = checks.iter().filter(|check| check["level"] == "skipped");
        let unseen: Vec<&str> = unseen.filter_map(|check| check["check"].as_str()).collect();
        assert_eq!(unseen, skipped, "{role}");
        let (_, roles) = of(&checks, "roles");
        assert!(roles.contains(&format!("this login has {role}")), "{roles}");
        let (_, connections) = of(&checks, "connections");
        let used: i64 = connections.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        assert!(used > others.len() as i64, "{role}: {connections}");
    }
    assert_eq!(of(&doctor(&db.url).0, "snapshots").0, "ok");
}
