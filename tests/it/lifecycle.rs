//! Every accepted job ends exactly once: done or dead, with one terminal event.

use crate::support::{PATIENCE, Toy, ToyEnv, Worker, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_end_as_their_failures_say() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db
        .toys(&[
            Toy::new(1),
            Toy::new(2).act("transient").act("ok"),
            Toy::new(3).act("permanent"),
            Toy::new(4).act("conflict"),
            Toy::new(5).act("panic").act("ok"),
            Toy::new(6).act("throttle:200").act("ok"),
        ])
        .await;
    let worker = Worker::start(&db, &env);
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(ids.len(), 6);
    let dead: Vec<(i64, String)> = sqlx::query_as("select id, reason from backhaul.dead_letters order by id")
        .fetch_all(db.store.pool())
        .await
        .expect("reads");
    assert_eq!(dead, [(ids[2], "toy_lost".to_owned()), (ids[3], "conflict".to_owned())]);
    let terminal: Vec<(i64, i64)> = sqlx::query_as(
        "select job_id, count(*) from backhaul.events where type in ('dev.backhaul.job.completed', 'dev.backhaul.job.dead')
         group by 1 order by 1",
    )
    .fetch_all(db.store.pool())
    .await
    .expect("reads");
    assert_eq!(terminal, ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>());
    assert!(PATIENCE.as_secs() > 0);
}
