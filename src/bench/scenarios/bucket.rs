//! One upstream limit, shared by three worker processes, against a server that answers 429 beyond it.

use std::time::Duration;

use anyhow::{Result, ensure};
use backhaul_simulator::Simulator;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::enqueue;
use crate::{
    case::Case,
    cost::Meter,
    http::{BUCKET, PacedGet, TENANT, simulator},
    processes::{Process, WorkerProcess},
    report::Round,
    runner::Bench,
    target::{Bound, Target, Unit},
};

pub(super) const ABOUT: &str =
    "6,000 requests a minute shared by three worker processes; the server answers 429 beyond";
pub(super) const TARGETS: [Target; 2] = [
    Target { key: "used", what: "share of the limit that is used", bound: Bound::AtLeast(0.97), unit: Unit::Ratio },
    Target { key: "refused", what: "429 after the first second", bound: Bound::AtMost(0.0), unit: Unit::Count },
];

const PER_MINUTE: u32 = 6_000;
const PROCESSES: usize = 3;
/// The first second does not count: the processes have just met the bucket.
const BEGIN: Duration = Duration::from_secs(1);

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let seconds: u64 = bench.size.pick(0, 15, 130);
    // Small: as many jobs as are quickly done, to the last one. Else more than can be done.
    let jobs =
        bench.size.pick(60, u64::from(PER_MINUTE) / 60 * (seconds + 10), u64::from(PER_MINUTE) / 60 * (seconds + 10));
    let simulator = simulator(Some(PER_MINUTE)).await?;
    let database = bench.server.migrated().await?;
    enqueue::<PacedGet>(&database, jobs).await?;
    let store = database.store(1).await?;
    backhaul_engine::set_limit(&store, TENANT, BUCKET, PER_MINUTE, &[]).await?;
    store.close().await;
    let mut meter = Meter::start(&database).await?;
    let how = WorkerProcess { work_ms: 0, concurrency: 16, prefetch: 16, simulator: Some(simulator.base_url()) };
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(bench.worker_arguments, &database.url, &how).await?);
    }
    let begun = begun(&simulator, bench.patience()).await?;
    let mut round = Round::default();
    let took = if seconds == 0 {
        let deadline = Instant::now() + bench.patience();
        while answers(&simulator).0 < jobs {
            ensure!(Instant::now() < deadline, "the requests were not made in time");
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    } else {
        sleep_until(begun + BEGIN).await;
        let before = answers(&simulator);
        let from = Instant::now();
        sleep(Duration::from_secs(seconds)).await;
        let after = answers(&simulator);
        let window = from.elapsed();
        let allowed = f64::from(PER_MINUTE) * window.as_secs_f64() / 60.0;
        round.figure("used", (after.0 - before.0) as f64 / allowed);
        round.figure("refused", (after.1 - before.1) as f64);
        begun.elapsed()
    };
    for process in processes {
        process.stop().await?;
    }
    let (done, refused) = answers(&simulator);
    let left: i64 = meter.ask("select count(*) from backhaul.jobs").await?;
    ensure!(done + left.unsigned_abs() == jobs, "{done} done and {left} left are not the {jobs} jobs given");
    simulator.stop().await;
    let case = Case::new("three processes", done, took).left(left).cost(meter.end(done).await?);
    round.cases.push(case.with("refused", refused).with("given", jobs));
    Ok(round)
}

/// When the first request was answered.
async fn begun(simulator: &Simulator, within: Duration) -> Result<Instant> {
    let deadline = Instant::now() + within;
    while answers(simulator).0 == 0 {
        ensure!(Instant::now() < deadline, "no request was made");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(Instant::now())
}

/// Requests answered with success, and with 429.
fn answers(simulator: &Simulator) -> (u64, u64) {
    let totals = simulator.summary().record.by_tenant;
    let Some(statuses) = totals.get(TENANT).and_then(|classes| classes.get(BUCKET)) else { return (0, 0) };
    let of = |status: u16| statuses.get(&status).copied().unwrap_or(0);
    (of(200), of(429))
}
