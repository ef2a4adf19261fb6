//! Worker processes.

use anyhow::Result;

/// How a worker process is to work.
#[derive(Debug, Clone)]
pub struct WorkerProcess {
    /// URL of the database.
    pub url: String,
}

/// Runs a worker process until its standard input ends.
pub async fn worker_process(_: WorkerProcess) -> Result<()> {
    Ok(())
}
