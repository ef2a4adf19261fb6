//! The protocol of the two logs under everything at once: slow producers, rollbacks, workers that are killed, several
//! sealers. Its properties are those of the model beside the engine, here held against the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_engine::WorkerOptions;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use tokio::{task::JoinSet, time::Instant};

use crate::support::{Database, PATIENCE, Toy, ToyEnv, Worker, database, eventually};

const PRODUCERS: u64 = 8;
const WORKERS: usize = 4;
/// How long producers produce. The pauses below are what they do meanwhile, not waits for something to happen.
const PRODUCING: Duration = Duration::from_secs(7);
const KILL_EVERY: Duration = Duration::from_millis(700);
const KILLS: usize = 6;

/// What producers committed and what they took back: `(job, toy)`.
#[derive(Default)]
struct Produced {
    kept: Mutex<Vec<(i64, i64)>>,
    taken_back: Mutex<Vec<(i64, i64)>>,
}

/// Transactions of one to four jobs with pauses between the inserts, a tenth of them rolled back. Producer 0 is slow
/// for up to a second before each commit, so that the others' cursors pass its jobs.
async fn produce(url: String, producer: u64, produced: Arc<Produced>) {
    let mut random = StdRng::seed_from_u64(producer);
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    let until = Instant::now() + PRODUCING;
    let mut n = i64::try_from(producer).expect("small") * 1_000_000;
    while Instant::now() < until {
        let mut transaction = connection.begin().await.expect("begins");
        let mut jobs = Vec::new();
        for _ in 0..random.random_range(1..=4) {
            n += 1;
            let act = ["ok", "ok", "ok", "ok", "steps"][random.random_range(0..5)];
            let mut toy = Toy::new(n).act(act);
            if random.random_bool(0.05) {
                toy.acts.insert(0, "transient".to_owned());
            }
            let id: i64 =
                sqlx::query_scalar("select job_id from backhaul.enqueue('toy', $1, tenant => $2, priority => $3)")
                    .bind(sqlx::types::Json(toy))
                    .bind(format!("tenant-{}", random.random_range(0..3)))
                    .bind(["high", "normal"][random.random_range(0..2)])
                    .fetch_one(&mut *transaction)
                    .await
                    .expect("enqueues");
            jobs.push((id, n));
            // Here and below slow on purpose: that transactions of all lengths overlap is what this is about.
            if random.random_bool(0.3) {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
            }
        }
        if producer == 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        }
        if random.random_bool(0.1) {
            transaction.rollback().await.expect("rolls back");
            produced.taken_back.lock().expect("no panic under the lock").extend(jobs);
        } else {
            transaction.commit().await.expect("commits");
            produced.kept.lock().expect("no panic under the lock").extend(jobs);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..10))).await;
    }
}

/// Sweeps more often than workers do, and so in their place, to learn how many stragglers there are.
async fn sweep(url: String, done: Arc<AtomicBool>) -> i64 {
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    let mut adopted = 0;
    while !done.load(Ordering::Relaxed) {
        let found: i32 =
            sqlx::query_scalar("select backhaul.sweep('0 s', '1 s')").fetch_one(&mut connection).await.expect("sweeps");
        adopted += i64::from(found);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    adopted
}

fn start(db: &Database, env: &Arc<ToyEnv>) -> Worker {
    let options = WorkerOptions {
        heartbeat: Duration::from_millis(200),
        dead_after: Duration::from_secs(3),
        sweep: Duration::from_millis(500),
        ..Worker::options()
    };
    Worker::start_with(db.store.clone(), env, options)
}

/// Everything dies and is late, and still: every committed job ends once, no other job runs, and the events of all of
/// them stand in one dense order that keeps each job's own.
///
/// Covers row 201, row 203.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_ends_twice() {
    let db = database().await;
    let env = ToyEnv::new();
    let produced = Arc::new(Produced::default());
    let done = Arc::new(AtomicBool::new(false));
    let mut workers: Vec<Worker> = (0..WORKERS).map(|_| start(&db, &env)).collect();
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        producers.spawn(produce(db.url.clone(), producer, produced.clone()));
    }
    let sweeper = tokio::spawn(sweep(db.url.clone(), done.clone()));
    for _ in 0..KILLS {
        tokio::time::sleep(KILL_EVERY).await;
        workers.remove(0).kill().await;
        workers.push(start(&db, &env));
    }
    tokio::time::timeout(PATIENCE, producers.join_all()).await.expect("producers end");
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    eventually("abandoned leases are taken back", async || {
        db.one::<i64>("select count(*) from backhaul.leases").await == 0
    })
    .await;
    done.store(true, Ordering::Relaxed);
    let adopted = tokio::time::timeout(PATIENCE, sweeper).await.expect("the sweeper ends").expect("no panic");
    for worker in workers {
        worker.stop().await;
    }

    let kept = produced.kept.lock().expect("no panic under the lock").clone();
    let taken_back = produced.taken_back.lock().expect("no panic under the lock").clone();
    assert!(kept.len() > 500 && taken_back.len() > 20, "{} kept, {} taken back", kept.len(), taken_back.len());
    assert!(adopted > 0, "no straggler: this run has shown nothing about them");

    let ran: BTreeSet<i64> = env.order("start").into_iter().collect();
    let lost: Vec<_> = kept.iter().filter(|(_, n)| !ran.contains(n)).collect();
    assert!(lost.is_empty(), "never run: {lost:?}");
    let phantoms: Vec<_> = taken_back.iter().filter(|(_, n)| ran.contains(n)).collect();
    assert!(phantoms.is_empty(), "rolled back and run: {phantoms:?}");
    let mut ends: BTreeMap<i64, i64> = kept.iter().map(|(id, _)| (*id, 0)).collect();
    for (job, count) in db.ends().await {
        *ends.entry(job).or_default() += count;
    }
    assert_eq!(ends.len(), kept.len(), "events of jobs that nobody committed");
    ends.retain(|_, count| *count != 1);
    assert!(ends.is_empty(), "(job, ends) other than one: {ends:?}");
    db.assert_events_in_order().await;
}
