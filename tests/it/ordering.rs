//! Jobs of one ordering key run one at a time, first in first out, whoever runs them and whatever happens to them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use backhaul_engine::{Failure, Job, JobContext, KindSpec, Registry, WorkerOptions, register_kinds};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

async fn drained(db: &Database) {
    eventually("all jobs end", async || db.unfinished().await == 0).await;
}

/// Starts and ends of toys, a letter and a number each. Tries that end in a failure count as well.
fn spans(env: &ToyEnv) -> Vec<(i64, String)> {
    let log = env.log.lock().expect("no panic under the lock");
    log.iter().filter(|(_, what)| what == "start" || what == "end").cloned().collect()
}

/// Panics where two tries of one key overlap. `key` tells the key of a toy's number.
fn assert_one_at_a_time(env: &ToyEnv, key: impl Fn(i64) -> String) {
    let mut running: HashMap<String, i64> = HashMap::new();
    for (n, what) in spans(env) {
        match what.as_str() {
            "start" => {
                let other = running.insert(key(n), n);
                assert_eq!(other, None, "toy {n} starts while another of key {} runs", key(n));
            }
            _ => assert_eq!(running.remove(&key(n)), Some(n)),
        }
    }
}

/// A single job at once, but with room for a batch in hand.
fn roomy() -> WorkerOptions {
    WorkerOptions { concurrency: 8, prefetch: 8, ..Worker::patient() }
}

/// Two workers, five keys, retries and a dead letter in the middle.
///
/// Covers row 63, row 125, row 175.
#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_and_in_order_across_workers_retries_and_dead_letters() {
    const KEYS: i64 = 5;
    let db = database().await;
    let env = ToyEnv::new();
    let key = |n: i64| format!("k{}", n % KEYS);
    let toys: Vec<Toy> = (0..60)
        .map(|n| {
            let toy = Toy::new(n).keyed(&key(n));
            match n / KEYS {
                3 => toy.act("transient").act("ok"),
                6 => toy.act("permanent"),
                8 => toy.act("panic").act("ok"),
                _ => toy,
            }
        })
        .collect();
    db.toys(&toys).await;
    let workers = [(); 2].map(|()| Worker::start_with(db.store.clone(), &env, roomy()));
    drained(&db).await;
    for worker in workers {
        worker.stop().await;
    }
    for k in 0..KEYS {
        let mut starts: Vec<i64> = env.order("start").into_iter().filter(|n| n % KEYS == k).collect();
        starts.dedup();
        let expected: Vec<i64> = (0..60).filter(|n| n % KEYS == k).collect();
        assert_eq!(starts, expected, "a later one of key {k} started before an earlier one had ended for good");
    }
    let panicked: Vec<i64> = (8 * KEYS..9 * KEYS).collect();
    // A panicking try never tells its end.
    env.log.lock().expect("no panic under the lock").retain(|(n, _)| !panicked.contains(n));
    assert_one_at_a_time(&env, key);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, KEYS);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
}

/// Another kind, so that one explicit key spans two kinds.
#[derive(Debug, Serialize, Deserialize)]
struct Other {
    n: i64,
}

impl Job for Other {
    const KIND: &'static str = "other-toy";
    type Env = ToyEnv;

    async fn run(&self, env: &ToyEnv, _: &mut JobContext) -> Result<(), Failure> {
        env.note(self.n, "start");
        // Gives an overlapping one the chance to show itself.
        tokio::task::yield_now().await;
        env.note(self.n, "end");
        Ok(())
    }
}

fn both_kinds(env: &Arc<ToyEnv>) -> impl Fn() -> Registry + Send + Sync + 'static {
    let env = env.clone();
    move || {
        let mut registry = Registry::new();
        registry.add::<Toy>(env.clone());
        registry.add::<Other>(env.clone());
        registry
    }
}

