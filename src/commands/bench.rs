//! `backhaul bench`: the engine beside its limits.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use backhaul_bench::{Options, Scenario, Size};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;

use super::{session::Session, stop::Stop, table};

/// Attempts keep the spans that a worker has; what workers and loading would say is left out of the table.
const LOG: &str = "warn,backhaul_engine::attempt=info,sqlx=error";

/// Measure the engine on this machine, beside its limit in the same run.
///
/// Runs on fresh databases of the private Postgres, or of the server of DATABASE_URL, whose login must be allowed to
/// create databases; they are dropped afterwards. Ratios to the limit can be compared between machines, rates cannot.
/// docs/benchmarks.md explains the scenarios and their targets.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Scenarios: throughput, latency, flow, snapshot, backlog, tenants, neighbour, scheduled, enqueue, bucket, http, ingress, rest

Examples:
  backhaul bench
  backhaul bench latency throughput --rounds 5
  backhaul bench --size full --json bench.json

Use a release build: cargo run --release -- bench"
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    inner: Option<Inner>,
    /// Scenarios to run, in this order [default: all]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// small (checks that it works, measures nothing), medium (some seconds a scenario) or full
    #[arg(long, value_name = "SIZE", default_value = "medium")]
    size: Size,
    /// How often each scenario runs; the median counts
    #[arg(long, value_name = "ROUNDS", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Write everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Inner {
    /// One of the worker processes of a scenario
    #[command(hide = true)]
    WorkerProcess {
        /// How it works, as JSON
        how: String,
    },
}

/// The settings of a benchmark: those of the session, with a log that keeps out of the way.
pub(crate) fn session(session: &Session) -> Session {
    let mut settings = session.settings.clone();
    LOG.clone_into(&mut settings.telemetry.log);
    Session { settings }
}

/// Runs the benchmark, or one of its worker processes.
pub(crate) async fn run(session: &Session, command: Bench) -> Result<()> {
    let url = tokio::task::block_in_place(|| session.database_url())?;
    if let Some(Inner::WorkerProcess { how }) = command.inner {
        return backhaul_bench::worker_process(url.expose_secret(), &how).await;
    }
    let stop = Stop::listen()?;
    let options = Options {
        url: url.expose_secret().to_owned(),
        scenarios: command.scenarios,
        size: command.size,
        rounds: usize::from(command.rounds),
        worker_arguments: arguments(&["bench", "worker-process"]),
        migrate_arguments: arguments(&["migrate"]),
        serve_arguments: arguments(&["serve", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]),
        optimised: !cfg!(debug_assertions),
    };
    let report = backhaul_bench::run(options, stop.token(), |progress| eprintln!("{progress}")).await?;
    if let Some(path) = &command.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    table::write_out(&backhaul_bench::render(&report))
}

fn arguments(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
