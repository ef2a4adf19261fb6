//! Worker processes of their own: the measuring side that starts them, and the side that is started.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use backhaul_engine::{Store, WorkerOptions, run_worker};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    http::{self, HttpEnv},
    kinds::{NoopEnv, noop_registry},
    tally::Tally,
};

/// Longest wait for a process to start, and to end.
const PROCESS_MAX: Duration = Duration::from_secs(60);
/// What a process prints once it works.
const READY: &str = "READY";

/// How a worker process is to work. Travels as JSON on its command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerProcess {
    /// How long its jobs take, in milliseconds.
    pub work_ms: u64,
    /// Attempts at once.
    pub concurrency: usize,
    /// Jobs claimed beyond those.
    pub prefetch: usize,
    /// Base URL of a simulator: then its jobs are requests.
    pub simulator: Option<String>,
}

/// Runs a worker process on the database `url` until its standard input ends. `how` is a [`WorkerProcess`] as JSON.
pub async fn worker_process(url: &str, how: &str) -> Result<()> {
    let how: WorkerProcess = serde_json::from_str(how).context("the worker process was told nonsense")?;
    let store = Store::connect(url, 20, false).await?;
    let stop = CancellationToken::new();
    let ended = stop.clone();
    // A thread of its own: a blocked read would keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.cancel();
    });
    let options = WorkerOptions { concurrency: how.concurrency, prefetch: how.prefetch, ..WorkerOptions::default() };
    println!("{READY}");
    match &how.simulator {
        Some(base_url) => {
            let env = Arc::new(HttpEnv::new(base_url, 0)?);
            run_worker(store.clone(), move || http::registry(&env), Vec::new, options, stop).await?;
        }
        None => {
            let env = Arc::new(NoopEnv { tally: Tally::new(0), work: Duration::from_millis(how.work_ms) });
            run_worker(store.clone(), move || noop_registry(&env), Vec::new, options, stop).await?;
        }
    }
    let _ = timeout(Duration::from_secs(2), store.close()).await;
    Ok(())
}

/// A started worker process. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts this program again with `arguments` and waits until it works.
    pub(crate) async fn start(arguments: &[String], url: &str, how: &WorkerProcess) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg(serde_json::to_string(how)?)
            // In the environment and not in the arguments, where everybody could read the password.
            .env("DATABASE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a worker process")?;
        let output = child.stdout.take().context("the worker process has no output")?;
        let mut lines = BufReader::new(output);
        let mut line = String::new();
        timeout(PROCESS_MAX, lines.read_line(&mut line)).await.context("a worker process did not start in time")??;
        if line.trim() != READY {
            bail!("a worker process did not start: {line:?}");
        }
        // Nothing else is expected; reading on keeps a chatty process from blocking.
        tokio::spawn(async move {
            let mut rest = Vec::new();
            let _ = lines.take(1 << 20).read_to_end(&mut rest).await;
        });
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Stops it cleanly.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status =
            timeout(PROCESS_MAX, self.child.wait()).await.context("a worker process did not stop in time")??;
        if !status.success() {
            bail!("a worker process ended with {status}");
        }
        Ok(())
    }
}