/// A key that producers name themselves spans kinds and priorities, and neither changes whose turn it is.
#[tokio::test(flavor = "multi_thread")]
async fn in_order_across_kinds_and_priorities() {
    let db = database().await;
    register_kinds(&db.store, &[KindSpec::of::<Other>()]).await.expect("registers");
    let env = ToyEnv::new();
    let priorities = ["normal", "critical", "backfill", "high", "low"];
    let mut jobs = vec![json!({ "kind": "toy", "payload": Toy::new(0).act("wait"), "ordering_key": "shared" })];
    for n in 1..40_usize {
        let kind = if n % 3 == 0 { "toy" } else { "other-toy" };
        jobs.push(json!({
            "kind": kind, "payload": { "n": n }, "ordering_key": "shared", "priority": priorities[n % priorities.len()]
        }));
    }
    db.enqueue(jobs).await;
    let workers = [(); 2].map(|()| Worker::start_kinds(db.store.clone(), both_kinds(&env), Vec::new, roomy()));
    eventually("the first one runs", async || env.count(Some(0), "start") == 1).await;
    env.gate.add_permits(1);
    drained(&db).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(env.order("start"), (0..40).collect::<Vec<_>>());
    assert_one_at_a_time(&env, |_| "shared".to_owned());
}

/// Two thousand jobs of one key whose first one does not end, and a thousand others in the same lane.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_does_not_hold_up_its_lane() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut toys = vec![Toy::new(0).keyed("hot").act("wait")];
    toys.extend((1..2_000).map(|n| Toy::new(n).keyed("hot")));
    db.toys(&toys).await;
    db.toys(&(10_000..10_200).map(|n| Toy::new(n).keyed(&format!("cold {n}"))).collect::<Vec<_>>()).await;
    let worker = Worker::start_with(db.store.clone(), &env, roomy());
    eventually("the others end", async || env.order("end").len() == 200).await;
    assert_eq!(env.order("start").iter().filter(|n| **n < 2_000).count(), 1);
    eventually("what ended is settled", async || db.unfinished().await == 2_000).await;
    env.gate.add_permits(1);
    let moving = || env.order("end").iter().filter(|n| **n < 2_000).count() >= 100;
    eventually("the hot key moves on", async || moving()).await;
    worker.stop().await;
    let hot: Vec<i64> = env.order("start").into_iter().filter(|n| *n < 2_000).collect();
    assert_eq!(hot, (0..i64::try_from(hot.len()).expect("small")).collect::<Vec<_>>());
}

/// Cancelling the one that runs and one that waits leaves the rest in order.
#[tokio::test(flavor = "multi_thread")]
async fn cancelling_in_the_middle_lets_the_next_go_on() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut toys = vec![Toy::new(0).keyed("k").act("hang")];
    toys.extend((1..6).map(|n| Toy::new(n).keyed("k")));
    let ids = db.toys(&toys).await;
    let worker = Worker::start_with(db.store.clone(), &env, roomy());
    eventually("the first one runs and the others wait", async || {
        env.count(Some(0), "start") == 1
            && db.one::<i64>("select count(*) from backhaul.job_states where state = 'blocked'").await == 5
    })
    .await;
    for (id, was) in [(ids[2], "cancelled"), (ids[0], "cancelled_running")] {
        let said: String = sqlx::query_scalar("select backhaul.cancel($1, 'a test', null)")
            .bind(id)
            .fetch_one(db.store.pool())
            .await
            .expect("cancels");
        assert_eq!(said, was);
    }
    drained(&db).await;
    worker.stop().await;
    assert_eq!(env.order("start"), [0, 1, 3, 4, 5]);
    assert_eq!(env.order("end"), [1, 3, 4, 5], "the cancelled one is stopped");
    assert_eq!(db.told(ids[0]).await, ["job.cancelled"]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
}

/// A job that waits for its retry keeps its key; one that a person moves to another day does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescheduled_job_lets_the_others_pass() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(0).keyed("k").act("transient").act("ok"), Toy::new(1).keyed("k")]).await;
    let worker = Worker::start_with(db.store.clone(), &env, roomy());
    eventually("the first one waits for its retry", async || {
        db.one::<i64>("select count(*) from backhaul.job_states where state = 'retrying'").await == 1
    })
    .await;
    sqlx::query("select backhaul.reschedule($1, clock_timestamp() + interval '1 day', 'a test', null)")
        .bind(ids[0])
        .execute(db.store.pool())
        .await
        .expect("reschedules");
    eventually("the second one ends", async || db.unfinished().await == 1).await;
    db.hurry().await;
    drained(&db).await;
    worker.stop().await;
    assert_eq!(env.order("start"), [0, 1, 0]);
}

