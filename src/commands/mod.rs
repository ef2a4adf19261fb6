//! The command line: one file a subcommand.

mod backfill;
#[cfg(feature = "bench")]
mod bench;
mod bulk;
mod completions;
mod database;
mod db;
mod dead;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod enqueue;
mod erase;
pub(crate) mod exit;
mod jobs;
mod kinds;
mod migrate;
mod outbox;
mod parked;
mod payloads;
mod queue;
mod schedules;
mod serve;
mod session;
mod settings;
#[cfg(feature = "demo")]
mod simulate;
#[cfg(feature = "demo")]
mod simulated_profiles;
mod stats;
mod stop;
mod table;
mod when;
mod work;

use std::{env, future::Future, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tracing::Instrument;

use self::session::Session;
use crate::telemetry::{self, Telemetry};

/// Tasks that still run when a command is done are not waited for longer than this.
const RUNTIME_END_MAX: Duration = Duration::from_secs(2);

/// A durable job queue on plain Postgres for contact-centre integration.
#[derive(Debug, Parser)]
#[command(name = "backhaul", version, max_term_width = 110, after_help = exit::HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Settings file, in TOML. Its keys override the defaults, and BACKHAUL__SECTION__KEY overrides both
    #[arg(long, global = true, value_name = "FILE", env = "BACKHAUL_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    /// Postgres to use instead of the private one, as postgres://user:password@host:port/database
    #[arg(long, global = true, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    Migrate(migrate::Migrate),
    Work(work::Work),
    Serve(serve::Serve),
    Enqueue(enqueue::Enqueue),
    Backfill(backfill::Backfill),
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    #[command(subcommand)]
    Dead(dead::Dead),
    #[command(subcommand)]
    Parked(parked::Parked),
    #[command(subcommand)]
    Queue(queue::Queue),
    Stats(stats::Stats),
    #[command(subcommand)]
    Schedules(schedules::Schedules),
    Erase(erase::Erase),
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    #[cfg(feature = "demo")]
    Simulate(simulate::Simulate),
    Doctor(doctor::Doctor),
    #[cfg(feature = "bench")]
    Bench(bench::Bench),
    #[command(subcommand)]
    Db(db::Db),
    #[command(subcommand, name = "config")]
    Settings(settings::Show),
    Completions(completions::Completions),
}

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let session = Session::open(&cli.global)?;
    match cli.command {
        Command::Db(command) => db::run(&session, command),
        Command::Settings(command) => settings::run(&session, &command),
        Command::Completions(command) => completions::run(&command),
        Command::Migrate(command) => on_runtime(&session, "migrate", migrate::run(&session, command)),
        Command::Work(command) => on_runtime(&session, "work", work::run(&session, command)),
        Command::Serve(command) => on_runtime(&session, "serve", serve::run(&session, command)),
        #[cfg(feature = "demo")]
        Command::Demo(command) => on_runtime(&session.quiet(), "demo", demo::run(&session, command)),
        #[cfg(feature = "demo")]
        Command::Simulate(command) => on_runtime(&session, "simulate", simulate::run(command)),
        Command::Enqueue(command) => on_runtime(&session, "enqueue", enqueue::run(&session, command)),
        Command::Backfill(command) => on_runtime(&session, "backfill", backfill::run(&session, command)),
        Command::Jobs(command) => on_runtime(&session, "jobs", jobs::run(&session, command)),
        Command::Dead(command) => on_runtime(&session, "dead", dead::run(&session, command)),
        Command::Parked(command) => on_runtime(&session, "parked", parked::run(&session, command)),
        Command::Queue(command) => on_runtime(&session, "queue", queue::run(&session, command)),
        Command::Stats(command) => on_runtime(&session, "stats", stats::run(&session, command)),
        Command::Schedules(command) => on_runtime(&session, "schedules", schedules::run(&session, command)),
        Command::Erase(command) => on_runtime(&session, "erase", erase::run(&session, command)),
        Command::Outbox(command) => on_runtime(&session, "outbox", outbox::run(&session, command)),
        Command::Doctor(command) => on_runtime(&session, "doctor", doctor::run(&session, command)),
        #[cfg(feature = "bench")]
        Command::Bench(command) => on_runtime(&bench::session(&session), "bench", bench::run(&session, command)),
    }
}

/// Runs `work` with logging and telemetry, and sends what they hold before it returns.
fn on_runtime(session: &Session, name: &'static str, work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let telemetry = {
        let _inside = runtime.enter();
        Telemetry::start(&session.settings.telemetry)?
    };
    let span = tracing::info_span!("command", otel.name = name);
    // Tools that trace their steps hand the context to their children in this variable.
    if let Ok(traceparent) = env::var("TRACEPARENT") {
        telemetry::continue_trace(&span, &traceparent);
    }
    let done = runtime.block_on(work.instrument(span));
    telemetry.stop();
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    done
}
