//! A worker that was given up for dead writes nothing, whatever it still believes; a rescue costs nobody an attempt.

use std::{sync::Arc, time::Duration};

use backhaul_engine::WorkerOptions;
use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::support::{Database, Ledger, PATIENCE, Toy, ToyEnv, ToyProcess, Worker, database, eventually};

/// One job at once and none in reserve, and after the first heartbeat no other: it neither claims nor beats while its
/// job runs, so it does not learn that it was given up.
fn stalled() -> WorkerOptions {
    WorkerOptions { heartbeat: PATIENCE * 10, ..full_with(1) }
}

/// No more than so many jobs in hand.
fn full_with(jobs: usize) -> WorkerOptions {
    WorkerOptions { concurrency: jobs, prefetch: 0, ..Worker::patient() }
}

/// Gives up whoever is silent, as soon as it is.
fn rescuer() -> WorkerOptions {
    WorkerOptions { dead_after: Duration::from_secs(5), ..Worker::options() }
}

async fn running(env: &ToyEnv, n: i64, tries: usize) {
    eventually("the job runs", async || env.count(Some(n), "start") == tries).await;
}

async fn workers(db: &Database) -> i64 {
    db.one("select count(*) from backhaul.workers").await
}

/// A stalls past its lease, B finishes, A finishes as well: A's outcome is refused, and A works on under another name.
/// The toy's first try waits for the gate, the second one does what `second` says.
async fn stalls_and_finishes(first: &str, second: &str) -> (Database, Arc<ToyEnv>, i64) {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act(first).act(second)]).await[0];
    let a = Worker::start_with(db.store.clone(), &env, stalled());
    running(&env, 1, 1).await;
    let name: Uuid = db.one("select id from backhaul.workers").await;
    db.give_up_workers().await;
    let b = Worker::start_with(db.store.clone(), &env, rescuer());
    eventually("the other worker finishes the job", async || db.unfinished().await == 0).await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events where type like '%.job.%'").await, 1);
    b.stop().await;

    env.gate.add_permits(1);
    eventually("the stalled worker comes back under another name", async || {
        let names: Vec<(Uuid,)> = db.rows("select id from backhaul.workers").await;
        names.len() == 1 && names[0].0 != name
    })
    .await;
    db.toys(&[Toy::new(2)]).await;
    eventually("it works on", async || env.count(Some(2), "end") == 1 && db.unfinished().await == 0).await;
    a.stop().await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.leases").await, 0);
    (db, env, id)
}

/// Covers row 202.
#[tokio::test(flavor = "multi_thread")]
async fn a_finish_without_the_lease_is_refused() {
    let (db, env, id) = stalls_and_finishes("wait", "ok").await;
    assert_eq!(env.count(Some(1), "end"), 2, "both workers ran it to its end");
    assert_eq!(db.told(id).await, ["job.completed"]);
    assert_eq!(db.ends().await.iter().filter(|(job, _)| *job == id).count(), 1);
}

/// A stalls past its lease, B has the job in its hands, A finishes: the job stays B's, until B has finished.
///
/// Covers row 202.
#[tokio::test(flavor = "multi_thread")]
async fn a_finish_without_the_lease_takes_nothing_from_the_one_who_has_it() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act("wait")]).await[0];
    let a = Worker::start_with(db.store.clone(), &env, stalled());
    running(&env, 1, 1).await;
    let name: Uuid = db.one("select id from backhaul.workers").await;
    db.give_up_workers().await;
    let b = Worker::start_with(db.store.clone(), &env, rescuer());
    running(&env, 1, 2).await;
    // The gate lets the first comer pass first, which is A.
    env.gate.add_permits(1);
    eventually("A has finished and comes back under another name", async || {
        let names: Vec<(Uuid,)> = db.rows("select id from backhaul.workers").await;
        env.count(Some(1), "end") == 1 && names.len() == 2 && names.iter().all(|(one,)| *one != name)
    })
    .await;
    assert_eq!((db.unfinished().await, db.told(id).await.len()), (1, 0), "the job is still B's");
    env.gate.add_permits(1);
    db.drained().await;
    a.stop().await;
    b.stop().await;
    assert_eq!(env.count(Some(1), "start"), 2);
    assert_eq!(db.told(id).await, ["job.completed"]);
}

