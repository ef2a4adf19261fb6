//! Ten thousand tenants that have had work and rest now, beside ten that work.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use sqlx::Connection;
use tokio::time::{Instant, sleep};

use crate::{
    database::Database,
    kinds::NoopEnv,
    load,
    report::Round,
    runner::Bench,
    stream::Stream,
    tally::Tally,
    target::{Bound, Target, Unit},
    worker::{Worker, busy},
};

pub(super) const ABOUT: &str = "10,000 tenants, all idle but ten, beside ten tenants";
pub(super) const TARGETS: [Target; 1] =
    [Target { key: "rate", what: "rate, of that with ten tenants", bound: Bound::AtLeast(0.9), unit: Unit::Ratio }];

/// Tenants that work.
const BUSY: usize = 10;
/// Longest wait until the cursors of idle tenants sleep.
const REST_MAX: Duration = Duration::from_secs(120);

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let jobs = bench.size.pick(2_000, 200_000, 500_000);
    let waiting = bench.size.pick(500, 10_000, 10_000);
    let many = bench.size.pick(200, 10_000, 10_000);
    let mut round = Round::default();
    for turn in 0..2 {
        let (name, tenants) = if (turn + bench.round).is_multiple_of(2) { ("ten", BUSY) } else { ("many", many) };
        let database = bench.server.migrated().await?;
        settle_down(bench, &database, tenants).await?;
        let (case, _) = Stream { name, waiting, jobs, tenants: BUSY }.run(bench, &database).await?;
        round.cases.push(case.with("tenants", tenants));
    }
    if let Some(ratio) = round.rates("many", "ten") {
        round.figure("rate", ratio);
    }
    Ok(round)
}

/// Every tenant has had one job and rests; then the ten wake.
async fn settle_down(bench: &Bench<'_>, database: &Database, tenants: usize) -> Result<()> {
    let mut connection = database.connect().await?;
    load::lanes(&mut connection, tenants).await?;
    load::ready(&mut connection, 0, tenants, tenants).await?;
    let env = Arc::new(NoopEnv { tally: Tally::new(tenants), work: Duration::ZERO });
    let worker = Worker::noop(database, &env, busy()).await?;
    env.tally.all_started(bench.patience()).await?;
    let deadline = Instant::now() + REST_MAX;
    while sqlx::query_scalar("select exists (select from backhaul.cursors where awake or not settled)")
        .fetch_one(&mut connection)
        .await?
    {
        ensure!(Instant::now() < deadline, "cursors of idle tenants did not go to sleep within {REST_MAX:?}");
        sleep(Duration::from_millis(20)).await;
    }
    worker.stop().await?;
    sqlx::query(
        "update backhaul.cursors c set awake = true, settled = false, cooling = null, served_at = clock_timestamp()
         from backhaul.lanes l where l.id = c.lane and substr(l.tenant, 2)::integer < $1",
    )
    .bind(i32::try_from(BUSY)?)
    .execute(&mut connection)
    .await?;
    connection.close().await?;
    Ok(())
}
