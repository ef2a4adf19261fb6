//! Jobs and events that become visible late: behind a cursor, behind a seal, behind a cursor that sleeps. Each test
//! builds the one order of commits that a wrong horizon would lose.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// Another session of the same database.
async fn session(db: &Database) -> PgConnection {
    PgConnection::connect(&db.url).await.expect("connects")
}

async fn enqueue(connection: &mut PgConnection, n: i64) -> i64 {
    sqlx::query_scalar("select job_id from backhaul.enqueue('toy', $1)")
        .bind(json!({ "n": n }))
        .fetch_one(connection)
        .await
        .expect("enqueues")
}

/// Claims by hand, as a worker that only the database knows.
async fn claim(db: &Database, worker: Uuid) -> Vec<i64> {
    claim_of(db, worker, false).await
}

async fn claim_of(db: &Database, worker: Uuid, strays: bool) -> Vec<i64> {
    sqlx::query_scalar("select id from backhaul.claim($1, array['toy@1'], 100, '-infinity', $2)")
        .bind(worker)
        .bind(strays)
        .fetch_all(db.store.pool())
        .await
        .expect("claims")
}

async fn register(db: &Database) -> Uuid {
    let worker = Uuid::new_v4();
    let _: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select backhaul.register_worker($1, 'here', 1, 'test', array['toy@1'], 1)")
            .bind(worker)
            .fetch_one(db.store.pool())
            .await
            .expect("registers");
    worker
}

async fn sweep(db: &Database) -> i32 {
    db.one("select backhaul.sweep('0 s', '1 h')").await
}

/// Transaction ids belong to the whole cluster: while other tests commit, the id of a test is not always the newest
/// one. In so many rounds it is.
const ROUNDS: i64 = 25;

/// A snapshot ends at the successor of the latest transaction that *ended*: the producer with the newest id of all lies
/// beyond it, and is not over.
#[tokio::test]
async fn the_producer_with_the_newest_transaction_is_waited_for() {
    let db = database().await;
    let worker = register(&db).await;
    db.toys(&[Toy::new(1)]).await;
    assert_eq!(claim(&db, worker).await.len(), 1, "the first job wakes the cursor");
    let mut slow = session(&db).await;
    for round in 0..ROUNDS {
        let mut transaction = slow.begin().await.expect("begins");
        let late = enqueue(&mut transaction, 2).await;
        // The sample says that all places up to the slow job's are taken, and no newer transaction ends before it.
        assert_eq!(sweep(&db).await, 0);
        let next = db.toys(&[Toy::new(3)]).await;
        assert_eq!(claim(&db, worker).await, next, "the cursor passes the slow job");
        assert_eq!(sweep(&db).await, 0);
        assert_eq!(sweep(&db).await, 0);
        transaction.commit().await.expect("commits");
        assert_eq!(sweep(&db).await, 1, "lost in round {round}");
        assert_eq!(claim(&db, worker).await, [late]);
    }
}

/// Where producers commit side by side, a worker that keeps up finds at its next look what it passed over, and does not
/// wait for the sweep.
#[tokio::test]
async fn a_claim_that_keeps_up_finds_what_was_committed_behind_it() {
    let db = database().await;
    let worker = register(&db).await;
    db.toys(&[Toy::new(1)]).await;
    assert_eq!(claim(&db, worker).await.len(), 1, "the first job wakes the cursor");
    let mut slow = session(&db).await;
    let mut transaction = slow.begin().await.expect("begins");
    let late = enqueue(&mut transaction, 2).await;
    let next = db.toys(&[Toy::new(3)]).await;
    assert_eq!(claim(&db, worker).await, next, "the cursor passes the slow job");
    assert_eq!(claim_of(&db, worker, true).await, [] as [i64; 0], "it is not committed");
    transaction.commit().await.expect("commits");
    assert_eq!(claim(&db, worker).await, [] as [i64; 0], "it lies behind the cursor");
    assert_eq!(claim_of(&db, worker, true).await, [late]);
    // What is in a worker's hands lies behind the cursor too.
    assert_eq!(claim_of(&db, worker, true).await, [] as [i64; 0]);
    assert_eq!(sweep(&db).await, 0, "nothing is left for the sweep");
}

/// The same for events: the gap that the newest transaction left is looked at until it has ended.
#[tokio::test]
async fn the_event_of_the_newest_transaction_is_sealed_late_and_not_forgotten() {
    let db = database().await;
    let (mut first, mut second) = (session(&db).await, session(&db).await);
    for round in 0..ROUNDS {
        // The older transaction takes the later id and commits; the newer one has the earlier id and stays open.
        let mut older = first.begin().await.expect("begins");
        sqlx::query("select pg_current_xact_id()").execute(&mut *older).await.expect("takes an id");
        let mut newer = second.begin().await.expect("begins");
        let pause = |tenant: String| sqlx::query("select backhaul.pause('toy', $1)").bind(tenant);
        pause(format!("newer-{round}")).execute(&mut *newer).await.expect("tells an event");
        pause(format!("older-{round}")).execute(&mut *older).await.expect("tells an event");
        older.commit().await.expect("commits");
        assert_eq!(db.one::<i32>("select backhaul.seal(100)").await, 1);
        for _ in 0..3 {
            assert_eq!(db.one::<i32>("select backhaul.seal(100)").await, 0);
        }
        newer.commit().await.expect("commits");
        assert_eq!(db.one::<i32>("select backhaul.seal(100)").await, 1, "lost in round {round}");
    }
    let sealed: Vec<(i64,)> = db.rows("select unnest(event_ids) from backhaul.seals order by first_seq").await;
    let told: Vec<(i64,)> = db.rows("select id from backhaul.events order by (id - 1) / 2, id desc").await;
    assert_eq!(sealed, told, "the late event of each round comes last");
}

