//! A stream of jobs: a producer keeps a certain number waiting while one worker takes them.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use sqlx::Connection;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    case::{Case, Cpu},
    cost::Meter,
    database::Database,
    kinds::NoopEnv,
    load,
    runner::Bench,
    tally::Tally,
    worker::{Worker, busy},
};

/// Jobs of one insert of the producer.
const CHUNK: usize = 2_000;

/// How a stream runs.
pub(crate) struct Stream {
    pub name: &'static str,
    /// Jobs that wait, all the time.
    pub waiting: usize,
    /// Jobs that are measured.
    pub jobs: usize,
    /// Tenants among whom the jobs are spread; their lanes exist.
    pub tenants: usize,
}

impl Stream {
    /// Runs it on a database whose lanes exist. The queue is filled first; the clock runs from the worker's start
    /// until as many jobs have started as are measured, and the producer appends as many meanwhile.
    pub(crate) async fn run(&self, bench: &Bench<'_>, database: &Database) -> Result<(Case, Arc<NoopEnv>)> {
        let mut producer = database.connect().await?;
        load::ready(&mut producer, 0, self.waiting, self.tenants).await?;
        load::tidy(&mut producer).await?;
        producer.close().await?;
        let mut meter = Meter::start(database).await?;
        let mut producer = database.connect().await?;
        let env = Arc::new(NoopEnv { tally: Tally::new(self.waiting + self.jobs), work: Duration::ZERO });
        let cpu = Cpu::start(bench.postmaster);
        let started = Instant::now();
        let worker = Worker::noop(database, &env, busy()).await?;
        let (watched, waiting, all, tenants) = (env.clone(), self.waiting, self.waiting + self.jobs, self.tenants);
        let producing = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut next = waiting;
            while next < all {
                let taken = usize::try_from(watched.tally.distinct())?;
                if next.saturating_sub(taken) >= waiting {
                    sleep(Duration::from_millis(2)).await;
                    continue;
                }
                let until = all.min(next + CHUNK);
                load::ready(&mut producer, next, until, tenants).await?;
                next = until;
            }
            producer.close().await?;
            anyhow::Ok(())
        }));
        let jobs = u64::try_from(self.jobs)?;
        env.tally.reached(jobs, bench.patience()).await?;
        let case = Case::new(self.name, jobs, started.elapsed()).used(&cpu);
        tokio::time::timeout(bench.patience(), producing).await???;
        worker.stop().await?;
        let done = env.tally.distinct();
        let left: i64 = meter.ask("select count(*) from backhaul.jobs").await?;
        let events: i64 = meter.ask("select count(*) from backhaul.events").await?;
        let mut case = case.cost(meter.end(done).await?).left(left).with("events", events);
        // What the worker took beyond the measured ones, before it was stopped, is done too.
        (case.done, case.started) = (done, env.tally.started());
        Ok((case.with("waiting", self.waiting).with("given", all), env))
    }
}
