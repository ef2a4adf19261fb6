//! apalis drives, our tables decide: the one module that names it.
//!
//! The worker, its concurrency limit and its spawning are apalis's. All I/O happens in our own tasks: `poll_next` only
//! receives from a channel, and no poll returns an error, because an error would end the worker with every job in
//! flight.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use apalis::{layers::WorkerBuilderExt, prelude::WorkerBuilder};
use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    error::{BoxDynError, WorkerError},
    task::{Task, builder::TaskBuilder, task_id::RandomId},
    worker::{context::WorkerContext, ext::parallelize::ParallelizeExt, lifecycle::LifecycleFuture},
};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::{Layer, Service};

use crate::{
    attempt::{self, Finished, Workbench},
    claim::Claimed,
    clock::Clock,
    decide::Outcome,
    settle::Settlement,
};

/// What a log leaves out unless its filter names it: apalis tells of its own workers, of which there is one to each life of
/// ours, which says the same. In the syntax of `RUST_LOG`.
pub const QUIET_LOGS: &str = "apalis_core=warn";

/// Where outcomes go.
pub(crate) type Outcomes = mpsc::UnboundedSender<Settlement>;

/// Jobs that wait for a free slot. Shared, because the worker looks at its backend only while it has one.
#[derive(Clone)]
struct Inbox(Arc<Mutex<mpsc::Receiver<Arc<Claimed>>>>);

impl Inbox {
    fn open(&self) -> MutexGuard<'_, mpsc::Receiver<Arc<Claimed>>> {
        // A panic while the lock is held leaves a channel behind, which stays usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs that were not started go back, and a deploy costs nobody an attempt.
    fn hand_back(&self, tell: &Tell) {
        let mut jobs = self.open();
        while let Ok(claimed) = jobs.try_recv() {
            tell.interrupted(claimed);
        }
    }
}

/// Our backend: a channel of claimed jobs.
struct Hand {
    jobs: Inbox,
    tell: Tell,
    stopping: CancellationToken,
}

impl Backend for Hand {
    type Task = Task<Arc<Claimed>>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        if self.stopping.is_cancelled() {
            self.jobs.hand_back(&self.tell);
        }
        let next = self.jobs.open().poll_recv(cx);
        next.map(|job| job.map(|claimed| Ok(TaskBuilder::new(claimed).build())))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        // The end of the stream alone does not end an apalis worker: it would idle until the grace is over. By now the
        // last attempt has ended. The only refusal is that of a worker which never started.
        let _ = worker.stop();
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Hand {
    type Args = Arc<Claimed>;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Tell;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Tell {
        self.tell.clone()
    }
}

/// The outermost layer: takes the outcome of every job that was released to the handler, also of one whose future is
/// dropped before it ended.
#[derive(Clone)]
struct Tell {
    outcomes: Outcomes,
    clock: Clock,
}

impl Tell {
    fn interrupted(&self, claimed: Arc<Claimed>) {
        drop(Guard { tell: self.clone(), claimed: Some(claimed) });
    }
}

impl<S> Layer<S> for Tell {
    type Service = TellService<S>;

    fn layer(&self, inner: S) -> TellService<S> {
        TellService { inner, tell: self.clone() }
    }
}

#[derive(Clone)]
struct TellService<S> {
    inner: S,
    tell: Tell,
}

/// Reports "interrupted" unless something better was reported before.
struct Guard {
    tell: Tell,
    claimed: Option<Arc<Claimed>>,
}

impl Guard {
    fn report(&mut self, finished: Finished) {
        if let Some(claimed) = self.claimed.take() {
            // The receiver lives until the last sender is gone; after that nobody can write outcomes any more, and
            // the lease is rescued.
            let _ = self.tell.outcomes.send(Settlement::of(&claimed, finished, &self.tell.clock));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.report(Finished::without_a_start(Outcome::Interrupted));
    }
}

impl<S> Service<Task<Arc<Claimed>>> for TellService<S>
where
    S: Service<Task<Arc<Claimed>>, Response = Finished, Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxDynError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, task: Task<Arc<Claimed>>) -> Self::Future {
        let mut guard = Guard { tell: self.tell.clone(), claimed: Some(task.args.clone()) };
        let call = self.inner.call(task);
        Box::pin(async move {
            let finished = match call.await {
                Ok(finished) => finished,
                Err(error) => Finished::without_a_start(Outcome::Panicked(error.to_string())),
            };
            guard.report(finished);
            Ok(())
        })
    }
}

/// The innermost service: one attempt.
#[derive(Clone)]
struct Handler {
    bench: Arc<Workbench>,
}

impl Service<Task<Arc<Claimed>>> for Handler {
    type Response = Finished;
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<Finished, BoxDynError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Arc<Claimed>>) -> Self::Future {
        let bench = self.bench.clone();
        Box::pin(async move { Ok(attempt::run(bench, task.args).await) })
    }
}

/// Runs attempts for the jobs that arrive, at most `concurrency` at once, until the channel closes and the last one
/// has ended. Once `stopping` is cancelled no further job is started, and those that wait are handed back at once.
/// Dropping the future stops all attempts, and reports them interrupted.
pub(crate) fn run(
    bench: Arc<Workbench>,
    jobs: mpsc::Receiver<Arc<Claimed>>,
    outcomes: Outcomes,
    concurrency: usize,
    stopping: CancellationToken,
) -> BoxFuture<'static, Result<(), WorkerError>> {
    let tell = Tell { outcomes, clock: bench.clock.clone() };
    let jobs = Inbox(Arc::new(Mutex::new(jobs)));
    let worker = WorkerBuilder::new(bench.worker.to_string())
        .backend(Hand { jobs: jobs.clone(), tell: tell.clone(), stopping: stopping.clone() })
        .concurrency(concurrency)
        // Own tasks: the worker polls everything in one, and a handler that computes would hold up all others.
        .parallelize(spawn)
        .build(Handler { bench });
    async move {
        let mut running = pin!(worker.run());
        tokio::select! {
            ended = &mut running => return ended,
            () = stopping.cancelled() => {}
        }
        jobs.hand_back(&tell);
        // It holds a sender of outcomes, and the settles wait for the last one.
        drop(tell);
        running.await
    }
    .boxed()
}

type Attempt = <Handler as Service<Task<Arc<Claimed>>>>::Future;

fn spawn(attempt: LifecycleFuture<Attempt>) -> AbortOnDropHandle<Result<Finished, BoxDynError>> {
    AbortOnDropHandle::new(tokio::spawn(attempt))
}
