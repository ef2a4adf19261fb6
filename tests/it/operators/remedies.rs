//! What people do about work that waits for the wrong reason: a place kept, a priority raised, a bucket opened.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{last_event, states, text};
use crate::support::{Database, Login, Toy, ToyEnv, Worker, binary, database, eventually, refusal};

/// A worker that claims by hand, and beats so seldom that it is never missed.
const BY_HAND: &str = "00000000-0000-4000-8000-000000000001";

/// Signs it on.
async fn by_hand(db: &Database) {
    let sql = format!("select backhaul.register_worker('{BY_HAND}', 'here', 1, 'test', '{{toy@1}}', 9, '1 hour')");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.store.pool()).await.expect("registers");
}

/// Ids of the next so many jobs that a claim takes.
async fn claim(db: &Database, most: usize) -> Vec<i64> {
    db.run("select backhaul.promote(100, '-infinity')").await;
    // One that meets a job whose key is taken parks it, and may have nothing to give.
    for _ in 0..3 {
        let sql = format!("select id from backhaul.claim('{BY_HAND}', '{{toy@1}}', {most}, '-infinity')");
        let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(db.store.pool()).await.expect("claims");
        if !ids.is_empty() {
            return ids;
        }
        db.run("select backhaul.promote(100, '-infinity')").await;
    }
    Vec::new()
}

/// While no worker runs, nobody gives jobs their place; those whose time has come are ready all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_ready() {
    let db = database().await;
    let ids = db.toys(&[Toy::new(0), Toy::new(1), Toy::new(2)]).await;
    let later = "update backhaul.jobs set due_at = now() + interval '1 hour' where id >= $1";
    sqlx::query(later).bind(ids[1]).execute(db.store.pool()).await.expect("moves");
    let failed = "update backhaul.jobs set attempt = 1 where id = $1";
    sqlx::query(failed).bind(ids[2]).execute(db.store.pool()).await.expect("fails");
    let told = [(ids[0], "ready".to_owned()), (ids[1], "scheduled".to_owned()), (ids[2], "retrying".to_owned())];
    assert_eq!(states(&db).await, told);
    let depth: Vec<(i64, i64, i64)> = db.rows("select ready, scheduled, retrying from backhaul.queue_depth").await;
    assert_eq!(depth, [(1, 1, 1)]);
    db.run("update backhaul.jobs set due_at = now()").await;
    assert!(states(&db).await.iter().all(|(_, state)| state == "ready"), "a retry whose time has come waits for hands");
}

/// "Now" means now for what is ready: it is not sent to the end of its lane.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_ready_keeps_its_place() {
    let db = database().await;
    by_hand(&db).await;
    let ids = db.toys(&[Toy::new(0), Toy::new(1), Toy::new(2)]).await;
    let now =
        async |job: i64| text(&db, format!("select backhaul.reschedule({job}, clock_timestamp(), 'ann', 'x')")).await;
    assert_eq!(now(ids[1]).await.expect("due"), "ready");
    db.run("select backhaul.promote(100, '-infinity')").await;
    assert_eq!(now(ids[0]).await.expect("placed"), "ready");
    assert_eq!(last_event(&db, ids[0]).await["type"], "dev.backhaul.job.rescheduled");
    assert_eq!(claim(&db, 3).await, ids);

    // One whose time had not come goes behind them, as anything that is new.
    let later = db.toys(&[Toy::new(3), Toy::new(4)]).await;
    let far = "update backhaul.jobs set due_at = now() + interval '1 hour', seq = null where id = $1";
    sqlx::query(far).bind(later[0]).execute(db.store.pool()).await.expect("moves");
    assert_eq!(now(later[0]).await.expect("moves"), "rescheduled");
    assert_eq!(claim(&db, 2).await, [later[1], later[0]]);
}

