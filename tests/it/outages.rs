//! What breaks for a while and comes back: the server, its connections, the settling of outcomes. Whoever was
//! acknowledged is served, every job ends once, and workers go on by themselves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_engine::WorkerOptions;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::support::{Database, Ledger, Server, Toy, ToyEnv, ToyProcess, Worker, database, eventually, scratch};

const PRODUCERS: i64 = 2;
const WORKERS: usize = 2;
/// How often the server is stopped.
const STOPS: usize = 20;
/// How often all connections are closed.
const CUTS: usize = 40;
/// Jobs that end between two faults, so that each strikes in the middle of work.
const PROGRESS: i64 = 20;

/// A fifth of the toys have a key: five keys for each producer, so that their numbers tell their order.
fn key(n: i64) -> i64 {
    n / 1_000_000 * 100 + n % 25
}

/// Enqueues jobs of every sort until `done`, whatever happens to the server: a job that was not acknowledged is sent
/// again under its idempotency key, on a new connection. Returns what was acknowledged.
async fn produce(url: String, producer: i64, done: Arc<AtomicBool>) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    let mut connection: Option<PgConnection> = None;
    let mut n = producer * 1_000_000;
    while !done.load(Ordering::Relaxed) {
        // Slow on purpose: jobs come as long as there are faults, and not more than workers get done between two.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let Some(open) = &mut connection else {
            connection = PgConnection::connect(&url).await.ok();
            continue;
        };
        let mut toy = Toy::new(n).act(if n % 4 == 0 { "steps" } else { "ok" });
        if n % 5 == 0 {
            toy = toy.keyed(&format!("k{}", key(n)));
        }
        let sent: Result<i64, _> =
            sqlx::query_scalar("select job_id from backhaul.enqueue('toy', $1, idempotency_key => $2)")
                .bind(sqlx::types::Json(toy))
                .bind(format!("toy {n}"))
                .fetch_one(open)
                .await;
        match sent {
            Ok(id) => {
                acknowledged.push(id);
                n += 1;
            }
            Err(_) => connection = None,
        }
    }
    acknowledged
}

/// How many jobs have ended; none while the server is away.
async fn ended(db: &Database) -> Option<i64> {
    sqlx::query_scalar("select count(*) from backhaul.events where type like '%.job.completed'")
        .fetch_one(db.store.pool())
        .await
        .ok()
}

/// Lets producers and workers run through `faults` faults of one sort, and checks that nothing is lost.
async fn survives(db: &Database, ledger: &Ledger, faults: usize, mut fault: impl AsyncFnMut()) {
    let done = Arc::new(AtomicBool::new(false));
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        producers.spawn(produce(db.url.clone(), producer, done.clone()));
    }
    let workers: Vec<ToyProcess> = (0..WORKERS).map(|_| ToyProcess::start(&db.url, ledger, 16)).collect();
    let mut before = 0;
    for _ in 0..faults {
        eventually("jobs end", async || ended(db).await.is_some_and(|now| now >= before + PROGRESS)).await;
        fault().await;
        before = loop {
            if let Some(now) = ended(db).await {
                break now;
            }
        };
    }
    done.store(true, Ordering::Relaxed);
    let acknowledged: Vec<i64> = producers.join_all().await.concat();
    eventually("all jobs end and nothing is held", async || {
        // The answer to a claim may have been lost: its lease goes back half a minute after it was made.
        db.run(
            "update backhaul.leases set claimed_at = claimed_at - interval '1 minute'
             where claimed_at < clock_timestamp() - interval '3 s'",
        )
        .await;
        db.hurry().await;
        db.unfinished().await == 0 && db.one::<i64>("select count(*) from backhaul.leases").await == 0
    })
    .await;
    assert!(acknowledged.len() > faults * 10, "{} jobs are no load", acknowledged.len());
    db.assert_ended_once(&acknowledged).await;
    db.assert_sealed_in_order().await;
    // A database that is away is no failure of a job, so none of them used its tries up.
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 0);
    // Whoever runs a job still has it, and the claim that reserved its key was on the disk before it ran.
    ledger.assert_ordered(|n| (n % 5 == 0).then_some(key(n)));
    for mut worker in workers {
        assert!(worker.lives(), "a worker ended by itself");
        worker.kill(ledger);
    }
}

