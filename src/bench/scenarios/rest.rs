//! A worker process at rest, and with a thousand jobs in flight.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::Connection;
use tokio::time::{Instant, sleep};

use crate::{
    case::Case,
    database::Database,
    load,
    processes::{Process, WorkerProcess},
    report::Round,
    runner::Bench,
    target::{Bound, Target, Unit},
    usage,
};

pub(super) const ABOUT: &str = "one worker process at rest, and with 1,000 jobs in flight";
pub(super) const TARGETS: [Target; 3] = [
    Target { key: "cpu", what: "CPU of the worker at rest", bound: Bound::AtMost(1.0), unit: Unit::Percent },
    Target {
        key: "resident",
        what: "resident with 1,000 jobs in flight",
        bound: Bound::AtMost(80.0),
        unit: Unit::Megabytes,
    },
    Target { key: "server_cpu", what: "CPU of Postgres meanwhile", bound: Bound::None, unit: Unit::Percent },
];

/// After its start a worker registers, makes partitions and the like.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let in_flight: usize = bench.size.pick(200, 1_000, 1_000);
    let rest = Duration::from_millis(bench.size.pick(100, 10_000, 60_000));
    let work_ms = bench.size.pick(300, 4_000, 10_000);
    let database = bench.server.migrated().await?;
    let how = WorkerProcess { work_ms, concurrency: in_flight, prefetch: 64, simulator: None };
    let process = Process::start(bench.worker_arguments, &database.url, &how).await?;
    let pid = process.pid().context("the worker process is gone")?;
    sleep(bench.size.pick(Duration::from_millis(100), SETTLE, SETTLE)).await;

    let mut round = Round::default();
    let share = |seconds: f64| seconds / rest.as_secs_f64() * 100.0;
    let before = usage::cpu_s(pid);
    let server_before = bench.postmaster.map(usage::server_cpu_s);
    sleep(rest).await;
    if let (Some(before), Some(after)) = (before, usage::cpu_s(pid)) {
        round.figure("cpu", share(after - before));
    }
    if let (Some(before), Some(pid)) = (server_before, bench.postmaster) {
        round.figure("server_cpu", share(usage::server_cpu_s(pid) - before));
    }

    let started = Instant::now();
    let resident = fill(bench, &database, pid, in_flight).await?;
    round.figure("resident", resident);
    let left = drained(bench, &database).await?;
    let case = Case::new("worker", u64::try_from(in_flight)?, started.elapsed()).left(left);
    process.stop().await?;
    round.cases.push(case);
    Ok(round)
}

/// The most that the process held while `jobs` jobs were in flight.
async fn fill(bench: &Bench<'_>, database: &Database, pid: u32, jobs: usize) -> Result<f64> {
    let mut connection = database.connect().await?;
    load::lanes(&mut connection, 1).await?;
    load::ready(&mut connection, 0, jobs, 1).await?;
    sqlx::query("select backhaul.wake()").execute(&mut connection).await?;
    let deadline = Instant::now() + bench.patience();
    loop {
        let running: i64 =
            sqlx::query_scalar("select coalesce(sum(cardinality(seqs)), 0)::bigint from backhaul.leases")
                .fetch_one(&mut connection)
                .await?;
        if usize::try_from(running)? == jobs {
            break;
        }
        ensure!(Instant::now() < deadline, "{running} of {jobs} jobs came into flight");
        sleep(Duration::from_millis(5)).await;
    }
    let mut most: f64 = 0.0;
    for _ in 0..10 {
        sleep(Duration::from_millis(bench.size.pick(5, 100, 100))).await;
        most = most.max(usage::resident_mb(pid).context("the worker process is gone")?);
    }
    connection.close().await?;
    Ok(most)
}

/// Waits until nothing is left, and says how much is.
async fn drained(bench: &Bench<'_>, database: &Database) -> Result<i64> {
    let mut connection = database.connect().await?;
    let deadline = Instant::now() + bench.patience();
    loop {
        let left: i64 = sqlx::query_scalar("select count(*) from backhaul.jobs").fetch_one(&mut connection).await?;
        if left == 0 || Instant::now() > deadline {
            connection.close().await?;
            return Ok(left);
        }
        sleep(Duration::from_millis(10)).await;
    }
}
