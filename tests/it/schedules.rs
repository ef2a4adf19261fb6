//! Schedules: each occurrence becomes one job, whoever looks and whoever crashes; what was missed runs as it was asked.

use backhaul_engine::WorkerOptions;
use serde_json::Value;

use crate::support::{Database, ToyEnv, Worker, database, eventually, refusal};

/// A worker that fires schedules and finishes what they make.
fn worker(db: &Database, env: &std::sync::Arc<ToyEnv>) -> Worker {
    Worker::start_with(db.store.clone(), env, WorkerOptions { concurrency: 4, prefetch: 4, ..Worker::patient() })
}

/// Adds a schedule of toys. `cron` comes once a year or once a month, so that no test meets an occurrence by chance.
async fn add(db: &Database, name: &str, cron: &str, missed: &str) {
    sqlx::query(
        "select backhaul.schedule_put(name => $1, kind => 'toy', payload => '{\"n\": 1}', cron => $2, tenant => 'acme',
             missed => $3, actor => 'tester')",
    )
    .bind(name)
    .bind(cron)
    .bind(missed)
    .execute(db.store.pool())
    .await
    .expect("adds");
}

/// Occurrences on the first of each month since the beginning of 2020, UTC.
const MONTHS: &str = "select count(*) from generate_series('2020-01-01+00'::timestamptz, now(), '1 month')";

/// Ids and idempotency keys of all jobs that there ever were, by key.
async fn fired(db: &Database) -> Vec<(String,)> {
    db.rows("select key from backhaul.idempotency_keys order by key").await
}

