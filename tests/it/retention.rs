//! Events go by whole partitions, with their seals, when they are older than the retention and nobody needs them any more.

use backhaul_engine::{Registry, Sink};
use sqlx::Connection;

use crate::support::{Database, Kept, Worker, database, eventually};

/// Three old events in the first partition, a new one in the second; all sealed.
async fn old_and_new(db: &Database) {
    db.run(
        "select backhaul.append_event('dev.backhaul.old', n, 'acme', 'toy', null, '{}') from generate_series(1, 3) n;
         update backhaul.events set occurred_at = now() - interval '2 years'",
    )
    .await;
    db.run("select backhaul.seal(100)").await;
    db.run(
        "select setval('backhaul.event_seq', 10000000);
         update backhaul.seal_state set position = 10000000;
         select backhaul.add_partitions('0');
         select backhaul.append_event('dev.backhaul.new', 4, 'acme', 'toy', null, '{}')",
    )
    .await;
    db.run("select backhaul.seal(100)").await;
    assert_eq!(left(db).await, (4, 2, 4));
}

/// Events, seals, and partitions beside the default one.
async fn left(db: &Database) -> (i64, i64, i64) {
    db.rows(
        "select (select count(*) from backhaul.events), (select count(*) from backhaul.seals),
            (select count(*) from pg_class where oid::regclass::text ~ '^backhaul\\.events_[0-9]+$' and relkind = 'r')",
    )
    .await[0]
}

async fn drop_old(db: &Database) -> i32 {
    db.one("select backhaul.drop_partitions('0', '1 year', 100)").await
}

#[tokio::test]
async fn what_is_old_goes_once_every_sink_has_it() {
    let db = database().await;
    old_and_new(&db).await;
    db.run("insert into backhaul.sinks (name, kind, target, position) values ('slow', 'file', 'there', 2)").await;
    assert_eq!(drop_old(&db).await, 0, "a sink needs the third");
    db.run("update backhaul.sinks set position = 3").await;
    assert_eq!(drop_old(&db).await, 2, "a seal and a partition");
    assert_eq!(left(&db).await, (1, 1, 3));
    assert_eq!(drop_old(&db).await, 0, "the other one is not full, and new");
}

/// Somebody reads the events for long: nothing waits for the lock that a drop needs, with those who write events behind it.
#[tokio::test]
async fn a_long_report_is_waited_for_without_holding_anybody_up() {
    let db = database().await;
    old_and_new(&db).await;
    db.run("drop table backhaul.events_3").await;
    let mut report = sqlx::PgConnection::connect(&db.url).await.expect("connects");
    let mut reading = report.begin().await.expect("begins");
    sqlx::query("lock table backhaul.events, backhaul.events_default in access share mode")
        .execute(&mut *reading)
        .await
        .expect("locks");
    assert_eq!(drop_old(&db).await, 1, "the seal alone");
    assert_eq!(db.one::<i32>("select backhaul.add_partitions('0')").await, 0);
    reading.commit().await.expect("commits");
    assert_eq!(db.one::<i32>("select backhaul.add_partitions('0')").await, 1);
    assert_eq!(drop_old(&db).await, 1);
    assert_eq!(left(&db).await, (1, 1, 3));
}

/// A sink that is new, or was paused for longer than the retention, goes on with what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_goes_on_behind_what_is_gone() {
    let db = database().await;
    old_and_new(&db).await;
    assert_eq!(drop_old(&db).await, 2);
    let kept = Kept::default();
    let sinks = {
        let kept = kept.clone();
        move || vec![Box::new(kept.clone()) as Box<dyn Sink>]
    };
    let worker = Worker::start_kinds(db.store.clone(), Registry::new, sinks, Worker::options());
    eventually("it has what is left", async || {
        db.one::<bool>("select exists (select from backhaul.sinks where position = 4)").await
    })
    .await;
    worker.stop().await;
    assert_eq!(*kept.0.lock().expect("no panic under the lock"), ["dev.backhaul.new"]);
}
