//! Jobs that do nothing, with one audit event each: one worker process, the bare statements, and apalis-postgres.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::time::Instant;

use crate::{
    case::{Case, Cpu},
    cost::Meter,
    kinds::NoopEnv,
    load,
    peers::{apalis, bare},
    report::Round,
    runner::Bench,
    tally::Tally,
    target::{Bound, Target, Unit},
    worker::{Worker, busy, settled},
};

pub(super) const ABOUT: &str = "no-op jobs, one audit event each, one worker process, durable commits";
pub(super) const TARGETS: [Target; 2] = [
    Target { key: "of_bare", what: "rate, of the bare statements'", bound: Bound::AtLeast(0.5), unit: Unit::Ratio },
    Target { key: "of_apalis", what: "rate, of apalis-postgres's", bound: Bound::AtLeast(5.0), unit: Unit::Ratio },
];

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let mut round = Round::default();
    for turn in 0..3 {
        let case = match (turn + bench.round) % 3 {
            0 => bare_statements(bench).await?,
            1 => one_worker(bench).await?,
            _ => apalis_postgres(bench).await?,
        };
        round.cases.push(case);
    }
    if let Some(ratio) = round.rates("worker", "bare") {
        round.figure("of_bare", ratio);
    }
    if let Some(ratio) = round.rates("worker", "apalis") {
        round.figure("of_apalis", ratio);
    }
    Ok(round)
}

fn jobs(bench: &Bench<'_>) -> u64 {
    bench.size.pick(1_000, 200_000, 1_000_000)
}

async fn bare_statements(bench: &Bench<'_>) -> Result<Case> {
    let jobs = jobs(bench);
    let database = bench.server.migrated().await?;
    load::queue(&database, usize::try_from(jobs)?).await?;
    let mut meter = Meter::start(&database).await?;
    let cpu = Cpu::start(bench.postmaster);
    let took = bare::drain(&database, jobs, bench.patience()).await?;
    let case = Case::new("bare", jobs, took).used(&cpu);
    let left = meter.ask("select count(*) from backhaul.jobs").await?;
    let events: i64 = meter.ask("select count(*) from backhaul.events").await?;
    Ok(case.left(left).with("events", events).cost(meter.end(jobs).await?))
}

async fn one_worker(bench: &Bench<'_>) -> Result<Case> {
    let jobs = jobs(bench);
    let database = bench.server.migrated().await?;
    load::queue(&database, usize::try_from(jobs)?).await?;
    let mut meter = Meter::start(&database).await?;
    let env = Arc::new(NoopEnv { tally: Tally::new(usize::try_from(jobs)?), work: Duration::ZERO });
    let cpu = Cpu::start(bench.postmaster);
    let started = Instant::now();
    let worker = Worker::noop(&database, &env, busy()).await?;
    env.tally.all_started(bench.patience()).await?;
    settled(&mut meter).await?;
    let case = Case::new("worker", jobs, started.elapsed()).used(&cpu).counted(&env.tally);
    worker.stop().await?;
    let left =
        meter.ask("select (select count(*) from backhaul.jobs) + (select count(*) from backhaul.dead_letters)").await?;
    let events: i64 = meter.ask("select count(*) from backhaul.events").await?;
    Ok(case.left(left).with("events", events).cost(meter.end(jobs).await?))
}

/// A fifth of the jobs: it needs as long for them.
async fn apalis_postgres(bench: &Bench<'_>) -> Result<Case> {
    let jobs = jobs(bench) / 5;
    let database = bench.server.empty().await?;
    let pool = database.pool(10).await.context("connections for apalis-postgres")?;
    apalis::load(&pool, jobs).await?;
    let tally = Arc::new(Tally::new(usize::try_from(jobs)?));
    let cpu = Cpu::start(bench.postmaster);
    let took = apalis::drain(&pool, &tally, bench.patience()).await?;
    let case = Case::new("apalis", jobs, took).used(&cpu).counted(&tally);
    pool.close().await;
    Ok(case)
}
