//! Runs scenarios, round by round, and cleans up after them.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio_util::sync::CancellationToken;

use crate::{
    database::Server,
    machine::Machine,
    options::{Options, Size},
    report::{Outcome, Report, Round},
    scenarios::Scenario,
    usage,
};

/// What a scenario works with.
pub(crate) struct Bench<'a> {
    pub server: &'a Server,
    pub size: Size,
    /// Which round it is, from 0. Contestants take turns in going first.
    pub round: usize,
    /// The server's first process, where it runs on this machine.
    pub postmaster: Option<u32>,
    pub worker_arguments: &'a [String],
    pub migrate_arguments: &'a [String],
    pub serve_arguments: &'a [String],
}

impl Bench<'_> {
    /// Longest time that the jobs of one case may take.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.size.pick(30, 120, 1_800))
    }
}

/// Runs what `options` says and reports it. `tell` hears about the progress. Cancelling `stop` ends the run with an
/// error; the databases are dropped in any case.
pub async fn run(options: Options, stop: CancellationToken, tell: impl Fn(&str)) -> Result<Report> {
    let server = Server::new(&options.url);
    let outcome = tokio::select! {
        outcome = all(&server, &options, &tell) => outcome,
        () = stop.cancelled() => Err(anyhow!("stopped before everything was measured")),
    };
    server.drop_made().await;
    outcome
}

async fn all(server: &Server, options: &Options, tell: &impl Fn(&str)) -> Result<Report> {
    let mut connection = server.connect().await.context("cannot connect to the server")?;
    let machine = Machine::read(&mut connection, options.optimised).await?;
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
    let postmaster = usage::postmaster_of(backend);
    let chosen = if options.scenarios.is_empty() { Scenario::ALL.to_vec() } else { options.scenarios.clone() };
    let mut report = Report {
        machine,
        size: options.size.name(),
        rounds: options.rounds,
        scenarios: Vec::with_capacity(chosen.len()),
    };
    for scenario in chosen {
        let mut rounds = Vec::with_capacity(options.rounds);
        for number in 0..options.rounds {
            tell(&format!("{}, round {} of {}", scenario.name(), number + 1, options.rounds));
            let bench = Bench {
                server,
                size: options.size,
                round: number,
                postmaster,
                worker_arguments: &options.worker_arguments,
                migrate_arguments: &options.migrate_arguments,
                serve_arguments: &options.serve_arguments,
            };
            rounds.push(one(scenario, &bench).await.with_context(|| format!("the scenario {}", scenario.name()))?);
            server.drop_made().await;
        }
        report.scenarios.push(Outcome::new(scenario, options.size, rounds));
    }
    Ok(report)
}

async fn one(scenario: Scenario, bench: &Bench<'_>) -> Result<Round> {
    let before = usage::probe_ms();
    let within = Duration::from_secs(bench.size.pick(120, 900, 7_200));
    let ran = tokio::time::timeout(within, scenario.run(bench)).await;
    let mut round = ran.with_context(|| format!("not done within {within:?}"))??;
    round.probe_ms = [before, usage::probe_ms()];
    Ok(round)
}
