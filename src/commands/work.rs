//! `backhaul work`: a worker process.

use std::{thread, time::Duration};

use anyhow::Result;
use backhaul_engine::{Sink, WorkerOptions};
use backhaul_sinks::FileSink;
use clap::Args;

use super::{database::explain_store, kinds::Kinds, session::Session, stop::Stop};

/// Work on jobs until told to stop.
///
/// SIGTERM and Ctrl-C let running attempts end (worker.grace_s); what is not done then goes back to the queue and
/// costs no attempt. A second signal ends the process at once, and others take its jobs over.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul work
  backhaul work --kind enrichment --kind widget-patch --concurrency 8
  backhaul --config production.toml work")]
pub(crate) struct Work {
    /// Work on this kind only. May be repeated [default: the setting worker.kinds]
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Attempts at once [default: the setting worker.concurrency]
    #[arg(long, value_name = "ATTEMPTS", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    concurrency: Option<u16>,
    /// Stop when standard input ends: for a parent whose death must not leave workers behind
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Runs the worker.
pub(crate) async fn run(session: &Session, command: Work) -> Result<()> {
    let stop = Stop::listen()?;
    let settings = &session.settings.worker;
    let wanted = if command.kinds.is_empty() { settings.kinds.clone() } else { command.kinds };
    let kinds = Kinds::load(session, &wanted)?;
    let store = session.store().await?;
    backhaul_engine::check_version(&store).await.map_err(explain_store)?;
    kinds.set_limits(&store).await.map_err(explain_store)?;
    let options = WorkerOptions {
        concurrency: command.concurrency.map_or(settings.concurrency, usize::from),
        prefetch: settings.prefetch,
        heartbeat: settings.heartbeat,
        dead_after: settings.dead_after,
        grace: settings.grace,
        poll: settings.poll,
        sweep: settings.sweep,
        retention: settings.retention,
        dead_letters: settings.dead_letters,
        memories: settings.memories,
        unpublished_max: settings.unpublished_max,
        pooler: session.settings.database.pooler,
        build: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let token = stop.token();
    if command.until_stdin_ends {
        let token = token.clone();
        // A thread of its own: a blocked read would keep the runtime from ending.
        thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            token.cancel();
        });
    }
    let file = session.settings.sinks.file_path.clone();
    let sinks = move || {
        file.iter().map(|path| Box::new(FileSink::new("file", path.clone())) as Box<dyn Sink>).collect::<Vec<_>>()
    };
    backhaul_engine::run_worker(store.clone(), || kinds.registry(), sinks, options, token)
        .await
        .map_err(explain_store)?;
    // Connections that a hanging server does not let go must not keep a stopped worker alive.
    let _ = tokio::time::timeout(Duration::from_secs(2), store.close()).await;
    Ok(())
}
