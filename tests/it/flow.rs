//! Jobs that come in a steady flow: producers are not made to wait for the bell, and nothing waits for the next poll.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::support::{Toy, ToyEnv, Worker, database, eventually};

/// Producers that ring commit one after the other, so a worker that is rung for too often tells them to stop, looks by
/// itself, and goes back to sleep when the flow ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_rung_for_too_often_looks_by_itself() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start_with(db.store.clone(), &env, Worker::options());
    let asleep = async || db.one::<bool>("select exists (select from backhaul.sleepers)").await;
    eventually("it sleeps", async || asleep().await).await;
    let given = AtomicI64::new(0);
    eventually("it signs off", async || {
        for _ in 0..20 {
            db.run("select pg_notify('backhaul', '')").await;
        }
        db.toys(&[Toy::new(given.fetch_add(1, Ordering::Relaxed))]).await;
        !asleep().await
    })
    .await;
    eventually("it sleeps again", async || asleep().await).await;
    db.drained().await;
    let given = usize::try_from(given.into_inner()).expect("few");
    assert_eq!(env.order("end").len(), given, "each ran once");
    worker.stop().await;
}

/// A job that is enqueued while a worker is awake and found nothing is found by its next look, though nobody rings.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_awake_needs_no_bell() {
    let db = database().await;
    let env = ToyEnv::new();
    // Whoever signs on waits, so the worker stays awake with all its looks behind it, or before it.
    let mut gate = db.store.pool().begin().await.expect("begins");
    sqlx::query("lock table backhaul.sleepers in exclusive mode").execute(&mut *gate).await.expect("locks");
    let options = backhaul_engine::WorkerOptions { poll: Duration::from_secs(60), ..Worker::options() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    let waits = "select exists (select from pg_locks k join pg_database d on d.oid = k.database
                                where not k.granted and d.datname = current_database())";
    eventually("it is about to sleep", async || db.one::<bool>(waits).await).await;
    db.toys(&[Toy::new(1)]).await;
    gate.commit().await.expect("commits");
    eventually("the look after signing on finds it", async || env.order("end") == [1]).await;
    worker.stop().await;
}
