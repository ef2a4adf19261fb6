//! A tenant's single jobs beside another tenant's million, which occupy every slot.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use backhaul_engine::{Job, WorkerOptions};
use sqlx::Connection;
use tokio::time::{Instant, sleep};

use crate::{
    case::{Case, Cpu},
    cost::Meter,
    kinds::{Noop, NoopEnv, PAD},
    load,
    quantiles::quantile,
    report::Round,
    runner::Bench,
    tally::Tally,
    target::{Bound, Target, Unit},
    worker::{Worker, settled},
};

pub(super) const ABOUT: &str = "a tenant's single job beside another's 1,000,000";
pub(super) const TARGETS: [Target; 2] = [
    Target { key: "p99_ms", what: "single job started, p99", bound: Bound::AtMost(100.0), unit: Unit::Milliseconds },
    Target { key: "p50_ms", what: "single job started, p50", bound: Bound::None, unit: Unit::Milliseconds },
];

/// How long a job takes, so that the crowd does occupy the slots.
const WORK: Duration = Duration::from_millis(2);
/// Most single jobs of one run.
const SINGLES_MAX: usize = 2_000;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let crowd = bench.size.pick(2_000, 80_000, 1_000_000);
    let database = bench.server.migrated().await?;
    load::queue(&database, crowd).await?;
    let mut meter = Meter::start(&database).await?;
    let mut producer = database.connect().await?;
    let env = Arc::new(NoopEnv { tally: Tally::new(crowd + SINGLES_MAX), work: WORK });
    let cpu = Cpu::start(bench.postmaster);
    let started = Instant::now();
    let worker = Worker::noop(&database, &env, WorkerOptions::default()).await?;
    // Only while the crowd is far from its end does a single job meet it.
    let mut acknowledged = Vec::new();
    while acknowledged.len() < SINGLES_MAX && env.tally.distinct() < u64::try_from(crowd)? * 9 / 10 {
        let number = crowd + acknowledged.len();
        sqlx::query(
            "select job_id from backhaul.enqueue($1, jsonb_build_object('n', $2::bigint, 'pad', $3::text), 'single')",
        )
        .bind(Noop::KIND)
        .bind(i64::try_from(number)?)
        .bind(PAD)
        .execute(&mut producer)
        .await?;
        acknowledged.push(env.tally.now());
        sleep(Duration::from_micros(rand::random_range(5_000..35_000))).await;
    }
    let jobs = u64::try_from(crowd + acknowledged.len())?;
    env.tally.reached(jobs, bench.patience()).await?;
    settled(&mut meter).await?;
    let case = Case::new("worker", jobs, started.elapsed()).used(&cpu).counted(&env.tally);
    worker.stop().await?;
    producer.close().await?;
    let left = meter.ask("select count(*) from backhaul.jobs").await?;
    let case = case.left(left).cost(meter.end(jobs).await?);
    let waits: Vec<f64> = acknowledged
        .iter()
        .enumerate()
        .filter_map(|(single, at)| Some((env.tally.started_at(crowd + single)? - at) as f64 / 1e6))
        .collect();
    let mut round = Round::default();
    round.cases.push(case.with("samples", waits.len()));
    for (key, q) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        if let Some(value) = quantile(&waits, q) {
            round.figure(key, value);
        }
    }
    Ok(round)
}
