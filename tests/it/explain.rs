//! `explain_job` and `backhaul jobs explain`: every reason why a job is not running, with what to do about it.

use serde_json::Value;

use crate::operate;
use crate::support::{Database, Login, Toy, ToyEnv, Worker, binary, database, eventually, refusal};

/// The codes of a job's causes, which each come with a cause and a remedy.
pub(crate) async fn codes(db: &Database, job: i64) -> Vec<String> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("select code, cause, remedy from backhaul.explain_job($1)")
            .bind(job)
            .fetch_all(db.store.pool())
            .await
            .expect("explains");
    assert!(rows.iter().all(|(_, cause, remedy)| !cause.is_empty() && !remedy.is_empty()), "{rows:?}");
    let guide = operate::guide();
    for (code, _, _) in &rows {
        assert!(guide.contains(&format!("`{code}`")), "docs/guide/operate.md does not know {code}");
    }
    rows.into_iter().map(|(code, _, _)| code).collect()
}

/// A worker that lives and takes nothing, as far as anybody can see; it seldom beats, so that a slow test is no silence.
const LIVE: &str = "insert into backhaul.workers (id, host, pid, build, kinds, concurrency, heartbeat)
    values ('00000000-0000-4000-8000-000000000001', 'host', 1, 'test', '{toy@1}', 1, '1 minute')";

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_says_what_it_waits_for() {
    let db = database().await;
    let ids = db.toys(&[Toy::new(0), Toy::new(1).keyed("k"), Toy::new(2).keyed("k"), Toy::new(3)]).await;
    assert_eq!(codes(&db, ids[0]).await, ["no_worker"], "due, and nobody there");
    db.run(LIVE).await;
    assert_eq!(codes(&db, ids[0]).await, ["due"]);
    db.run("select backhaul.promote(100, '-infinity')").await;
    assert_eq!(codes(&db, ids[0]).await, ["next"]);
    let cause: String = sqlx::query_scalar("select cause from backhaul.explain_job($1)")
        .bind(ids[3])
        .fetch_one(db.store.pool())
        .await
        .expect("explains");
    assert!(cause.contains("with 3 before it"), "{cause}");

    // One is claimed: the second of its key waits behind it.
    db.run("select * from backhaul.claim('00000000-0000-4000-8000-000000000001', '{toy@1}', 3, '-infinity')").await;
    assert_eq!(codes(&db, ids[1]).await, ["running"]);
    assert_eq!(codes(&db, ids[2]).await, ["blocked"]);
    let (cause, remedy): (String, String) = sqlx::query_as("select cause, remedy from backhaul.explain_job($1)")
        .bind(ids[2])
        .fetch_one(db.store.pool())
        .await
        .expect("explains");
    assert!(cause.contains(&format!("job {}", ids[1])) && cause.contains("toy/k"), "{cause}");
    assert!(remedy.contains(&format!("backhaul jobs explain {}", ids[1])), "{remedy}");
    db.run("update backhaul.workers set heartbeat_at = now() - interval '10 minutes'").await;
    assert_eq!(codes(&db, ids[1]).await, ["worker_silent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_says_by_whom_and_how_to_let_it_go() {
    let db = database().await;
    db.run(LIVE).await;
    let ids = db.toys(&[Toy::new(0), Toy::new(1), Toy::new(2)]).await;
    let job = ids[2];
    db.run(
        "select backhaul.promote(100, '-infinity'); select backhaul.pause('toy', '*', 'ann', 'migration');
            select backhaul.pause('*', 'default', 'bob')",
    )
    .await;
    assert_eq!(codes(&db, job).await, ["paused", "paused"]);
    let remedies: Vec<(String,)> =
        db.rows("select remedy from backhaul.explain_job((select max(id) from backhaul.jobs))").await;
    assert!(remedies.iter().any(|(remedy,)| remedy.contains("backhaul queue resume --kind toy`")), "{remedies:?}");
    assert!(
        remedies.iter().any(|(remedy,)| remedy.contains("backhaul queue resume --tenant default`")),
        "{remedies:?}"
    );
    db.run("delete from backhaul.pauses").await;

    db.run(
        "select backhaul.set_cap('toy', '*', 1);
            select * from backhaul.claim('00000000-0000-4000-8000-000000000001', '{toy@1}', 1, '-infinity')",
    )
    .await;
    assert_eq!(codes(&db, job).await, ["capped"]);
    db.run("select backhaul.set_cap('toy', '*', null)").await;

    db.run(
        "insert into backhaul.buckets (tenant, name, per_minute, tokens, blocked_until, blocked_why)
            values ('default', 'toy/box', 100, -10, now() + interval '1 minute', 'rate_limited: 429')",
    )
    .await;
    assert_eq!(codes(&db, job).await, ["bucket_closed", "paced"]);
    db.run("update backhaul.buckets set blocked_until = null").await;
    assert_eq!(codes(&db, job).await, ["paced"]);
    db.run("delete from backhaul.buckets").await;

    db.run(
        "insert into backhaul.buckets (tenant, name, blocked_until, blocked_why)
            values ('default', 'toy/token', now() + interval '1 minute', 'auth_blocked: toy: invalid_client')",
    )
    .await;
    assert_eq!(codes(&db, job).await, ["credential_refused"]);
    db.run("update backhaul.buckets set blocked_why = 'throttled: 429'").await;
    assert_eq!(codes(&db, job).await, ["bucket_closed"], "the token endpoint asked for peace");
    db.run("delete from backhaul.buckets").await;

    db.run("update backhaul.jobs set deadline_at = now() - interval '1 second' where seq is not null").await;
    assert_eq!(codes(&db, job).await, ["deadline_passed"]);
    db.run("update backhaul.jobs set deadline_at = now() + interval '1 day'; delete from backhaul.kinds").await;
    assert_eq!(codes(&db, job).await, ["unknown_kind"]);
}

/// A bucket that only the attempt knew of, as of a callback's host: the failure says which it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_met_is_named() {
    let db = database().await;
    db.run(
        "insert into backhaul.buckets (tenant, name, blocked_until, blocked_why)
            values ('default', 'other/box', now() + interval '1 day', 'throttled: 429')",
    )
    .await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(0).act("take other"), Toy::new(1).act("throttle:86000000")]).await;
    let worker = Worker::start(&db, &env);
    let met = "select count(*) from backhaul.jobs where errors -> -1 ->> 'bucket' is not null";
    eventually("both meet a pause", async || db.one::<i64>(met).await == 2).await;
    assert_eq!(codes(&db, ids[0]).await, ["bucket_closed", "postponed"]);
    assert_eq!(codes(&db, ids[1]).await, ["bucket_closed", "postponed"]);
    let causes: Vec<(String, String)> = db
        .rows(
            "select cause, remedy from backhaul.jobs j cross join lateral backhaul.explain_job(j.id) e
             where e.code = 'bucket_closed' order by j.id",
        )
        .await;
    assert!(causes[0].0.contains("other/box") && causes[1].0.contains("toy/box"), "{causes:?}");
    assert!(causes[0].1.contains("backhaul queue open --tenant default --bucket other/box"), "{causes:?}");
    worker.stop().await;
}

