//! `backhaul demo`: everything at work, against simulated upstreams that misbehave by script.

mod house;
mod moments;
mod payloads;
mod scenario;
mod summary;
mod watch;
mod workers;

use std::{io::IsTerminal, time::Duration};

use anyhow::{Context, Result, anyhow};
use backhaul_simulator::{CertificateKind, SimOptions, Simulator};
use clap::Args;
use serde_json::Value;

use self::{house::House, moments::Moments, watch::Watch, workers::Fleet};
use super::{
    database::{explain, explain_store, rows_of},
    kinds,
    session::Session,
    simulated_profiles,
    stop::Stop,
    table,
};
use crate::telemetry;

/// The settings of the demo's workers.
const SETTINGS: &str = include_str!("../../config/demo.toml");
/// What goes wrong, and when.
const FAULTS: &str = include_str!("demo/faults.toml");

/// Run everything once against simulated upstreams, and show what happened.
///
/// Starts a private Postgres (or uses DATABASE_URL), a simulator of CXone, Genesys Cloud and a CRM, and two worker
/// processes; enqueues jobs of all four kinds for three tenants through SQL; and lets things go wrong: throttling,
/// outages, a conflict, an expired token, payloads that cannot succeed, and a worker that is killed. It ends with a
/// summary from the database. On a terminal it then stays until Ctrl-C, so that the commands it prints can be tried.
/// Each run starts clean; a database that holds anything but an earlier demo is left alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul demo
  backhaul demo --once
  DATABASE_URL=postgres://me@localhost/scratch backhaul demo

Needs no network. Files are in .backhaul/demo: the events, the workers' logs, the connection profiles.")]
pub(crate) struct Demo {
    /// End after the summary, also on a terminal
    #[arg(long)]
    once: bool,
    /// Drop whatever work the database holds, also if it is not an earlier demo's
    #[arg(long)]
    reset: bool,
}

/// Requests a minute that each simulated limit bears here, at least.
const PER_MINUTE_MIN: u32 = 600;

/// Runs the demo.
pub(crate) async fn run(session: &Session, command: Demo) -> Result<()> {
    let stop = Stop::listen()?;
    let house = House::open()?;
    let moments = Moments::new();
    moments.tell("starting Postgres, the simulator and two workers");
    let url = tokio::task::block_in_place(|| session.database_url())?;
    let store = session.store().await?;
    house::clean_schema(store.pool(), &scenario::TENANTS, command.reset).await?;
    backhaul_engine::migrate(&store, &kinds::specs()).await.map_err(explain_store)?;
    house::mark_schema(store.pool()).await?;
    house.clean_files()?;

    let mut options = SimOptions::default();
    options.load_faults(FAULTS).context("the demo's fault script")?;
    // The simulator's own limits are the documented ones, and a demonstration that waited for them would take minutes.
    options.settings.limits.values_mut().for_each(|limit| *limit = PER_MINUTE_MIN.max(*limit));
    let settings = options.settings.clone();
    let simulator = Simulator::start(options).await.context("the simulator cannot start")?;
    let tenants: Vec<String> = scenario::TENANTS.iter().map(|tenant| (*tenant).to_owned()).collect();
    let addresses = simulated_profiles::Addresses::of(&simulator, &settings);
    simulated_profiles::write(&house.profiles(), &tenants, &addresses)?;
    house.write_settings(SETTINGS)?;

    let mut fleet = Fleet::new(&house, url);
    fleet.start()?;
    fleet.start()?;
    let watched = async {
        let socket = simulator.tls_url(CertificateKind::Good).context("the simulator has no TLS address")?;
        let total = enqueue(&store, &scenario::jobs(&socket)).await?;
        moments.tell(&format!("{total} jobs of four kinds for three tenants are enqueued, through SQL"));
        Watch { store: &store, simulator: &simulator, moments: &moments, total }.run(&mut fleet).await?;
        moments.end();
        table::write_out(&summary::of(&store, &simulator, &house, total).await?)
    };
    let outcome = tokio::select! {
        outcome = watched => outcome,
        () = stop.requested() => Err(anyhow!("stopped before everything was done")),
    };
    moments.end();
    if outcome.is_ok() && std::io::stdout().is_terminal() && !command.once {
        table::write_out(
            "\nWorkers and simulator keep running: try the commands in another terminal. Ctrl-C ends all.\n",
        )?;
        stop.requested().await;
    }
    fleet.stop().await;
    simulator.stop().await;
    let _ = tokio::time::timeout(Duration::from_secs(2), store.close()).await;
    outcome.with_context(|| format!("the demo did not end well; its files are in {}", house.path().display()))
}

/// Enqueues as any producer would: one SQL statement. Returns how many jobs there are.
async fn enqueue(store: &backhaul_engine::Store, jobs: &[Value]) -> Result<usize> {
    let mut jobs = jobs.to_vec();
    if let Some(traceparent) = telemetry::traceparent() {
        jobs.iter_mut().for_each(|job| job["traceparent"] = traceparent.clone().into());
    }
    let answers: Vec<Value> = rows_of("select * from backhaul.enqueue_many($1)")
        .bind(Value::Array(jobs))
        .fetch_all(store.pool())
        .await
        .map_err(explain)?;
    match answers.iter().find(|answer| answer["outcome"] != "inserted") {
        Some(refused) => Err(anyhow!("a job of the demo was refused: {refused}")),
        None => Ok(answers.len()),
    }
}