/// A row of a backfill holds a profile's key, and something urgent about that profile waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_holds_up_something_urgent_is_raised() {
    let db = database().await;
    by_hand(&db).await;
    let toy = |n: i64, priority: &str| json!({"kind": "toy", "payload": Toy::new(n).keyed(&n.to_string()), "priority": priority});
    let ids = db.enqueue((0..5).map(|n| toy(n, "backfill")).collect()).await;
    let urgent =
        db.enqueue(vec![json!({"kind": "toy", "payload": Toy::new(9).keyed("4"), "priority": "critical"})]).await[0];
    let held = claim(&db, 1).await;
    assert_eq!(held, [ids[0]], "the urgent one waits for the older job of its key");
    let (cause, remedy): (String, String) =
        sqlx::query_as("select cause, remedy from backhaul.explain_job($1) where code = 'blocked'")
            .bind(urgent)
            .fetch_one(db.store.pool())
            .await
            .expect("is blocked");
    assert!(cause.contains(&format!("job {} of priority backfill", ids[4])), "{cause}");
    assert!(remedy.contains(&format!("backhaul jobs reprioritize {} --priority critical", ids[4])), "{remedy}");

    let operator = Login::of(&db, Some("backhaul_operator")).await;
    let command = |job: i64, priority: &str| {
        let output = binary()
            .args(["jobs", "reprioritize", &job.to_string(), "--priority", priority, "--actor", "ann", "--json"])
            .env("DATABASE_URL", &operator.url)
            .output()
            .expect("runs");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (said["outcome"].as_str().map(str::to_owned), output.status.code())
    };
    assert_eq!(command(ids[4], "critical"), (Some("reprioritized".to_owned()), Some(0)));
    let event = last_event(&db, ids[4]).await;
    assert_eq!(event["type"], "dev.backhaul.job.reprioritized");
    assert_eq!(
        (&event["actor"], &event["was"], &event["priority"]),
        (&json!("ann"), &json!("backfill"), &json!("critical"))
    );
    assert_eq!(command(ids[4], "critical"), (Some("unchanged".to_owned()), Some(0)));
    assert_eq!(command(ids[0], "critical"), (None, Some(1)), "it runs");
    assert_eq!(command(4_711, "critical"), (None, Some(3)));
    assert_eq!(command(ids[3], "urgent").1, Some(2));
    assert_eq!(claim(&db, 1).await, [ids[4]], "before all others of the backfill");

    // One that waits for its time or its key goes on waiting.
    let far = "update backhaul.jobs set due_at = '2030-01-01', seq = null where id = $1";
    sqlx::query(far).bind(ids[3]).execute(db.store.pool()).await.expect("moves");
    assert_eq!(command(ids[3], "high").1, Some(0));
    assert_eq!(command(urgent, "high").1, Some(0));
    let waits: Vec<(i64, String, String)> =
        db.rows("select id, state, priority from backhaul.job_states where priority = 'high' order by id").await;
    assert_eq!(waits, [(ids[3], "scheduled".into(), "high".into()), (urgent, "blocked".into(), "high".into())]);
}

/// All the same work is done, whatever its priority was while it waited.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_raised_runs_once() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&(0..40).map(Toy::new).collect::<Vec<_>>()).await;
    let worker = Worker::start(&db, &env);
    for (n, id) in ids.iter().enumerate() {
        let priority = ["critical", "high", "low", "backfill"][n % 4];
        match text(&db, format!("select backhaul.reprioritize({id}, '{priority}', null, 'why')")).await {
            Ok(_) => {}
            refused => assert!(["BH020", "BH021"].contains(&refusal(refused).sqlstate.as_str())),
        }
    }
    eventually("all end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(db.ends().await, ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>());
}

