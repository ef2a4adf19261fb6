//! A whole worker whose login is a member of `backhaul_worker` alone.

use std::time::Duration;

use backhaul_engine::{Registry, Sink, WorkerOptions};

use crate::support::{Kept, Login, Toy, ToyEnv, Worker, database, eventually};

/// A whole worker whose login is a member of `backhaul_worker` alone: claims, steps, retries, ordering keys, closed
/// buckets, dead letters, a job that must run alone, sealing, a sink, upkeep, and leaving.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_works_with_the_workers_role_alone() {
    let db = database().await;
    let env = ToyEnv::new();
    let login = Login::of(&db, Some("backhaul_worker")).await;
    let store = login.store().await;
    backhaul_engine::check_version(&store).await.expect("may look");
    backhaul_engine::set_limit(&store, "default", "toy/box", 100_000, &[]).await.expect("may say");
    let ids = db
        .toys(&[
            Toy::new(1),
            Toy::new(2).act("steps"),
            Toy::new(3).act("transient").act("ok"),
            Toy::new(4).act("permanent"),
            Toy::new(5).act("throttle:50").act("ok"),
            Toy::new(6).keyed("k"),
            Toy::new(7).keyed("k").act("write").act("write"),
            Toy::new(8).keyed("k"),
            Toy::new(9),
        ])
        .await;
    // The last one killed its worker twice.
    sqlx::query("update backhaul.jobs set rescues = 2, lane = null where id = $1")
        .bind(ids[8])
        .execute(db.store.pool())
        .await
        .expect("writes");
    db.run(
        "insert into backhaul.lanes (kind, version, tenant) values ('toy', 1, 'default');
         insert into backhaul.cursors (lane, priority) select id, 2 from backhaul.lanes;
         update backhaul.jobs set lane = (select id from backhaul.lanes) where rescues = 2;
         update backhaul.maintenance set ran_at = '-infinity'",
    )
    .await;
    let kept = Kept::default();
    let sinks = {
        let kept = kept.clone();
        move || vec![Box::new(kept.clone()) as Box<dyn Sink>]
    };
    let registry = {
        let env = env.clone();
        move || {
            let mut registry = Registry::new();
            registry.add::<Toy>(env.clone());
            registry
        }
    };
    let day = Some(Duration::from_secs(86_400));
    let options = WorkerOptions { dead_letters: day, memories: day, ..Worker::options() };
    let worker = Worker::start_kinds(store.clone(), registry, sinks, options);
    eventually("all end", async || db.unfinished().await == 0).await;
    eventually("upkeep is done", async || {
        db.one::<bool>("select bool_and(ran_at > '-infinity') from backhaul.maintenance").await
    })
    .await;
    worker.stop().await;
    store.close().await;
    // Its sink had everything before it ended.
    let published: bool =
        db.one("select (select position from backhaul.sinks) = (select count(*) from backhaul.events)").await;
    assert!(published);
    let dead: Vec<(i64,)> = db.rows("select id from backhaul.dead_letters").await;
    assert_eq!(dead, [(ids[3],)]);
    assert_eq!(env.order("end").len(), 12, "each toy as often as its acts say");
    let told = kept.0.lock().expect("no panic under the lock").clone();
    let completed = told.iter().filter(|event| *event == "dev.backhaul.job.completed").count();
    assert_eq!((completed, told.iter().filter(|event| *event == "dev.backhaul.job.dead").count()), (8, 1), "{told:?}");
    let left: i64 = db
        .one(
            "select (select count(*) from backhaul.workers) + (select count(*) from backhaul.leases)
                + (select count(*) from backhaul.sleepers)",
        )
        .await;
    assert_eq!(left, 0, "it signed off");
    let owners: i64 = db
        .one("select count(distinct relowner) from pg_class where relnamespace = 'backhaul'::regnamespace and relname ~ '^events_'")
        .await;
    assert_eq!(owners, 1, "a partition that a worker made belongs to the owner");
}
