//! Upstreams' limits, which the whole fleet shares; and upstreams that are down, which it leaves alone.

mod limits;
mod pauses;

use std::sync::Arc;

use backhaul_engine::WorkerOptions;
use serde_json::{Value, json};

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

fn worker(db: &Database, env: &Arc<ToyEnv>) -> Worker {
    Worker::start_with(db.store.clone(), env, WorkerOptions { concurrency: 8, prefetch: 8, ..Worker::patient() })
}

/// Toys of a tenant with tries to spare, so that only what a test is about can end them.
fn toys(tenant: &str, numbers: impl Iterator<Item = i64>, acts: &[&str]) -> Vec<Value> {
    let toy = |n| acts.iter().fold(Toy::new(n), |toy, act| toy.act(act));
    numbers.map(|n| json!({ "kind": "toy", "tenant": tenant, "max_attempts": 50, "payload": toy(n) })).collect()
}

/// The most grants in any window of `seconds` of a log of (time in seconds, tokens), in time's order.
fn most_in_a_window(log: &[(f64, i64)], seconds: f64) -> i64 {
    let (mut from, mut sum, mut most) = (0, 0, 0);
    for (at, granted) in log {
        sum += granted;
        while log[from].0 < at - seconds {
            sum -= log[from].1;
            from += 1;
        }
        most = most.max(sum);
    }
    most
}

/// Covers row 22 in arithmetic: from full, no 60 seconds grant more than the limit, and a second's delay on the way
/// changes nothing. Also for limits too small for a burst.
#[tokio::test(flavor = "multi_thread")]
async fn burst_and_rate_stay_within_every_limit() {
    let db = database().await;
    let wrong: Vec<(i32, f64)> = db
        .rows(
            "select n, backhaul.bucket_burst(n) + 61 * backhaul.bucket_rate(n) from generate_series(1, 20000) n
             where floor(backhaul.bucket_burst(n) + 61 * backhaul.bucket_rate(n) + 1e-9) > n
                or backhaul.bucket_burst(n) < 1 or backhaul.bucket_rate(n) <= 0",
        )
        .await;
    assert_eq!(wrong, []);
    // And the limit is not wasted: a hundred a minute means at least ninety-six, and of six thousand 97 % can be used.
    assert!(db.one::<f64>("select 60 * backhaul.bucket_rate(100)").await >= 96.0);
    assert!(db.one::<f64>("select 60 * backhaul.bucket_rate(6000)").await >= 5_820.0);
}

/// Covers row 22 in the database: many at once take tokens as fast as they can, and what they got is logged.
#[tokio::test(flavor = "multi_thread")]
async fn takers_in_a_hurry_get_no_more_than_burst_and_rate() {
    let db = database().await;
    db.run("select backhaul.bucket_limit('acme', 'toy/box', 6000)").await;
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..4_i32 {
        let pool = db.store.pool().clone();
        takers.spawn(async move {
            let mut log = Vec::new();
            for _ in 0..150 {
                // Some ask for one, some for more than there ever is.
                let (granted, at): (i32, f64) = sqlx::query_as(
                    "select granted, extract(epoch from clock_timestamp())::double precision
                     from backhaul.bucket_take('acme', 'toy/box', $1, false)",
                )
                .bind(1 + taker * 100)
                .fetch_one(&pool)
                .await
                .expect("takes");
                log.push((at, i64::from(granted)));
            }
            log
        });
    }
    let mut log: Vec<(f64, i64)> = takers.join_all().await.into_iter().flatten().collect();
    log.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (burst, rate) = (55.0, (6_000.0 - 55.0) / 61.0);
    let granted: i64 = log.iter().map(|(_, granted)| granted).sum();
    let took = log[log.len() - 1].0 - log[0].0;
    assert!(granted >= 1, "something was granted");
    for seconds in [0.05, 0.2, 1.0, took] {
        let most = most_in_a_window(&log, seconds);
        // The time is noted after the grant: a busy machine may be late with one and in time with the next.
        let allowed = burst + rate * (seconds + 0.25) + 1.0;
        assert!(most as f64 <= allowed, "{most} in {seconds} s, {allowed} allowed");
    }
}

