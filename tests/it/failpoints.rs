//! A worker dies while each statement of the protocol is under way: SIGKILL, with a real process, at each of them by
//! name. What the server had begun then happens, or does not, or happens long after the worker was given up. Every job
//! ends once all the same, in the order of its key, and a finished step is not repeated.
//!
//! A trigger of the test's own makes the statement wait in its middle. The server does not notice that its client is
//! gone before it answers, so what it goes on with is committed, and the answer is lost.

use sqlx::{Connection, PgConnection};

use crate::support::{Database, Ledger, Toy, ToyProcess, database, eventually};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// Committed; nobody reads the answer.
    Commits,
    /// It never happened.
    RollsBack,
    /// Committed after the others have given the worker up.
    CommitsLate,
}

const FATES: [Fate; 3] = [Fate::Commits, Fate::RollsBack, Fate::CommitsLate];

/// One statement of the protocol.
struct Failpoint {
    name: &'static str,
    /// What fires in its middle.
    trigger: &'static str,
    /// How the statement names itself.
    statement: &'static str,
    /// Whether its effect can be seen before anybody else has done anything.
    happened: &'static str,
}

const CLAIM: Failpoint = Failpoint {
    name: "claim",
    trigger: "after insert on backhaul.leases for each row",
    statement: "backhaul.claim(",
    happened: "select exists (select from backhaul.leases)",
};

const PROMOTE: Failpoint = Failpoint {
    name: "promote",
    trigger: "after update on backhaul.jobs for each row when (old.due_at is not null and new.seq is not null)",
    statement: "backhaul.claim(",
    happened: "select exists (select from backhaul.jobs where seq is not null)",
};

const STEP: Failpoint = Failpoint {
    name: "step",
    trigger: "after insert on backhaul.steps for each row",
    statement: "backhaul.put_step(",
    happened: "select exists (select from backhaul.steps)",
};

const SETTLE: Failpoint = Failpoint {
    name: "settle",
    trigger: "after insert on backhaul.events for each row when (new.type = 'dev.backhaul.job.completed')",
    statement: "backhaul.settle(",
    happened: "select exists (select from backhaul.events where type = 'dev.backhaul.job.completed')",
};

const RESCUE: Failpoint = Failpoint {
    name: "rescue",
    trigger: "after update on backhaul.jobs for each row when (new.rescues > old.rescues)",
    statement: "backhaul.rescue(",
    happened: "select exists (select from backhaul.jobs where rescues > 0)",
};

const SEAL: Failpoint = Failpoint {
    name: "seal",
    trigger: "after insert on backhaul.seals for each row",
    statement: "backhaul.seal(",
    happened: "select exists (select from backhaul.seals)",
};

/// The lock at which the statement waits.
const LOCK: i64 = 4_711;

/// A database whose first passage of the failpoint waits for the lock, which `gate` holds.
async fn rigged(point: &Failpoint) -> (Database, PgConnection) {
    let db = database().await;
    let sql = format!(
        "create schema fault;
         create sequence fault.passage;
         create function fault.stop() returns trigger language plpgsql as $$
         begin
             -- A sequence also counts what is rolled back, so that only one passage ever waits.
             if nextval('fault.passage') = 1 then
                 perform pg_advisory_xact_lock({LOCK});
             end if;
             return null;
         end $$;
         create trigger fault {} execute function fault.stop()",
        point.trigger
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db.store.pool()).await.expect("rigs the database");
    let mut gate = PgConnection::connect(&db.url).await.expect("connects");
    sqlx::query("select pg_advisory_lock($1)").bind(LOCK).execute(&mut gate).await.expect("locks");
    (db, gate)
}

/// The backend that waits, and for which statement.
async fn waiting(db: &Database) -> Option<(i32, String)> {
    let found: Vec<(i32, String)> = db
        .rows(
            "select pid, query from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'",
        )
        .await;
    assert!(found.len() <= 1, "only the first passage waits: {found:?}");
    found.into_iter().next()
}

async fn has_ended(db: &Database, backend: i32) -> bool {
    let pids: Vec<(i32,)> = db.rows("select pid from pg_stat_activity where datname = current_database()").await;
    pids.iter().all(|(pid,)| *pid != backend)
}

