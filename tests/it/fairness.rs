//! Who is served when there is more work than hands: by priority, by age, by tenant, by weight; and who is held back.

use std::sync::Arc;

use backhaul_engine::{Failure, Job, JobContext, Registry, WorkerOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// A second kind, so that kinds can be told apart. It does what its toy does.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Other(Toy);

impl Job for Other {
    const KIND: &'static str = "other-toy";
    type Env = ToyEnv;

    async fn run(&self, env: &ToyEnv, ctx: &mut JobContext) -> Result<(), Failure> {
        self.0.run(env, ctx).await
    }
}

/// A worker of both kinds with so many slots.
fn worker(db: &Database, env: &Arc<ToyEnv>, concurrency: usize, prefetch: usize) -> Worker {
    let env = env.clone();
    let registry = move || {
        let mut registry = Registry::new();
        registry.add::<Toy>(env.clone()).add::<Other>(env.clone());
        registry
    };
    let options = WorkerOptions { concurrency, prefetch, ..Worker::patient() };
    Worker::start_kinds(db.store.clone(), registry, Vec::new, options)
}

async fn with_both_kinds() -> Database {
    let db = database().await;
    backhaul_engine::register_kinds(&db.store, &[backhaul_engine::KindSpec::of::<Other>()]).await.expect("registers");
    db
}

fn job(kind: &str, tenant: &str, priority: &str, toy: &Toy) -> Value {
    json!({ "kind": kind, "tenant": tenant, "priority": priority, "payload": toy })
}

/// `n` toys of a tenant that do `act`.
fn toys(tenant: &str, priority: &str, numbers: impl Iterator<Item = i64>, act: &str) -> Vec<Value> {
    numbers.map(|n| job(Toy::KIND, tenant, priority, &Toy::new(n).act(act))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_urgent_starts_first() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut jobs = toys("acme", "backfill", 400..430, "ok");
    jobs.extend(toys("globex", "backfill", 430..460, "ok"));
    jobs.extend(toys("acme", "normal", 200..240, "ok"));
    jobs.extend(toys("acme", "critical", 0..10, "ok"));
    db.enqueue(jobs).await;
    // Wider than a rank: what a claim has over goes to the same rank first.
    let worker = worker(&db, &env, 1, 15);
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let ranks: Vec<i64> = env.order("start").iter().map(|n| n / 200).collect();
    let sorted = {
        let mut sorted = ranks.clone();
        sorted.sort_unstable();
        sorted
    };
    // Two claims may be in the worker's hands at once, no more: nothing less urgent starts before that.
    assert_eq!(env.order("start")[..10], (0..10).collect::<Vec<_>>(), "critical work is first");
    assert_eq!(ranks, sorted, "{:?}", env.order("start"));
}

/// Another claim, or the sweep, has the most urgent work's cursor locked for a moment: what is as urgent goes on, and
/// nothing less urgent slips past.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_less_urgent_slips_past_a_cursor_that_somebody_holds() {
    let db = database().await;
    let mut jobs = toys("acme", "normal", 0..3, "ok");
    jobs.extend(toys("acme", "backfill", 3..6, "ok"));
    jobs.extend(toys("globex", "normal", 6..8, "ok"));
    let ids = db.enqueue(jobs).await;
    db.run(
        "select backhaul.promote(1000, '-infinity');
         select backhaul.register_worker('00000000-0000-4000-8000-000000000001', 'here', 1, 'test', '{toy@1}', 4)",
    )
    .await;
    let claim = "select id from backhaul.claim('00000000-0000-4000-8000-000000000001', '{toy@1}', 2, '-infinity')";
    let mut holder = db.store.pool().begin().await.expect("begins");
    sqlx::query(
        "select from backhaul.cursors c join backhaul.lanes l on l.id = c.lane
         where l.tenant = 'acme' and c.priority = 2 for update of c",
    )
    .execute(&mut *holder)
    .await
    .expect("locks");
    let claimed: Vec<(i64,)> = db.rows(claim).await;
    assert_eq!(claimed, [(ids[6],), (ids[7],)], "as urgent, of another tenant");
    assert!(db.rows::<(i64,)>(claim).await.is_empty(), "what is left is less urgent");
    holder.rollback().await.expect("lets go");
    let claimed: Vec<(i64,)> = db.rows(claim).await;
    assert_eq!(claimed, [(ids[0],), (ids[1],)]);
}

/// Work that waits grows older: after thirty seconds a level, so that a flood of normal work cannot starve a backfill.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_job_runs_while_normal_work_flows() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut jobs = toys("acme", "normal", 0..100, "wait");
    jobs.extend(toys("acme", "backfill", 900..901, "wait"));
    db.enqueue(jobs).await;
    let worker = worker(&db, &env, 1, 0);
    env.gate.add_permits(10);
    eventually("eleven have started", async || env.count(None, "start") == 11).await;
    assert!(!env.order("start").contains(&900), "it is less urgent, and young");
    // One minute without service makes it as urgent as normal work, two make it critical.
    db.run("update backhaul.cursors set served_at = clock_timestamp() - interval '2 minutes' where priority = 4").await;
    env.gate.add_permits(3);
    eventually("three more have started", async || env.count(None, "start") == 14).await;
    assert!(env.order("start").contains(&900), "{:?}", env.order("start"));
    assert!(db.unfinished().await > 80, "normal work was still waiting");
    worker.kill().await;
}