/// Covers row 22 with workers: three replicas run one tenant's jobs, and together they stay within its limit. Another
/// tenant's jobs are not slowed down by it.
#[tokio::test(flavor = "multi_thread")]
async fn three_workers_share_one_limit() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run("select backhaul.bucket_limit('acme', 'toy/box', 600)").await;
    db.enqueue(toys("acme", 0..40, &["ok"])).await;
    db.enqueue(toys("free", 100..400, &["ok"])).await;
    let fleet: Vec<Worker> = (0..3).map(|_| worker(&db, &env)).collect();
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    for worker in fleet {
        worker.stop().await;
    }
    let log: Vec<(f64, i64)> = db
        .rows(
            "select extract(epoch from occurred_at)::double precision, 1::bigint from backhaul.events
             where tenant = 'acme' and type = 'dev.backhaul.job.completed' order by occurred_at",
        )
        .await;
    assert_eq!(log.len(), 40);
    let (burst, rate) = (6.4, 593.6 / 61.0);
    for seconds in [0.5, 1.0, 2.0] {
        let most = most_in_a_window(&log, seconds);
        // A token of the claim is good for one second.
        let allowed = burst + rate * (seconds + 1.0) + 1.0;
        assert!(most as f64 <= allowed, "{most} in {seconds} s, {allowed} allowed");
    }
    let took = log[39].0 - log[0].0;
    assert!(took >= (40.0 - burst - 2.0) / rate - 1.0, "40 jobs within {took} s");
    let starts = env.order("start");
    let last_free = starts.iter().rposition(|n| *n >= 100).expect("started");
    let paced_before = starts[..last_free].iter().filter(|n| **n < 100).count();
    assert!(paced_before < 40, "the other tenant did not wait for the paced one");
}

/// An upstream that asks for a pause gets it from everybody, its jobs take no slot and lose no try, and others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_bucket_is_closed_to_the_fleet_and_costs_no_try() {
    let db = database().await;
    let env = ToyEnv::new();
    let fleet: Vec<Worker> = (0..2).map(|_| worker(&db, &env)).collect();
    db.enqueue(toys("acme", 0..1, &["throttle:600000", "ok"])).await;
    eventually("the bucket is closed", async || {
        db.one::<bool>(
            "select exists (select from backhaul.buckets where blocked_until > now() + interval '9 minutes')",
        )
        .await
    })
    .await;
    db.enqueue(toys("acme", 1..40, &["ok"])).await;
    db.enqueue(toys("globex", 100..140, &["ok"])).await;
    eventually("the other tenant's jobs end", async || (100..140).all(|n| env.count(Some(n), "end") == 1)).await;
    eventually("nobody holds a slot", async || db.one::<i64>("select count(*) from backhaul.leases").await == 0).await;
    assert_eq!(env.order("start").iter().filter(|n| **n < 100).count(), 1, "only the one that was refused has started");

    db.run("update backhaul.buckets set blocked_until = now()").await;
    db.hurry().await;
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    for worker in fleet {
        worker.stop().await;
    }
    let tried: i64 = db
        .one("select count(*) from backhaul.events where type in ('dev.backhaul.job.retried', 'dev.backhaul.job.dead')")
        .await;
    assert_eq!(tried, 0, "no try was spent");
}

/// Where the bucket of a tenant stands.
async fn bucket(db: &Database) -> (bool, bool) {
    let rows: Vec<(bool, bool)> = db
        .rows(
            "select probing, coalesce(blocked_until > clock_timestamp(), false) from backhaul.buckets
             where tenant = 'acme' and name = 'toy/box'",
        )
        .await;
    rows.first().copied().unwrap_or((false, false))
}

