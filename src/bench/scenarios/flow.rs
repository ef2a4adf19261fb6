//! Pick-up while a thousand jobs a second flow, each enqueued by a transaction of its own.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use backhaul_engine::{Job, WorkerOptions};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep_until};

use crate::{
    case::{Case, Cpu},
    cost::Meter,
    kinds::{Noop, NoopEnv, PAD},
    quantiles::quantile,
    report::Round,
    runner::Bench,
    tally::Tally,
    target::{Bound, Target, Unit},
    worker::{Worker, settled},
};

pub(super) const ABOUT: &str = "commit acknowledged to handler started, 1,000 jobs a second flowing";
pub(super) const TARGETS: [Target; 3] = [
    Target { key: "p99_ms", what: "pick-up p99", bound: Bound::AtMost(10.0), unit: Unit::Milliseconds },
    Target { key: "p50_ms", what: "pick-up p50", bound: Bound::None, unit: Unit::Milliseconds },
    Target { key: "offered", what: "jobs a second that came in", bound: Bound::None, unit: Unit::Count },
];

/// Jobs a second, in all.
const RATE: u64 = 1_000;
/// Producers, each with a connection; a commit that waits for the disk may take some milliseconds.
const PRODUCERS: u64 = 16;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let jobs: u64 = bench.size.pick(400, 8_000, 60_000);
    let database = bench.server.migrated().await?;
    let mut meter = Meter::start(&database).await?;
    let env = Arc::new(NoopEnv { tally: Tally::new(usize::try_from(jobs)?), work: Duration::ZERO });
    let cpu = Cpu::start(bench.postmaster);
    let worker = Worker::noop(&database, &env, WorkerOptions::default()).await?;
    let mut connections = Vec::new();
    for _ in 0..PRODUCERS {
        connections.push(database.connect().await?);
    }
    let started = Instant::now();
    let producers = connections
        .into_iter()
        .zip(0..)
        .map(|(connection, first)| tokio::spawn(produce(connection, env.clone(), first, jobs, started)));
    let mut acknowledged = Vec::new();
    for producer in futures::future::join_all(producers.collect::<Vec<_>>()).await {
        acknowledged.extend(producer??);
    }
    let offered = jobs as f64 / started.elapsed().as_secs_f64();
    env.tally.all_started(bench.patience()).await?;
    settled(&mut meter).await?;
    let case = Case::new("worker", jobs, started.elapsed()).used(&cpu).counted(&env.tally);
    worker.stop().await?;
    let left = meter.ask("select count(*) from backhaul.jobs").await?;
    let case = case.left(left).cost(meter.end(jobs).await?);
    let waits: Vec<f64> = acknowledged
        .into_iter()
        .filter_map(|(number, at)| Some((env.tally.started_at(number)? - at) as f64 / 1e6))
        .collect();
    let mut round = Round::default();
    round.cases.push(case.with("samples", waits.len()));
    for (key, q) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        if let Some(value) = quantile(&waits, q) {
            round.figure(key, value);
        }
    }
    round.figure("offered", offered);
    Ok(round)
}

/// Enqueues every sixteenth job at its time; returns when each was acknowledged.
async fn produce(
    mut connection: PgConnection,
    env: Arc<NoopEnv>,
    first: u64,
    jobs: u64,
    started: Instant,
) -> Result<Vec<(usize, i64)>> {
    let mut acknowledged = Vec::new();
    for number in (first..jobs).step_by(usize::try_from(PRODUCERS)?) {
        sleep_until(started + Duration::from_micros(number * 1_000_000 / RATE)).await;
        sqlx::query("select job_id from backhaul.enqueue($1, jsonb_build_object('n', $2::bigint, 'pad', $3::text))")
            .bind(Noop::KIND)
            .bind(i64::try_from(number)?)
            .bind(PAD)
            .execute(&mut connection)
            .await?;
        acknowledged.push((usize::try_from(number)?, env.tally.now()));
    }
    connection.close().await?;
    Ok(acknowledged)
}
