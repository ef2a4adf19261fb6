//! Scheduled jobs that come due, five thousand a second.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use backhaul_engine::Job;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::{
    case::{Case, Cpu},
    cost::Meter,
    kinds::{Noop, NoopEnv, PAD},
    quantiles::quantile,
    report::Round,
    runner::Bench,
    tally::Tally,
    target::{Bound, Target, Unit},
    worker::{Worker, busy, settled},
};

pub(super) const ABOUT: &str = "1,000,000 scheduled jobs coming due at 5,000 a second";
pub(super) const TARGETS: [Target; 2] = [
    Target { key: "p99_ms", what: "started late, p99", bound: Bound::AtMost(250.0), unit: Unit::Milliseconds },
    Target { key: "p50_ms", what: "started late, p50", bound: Bound::None, unit: Unit::Milliseconds },
];

/// Time between two jobs.
const APART_US: i64 = 200;
/// Jobs of one insert, and how many of them the slowest machine loads in a second.
const CHUNK: i64 = 50_000;
const LOADED_PER_S: i64 = 10_000;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let jobs: i64 = bench.size.pick(1_000, 40_000, 1_000_000);
    let count = u64::try_from(jobs)?;
    let database = bench.server.migrated().await?;
    let env = Arc::new(NoopEnv { tally: Tally::new(usize::try_from(jobs)?), work: Duration::ZERO });
    let mut producer = database.connect().await?;
    let offset_us = offset_us(&mut producer, &env.tally).await?;
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut producer).await?;
    let first = now + TimeDelta::milliseconds(300 + jobs * 1_000 / LOADED_PER_S);
    load(&mut producer, jobs, first).await?;
    producer.close().await?;
    let due_us = |number: i64| first.timestamp_micros() + number * APART_US;
    let mut meter = Meter::start(&database).await?;
    let cpu = Cpu::start(bench.postmaster);
    let worker = Worker::noop(&database, &env, busy()).await?;
    let started = Instant::now();
    ensure!(
        env.tally.now() / 1_000 + offset_us < due_us(0),
        "loading took longer than expected: the first jobs were due before the worker started"
    );
    let within = Duration::from_micros((due_us(jobs) - now.timestamp_micros()).unsigned_abs()) + bench.patience();
    env.tally.all_started(within).await?;
    settled(&mut meter).await?;
    let case = Case::new("worker", count, started.elapsed()).used(&cpu).counted(&env.tally);
    worker.stop().await?;
    let left = meter.ask("select count(*) from backhaul.jobs").await?;
    let case = case.left(left).cost(meter.end(count).await?);
    let late: Vec<f64> = (0..jobs)
        .filter_map(|number| {
            let at_us = env.tally.started_at(usize::try_from(number).ok()?)? / 1_000 + offset_us;
            Some((at_us - due_us(number)) as f64 / 1e3)
        })
        .collect();
    let early = late.iter().filter(|late| **late < -1.0).count();
    let mut round = Round::default();
    round.cases.push(case.with("samples", late.len()).with("early", early));
    for (key, q) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        if let Some(value) = quantile(&late, q) {
            round.figure(key, value);
        }
    }
    Ok(round)
}

/// The database's time minus the tally's, in microseconds, by the quickest of some answers.
async fn offset_us(connection: &mut PgConnection, tally: &Tally) -> Result<i64> {
    let mut best = (i64::MAX, 0);
    for _ in 0..20 {
        let asked = tally.now() / 1_000;
        let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *connection).await?;
        let took = tally.now() / 1_000 - asked;
        if took < best.0 {
            best = (took, now.timestamp_micros() - asked - took / 2);
        }
    }
    Ok(best.1)
}

async fn load(connection: &mut PgConnection, jobs: i64, first: DateTime<Utc>) -> Result<()> {
    let mut from = 0;
    while from < jobs {
        let until = jobs.min(from + CHUNK);
        sqlx::query(
            "insert into backhaul.jobs (due_at, max_attempts, deadline_at, kind, tenant, payload)
             select $4 + n * $5 * interval '1 microsecond', 4, $4 + interval '1 day', $1, 't0',
                 jsonb_build_object('n', n, 'pad', $6::text)
             from generate_series($2, $3 - 1) n",
        )
        .bind(Noop::KIND)
        .bind(from)
        .bind(until)
        .bind(first)
        .bind(APART_US)
        .bind(PAD)
        .execute(&mut *connection)
        .await?;
        from = until;
    }
    Ok(())
}