/// Lets the ten seconds between two probes pass.
async fn let_probe(db: &Database) {
    db.run("update backhaul.buckets set blocked_until = clock_timestamp() where tenant = 'acme'").await;
    db.hurry().await;
}

/// Covers row 208: the host is down, and 300 jobs want it. Ten failures in a row close its bucket for all workers; then
/// one job at a time tries it, at most every ten seconds, until the first success opens it.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_probed_by_one_job_at_a_time() {
    let db = database().await;
    let env = ToyEnv::new();
    env.set_down(true);
    db.enqueue(toys("acme", 0..300, &["call"])).await;
    let fleet: Vec<Worker> = (0..3).map(|_| worker(&db, &env)).collect();
    let idle = async || db.one::<i64>("select count(*) from backhaul.leases").await == 0;
    eventually("the bucket closes", async || bucket(&db).await == (true, true)).await;
    // A claim that had begun before brings its jobs still.
    eventually("claims that were under way end", async || {
        db.one::<bool>(
            "select not exists (select from pg_stat_activity where datname = current_database() and state = 'active'
                                and query like '%backhaul.claim(%' and pid <> pg_backend_pid())",
        )
        .await
    })
    .await;
    eventually("nobody holds a job", idle).await;
    let tried = env.count(None, "start");
    // Each worker needs ten failures to be sure, and has sixteen jobs in its hands.
    assert!((10..=3 * (10 + 16)).contains(&tried), "{tried} tries before it closed");
    for round in 0..6 {
        let tried = tried + round;
        let_probe(&db).await;
        eventually("one job tries", async || env.count(None, "start") > tried && idle().await).await;
        // Its failure was settled, so it closed the bucket again for ten seconds: everybody else has had the chance.
        assert_eq!(env.count(None, "start"), tried + 1, "round {round}");
        assert_eq!(bucket(&db).await, (true, true), "round {round}: closed until the next probe");
    }
    let until: f64 =
        db.one("select extract(epoch from blocked_until - now())::double precision from backhaul.buckets").await;
    assert!(until <= 10.0, "{until} s to the next probe");

    env.set_down(false);
    let_probe(&db).await;
    eventually("the first success opens it", async || bucket(&db).await == (false, false)).await;
    eventually("all jobs end", async || {
        db.hurry().await;
        db.unfinished().await == 0
    })
    .await;
    for worker in fleet {
        worker.stop().await;
    }
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
}

/// A probe that needs two calls of the closed bucket gets both: otherwise no job of such a kind could ever open it.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_gets_to_its_end() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run(
        "insert into backhaul.buckets (tenant, name, probing, blocked_until, blocked_why)
         values ('acme', 'toy/box', true, clock_timestamp(), 'upstream down: toy_down')",
    )
    .await;
    db.enqueue(toys("acme", 0..20, &["calls"])).await;
    let worker = worker(&db, &env);
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(bucket(&db).await, (false, false));
    assert_eq!(env.count(Some(0), "start"), 1, "the probe was not sent back");
}

/// A refusal is an answer: the upstream is up, though the probe was a job that is wrong in itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_refused_opens_the_bucket() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run(
        "insert into backhaul.buckets (tenant, name, probing, blocked_until) values ('acme', 'toy/box', true, now())",
    )
    .await;
    db.enqueue(toys("acme", 0..1, &["refused"])).await;
    let worker = worker(&db, &env);
    eventually("it is dead", async || db.one::<i64>("select count(*) from backhaul.dead_letters").await == 1).await;
    assert_eq!(bucket(&db).await, (false, false));
    worker.stop().await;
}

