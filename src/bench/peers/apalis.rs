//! apalis-postgres 1.0 as shipped: its own storage, its own worker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use apalis::prelude::*;
use apalis_postgres::{Config, PgTask, PostgresStorage, queries::push_tasks};
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::{
    kinds::{Noop, PAD},
    tally::Tally,
};

const QUEUE: &str = "bench";
/// Tasks of one statement while loading.
const CHUNK: u64 = 5_000;
/// The settings at which it was fastest: large batches, no locking round trip per task.
const BATCH: usize = 2_000;
const CONCURRENCY: usize = 2_000;
const END_MAX: Duration = Duration::from_secs(30);

/// Makes its schema and its tasks.
pub(crate) async fn load(pool: &PgPool, jobs: u64) -> Result<()> {
    PostgresStorage::setup(pool).await.context("apalis-postgres cannot set up its schema")?;
    let mut from = 0;
    while from < jobs {
        let until = jobs.min(from + CHUNK);
        let tasks = (from..until)
            .map(|n| Ok(TaskBuilder::new(serde_json::to_vec(&Noop { n, pad: PAD.to_owned() })?).build()))
            .collect::<Result<Vec<PgTask>>>()?;
        let mut transaction = pool.begin().await?;
        push_tasks(&mut *transaction, QUEUE, tasks).await?;
        transaction.commit().await?;
        from = until;
    }
    sqlx::raw_sql("vacuum (analyze) apalis.jobs").execute(pool).await?;
    let _ = sqlx::raw_sql("checkpoint").execute(pool).await;
    Ok(())
}

/// Runs its worker until every task is done in its table; returns the time that took.
pub(crate) async fn drain(pool: &PgPool, tally: &Arc<Tally>, within: Duration) -> Result<Duration> {
    let config = Config::default().queue(QUEUE).batch_size(BATCH).lock_tasks(false);
    let context = WorkerContext::new("bench-worker");
    let stop = context.clone();
    let backend = PostgresStorage::<Noop>::new(pool)
        .with_config(config)
        .with_pubsub()
        .poll_with_interval(Duration::from_millis(100));
    let started = Instant::now();
    let handled = tally.clone();
    let worker = WorkerBuilder::new(&context).backend(backend).concurrency(CONCURRENCY).data(handled).build(handle);
    let task: JoinHandle<Result<(), WorkerError>> = tokio::spawn(worker.run());
    tally.all_started(within).await.context("apalis-postgres")?;
    let deadline = Instant::now() + END_MAX;
    // Counted by its partial index on what is not done.
    while sqlx::query_scalar::<_, bool>("select exists (select from apalis.jobs where status <> 'Done')")
        .fetch_one(pool)
        .await?
    {
        if Instant::now() > deadline {
            bail!("apalis-postgres did not acknowledge its tasks in time");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = started.elapsed();
    // Its end is not measured, and its errors after the work is done do not matter.
    let _ = stop.stop();
    let _ = tokio::time::timeout(Duration::from_secs(3), task).await;
    Ok(took)
}

async fn handle(job: Noop, tally: Data<Arc<Tally>>) -> Result<(), BoxDynError> {
    tally.start(job.n);
    Ok(())
}