/// Four toys of one key, the first of them with two steps, and four of none.
fn toys(act: &str) -> Vec<Toy> {
    let toy = |n: i64| Toy::new(n).act(if n == 0 { "steps" } else { act });
    (0..8).map(|n| if n < 4 { toy(n).keyed("k") } else { toy(n) }).collect()
}

fn key(n: i64) -> Option<i64> {
    (n < 4).then_some(0)
}

/// Waits until everything is done and nothing is in anybody's hands.
async fn done(db: &Database) {
    eventually("all jobs end and nothing is held", async || {
        // A lease that its worker never got to know counts as silence of a minute, not as that of the patient workers.
        db.run(
            "update backhaul.leases l set claimed_at = '-infinity'
             where not exists (select from backhaul.workers w where w.id = l.worker)",
        )
        .await;
        db.unfinished().await == 0 && db.one::<i64>("select count(*) from backhaul.leases").await == 0
    })
    .await;
}

async fn check(db: &Database, ledger: &Ledger, ids: &[i64]) {
    db.assert_ended_once(ids).await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events where type like '%.job.retried'").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 0);
    ledger.assert_ordered(key);
    db.assert_sealed_in_order().await;
}

/// Kills a worker at the failpoint and lets another one go on.
async fn dies(point: &Failpoint, fate: Fate) -> (Database, Ledger, Vec<i64>) {
    let (db, gate) = rigged(point).await;
    let ledger = Ledger::new(&format!("failpoint-{}-{fate:?}", point.name));
    let rescuing = point.name == RESCUE.name;
    let ids = db.toys(&toys(if rescuing { "wait" } else { "ok" })).await;
    if rescuing {
        let first = ToyProcess::start(&db.url, &ledger, 8);
        eventually("it runs", async || ledger.order("start").len() >= 4).await;
        let id = first.id();
        first.kill(&ledger);
        db.give_up_process(id).await;
    }
    let worker = ToyProcess::start(&db.url, &ledger, 8);
    eventually("the statement waits", async || waiting(&db).await.is_some()).await;
    let (backend, query) = waiting(&db).await.expect("nobody lets it go on");
    assert!(query.contains(point.statement), "{}: {query} waits", point.name);
    let id = worker.id();
    worker.kill(&ledger);
    ledger.open_gate();

    if fate == Fate::RollsBack {
        sqlx::query("select pg_terminate_backend($1)").bind(backend).execute(db.store.pool()).await.expect("ends it");
        eventually("it has ended", async || has_ended(&db, backend).await).await;
    }
    let other = if fate == Fate::CommitsLate {
        db.give_up_process(id).await;
        let other = ToyProcess::start(&db.url, &ledger, 8);
        // Who dies in a rescue holds the turn to rescue, until the server ends his statement.
        if !rescuing {
            eventually("it is given up", async || !db.knows_process(id).await).await;
        }
        let stranger = serde_json::json!({ "kind": "toy", "tenant": "other", "payload": { "n": 100 } });
        db.enqueue(vec![stranger]).await;
        eventually("others go on meanwhile", async || ledger.count(Some(100), "end") == 1).await;
        assert!(waiting(&db).await.is_some(), "{}: it still waits", point.name);
        Some(other)
    } else {
        None
    };
    gate.close().await.expect("lets go of the lock");
    eventually("the statement has ended", async || has_ended(&db, backend).await).await;
    if other.is_none() {
        assert_eq!(db.one::<bool>(point.happened).await, fate == Fate::Commits, "{}", point.name);
        db.give_up_process(id).await;
    }
    let other = other.unwrap_or_else(|| ToyProcess::start(&db.url, &ledger, 8));
    done(&db).await;
    let all: Vec<i64> = if fate == Fate::CommitsLate {
        db.one::<Vec<i64>>("select array_agg(distinct job_id order by job_id) from backhaul.events").await
    } else {
        ids.clone()
    };
    assert_eq!(all.len(), ids.len() + usize::from(fate == Fate::CommitsLate));
    check(&db, &ledger, &all).await;
    other.kill(&ledger);
    (db, ledger, ids)
}