/// Covers row 206: one tenant has 5,000 jobs waiting when another brings a single one. Counted in jobs and not in
/// seconds: a machine's speed proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_job_starts_beside_another_tenants_thousands() {
    let db = database().await;
    let env = ToyEnv::new();
    db.enqueue(toys("big", "normal", 0..5_000, "wait")).await;
    let worker = worker(&db, &env, 16, 16);
    eventually("the slots are full", async || env.count(None, "start") == 16).await;
    db.enqueue(toys("small", "normal", 9_000..9_001, "wait")).await;
    env.gate.add_permits(200);
    eventually("the single job starts", async || env.count(Some(9_000), "start") == 1).await;
    let before = env.order("start").iter().position(|n| *n == 9_000).expect("started");
    // 16 ran, 16 were in the worker's hands, and one claim may have been on its way.
    assert!(before <= 16 + 16 + 32, "{before} of the big tenant's jobs started first");
    worker.kill().await;
}

/// The same for many small tenants at once: each has its job started early, none waits for the big one's backlog.
#[tokio::test(flavor = "multi_thread")]
async fn forty_tenants_are_served_beside_a_big_one() {
    let db = database().await;
    let env = ToyEnv::new();
    db.enqueue(toys("big", "normal", 0..3_000, "ok")).await;
    let small: Vec<Value> =
        (0..40).flat_map(|t| toys(&format!("t{t}"), "normal", 9_000 + t..9_001 + t, "ok")).collect();
    db.enqueue(small).await;
    // Promotion goes by age, 200 at a time; this is about claims.
    for _ in 0..20 {
        db.run("select backhaul.promote(1000, '-infinity')").await;
    }
    let worker = worker(&db, &env, 8, 8);
    eventually("all small jobs end", async || (9_000..9_040).all(|n| env.count(Some(n), "end") == 1)).await;
    worker.kill().await;
    let order = env.order("start");
    let last = order.iter().rposition(|n| *n >= 9_000).expect("started");
    assert!(last < 40 * 4, "the last of 40 started as number {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_by_weight() {
    for (concurrency, prefetch) in [(2, 0), (16, 16)] {
        let db = database().await;
        let env = ToyEnv::new();
        db.run("select backhaul.set_weight('toy', 'three', 3)").await;
        // Even numbers belong to the tenant of weight 3, odd ones to that of weight 1.
        let jobs = (0..1_200).flat_map(|n| toys(if n % 2 == 0 { "three" } else { "one" }, "normal", n..n + 1, "ok"));
        db.enqueue(jobs.collect()).await;
        for _ in 0..3 {
            db.run("select backhaul.promote(1000, '-infinity')").await;
        }
        let worker = worker(&db, &env, concurrency, prefetch);
        eventually("a window of 640 is served", async || env.count(None, "start") >= 640).await;
        worker.kill().await;
        let heavy = env.order("start").iter().take(640).filter(|n| *n % 2 == 0).count();
        assert!((440..=520).contains(&heavy), "{heavy} of 640 with {concurrency} slots; three quarters are 480");
    }
}

/// A tenant that was held back, or one that had the fleet to itself, changes nothing for the others afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn rest_earns_no_arrears_and_a_flood_makes_no_debts() {
    let db = database().await;
    let env = ToyEnv::new();
    let jobs = (0..3_000).flat_map(|n| toys(if n % 2 == 0 { "busy" } else { "rested" }, "normal", n..n + 1, "ok"));
    db.enqueue(jobs.collect()).await;
    for _ in 0..4 {
        db.run("select backhaul.promote(1000, '-infinity')").await;
    }
    db.run(
        "update backhaul.cursors c set pass = 1000000 from backhaul.lanes l where l.id = c.lane and l.tenant = 'busy'",
    )
    .await;
    let worker = worker(&db, &env, 2, 0);
    eventually("800 are served", async || env.count(None, "start") >= 800).await;
    worker.kill().await;
    let busy = env.order("start").iter().take(800).filter(|n| *n % 2 == 0).count();
    assert!(busy >= 100, "the busy tenant had {busy} of 800: the other one worked off a million");
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_hold_back_a_kind_a_tenant_or_both() {
    for (kind, tenant) in [("toy", "*"), ("*", "acme"), ("toy", "acme"), ("*", "*")] {
        let db = with_both_kinds().await;
        let env = ToyEnv::new();
        let combinations = [("toy", "acme"), ("toy", "globex"), ("other-toy", "acme"), ("other-toy", "globex")];
        let held = |k: &str, t: &str| (kind == "*" || kind == k) && (tenant == "*" || tenant == t);
        let put = "select backhaul.pause($1, $2, 'tester', 'a test')";
        let new: bool =
            sqlx::query_scalar(put).bind(kind).bind(tenant).fetch_one(db.store.pool()).await.expect("pauses");
        assert!(new);
        let again: bool =
            sqlx::query_scalar(put).bind(kind).bind(tenant).fetch_one(db.store.pool()).await.expect("pauses");
        assert!(!again, "it was paused already");

        let worker = worker(&db, &env, 4, 4);
        let jobs = |base: i64| -> Vec<Value> {
            combinations.iter().zip(base..).map(|((k, t), n)| job(k, t, "normal", &Toy::new(n))).collect()
        };
        db.enqueue(jobs(0)).await;
        // A second wave, so that the first was passed over by claims that took others.
        db.enqueue(jobs(10)).await;
        let free: Vec<i64> = combinations.iter().zip(0..).filter(|((k, t), _)| !held(k, t)).map(|(_, n)| n).collect();
        // Two of one lane may be in hand together, and the first start last.
        eventually("what is not held back runs", async || {
            free.iter().flat_map(|n| [*n, *n + 10]).all(|n| env.count(Some(n), "end") == 1)
        })
        .await;
        assert_eq!(env.order("start").len(), free.len() * 2, "{kind}/{tenant}: {:?}", env.order("start"));

        let go = "select backhaul.resume($1, $2, 'tester', null)";
        let was: bool =
            sqlx::query_scalar(go).bind(kind).bind(tenant).fetch_one(db.store.pool()).await.expect("resumes");
        assert!(was);
        eventually("all jobs end", async || db.unfinished().await == 0).await;
        worker.stop().await;
        assert_eq!(env.count(None, "end"), 8);
        let told: Vec<(String,)> =
            db.rows("select type from backhaul.events where subject like 'queue/%' order by id").await;
        assert_eq!(told.len(), 2, "the second pause changed nothing: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_in_the_whole_fleet() {
    let db = with_both_kinds().await;
    let env = ToyEnv::new();
    db.run("select backhaul.set_cap('toy', '*', 5); select backhaul.set_cap('toy', 'acme', 2)").await;
    let mut jobs = toys("acme", "normal", 0..20, "wait");
    jobs.extend(toys("globex", "normal", 100..120, "wait"));
    jobs.extend((200..215).map(|n| job("other-toy", "acme", "normal", &Toy::new(n).act("wait"))));
    db.enqueue(jobs).await;
    // Slots for all that may run, and no more than slots: a job in a worker's hands counts, started or not.
    let fleet: Vec<Worker> = (0..3).map(|_| worker(&db, &env, 8, 0)).collect();
    let started = |from: i64, to: i64| env.order("start").iter().filter(|n| (from..to).contains(*n)).count();
    eventually("the caps are reached, and the other kind is not capped", async || {
        started(0, 200) == 5 && started(200, 300) == 15
    })
    .await;
    // A few permits at a time, so that room appears over and over in all three workers.
    for _ in 0..25 {
        let ended = env.count(None, "end");
        env.gate.add_permits(2);
        eventually("two more end", async || env.count(None, "end") >= ended + 2).await;
    }
    env.gate.add_permits(55);
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    for worker in fleet {
        worker.stop().await;
    }
    assert_eq!(env.most_at_once(|n| n < 200), 5, "a cap is reached and never exceeded");
    assert_eq!(env.most_at_once(|n| n < 100), 2);
    assert!(env.most_at_once(|n| n >= 200) > 5);
}

/// Lanes that cannot be served now are passed over: sixteen of them must not hide the others, nor take the last slot.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_hides_nobody() {
    let db = with_both_kinds().await;
    let env = ToyEnv::new();
    // Thirty tenants without a token left, thirty behind a full cap, all of them older than the one that can run.
    let mut jobs: Vec<Value> = (0..30).flat_map(|t| toys(&format!("paced{t}"), "normal", t..t + 1, "ok")).collect();
    jobs.extend((100..130).map(|n| job("other-toy", &format!("capped{n}"), "normal", &Toy::new(n).act("wait"))));
    db.enqueue(jobs).await;
    db.run(
        "insert into backhaul.buckets (tenant, name, per_minute, tokens) select 'paced' || t, 'toy/box', 1, -1000
             from generate_series(0, 29) t;
         select backhaul.set_cap('other-toy', '*', 1)",
    )
    .await;
    db.run("select backhaul.promote(1000, '-infinity')").await;
    db.run("update backhaul.cursors set served_at = clock_timestamp() - interval '1 minute'").await;
    let worker = worker(&db, &env, 2, 0);
    eventually("the cap is full", async || env.count(None, "start") == 1).await;
    db.enqueue(toys("free", "normal", 500..520, "ok")).await;
    eventually("the free tenant's jobs end", async || (500..520).all(|n| env.count(Some(n), "end") == 1)).await;
    assert_eq!(env.order("start").iter().filter(|n| **n < 500).count(), 1, "{:?}", env.order("start"));
    worker.kill().await;
}

/// A job that must run alone is held back like any other, and stops nobody while it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_must_run_alone_is_held_back_too() {
    let db = with_both_kinds().await;
    let env = ToyEnv::new();
    db.enqueue(vec![job("other-toy", "acme", "normal", &Toy::new(1))]).await;
    db.run("select backhaul.promote(1, '-infinity'); update backhaul.jobs set rescues = 2, seq = null, due_at = now()")
        .await;
    db.run("select backhaul.pause('other-toy')").await;
    let worker = worker(&db, &env, 4, 4);
    db.enqueue(toys("acme", "normal", 100..104, "wait")).await;
    eventually("four wait at the gate", async || env.count(None, "start") == 4).await;
    // A worker that waited for its hands to be empty would claim nothing now.
    db.enqueue(toys("acme", "normal", 200..201, "ok")).await;
    eventually("the worker claims on", async || {
        db.one::<i64>("select count(*) from backhaul.job_states where state = 'running'").await == 5
    })
    .await;
    assert_eq!(env.count(Some(1), "start"), 0);
    env.gate.add_permits(4);
    db.run("select backhaul.resume('other-toy')").await;
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(env.count(Some(1), "end"), 1);
}