/// Processes are stopped in the middle of their jobs, given up, and go on when these are in other hands: neither an
/// outcome of any sort nor a step of theirs is accepted, and they work on under other names.
///
/// Covers row 202 for processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_wakes_after_its_leases_were_given_away_writes_nothing() {
    let db = database().await;
    let (ledger, env) = (Ledger::new("fencing-wakes"), ToyEnv::new());
    let acts = ["wait", "wait steps", "wait transient", "wait permanent"];
    let toys: Vec<Toy> = (0..).zip(acts).map(|(n, act)| Toy::new(n).act(act)).collect();
    let ids = db.toys(&toys).await;
    // One each, so that none learns from another one's outcome that it was given up.
    let asleep: Vec<ToyProcess> = ids.iter().map(|_| ToyProcess::start_unheard(&db.url, &ledger, 1)).collect();
    eventually("all run", async || ledger.order("start").len() == ids.len()).await;
    for process in &asleep {
        process.signal(Signal::SIGSTOP);
        db.give_up_process(process.id()).await;
    }
    let awake = Worker::start_with(db.store.clone(), &env, full_with(ids.len()));
    eventually("all run again", async || env.order("start").len() == ids.len()).await;

    ledger.open_gate();
    for process in &asleep {
        process.signal(Signal::SIGCONT);
        eventually("it comes back under another name", async || db.knows_process(process.id()).await).await;
    }
    assert_eq!(ledger.calls(1, "a").len(), 1, "it called its step, and could not store it");
    assert_eq!(ledger.calls(1, "b").len(), 0);
    let next = db.toys(&[Toy::new(9)]).await;
    eventually("it works on", async || ledger.count(Some(9), "end") == 1 && db.ends().await == [(next[0], 1)]).await;
    let written = "select (select count(*) from backhaul.events) + (select count(*) from backhaul.steps)
        + (select count(*) from backhaul.dead_letters) + (select sum(attempt) from backhaul.jobs)::bigint";
    assert_eq!(db.one::<i64>(written).await, 1, "only what it did under its new name");
    let state: Vec<(i64, String)> = db.rows("select id, state from backhaul.job_states order by id").await;
    assert_eq!(state, ids.iter().map(|id| (*id, "running".to_owned())).collect::<Vec<_>>());

    env.gate.add_permits(2 * ids.len());
    db.drained_in_a_hurry().await;
    awake.stop().await;
    for process in asleep {
        process.kill(&ledger);
    }
    db.assert_ended_once(&[ids, next].concat()).await;
}

/// Covers row 202: no outcome of any sort goes through, and neither do the events that belong to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_without_the_lease_is_refused() {
    let (db, _, id) = stalls_and_finishes("wait permanent", "ok").await;
    assert_eq!(db.told(id).await, ["job.completed"]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
}

/// Covers row 202: a retry of the stalled worker does not bring a finished job back.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_without_the_lease_is_refused() {
    let (db, _, id) = stalls_and_finishes("wait transient", "permanent").await;
    assert_eq!(db.told(id).await, ["job.dead"]);
    assert_eq!(db.one::<i64>("select attempt::bigint from backhaul.dead_letters").await, 0);
}

/// Covers row 202: a step of the stalled worker is refused, with its events and memories.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_the_lease_is_refused() {
    let (db, env, id) = stalls_and_finishes("wait steps", "ok").await;
    assert_eq!(db.told(id).await, ["job.completed"]);
    assert_eq!(env.count(Some(1), "step b"), 0, "it stops at the first step that is refused");
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.memories").await, 0);
}