/// A job that somebody moved waits for that, and not for its last failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_job_says_who_moved_it() {
    let db = database().await;
    db.run(LIVE).await;
    let job = db.toys(&[Toy::new(0)]).await[0];
    db.run(
        "update backhaul.jobs set errors = '[{\"code\": \"profile_not_found\", \"class\": \"snoozed\"}]';
            select backhaul.reschedule((select id from backhaul.jobs), now() + interval '2 hours', 'ann', 'maintenance')",
    )
    .await;
    assert_eq!(codes(&db, job).await, ["rescheduled"]);
    let cause: String = db.one("select cause from backhaul.explain_job((select id from backhaul.jobs))").await;
    assert!(cause.ends_with("by ann: maintenance"), "{cause}");
    // What happens to it later is its own.
    db.run("update backhaul.jobs set due_at = due_at + interval '1 hour'").await;
    assert_eq!(codes(&db, job).await, ["postponed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_places_are_named_too() {
    let db = database().await;
    db.run(LIVE).await;
    let ids = db.toys(&[Toy::new(0), Toy::new(1).keyed("k"), Toy::new(2), Toy::new(3), Toy::new(4)]).await;
    db.run("select backhaul.promote(100, '-infinity')").await;
    let place = |sql: &'static str, job: i64| {
        let pool = db.store.pool().clone();
        async move { sqlx::query(sql).bind(job).execute(&pool).await.expect(sql) }
    };
    place("update backhaul.jobs set seq = null, due_at = now() + interval '1 hour' where id = $1", ids[0]).await;
    assert_eq!(codes(&db, ids[0]).await, ["scheduled"]);
    place(
        "update backhaul.jobs set attempt = 1, errors = '[{\"code\": \"toy_broke\", \"class\": \"transient\"}]' where id = $1",
        ids[0],
    )
    .await;
    assert_eq!(codes(&db, ids[0]).await, ["retrying"]);
    place(
        "update backhaul.jobs set errors = '[{\"code\": \"rate_limited\", \"class\": \"throttled\"}]' where id = $1",
        ids[0],
    )
    .await;
    assert_eq!(codes(&db, ids[0]).await, ["postponed"]);
    place("update backhaul.jobs set seq = null, due_at = null where id = $1", ids[1]).await;
    assert_eq!(codes(&db, ids[1]).await, ["freed"]);
    place("update backhaul.jobs set seq = null, due_at = now(), rescues = 2 where id = $1", ids[2]).await;
    assert_eq!(codes(&db, ids[2]).await, ["alone"]);
    place("update backhaul.cursors set position = (select seq from backhaul.jobs where id = $1)", ids[3]).await;
    assert_eq!(codes(&db, ids[3]).await, ["late"]);
    db.run("update backhaul.cursors set awake = false").await;
    assert_eq!(codes(&db, ids[4]).await, ["asleep"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_says_how_it_ended() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(0), Toy::new(1).act("permanent")]).await;
    let worker = Worker::start(&db, &env);
    eventually("both end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(codes(&db, ids[0]).await, ["finished"]);
    assert_eq!(codes(&db, ids[1]).await, ["dead"]);
    let unknown = refusal(sqlx::query("select backhaul.explain_job(999999)").execute(db.store.pool()).await);
    assert_eq!(unknown.sqlstate, "BH020");

    // A reader may ask too, and the command says the same.
    let reader = Login::of(&db, Some("backhaul_reader")).await;
    let output = binary()
        .args(["jobs", "explain", &ids[1].to_string(), "--json"])
        .env("DATABASE_URL", &reader.url)
        .output()
        .expect("runs");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said[0]["code"], "dead");
    let output = binary().args(["jobs", "explain", "999999"]).env("DATABASE_URL", &db.url).output().expect("runs");
    assert_eq!(output.status.code(), Some(3));
}