/// How often each of the eight toys was started.
fn starts(ledger: &Ledger) -> Vec<usize> {
    (0..8).map(|n| ledger.count(Some(n), "start")).collect()
}

/// A lease that nobody knows of is taken back, and its jobs run for the first time.
///
/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_claims() {
    for fate in FATES {
        let (_, ledger, _) = dies(&CLAIM, fate).await;
        assert_eq!(starts(&ledger), [1; 8], "{fate:?}");
    }
}

/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_promotes() {
    for fate in FATES {
        let (_, ledger, _) = dies(&PROMOTE, fate).await;
        assert_eq!(starts(&ledger), [1; 8], "{fate:?}");
    }
}

/// Jobs that ran when their worker died run once more, and no attempt is counted.
///
/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_its_jobs_run() {
    let db = database().await;
    let ledger = Ledger::new("failpoint-run");
    let ids = db.toys(&toys("wait")).await;
    let worker = ToyProcess::start(&db.url, &ledger, 8);
    // The first of the key and its steps are over; the second one and three others wait.
    eventually("they run", async || starts(&ledger) == [1, 1, 0, 0, 1, 1, 1, 1]).await;
    let id = worker.id();
    worker.kill(&ledger);
    ledger.open_gate();
    db.give_up_process(id).await;
    let other = ToyProcess::start(&db.url, &ledger, 8);
    done(&db).await;
    check(&db, &ledger, &ids).await;
    other.kill(&ledger);
    let again: Vec<usize> = [1, 5, 6, 7].map(|n| ledger.count(Some(n), "start")).to_vec();
    assert_eq!(again, [2; 4]);
}

/// A step whose row was committed is not called again although its worker never heard of it; one whose row was not is
/// called once more, with the same Idempotency-Key, so that it has one effect.
///
/// Covers row 201, row 203.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_stores_a_step() {
    for fate in FATES {
        let (db, ledger, ids) = dies(&STEP, fate).await;
        let (a, b) = (ledger.calls(0, "a"), ledger.calls(0, "b"));
        assert_eq!((a.len(), b.len()), (if fate == Fate::RollsBack { 2 } else { 1 }, 1), "{fate:?}");
        assert!(a.iter().all(|key| *key == a[0]), "{fate:?}: {a:?}");
        let told: Vec<String> = db.told(ids[0]).await;
        assert_eq!(told, ["toy.stepped", "toy.stepped", "job.completed"], "{fate:?}: each step is told once");
    }
}

/// What was settled does not run again, although its worker never heard of it; what was not runs again.
///
/// Covers row 201, row 203.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_settles() {
    for fate in FATES {
        let (db, ledger, ids) = dies(&SETTLE, fate).await;
        // Of the jobs of the first settle that came through: with it the killed worker's, unless that was rolled back.
        let settled: Vec<(i64,)> = db
            .rows(
                "select job_id from backhaul.events where type = 'dev.backhaul.job.completed'
                 and xmin = (select e.xmin from backhaul.events e
                             where e.type = 'dev.backhaul.job.completed' order by e.id limit 1)",
            )
            .await;
        let starts = starts(&ledger);
        if fate == Fate::RollsBack {
            assert!(starts.contains(&2), "{starts:?}");
        } else {
            let again = settled.iter().filter_map(|(id,)| ids.iter().position(|one| one == id));
            let again: Vec<usize> = again.filter(|n| starts[*n] != 1).collect();
            assert!(!settled.is_empty() && again.is_empty(), "{fate:?}: settled and run again: {again:?}");
        }
    }
}

/// A rescue that was cut off is made by the next worker, and counts once.
///
/// Covers row 201.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_rescues() {
    for fate in FATES {
        let (_, ledger, _) = dies(&RESCUE, fate).await;
        assert!(starts(&ledger).iter().all(|times| (1..=2).contains(times)), "{fate:?}: {:?}", starts(&ledger));
    }
}

/// The order of the events has neither a hole nor a repetition where a sealer died.
///
/// Covers row 201, row 203.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_seals() {
    for fate in FATES {
        dies(&SEAL, fate).await;
    }
}