/// Ids that nobody will ever use are forgotten once every transaction that could own them has ended.
#[tokio::test]
async fn gaps_of_rolled_back_events_close() {
    let db = database().await;
    let mut session = session(&db).await;
    let mut transaction = session.begin().await.expect("begins");
    sqlx::query("select backhaul.pause('toy', 'a')").execute(&mut *transaction).await.expect("tells an event");
    transaction.rollback().await.expect("rolls back");
    db.run("select backhaul.pause('toy', 'b')").await;
    assert_eq!(db.one::<i32>("select backhaul.seal(100)").await, 1);
    assert_eq!(db.one::<i32>("select cardinality(gaps) from backhaul.seal_state").await, 1);
    // Other tests' transactions in the same cluster put the proof off.
    eventually("the gap closes", async || {
        assert_eq!(db.one::<i32>("select backhaul.seal(100)").await, 0);
        db.one::<i32>("select cardinality(gaps) from backhaul.seal_state").await == 0
    })
    .await;
}

/// A producer saw the cursor awake and commits after it has fallen asleep. The proof that nobody else did has to wait
/// for the oldest transaction of the cluster; the job does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_behind_a_sleeping_cursor_does_not_wait_for_a_long_transaction() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    db.toys(&[Toy::new(1)]).await;
    eventually("the first job ends", async || db.unfinished().await == 0).await;
    let (mut long, mut slow) = (session(&db).await, session(&db).await);
    let mut report = long.begin().await.expect("begins");
    sqlx::query("select pg_current_xact_id()").execute(&mut *report).await.expect("takes an id");
    let mut transaction = slow.begin().await.expect("begins");
    // A moment ago there was work, so this places the job directly.
    db.run("update backhaul.cursors set awake = true, served_at = clock_timestamp() + '1 day', settled = false").await;
    enqueue(&mut transaction, 2).await;
    db.run("update backhaul.cursors set served_at = clock_timestamp() - interval '1 minute'").await;
    eventually("the cursor sleeps", async || !db.one::<bool>("select awake from backhaul.cursors").await).await;
    eventually("the proof has begun", async || {
        db.one::<bool>("select cooling is not null from backhaul.cursors").await
    })
    .await;
    transaction.commit().await.expect("commits");
    let ran =
        tokio::time::timeout(Duration::from_secs(20), eventually("it runs", async || env.count(Some(2), "end") == 1));
    ran.await.expect("the job runs while the long transaction is open");
    report.rollback().await.expect("rolls back");
    worker.stop().await;
}

/// A row that somebody holds while the sweep looks is found by a later one, although every producer has ended and the
/// floor could move beyond it.
#[tokio::test]
async fn a_straggler_whose_row_is_locked_is_adopted_later() {
    let db = database().await;
    let worker = register(&db).await;
    db.toys(&[Toy::new(1)]).await;
    assert_eq!(claim(&db, worker).await.len(), 1);
    let mut slow = session(&db).await;
    let mut transaction = slow.begin().await.expect("begins");
    let late = enqueue(&mut transaction, 2).await;
    let next = db.toys(&[Toy::new(3)]).await;
    assert_eq!(claim(&db, worker).await, next);
    // The sample is older than whoever holds the row below, so its proof does not wait for them.
    assert_eq!(sweep(&db).await, 0);
    transaction.commit().await.expect("commits");
    let mut holder = session(&db).await;
    let mut held = holder.begin().await.expect("begins");
    sqlx::query("select from backhaul.jobs where id = $1 for update")
        .bind(late)
        .execute(&mut *held)
        .await
        .expect("locks the row");
    // Other tests' transactions in the same cluster put the proof off.
    eventually("every producer of a place up to the straggler's has ended", async || {
        assert_eq!(sweep(&db).await, 0);
        let proven: i64 = db
            .one(
                "select coalesce(max(seq), 0) from backhaul.marks
                 where backhaul.ended(horizon, pg_current_snapshot())",
            )
            .await;
        proven >= next[0]
    })
    .await;
    for _ in 0..3 {
        assert_eq!(sweep(&db).await, 0);
    }
    held.rollback().await.expect("rolls back");
    assert_eq!(sweep(&db).await, 1);
    assert_eq!(claim(&db, worker).await, [late]);
}

/// An idle system writes nothing: the samples of the same sequence number do not pile up.
#[tokio::test]
async fn samples_do_not_pile_up() {
    let db = database().await;
    db.toys(&[Toy::new(1)]).await;
    for _ in 0..20 {
        sweep(&db).await;
    }
    let marks: i64 = db.one("select count(*) from backhaul.marks").await;
    assert!(marks <= 2, "{marks} samples of one number");
    db.toys(&[Toy::new(2)]).await;
    eventually("older samples go", async || {
        sweep(&db).await;
        db.one::<i64>("select count(*) from backhaul.marks").await == 1
    })
    .await;
}

/// Samples are taken several times a second, and a transaction that somebody forgot may be open for days.
#[tokio::test(flavor = "multi_thread")]
async fn samples_behind_an_open_transaction_get_sparser() {
    let db = database().await;
    let mut forgotten = db.store.pool().begin().await.expect("begins");
    sqlx::query("select pg_current_xact_id()").execute(&mut *forgotten).await.expect("has an id");
    db.run(
        "insert into backhaul.marks (horizon, seq)
         select pg_current_xact_id(), 1000000 + n from generate_series(1, 5000) n",
    )
    .await;
    for _ in 0..40 {
        sweep(&db).await;
    }
    let marks: i64 = db.one("select count(*) from backhaul.marks where seq > 1000000").await;
    assert!((500..=1_001).contains(&marks), "{marks} samples are kept");
    forgotten.rollback().await.expect("rolls back");
}