/// Two workers may notice a third one's silence at the same moment; its job runs once more, and no try is counted.
#[tokio::test(flavor = "multi_thread")]
async fn two_rescuers_rescue_once_and_it_costs_no_attempt() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&(0..10).map(|n| Toy::new(n).act("hang").act("wait")).collect::<Vec<_>>()).await;
    let dead = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("all run", async || env.order("start").len() == ids.len()).await;
    dead.kill().await;
    db.give_up_workers().await;
    let rescuers = [(); 2].map(|()| Worker::start_with(db.store.clone(), &env, rescuer()));
    eventually("all run again", async || env.order("start").len() == 2 * ids.len()).await;
    let state: Vec<(i64, i64)> = db.rows("select attempt::bigint, rescues::bigint from backhaul.jobs").await;
    assert_eq!(state, vec![(0, 1); ids.len()]);
    env.gate.add_permits(ids.len());
    eventually("all end", async || db.unfinished().await == 0).await;
    for rescuer in rescuers {
        rescuer.stop().await;
    }
    assert_eq!(env.order("start").len(), 2 * ids.len(), "no job ran a third time");
    assert_eq!(db.ends().await, ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>());
}

/// The reply to a claim is lost with its connection: the database knows a lease that its worker does not. The worker
/// lives and beats, so nobody rescues it; its own heartbeat gives the jobs back.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_lost_claim_go_back() {
    let db = database().await;
    let env = ToyEnv::new();
    let blocked = WorkerOptions { concurrency: 1, prefetch: 0, ..Worker::patient() };
    db.toys(&[Toy::new(0).act("wait")]).await;
    let worker = Worker::start_with(db.store.clone(), &env, blocked);
    running(&env, 0, 1).await;
    db.toys(&[Toy::new(1), Toy::new(2)]).await;
    db.run(
        "select * from backhaul.claim((select id from backhaul.workers), array['toy@1'], 100, '-infinity');
         update backhaul.leases set claimed_at = claimed_at - interval '1 minute'
         where seqs && (select array_agg(seq) from backhaul.jobs where payload ->> 'n' <> '0')",
    )
    .await;
    env.gate.add_permits(1);
    eventually("all end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!((env.count(Some(1), "start"), env.count(Some(2), "start")), (1, 1));
    assert_eq!(db.one::<i64>("select count(*) from backhaul.leases").await, 0);
}

/// The database tells every worker that its time is an hour later than it is, which is a worker whose own clock is an
/// hour ahead. Nobody's job is taken early, and new ones are found and done.
///
/// Covers row 212.
#[tokio::test(flavor = "multi_thread")]
async fn a_workers_clock_takes_nothing_early() {
    for shift in ["1 hour", "-1 hour"] {
        let db = database().await;
        let sql = format!(
            "alter function backhaul.register_worker rename to register_worker_now;
             alter function backhaul.heartbeat rename to heartbeat_now;
             create function backhaul.register_worker(a uuid, b text, c integer, d text, e text[], f integer)
             returns timestamptz language sql as $$
                 select backhaul.register_worker_now(a, b, c, d, e, f) + interval '{shift}' $$;
             create function backhaul.heartbeat(a uuid, b bigint[], c bigint[], d boolean,
                                                out alive boolean, out now timestamptz, out gone bigint[])
             language sql as $$
                 select h.alive, h.now + interval '{shift}', h.gone from backhaul.heartbeat_now(a, b, c, d) h $$"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db.store.pool()).await.expect("shifts the clock");
        let env = ToyEnv::new();
        db.toys(&[Toy::new(0).act("wait")]).await;
        let first = Worker::start_with(db.store.clone(), &env, rescuer());
        running(&env, 0, 1).await;
        let second = Worker::start_with(db.store.clone(), &env, rescuer());
        eventually("both work", async || workers(&db).await == 2).await;
        db.toys(&[Toy::new(1), Toy::new(2).act("transient").act("ok"), Toy::new(3).act("throttle:100").act("ok")])
            .await;
        eventually("the new ones end", async || db.unfinished().await == 1).await;
        let looked: chrono::DateTime<chrono::Utc> =
            db.one("select ran_at + interval '1 s' from backhaul.maintenance where task = 'rescue'").await;
        eventually("rescues were looked for", async || {
            db.one::<chrono::DateTime<chrono::Utc>>("select ran_at from backhaul.maintenance where task = 'rescue'")
                .await
                > looked
        })
        .await;
        assert_eq!(env.count(Some(0), "start"), 1, "{shift}: taken from a worker that lives");
        env.gate.add_permits(1);
        eventually("all end", async || db.unfinished().await == 0).await;
        first.stop().await;
        second.stop().await;
        assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
    }
}
