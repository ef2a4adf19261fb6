//! A worker inside the test's process.

use std::{sync::Arc, time::Duration};

use backhaul_engine::{Registry, Store, WorkerOptions, run_worker};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Database, PATIENCE, Toy, ToyEnv};

/// A running worker of the toy kind. Stops when dropped, and cleanly with [`Worker::stop`].
pub(crate) struct Worker {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Worker {
    /// Options that make tests quick: short heartbeats, an early rescue.
    pub(crate) fn options() -> WorkerOptions {
        WorkerOptions {
            concurrency: 16,
            prefetch: 16,
            heartbeat: Duration::from_millis(200),
            dead_after: Duration::from_secs(2),
            grace: Duration::from_secs(5),
            sweep: Duration::from_millis(50),
            ..WorkerOptions::default()
        }
    }

    pub(crate) fn start(database: &Database, env: &Arc<ToyEnv>) -> Self {
        Self::start_with(database.store.clone(), env, Self::options())
    }

    pub(crate) fn start_with(store: Store, env: &Arc<ToyEnv>, options: WorkerOptions) -> Self {
        let stop = CancellationToken::new();
        let (env, until) = (env.clone(), stop.clone());
        let registry = move || {
            let mut registry = Registry::new();
            registry.add::<Toy>(env.clone());
            registry
        };
        let task = tokio::spawn(async move {
            run_worker(store, registry, Vec::new, options, until).await.expect("the worker starts");
        });
        Self { stop, task: Some(task) }
    }

    /// Stops cleanly and waits for it.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(PATIENCE, task).await.expect("stops in time").expect("does not panic");
        }
    }

    /// Ends at once, as a killed process would: nothing is reported, nothing handed back.
    pub(crate) fn kill(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