/// Three workers look at twenty schedules that are due, and each is fired once.
#[tokio::test(flavor = "multi_thread")]
async fn an_occurrence_becomes_one_job_whoever_looks() {
    let db = database().await;
    let env = ToyEnv::new();
    for n in 0..20 {
        add(&db, &format!("yearly-{n:02}"), "0 0 1 1 *", "coalesce").await;
    }
    db.run("update backhaul.schedules set next_at = date_trunc('year', now() at time zone 'utc') at time zone 'utc'")
        .await;
    let fleet: Vec<Worker> = (0..3).map(|_| worker(&db, &env)).collect();
    eventually("all have fired", async || {
        db.one::<i64>("select count(*) from backhaul.schedules where next_at > now() and last_job is not null").await
            == 20
    })
    .await;
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    // A restored backup, or a hand that turns the schedule back, fires nothing twice within the kind's window.
    db.run("update backhaul.schedules set next_at = last_at").await;
    eventually("all are up to date again", async || {
        db.one::<i64>("select count(*) from backhaul.schedules where next_at > now()").await == 20
    })
    .await;
    for worker in fleet {
        worker.stop().await;
    }
    assert_eq!(env.count(None, "end"), 20);
    let year: String = db.one("select to_char(now() at time zone 'utc', 'YYYY')").await;
    let expected: Vec<_> = (0..20).map(|n| (format!("schedule/yearly-{n:02}/{year}-01-01T00:00:00Z"),)).collect();
    assert_eq!(fired(&db).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_was_there_for_runs_as_the_policy_says() {
    let db = database().await;
    let env = ToyEnv::new();
    for missed in ["coalesce", "all", "skip"] {
        add(&db, missed, "0 0 1 * *", missed).await;
    }
    // Since then no worker has lived.
    db.run("update backhaul.schedules set counted_from = '2019-12-31+00'").await;
    let worker = worker(&db, &env);
    eventually("all are up to date", async || {
        db.one::<i64>("select count(*) from backhaul.schedules where next_at > now()").await == 3
    })
    .await;
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let months: i64 = db.one(MONTHS).await;
    let counts: Vec<(String, i64)> =
        db.rows("select split_part(key, '/', 2), count(*) from backhaul.idempotency_keys group by 1 order by 1").await;
    assert_eq!(counts, [("all".to_owned(), months), ("coalesce".to_owned(), 1)]);
    let last: bool = db
        .one("select key = 'schedule/coalesce/' || to_char(date_trunc('month', now() at time zone 'utc'), 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
              from backhaul.idempotency_keys where key like 'schedule/coalesce/%'")
        .await;
    assert!(last, "the one run stands for the latest occurrence");
}

/// 1,000 at a time: the rest comes with the next looks, and none is left out.
#[tokio::test(flavor = "multi_thread")]
async fn catching_up_goes_in_bounded_steps_and_leaves_nothing_out() {
    let db = database().await;
    let env = ToyEnv::new();
    add(&db, "daily", "0 0 * * *", "all").await;
    add(&db, "another", "0 0 1 1 *", "coalesce").await;
    db.run("update backhaul.schedules set counted_from = '2019-12-31 12:00+00'; select backhaul.pause('toy')").await;
    let worker = worker(&db, &env);
    eventually("both are up to date", async || {
        db.one::<i64>("select count(*) from backhaul.schedules where next_at > now()").await == 2
    })
    .await;
    worker.stop().await;
    let days: i64 = db.one("select count(*) from generate_series('2020-01-01+00'::timestamptz, now(), '1 day')").await;
    assert!(days > 2_000, "the test needs three steps");
    let made: i64 = db.one("select count(*) from backhaul.jobs where idempotency_key like 'schedule/daily/%'").await;
    assert_eq!(made, days);
    // Of one transaction are at most a thousand.
    let most: i64 = db.one("select max(n) from (select count(*) n from backhaul.jobs group by xmin::text) u").await;
    assert_eq!(most, 1_000);
}

/// Somebody else is firing it, or has died while he did: the others pass it over, and it stays due.
#[tokio::test(flavor = "multi_thread")]
async fn a_firing_that_does_not_commit_leaves_neither_run_nor_move() {
    let db = database().await;
    let env = ToyEnv::new();
    add(&db, "held", "0 0 1 1 *", "coalesce").await;
    add(&db, "free", "0 0 1 1 *", "coalesce").await;
    db.run("update backhaul.schedules set next_at = '2026-01-01+00'").await;
    let mut crashing = db.store.pool().begin().await.expect("begins");
    let due: String = sqlx::query_scalar("select name from backhaul.schedule_due('{free}')")
        .fetch_one(&mut *crashing)
        .await
        .expect("locks");
    assert_eq!(due, "held");
    let made: i32 = sqlx::query_scalar("select backhaul.schedule_fire('held', '{2026-01-01+00}', '2099-01-01+00')")
        .fetch_one(&mut *crashing)
        .await
        .expect("fires");
    assert_eq!(made, 1);
    let worker = worker(&db, &env);
    eventually("the free one fires", async || env.count(None, "end") == 1).await;
    crashing.rollback().await.expect("as a crash does");
    eventually("the other one fires", async || env.count(None, "end") == 2).await;
    worker.stop().await;
    let keys: Vec<String> = fired(&db).await.into_iter().map(|(key,)| key).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
}

/// What is wrong with a schedule is said in its row and in the log; it stops, and nothing else does.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_cannot_go_on_is_paused_with_the_reason() {
    let db = database().await;
    let env = ToyEnv::new();
    for name in ["line", "zone", "never", "kind", "policy", "refused", "well"] {
        add(&db, name, "0 0 1 1 *", "coalesce").await;
    }
    db.run(
        "update backhaul.schedules set next_at = '2026-01-01+00';
         update backhaul.schedules set cron = '99 0 1 1 *' where name = 'line';
         update backhaul.schedules set timezone = 'Mars/Olympus' where name = 'zone';
         update backhaul.schedules set cron = '0 0 30 2 *', next_at = null where name = 'never';
         update backhaul.schedules set kind = 'no-such-kind' where name = 'kind';
         alter table backhaul.schedules drop constraint schedules_missed_check;
         update backhaul.schedules set missed = 'perhaps' where name = 'policy';
         -- Whatever else the database may refuse.
         alter table backhaul.schedules add check (name <> 'refused' or next_at is null or next_at < '2026-02-01')",
    )
    .await;
    let worker = worker(&db, &env);
    eventually("each has fired or stopped", async || {
        db.one::<i64>("select count(*) from backhaul.schedules where paused or next_at > now()").await == 7
    })
    .await;
    eventually("the well one's job ends", async || env.count(None, "end") == 1).await;
    let stopped: Vec<(String, String)> =
        db.rows("select name, last_error from backhaul.schedules where paused order by name").await;
    let reasons = [
        ("kind", "unknown_kind"),
        ("line", "cannot be read"),
        ("never", "no occurrence"),
        ("policy", "coalesce, all or skip"),
        ("refused", "check constraint"),
        ("zone", "is unknown"),
    ];
    assert_eq!(stopped.len(), reasons.len(), "{stopped:?}");
    for ((name, error), (expected, reason)) in stopped.iter().zip(reasons) {
        assert!(name == expected && error.contains(reason), "{name}: {error}");
    }
    let told: i64 = db.one("select count(*) from backhaul.events where type = 'dev.backhaul.schedule.stopped'").await;
    assert_eq!(told, 6);
    assert_eq!(fired(&db).await.len(), 1, "nothing was left of what was refused");

    // Put again, what the program stopped goes on.
    add(&db, "kind", "0 0 1 1 *", "coalesce").await;
    eventually("it has its next time", async || {
        db.one::<bool>("select coalesce(next_at > now(), false) and last_error is null and not paused from backhaul.schedules where name = 'kind'")
            .await
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_resuming_triggering_and_removing() {
    let db = database().await;
    let env = ToyEnv::new();
    add(&db, "monthly", "0 0 1 * *", "all").await;
    assert!(db.one::<bool>("select backhaul.schedule_pause('monthly', 'tester', 'why not')").await);
    assert!(!db.one::<bool>("select backhaul.schedule_pause('monthly', 'tester')").await);
    db.run("update backhaul.schedules set counted_from = '2020-01-01+00'").await;
    // Triggered by hand it runs, paused or not.
    let job: i64 = db.one("select backhaul.schedule_trigger('monthly', 'tester')").await;
    let worker = worker(&db, &env);
    eventually("the triggered job ends", async || db.unfinished().await == 0).await;
    assert_eq!(db.one::<i64>("select last_job from backhaul.schedules").await, job);

    assert!(db.one::<bool>("select backhaul.schedule_resume('monthly', 'tester')").await);
    assert!(!db.one::<bool>("select backhaul.schedule_resume('monthly', 'tester')").await);
    eventually("it has its next time", async || {
        db.one::<bool>("select coalesce(next_at > now(), false) from backhaul.schedules").await
    })
    .await;
    worker.stop().await;
    assert_eq!(env.count(None, "end"), 1, "what fell into the pause was not missed");

    db.run("select backhaul.schedule_remove('monthly', 'tester', 'done with it')").await;
    let told: Vec<(String, Value)> = db
        .rows(
            "select replace(type, 'dev.backhaul.schedule.', ''), convert_from(data, 'UTF8')::jsonb from backhaul.events
             where subject = 'schedule/monthly' order by id",
        )
        .await;
    let types: Vec<&str> = told.iter().map(|(told, _)| told.as_str()).collect();
    assert_eq!(types, ["put", "paused", "triggered", "resumed", "removed"]);
    assert!(told.iter().all(|(_, data)| data["actor"] == "tester" && data["schedule"] == "monthly"), "{told:?}");
    for function in ["pause", "resume", "trigger", "remove"] {
        let sql = format!("select backhaul.schedule_{function}('monthly')");
        let gone = refusal(sqlx::query(sqlx::AssertSqlSafe(sql)).execute(db.store.pool()).await);
        assert_eq!(gone.sqlstate, "BH020", "{function}");
        assert!(!gone.hint.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_when_it_is_put_is_refused_by_name() {
    let db = database().await;
    let put =
        |name: &'static str, kind: &'static str, payload: &'static str, cron: &'static str, more: &'static str| {
            let sql = format!("select backhaul.schedule_put('{name}', '{kind}', '{payload}', '{cron}'{more})");
            let pool = db.store.pool().clone();
            async move { refusal(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await) }
        };
    for (name, kind, payload, cron, more, state, what) in [
        ("Upper", "toy", "{}", "@daily", "", "BH005", "name must"),
        ("a", "toy", "{}", "* * * *", "", "BH005", "five fields"),
        ("a", "toy", "{}", "* * * * * *", "", "BH005", "five fields"),
        ("a", "toy", "{}", "@daily", ", timezone => 'Europe Berlin'", "BH005", "timezone must"),
        ("a", "toy", "{}", "@daily", ", missed => 'never'", "BH005", "missed must"),
        ("a", "toy", "{}", "@daily", ", tenant => 'no tenant'", "BH005", "tenant must"),
        ("a", "toy", "{}", "@daily", ", priority => 'urgent'", "BH005", "priority must"),
        ("a", "toy", "[]", "@daily", "", "BH002", "payload_not_object"),
        ("a", "toys", "{}", "@daily", "", "BH001", "unknown_kind"),
        ("a", "toy", "{}", "@daily", ", version => 7", "BH001", "unknown_kind"),
    ] {
        let refused = put(name, kind, payload, cron, more).await;
        assert_eq!(refused.sqlstate, state, "{refused:?}");
        assert!(refused.message.contains(what) && !refused.hint.is_empty(), "{refused:?}");
    }
    assert_eq!(db.one::<i64>("select count(*) from backhaul.schedules").await, 0);
}