/// Covers row 201 for the server: stopped at once, twenty times, in the middle of everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_again_and_again_loses_nothing() {
    let server = Server::start(&scratch("outages")).await;
    let db = server.database().await;
    let ledger = Ledger::new("outages-server");
    survives(&db, &ledger, STOPS, async || tokio::task::block_in_place(|| server.restart_at_once())).await;
}

/// Covers row 201 for connections.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_again_and_again_lose_nothing() {
    let db = database().await;
    let ledger = Ledger::new("outages-connections");
    let cut = async || {
        db.run(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    };
    survives(&db, &ledger, CUTS, cut).await;
}

/// Makes the writing of events fail with an SQLSTATE, for one toy or for all, until it is mended. A sequence counts how
/// often it did.
async fn break_settling(db: &Database, sqlstate: &str, toy: Option<i64>) {
    let whose = toy.map_or_else(String::new, |job| format!("when (new.job_id = {job})"));
    let sql = format!(
        "create schema fault;
         create sequence fault.failures minvalue 0 start 0;
         select nextval('fault.failures');
         create function fault.fail() returns trigger language plpgsql as $$
         begin
             perform nextval('fault.failures');
             raise exception 'broken for a while' using errcode = '{sqlstate}';
         end $$;
         create trigger fault before insert on backhaul.events for each row {whose} execute function fault.fail()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db.store.pool()).await.expect("breaks");
}

async fn failures(db: &Database) -> i64 {
    db.one("select last_value from fault.failures").await
}

async fn mend_settling(db: &Database) {
    db.run("drop schema fault cascade").await;
}

/// The disk is full for a while: outcomes wait in the worker's hands and are written when there is room. No job runs
/// again for it.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_wait_for_a_full_disk() {
    let db = database().await;
    let ledger = Ledger::new("outages-disk");
    break_settling(&db, "53100", None).await;
    let ids = db.toys(&(0..40).map(Toy::new).collect::<Vec<_>>()).await;
    let mut worker = ToyProcess::start(&db.url, &ledger, 16);
    eventually("it tries again and again", async || failures(&db).await >= 3).await;
    assert!(db.ends().await.is_empty());
    mend_settling(&db).await;
    db.drained().await;
    assert!(worker.lives());
    worker.kill(&ledger);
    db.assert_ended_once(&ids).await;
    let mut ran = ledger.order("start");
    ran.sort_unstable();
    assert_eq!(ran, (0..40).collect::<Vec<_>>());
}

/// Gives back what workers have let go of: half a minute after its claim, which is now.
async fn half_a_minute_later(db: &Database) {
    db.run("update backhaul.leases set claimed_at = claimed_at - interval '31 s'").await;
}

/// The floor of the only cursor has moved beyond a job's place: the sweep looks there no more.
async fn out_of_sight(db: &Database, job: i64) {
    eventually("the floor passes it", async || {
        sqlx::query_scalar("select c.floor >= j.seq from backhaul.cursors c, backhaul.jobs j where j.id = $1")
            .bind(job)
            .fetch_one(db.store.pool())
            .await
            .expect("looks")
    })
    .await;
}

/// An outcome is refused for a reason that does not look passing. Its neighbours in the lease end meanwhile, and it is
/// not forgotten with them.
///
/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_outcome_is_not_forgotten_with_its_lease() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(0), Toy::new(1).act("wait")]).await;
    break_settling(&db, "P0001", Some(ids[0])).await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("it is refused", async || failures(&db).await >= 1).await;
    out_of_sight(&db, ids[0]).await;
    mend_settling(&db).await;
    env.gate.add_permits(1);
    eventually("its neighbour ends", async || db.ends().await == [(ids[1], 1)]).await;
    half_a_minute_later(&db).await;
    db.drained().await;
    eventually("nothing is held", async || db.one::<i64>("select count(*) from backhaul.leases").await == 0).await;
    worker.stop().await;
    db.assert_ended_once(&ids).await;
    assert_eq!(env.count(Some(0), "start"), 2);
}