/// A Retry-After of a day was a mistake: the bucket opens by hand, and with it what had met the pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_opened_by_hand() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(0), Toy::new(1)]).await;
    let asked = db.toys(&[Toy::new(2)]).await[0];
    db.run("select backhaul.promote(100, '-infinity')").await;
    db.run(
        "insert into backhaul.buckets (tenant, name, blocked_until, blocked_why)
         values ('default', 'toy/box', now() + interval '1 day', 'throttled: 429')",
    )
    .await;
    let met = "update backhaul.jobs set seq = null, due_at = now() + make_interval(secs => 86400 + $2),
        errors = '[{\"code\": \"throttled\", \"class\": \"throttled\", \"bucket\": \"toy/box\"}]' where id = $1";
    for (job, after) in [(ids[0], 3.0), (asked, 3_600.0)] {
        sqlx::query(met).bind(job).bind(after).execute(db.store.pool()).await.expect("meets the pause");
    }
    let worker = Worker::start(&db, &env);
    let operator = Login::of(&db, Some("backhaul_operator")).await;
    let open = |tenant: &str| {
        let output = binary()
            .args([
                "queue", "open", "--tenant", tenant, "--bucket", "toy/box", "--why", "a slip", "--actor", "ann",
                "--json",
            ])
            .env("DATABASE_URL", &operator.url)
            .output()
            .expect("runs");
        (serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), output.status.code())
    };
    assert_eq!(open("acme").1, Some(3));
    let (said, code) = open("default");
    assert_eq!((&said["changed"], &said["due"], code), (&json!(true), &json!(1), Some(0)));
    eventually("both run", async || db.unfinished().await == 1).await;
    worker.stop().await;
    assert_eq!(states(&db).await, [(asked, "scheduled".to_owned())], "its time was set by somebody who meant it");
    let event: Value = db
        .one(
            "select payload || jsonb_build_object('subject', aggregateid) from backhaul.outbox_events
              where type = 'dev.backhaul.queue.opened'",
        )
        .await;
    assert_eq!(
        (&event["actor"], &event["why"], &event["bucket"]),
        (&json!("ann"), &json!("a slip"), &json!("toy/box"))
    );
    assert_eq!((&event["tenant"], &event["was"]), (&json!("default"), &json!("throttled: 429")));
    assert_eq!(open("default").0["changed"], false);
}

/// A producer asks after its own jobs, also when they are over, and learns nothing of others' that are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_learns_what_became_of_its_jobs() {
    let db = database().await;
    let env = ToyEnv::new();
    let (shop, crm) =
        (Login::of(&db, Some("backhaul_producer")).await, Login::of(&db, Some("backhaul_producer")).await);
    let mut connection = shop.connect().await;
    let mut ids = Vec::new();
    for (n, act, run_at) in
        [(0, "ok", "now"), (1, "permanent", "now"), (2, "ok", "2030-01-01"), (3, "ok", "2030-01-01")]
    {
        let id: i64 = sqlx::query_scalar(
            "select job_id from backhaul.enqueue('toy', $1, run_at => $2::timestamptz, idempotency_key => 'order-' || $3)",
        )
        .bind(json!(Toy::new(n).act(act)))
        .bind(run_at)
        .bind(n.to_string())
        .fetch_one(&mut connection)
        .await
        .expect("enqueues");
        ids.push(id);
    }
    let worker = Worker::start(&db, &env);
    eventually("two end", async || db.ends().await.len() == 2).await;
    worker.stop().await;
    text(&db, format!("select backhaul.cancel({}, 'ann', 'x')", ids[3])).await.expect("cancels");
    type Fate = (String, Option<String>, bool);
    let fates = async |login: &Login| {
        let sql = "select f.state, f.code, f.at is not null from unnest($1::bigint[]) with ordinality u (id, n)
            cross join lateral backhaul.fate(u.id) f order by u.n";
        let asked: Vec<i64> = ids.iter().copied().chain([4_711]).collect();
        sqlx::query_as::<_, Fate>(sql).bind(asked).fetch_all(&mut login.connect().await).await.expect("tells")
    };
    let told = |state: &str, code: Option<&str>| (state.to_owned(), code.map(str::to_owned), state != "unknown");
    let broke: String = db.one("select reason from backhaul.dead_letters").await;
    assert_eq!(
        fates(&shop).await,
        [
            told("done", None),
            told("dead", Some(&broke)),
            told("waiting", None),
            told("cancelled", None),
            told("unknown", None)
        ]
    );
    assert_eq!(
        fates(&crm).await,
        [
            told("done", None),
            told("unknown", None),
            told("unknown", None),
            told("cancelled", None),
            told("unknown", None)
        ]
    );
    let dead: (String, String, bool) =
        sqlx::query_as("select idempotency_key, code, died_at is not null from backhaul.my_jobs where state = 'dead'")
            .fetch_one(&mut connection)
            .await
            .expect("its own");
    assert_eq!(dead, ("order-1".to_owned(), broke, true));
    let discarded = format!("select backhaul.dead_discard({}, null, 'x')::text", ids[1]);
    text(&db, discarded).await.expect("discards");
    assert_eq!(fates(&shop).await[1], told("discarded", None));
}