/// A backfill has its part of the limit, and leaves the rest to other work.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_leaves_the_rest_of_the_limit_alone() {
    let db = database().await;
    db.run(
        "select backhaul.bucket_limit('acme', 'toy/box', 6000);
         select backhaul.set_backfill_share('acme', 'toy/box', 0.25);
         update backhaul.buckets set tokens = 0, backfill_tokens = 0, refilled_at = clock_timestamp() - interval '500 ms'",
    )
    .await;
    // Some 48 tokens have come back, a quarter of them for backfill. A slow machine finds more.
    let backfill: i32 = db.one("select granted from backhaul.bucket_take('acme', 'toy/box', 1000, true)").await;
    assert!((12..28).contains(&backfill), "{backfill}");
    let other: i32 = db.one("select granted from backhaul.bucket_take('acme', 'toy/box', 1000, false)").await;
    assert!((47..75).contains(&(backfill + other)) && other >= 27, "{backfill} and {other}");
    // Who gets nothing learns how long to wait for his own part, not for the others'.
    db.run("update backhaul.buckets set tokens = 100, backfill_tokens = -1, refilled_at = now() + interval '1 hour'")
        .await;
    let (granted, wait_ms): (i32, i64) =
        db.rows("select granted, wait_ms from backhaul.bucket_take('acme', 'toy/box', 1, true)").await[0];
    assert_eq!(granted, 0);
    assert_eq!(wait_ms, 83, "two tokens at 24.4 a second");

    // In the workers' hands: with no token left for it, a backfill waits and other work of the tenant runs.
    let env = ToyEnv::new();
    db.run("update backhaul.buckets set backfill_tokens = -100000, refilled_at = now()").await;
    let mut jobs = toys("acme", 0..5, &["ok"]);
    for job in &mut jobs {
        job["priority"] = json!("backfill");
    }
    jobs.extend(toys("acme", 100..110, &["ok"]));
    db.enqueue(jobs).await;
    let worker = worker(&db, &env);
    eventually("other work ends", async || (100..110).all(|n| env.count(Some(n), "end") == 1)).await;
    assert_eq!(env.order("start").iter().filter(|n| **n < 100).count(), 0);
    db.run("select backhaul.set_backfill_share('acme', 'toy/box', 1)").await;
    eventually("the backfill ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
}

/// Jobs that expired while they waited become dead letters at once: no request leaves for them, so they take no token from
/// those behind them. At one a second these would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_costs_no_token() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run("select backhaul.bucket_limit('acme', 'toy/box', 60)").await;
    db.enqueue(toys("acme", 0..300, &["ok"])).await;
    db.run("update backhaul.jobs set deadline_at = now() - interval '1 minute'").await;
    db.enqueue(toys("acme", 1_000..1_001, &["ok"])).await;
    let worker = worker(&db, &env);
    db.drained().await;
    worker.stop().await;
    assert_eq!(env.order("start"), [1_000]);
    assert_eq!(
        db.one::<i64>("select count(*) from backhaul.dead_letters where reason = 'deadline_exceeded'").await,
        300
    );
}

/// An upstream's pauses cost no try, so that a job may meet any number of them: its history has them once, with their
/// number, and keeps the failures before them.
///
/// Covers row 28.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_do_not_push_failures_out_of_a_jobs_history() {
    let db = database().await;
    let env = ToyEnv::new();
    let toy = (0..30).fold(Toy::new(0).act("transient"), |toy, _| toy.act("throttle:1")).act("permanent");
    db.toys(&[toy]).await;
    let worker = worker(&db, &env);
    db.drained_in_a_hurry().await;
    worker.stop().await;
    let told: Vec<(String, Option<i64>)> = db
        .rows(
            "select e.o ->> 'class', (e.o ->> 'times')::bigint
             from backhaul.dead_letters d cross join jsonb_array_elements(d.errors) with ordinality as e (o, n) order by e.n",
        )
        .await;
    let class = |class: &str, times| (class.to_owned(), times);
    assert_eq!(told, [class("transient", None), class("throttled", Some(30)), class("permanent", None)]);
}
