//! Dead letters and memories go after a time where the installation asks for it: in batches, told, and in nobody's way.

use std::time::Duration;

use backhaul_engine::WorkerOptions;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually};

/// Dead letters that died ten days ago.
async fn old_letters(db: &Database, count: i64) {
    let ids = db.toys(&(0..count).map(Toy::new).collect::<Vec<_>>()).await;
    let dead: Vec<Value> = ids.iter().map(|id| json!({"id": id, "reason": "r", "error": {"code": "r"}})).collect();
    sqlx::query("select backhaul.bury($1)").bind(json!(dead)).execute(db.store.pool()).await.expect("buries");
    db.run("update backhaul.dead_letters set died_at = clock_timestamp() - interval '10 days'").await;
}

async fn letters(db: &Database) -> i64 {
    db.one("select count(*) from backhaul.dead_letters").await
}

async fn expire(db: &Database) -> i32 {
    db.one("select backhaul.expire_dead_letters('0', '7 days', 2)").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_letter_is_gone_but_for_its_trail() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db
        .toys(&[
            Toy::new(0).keyed("k").act("step"),
            Toy::new(1).keyed("k").act("permanent"),
            Toy::new(2).keyed("k").act("wait"),
        ])
        .await;
    let worker = Worker::start(&db, &env);
    eventually("two are dead", async || {
        db.hurry().await;
        letters(&db).await == 2
    })
    .await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 1);
    sqlx::query("update backhaul.dead_letters set died_at = died_at - interval '7 days' where id = $1")
        .bind(ids[0])
        .execute(db.store.pool())
        .await
        .expect("writes");
    assert_eq!(expire(&db).await, 1);
    assert_eq!(db.rows::<(i64,)>("select id from backhaul.dead_letters").await, [(ids[1],)], "the young one stays");
    assert_eq!(db.one::<i64>("select count(*) from backhaul.steps").await, 0);
    let told: Vec<(i64, String, String, String)> = db
        .rows(
            "select job_id, payload ->> 'actor', payload ->> 'why', payload ->> 'reason' from backhaul.outbox_events
             where type = 'dev.backhaul.job.discarded'",
        )
        .await;
    let words = |word: &str| word.to_owned();
    assert_eq!(told, [(ids[0], words("backhaul"), words("expired"), words("toy_broke"))]);
    // Nothing of its key is touched: the one that runs has it, and ends.
    eventually("the next of the key runs", async || env.count(Some(2), "start") == 1).await;
    env.gate.add_permits(1);
    db.drained().await;
    worker.stop().await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
    assert_eq!(db.told(ids[2]).await, ["job.completed"]);
}

/// Somebody decides about a letter, or remembers something, at this moment: nobody waits, and they have their way.
#[tokio::test]
async fn what_somebody_holds_is_passed_over() {
    let db = database().await;
    old_letters(&db, 5).await;
    db.run(
        "insert into backhaul.memories (tenant, kind, resource, value, updated_at)
         select 'acme', 'toy', 'r' || n, '1', clock_timestamp() - n * interval '20 days' from generate_series(0, 3) n",
    )
    .await;
    let mut other = sqlx::PgConnection::connect(&db.url).await.expect("connects");
    let mut deciding = other.begin().await.expect("begins");
    sqlx::raw_sql(
        "select backhaul.dead_replay((select min(id) from backhaul.dead_letters), 'ann', 'mended');
         update backhaul.memories set updated_at = clock_timestamp() where resource = 'r3'",
    )
    .execute(&mut *deciding)
    .await
    .expect("replays");
    assert_eq!([expire(&db).await, expire(&db).await, expire(&db).await], [2, 2, 0]);
    assert_eq!(db.one::<i32>("select backhaul.expire_memories('0', '30 days', 100)").await, 1);
    deciding.commit().await.expect("commits");
    assert_eq!(expire(&db).await, 0);
    assert_eq!((letters(&db).await, db.unfinished().await), (0, 1), "it was replayed");
    assert_eq!(db.one::<i32>("select backhaul.expire_memories('0', '30 days', 100)").await, 0);
    let left: Vec<(String,)> = db.rows("select resource from backhaul.memories order by 1").await;
    assert_eq!(left, ["r0", "r1", "r3"].map(|name| (name.to_owned(),)));
}

/// Lets a worker do its upkeep once.
async fn upkeep(db: &Database, options: WorkerOptions) {
    db.run("update backhaul.maintenance set ran_at = '-infinity'").await;
    let worker = Worker::start_with(db.store.clone(), &ToyEnv::new(), options);
    // The last of it.
    let done = "select isfinite(ran_at) from backhaul.maintenance where task = 'retention'";
    eventually("upkeep is done", async || db.one::<bool>(done).await).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_expires_what_it_is_told_to_and_nothing_else() {
    let db = database().await;
    // More than one batch.
    old_letters(&db, 1_500).await;
    db.run(
        "insert into backhaul.memories (tenant, kind, resource, value, updated_at)
            values ('acme', 'toy', 'r', '1', clock_timestamp() - interval '10 days')",
    )
    .await;
    upkeep(&db, Worker::patient()).await;
    let left = "select (select count(*) from backhaul.dead_letters), (select count(*) from backhaul.memories)";
    assert_eq!(db.rows::<(i64, i64)>(left).await, [(1_500, 1)]);
    let week = Some(Duration::from_secs(7 * 86_400));
    upkeep(&db, WorkerOptions { dead_letters: week, memories: week, ..Worker::patient() }).await;
    assert_eq!(db.rows::<(i64, i64)>(left).await, [(0, 0)]);
    let told: i64 = db.one("select count(*) from backhaul.events where type = 'dev.backhaul.job.discarded'").await;
    assert_eq!(told, 1_500);
}
