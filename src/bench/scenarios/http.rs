//! Jobs that make one request each against the simulator, 64 at once, beside a bare loop of the same requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use backhaul_engine::{Job, WorkerOptions};
use sqlx::Connection;
use tokio::time::Instant;

use crate::{
    case::{Case, Cpu},
    cost::Meter,
    database::Database,
    http::{Get, HttpEnv, TENANT, document, registry, simulator, token},
    load,
    report::Round,
    runner::Bench,
    target::{Bound, Target, Unit},
    worker::{Worker, settled},
};

pub(super) const ABOUT: &str = "HTTP jobs against the simulator, 64 at once, beside a bare reqwest loop";
pub(super) const TARGETS: [Target; 1] =
    [Target { key: "rate", what: "rate, of the bare loop's", bound: Bound::AtLeast(0.8), unit: Unit::Ratio }];

/// Requests at once, on both sides.
const AT_ONCE: u64 = 64;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let jobs = bench.size.pick(300, 20_000, 100_000);
    let simulator = simulator(None).await?;
    let base_url = simulator.base_url();
    let mut round = Round::default();
    for turn in 0..2 {
        round.cases.push(match (turn + bench.round) % 2 {
            0 => bare(bench, &base_url, jobs).await?,
            _ => worker(bench, &base_url, jobs).await?,
        });
    }
    let answered: u64 = simulator
        .summary()
        .record
        .by_tenant
        .get(TENANT)
        .into_iter()
        .flat_map(|of| of.values())
        .flatten()
        .map(|(_, n)| n)
        .sum();
    ensure!(answered == 2 * jobs, "the simulator answered {answered} requests in place of {}", 2 * jobs);
    simulator.stop().await;
    if let Some(ratio) = round.rates("worker", "bare") {
        round.figure("rate", ratio);
    }
    Ok(round)
}

async fn bare(bench: &Bench<'_>, base_url: &str, jobs: u64) -> Result<Case> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(15)).build()?;
    let next = Arc::new(AtomicU64::new(0));
    let cpu = Cpu::start(bench.postmaster);
    let started = Instant::now();
    let loops = (0..AT_ONCE).map(|_| {
        let (client, next, base_url) = (client.clone(), next.clone(), base_url.to_owned());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= jobs {
                    return anyhow::Ok(());
                }
                let url = format!("{base_url}/crm/api/v1/threads/{}", document(number));
                let reply = client.get(url).bearer_auth(token()).send().await?.error_for_status()?;
                let _ = reply.bytes().await?;
            }
        })
    });
    for end in futures::future::join_all(loops.collect::<Vec<_>>()).await {
        end??;
    }
    Ok(Case::new("bare", jobs, started.elapsed()).used(&cpu))
}

async fn worker(bench: &Bench<'_>, base_url: &str, jobs: u64) -> Result<Case> {
    let database = bench.server.migrated().await?;
    let env = Arc::new(HttpEnv::new(base_url, usize::try_from(jobs)?)?);
    enqueue::<Get>(&database, jobs).await?;
    let mut meter = Meter::start(&database).await?;
    let options = WorkerOptions { concurrency: usize::try_from(AT_ONCE)?, ..WorkerOptions::default() };
    let cpu = Cpu::start(bench.postmaster);
    let started = Instant::now();
    let shared = env.clone();
    let worker = Worker::start(&database, move || registry(&shared), options).await?;
    env.tally.all_started(bench.patience()).await?;
    settled(&mut meter).await?;
    let case = Case::new("worker", jobs, started.elapsed()).used(&cpu).counted(&env.tally);
    worker.stop().await?;
    let left =
        meter.ask("select (select count(*) from backhaul.jobs) + (select count(*) from backhaul.dead_letters)").await?;
    Ok(case.left(left).cost(meter.end(jobs).await?))
}

/// Ready jobs of the kind, numbered from 0.
pub(super) async fn enqueue<J: Job>(database: &Database, jobs: u64) -> Result<()> {
    let mut connection = database.connect().await?;
    backhaul_engine::register_kinds(&database.store(1).await?, &[backhaul_engine::KindSpec::of::<J>()]).await?;
    for from in (0..jobs).step_by(5_000) {
        let inserted: i64 = sqlx::query_scalar(
            "select count(*) from backhaul.enqueue_many((
                 select jsonb_agg(jsonb_build_object('kind', $1, 'tenant', $2, 'payload', jsonb_build_object('n', n)))
                 from generate_series($3, $4 - 1) n))
             where outcome = 'inserted'",
        )
        .bind(J::KIND)
        .bind(TENANT)
        .bind(i64::try_from(from)?)
        .bind(i64::try_from(jobs.min(from + 5_000))?)
        .fetch_one(&mut connection)
        .await?;
        ensure!(u64::try_from(inserted)? == jobs.min(from + 5_000) - from, "only {inserted} jobs were inserted");
        if from == 0 {
            // The first batch is placed by promotion, which makes the lane for the others.
            sqlx::query("select backhaul.promote(10000, '-infinity')").execute(&mut connection).await?;
        }
    }
    load::tidy(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
