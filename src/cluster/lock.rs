//! One process at a time sets up, starts or stops a cluster.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Creating a cluster takes seconds; whoever waits longer than this waits for something that hangs.
const WAIT_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// Held while a cluster changes; the kernel frees it when its process dies.
#[derive(Debug)]
pub(super) struct HomeLock {
    _file: File,
}

impl HomeLock {
    /// Waits for the lock of `home`, at most [`WAIT_MAX`].
    pub(super) fn take(home: &Path) -> Result<Self> {
        let path = home.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open the lock file {}", path.display()))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if started.elapsed() < WAIT_MAX => thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => bail!(
                    "another process has held {} for more than {} s: is a `backhaul` hanging there?",
                    path.display(),
                    WAIT_MAX.as_secs()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}
