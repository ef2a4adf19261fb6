//! A worker inside the test's process that can die as a process does.

use std::{sync::Arc, time::Duration};

use backhaul_engine::{Registry, Sink, Store, WorkerOptions, run_worker};
use sqlx::ConnectOptions;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Database, PATIENCE, Toy, ToyEnv, eventually};

/// A running worker on a thread and with connections of its own, so that killing it leaves as little behind as killing
/// a process: no task of it runs on, and the server sees its connections break. Killed when dropped.
pub(crate) struct Worker {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
    /// Who it is among the server's connections, and whom to ask about them.
    name: String,
    watcher: Store,
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

    /// Options of a worker that is given up for dead only when a test says so (see [`Database::give_up_workers`]), so that a
    /// slow machine cannot change what the test is about.
    pub(crate) fn patient() -> WorkerOptions {
        WorkerOptions { dead_after: PATIENCE * 10, ..Self::options() }
    }

    pub(crate) fn start(database: &Database, env: &Arc<ToyEnv>) -> Self {
        Self::start_with(database.store.clone(), env, Self::options())
    }

    pub(crate) fn start_with(store: Store, env: &Arc<ToyEnv>, options: WorkerOptions) -> Self {
        let env = env.clone();
        let registry = move || {
            let mut registry = Registry::new();
            registry.add::<Toy>(env.clone());
            registry
        };
        Self::start_kinds(store, registry, Vec::new, options)
    }

    /// A worker of other kinds than the toy, or with sinks.
    pub(crate) fn start_kinds(
        store: Store,
        registry: impl Fn() -> Registry + Send + Sync + 'static,
        sinks: impl Fn() -> Vec<Box<dyn Sink>> + Send + Sync + 'static,
        options: WorkerOptions,
    ) -> Self {
        // One thread: once a kill has begun, no task of this worker is polled again.
        Self::start_on(1, store, registry, sinks, options)
    }

    /// A worker with several threads, for kinds that compute.
    pub(crate) fn start_on(
        threads: usize,
        store: Store,
        registry: impl Fn() -> Registry + Send + Sync + 'static,
        sinks: impl Fn() -> Vec<Box<dyn Sink>> + Send + Sync + 'static,
        options: WorkerOptions,
    ) -> Self {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a runtime");
        let name = format!("worker-{}", uuid::Uuid::new_v4());
        let mut url = store.pool().connect_options().to_url_lossy();
        url.query_pairs_mut().append_pair("application_name", &name);
        let task = runtime.spawn(async move {
            let own = Store::connect(url.as_str(), 10, options.pooler).await.expect("connects");
            run_worker(own, registry, sinks, options, until).await.expect("the worker starts");
        });
        Self { stop, task: Some(task), runtime: Some(runtime), name, watcher: store }
    }

    /// Asks it to stop, as SIGTERM does, and does not wait.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops cleanly and waits for it.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(PATIENCE, task).await.expect("stops in time").expect("does not panic");
        }
    }

    /// Ends at once, as a killed process would: nothing is reported, nothing handed back. Waits until the server has seen
    /// it go, because a heartbeat that was on its way would still count.
    pub(crate) async fn kill(mut self) {
        let (name, watcher) = (std::mem::take(&mut self.name), self.watcher.clone());
        let is_there = async || {
            let known = "select exists (select from pg_stat_activity where application_name = $1)";
            sqlx::query_scalar::<_, bool>(known).bind(&name).fetch_one(watcher.pool()).await.expect("looks")
        };
        eventually("the server knows it", is_there).await;
        drop(self);
        eventually("the server has seen it go", async || !is_there().await).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
