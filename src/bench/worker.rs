//! A worker in this process.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use backhaul_engine::{Registry, StoreError, WorkerOptions, run_worker};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    cost::Meter,
    database::Database,
    kinds::{NoopEnv, noop_registry},
};

/// Longest wait for a worker to end, and for its last outcomes to be written.
const END_MAX: Duration = Duration::from_secs(30);
/// Connections of one worker, as `config/default.toml` has them.
const CONNECTIONS: u32 = 20;

/// A running worker. Dropped, it winds down by itself.
pub(crate) struct Worker {
    stop: CancellationToken,
    task: JoinHandle<Result<(), StoreError>>,
    store: backhaul_engine::Store,
    _guard: DropGuard,
}

impl Worker {
    pub(crate) async fn start(
        database: &Database,
        registry: impl Fn() -> Registry + Send + 'static,
        options: WorkerOptions,
    ) -> Result<Self> {
        let store = database.store(CONNECTIONS).await?;
        let stop = CancellationToken::new();
        let running = run(store.clone(), registry, options, stop.clone());
        Ok(Self { _guard: stop.clone().drop_guard(), stop, task: tokio::spawn(running), store })
    }

    /// A worker of [`crate::kinds::Noop`].
    pub(crate) async fn noop(database: &Database, env: &Arc<NoopEnv>, options: WorkerOptions) -> Result<Self> {
        let env = env.clone();
        Self::start(database, move || noop_registry(&env), options).await
    }

    /// Stops cleanly, and closes its connections.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(END_MAX, self.task).await.context("the worker did not stop in time")???;
        self.store.close().await;
        Ok(())
    }
}

async fn run(
    store: backhaul_engine::Store,
    registry: impl Fn() -> Registry,
    options: WorkerOptions,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    run_worker(store, registry, Vec::new, options, stop).await
}

/// Options for throughput: a few hundred attempts at once, as jobs that do nothing need.
pub(crate) fn busy() -> WorkerOptions {
    WorkerOptions { concurrency: 500, prefetch: 1_500, ..WorkerOptions::default() }
}

/// Waits until nothing is in the worker's hands any more.
pub(crate) async fn settled(meter: &mut Meter) -> Result<()> {
    let deadline = tokio::time::Instant::now() + END_MAX;
    while !meter.settled().await? {
        if tokio::time::Instant::now() > deadline {
            bail!("jobs were still in the worker's hands after {END_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