/// A server that lost its last commits has a job back whose end its worker was told of: the lease is not ended before
/// the job has ended again.
///
/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn a_settle_that_the_server_forgot_is_made_up_for() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(0).act("wait"), Toy::new(1).act("wait")]).await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("both run", async || env.order("start").len() == 2).await;
    db.run("create schema fault; create table fault.jobs as table backhaul.jobs").await;
    env.gate.add_permits(1);
    eventually("one ends", async || db.unfinished().await == 1).await;
    let ended = if env.count(Some(0), "end") == 1 { ids[0] } else { ids[1] };
    db.run(
        "delete from backhaul.events;
         insert into backhaul.jobs select * from fault.jobs where id not in (select id from backhaul.jobs)",
    )
    .await;
    out_of_sight(&db, ended).await;
    env.gate.add_permits(1);
    eventually("the other ends", async || db.unfinished().await == 1).await;
    env.gate.add_permits(1);
    half_a_minute_later(&db).await;
    db.drained().await;
    worker.stop().await;
    db.assert_ended_once(&ids).await;
    assert_eq!(env.order("start").len(), 3);
}

/// A server that crashed has forgotten a claim, and the same worker, whose attempt runs on, claims the job again. Both
/// attempts end while a settle is under way, so that the next one has them both. One end is told.
///
/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_twice_in_the_same_hands_ends_once() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut ids = db.toys(&[Toy::new(0).act("wait")]).await;
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("it runs", async || env.count(Some(0), "start") == 1).await;
    db.run("delete from backhaul.leases; update backhaul.jobs set seq = null, due_at = clock_timestamp()").await;
    db.hurry().await;
    eventually("it runs twice", async || env.count(Some(0), "start") == 2).await;
    let mut settles = db.store.pool().begin().await.expect("begins");
    sqlx::raw_sql("lock table backhaul.events in exclusive mode").execute(&mut *settles).await.expect("locks");
    ids.extend(db.toys(&[Toy::new(1)]).await);
    let waits = "select exists (select from pg_stat_activity where datname = current_database()
                                and wait_event_type = 'Lock' and query like '%backhaul.settle(%')";
    eventually("another job's settle is under way", async || db.one::<bool>(waits).await).await;
    env.gate.add_permits(2);
    eventually("both end", async || env.count(Some(0), "end") == 2).await;
    settles.rollback().await.expect("lets go");
    db.drained().await;
    worker.stop().await;
    db.assert_ended_once(&ids).await;
}

/// Nobody's heartbeat comes through while the database is away for long, and nobody looks for missing ones either. When it
/// is back, all have their time again: no job counts a crash that was none. Who is silent even then is given up.
///
/// Covers row 205.
#[tokio::test]
async fn a_long_outage_is_nobodys_crash() {
    let db = database().await;
    db.toys(&[Toy::new(0)]).await;
    db.run(
        "select backhaul.register_worker('00000000-0000-4000-8000-000000000001', 'here', 1, 'test', '{toy@1}', 1);
         select * from backhaul.claim('00000000-0000-4000-8000-000000000001', '{toy@1}', 1, '-infinity');
         select backhaul.rescue('15 s', '0');
         update backhaul.workers set heartbeat_at = heartbeat_at - interval '20 s';
         update backhaul.maintenance set ran_at = ran_at - interval '20 s' where task = 'rescue'",
    )
    .await;
    assert_eq!(db.one::<i32>("select backhaul.rescue('15 s', '0')").await, 0, "nobody looked either");
    assert_eq!(db.one::<i32>("select backhaul.rescue('15 s', '0')").await, 0, "it has its fifteen seconds again");
    assert_eq!(db.one::<i64>("select count(*) from backhaul.leases").await, 1);
    db.run("update backhaul.workers set heartbeat_at = heartbeat_at - interval '20 s'").await;
    assert_eq!(db.one::<i32>("select backhaul.rescue('15 s', '0')").await, 1, "silent while others looked");
    assert_eq!(db.one::<i64>("select rescues::bigint from backhaul.jobs").await, 1);
}

/// What a worker looks for rarely, it must not take for an outage each time: nobody would ever be given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_sweeps_rarely_rescues_all_the_same() {
    let db = database().await;
    db.toys(&[Toy::new(0)]).await;
    db.run(
        "select backhaul.register_worker('00000000-0000-4000-8000-000000000001', 'here', 1, 'test', '{toy@1}', 1);
         select * from backhaul.claim('00000000-0000-4000-8000-000000000001', '{toy@1}', 1, '-infinity')",
    )
    .await;
    let env = ToyEnv::new();
    let options = WorkerOptions {
        heartbeat: Duration::from_millis(200),
        dead_after: Duration::from_secs(2),
        sweep: Duration::from_secs(60),
        ..Worker::patient()
    };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    eventually("the job is rescued and ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
}