/// Producers whose transactions overlap: a job that becomes visible late never runs beside another one of its key.
#[tokio::test(flavor = "multi_thread")]
async fn late_commits_keep_mutual_exclusion() {
    let db = database().await;
    let env = ToyEnv::new();
    let workers = [(); 2].map(|()| Worker::start_with(db.store.clone(), &env, roomy()));
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..6_i64 {
        let url = db.url.clone();
        producers.spawn(async move {
            let mut connection = PgConnection::connect(&url).await.expect("connects");
            for round in 0..15_i64 {
                let mut transaction = connection.begin().await.expect("begins");
                for k in 0..3_i64 {
                    sqlx::query("select backhaul.enqueue('toy', $1)")
                        .bind(json!({ "n": producer * 1_000 + round * 10 + k, "key": format!("k{k}") }))
                        .execute(&mut *transaction)
                        .await
                        .expect("enqueues");
                    // Slow on purpose: late commits that overlap with the others' are what this is about, and while one
                    // producer waited for another they would not come in every order.
                    tokio::time::sleep(Duration::from_millis((producer * 7 + round * 3) as u64 % 11)).await;
                }
                transaction.commit().await.expect("commits");
            }
        });
    }
    producers.join_all().await;
    drained(&db).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(env.order("end").len(), 6 * 15 * 3);
    assert_one_at_a_time(&env, |n| format!("k{}", n % 10));
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
}

/// A claim meets a job whose key's holder is just ending, so it cannot park it and puts it back for a moment. In that
/// moment the key goes to it all the same, and not to a later one that nobody has met yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_put_back_for_a_moment_keeps_its_turn() {
    let db = database().await;
    let claim = async || -> Vec<i64> {
        sqlx::query_scalar(
            "select id from backhaul.claim((select id from backhaul.workers), array['toy@1'], 1, '-infinity')",
        )
        .fetch_all(db.store.pool())
        .await
        .expect("claims")
    };
    db.run("select backhaul.register_worker(gen_random_uuid(), 'here', 1, 'test', array['toy@1'], 1)").await;
    let first = db.toys(&[Toy::new(0).keyed("k")]).await;
    assert_eq!(claim().await, first);
    let second = db.toys(&[Toy::new(1).keyed("k")]).await;
    // Whoever ends the first one has its key's row, and has not looked for the next one yet.
    let mut ending = PgConnection::connect(&db.url).await.expect("connects");
    let mut transaction = ending.begin().await.expect("begins");
    sqlx::query("select from backhaul.key_holders for update").execute(&mut *transaction).await.expect("locks");
    assert!(claim().await.is_empty());
    assert_eq!(db.one::<i64>("select id from backhaul.jobs where due_at is not null").await, second[0]);
    db.toys(&[Toy::new(2).keyed("k")]).await;
    // The moment begins now, however slow this test is.
    let end = "do $$ declare v_first bigint := (select min(id) from backhaul.jobs); begin
                   update backhaul.jobs set due_at = clock_timestamp() + interval '5 ms' where due_at is not null;
                   delete from backhaul.jobs where id = v_first;
                   perform backhaul.hand_over(array[v_first]);
               end $$";
    sqlx::raw_sql(end).execute(&mut *transaction).await.expect("ends the first one");
    transaction.commit().await.expect("commits");
    assert_eq!(db.one::<i64>("select job_id from backhaul.key_holders").await, second[0]);
    let mut next = Vec::new();
    for _ in 0..1_000 {
        next = claim().await;
        if !next.is_empty() {
            break;
        }
    }
    assert_eq!(next, second);
}

/// A late job of a busy key has its turn although newer ones keep coming.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_job_of_a_busy_key_is_not_passed_over_for_ever() {
    let db = database().await;
    let env = ToyEnv::new();
    let mut slow = PgConnection::connect(&db.url).await.expect("connects");
    let mut transaction = slow.begin().await.expect("begins");
    sqlx::query("select backhaul.enqueue('toy', $1)")
        .bind(json!({ "n": 0, "key": "busy" }))
        .execute(&mut *transaction)
        .await
        .expect("enqueues");
    db.toys(&(1..100).map(|n| Toy::new(n).keyed("busy").act("wait")).collect::<Vec<_>>()).await;
    let worker = Worker::start_with(db.store.clone(), &env, roomy());
    eventually("the first one runs", async || env.order("start").len() == 1).await;
    transaction.commit().await.expect("commits");
    eventually("the late one waits behind it", async || {
        db.one::<i64>("select count(*) from backhaul.job_states where state = 'blocked'").await == 99
    })
    .await;
    env.gate.add_permits(40);
    eventually("forty have ended", async || env.order("end").len() >= 40).await;
    assert!(env.order("start").contains(&0), "the oldest job of the key still waits: {:?}", env.order("start"));
    worker.kill().await;
}
