//! The demo's workers: real processes, so that one can be killed.

use std::{env, fs::OpenOptions, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command};

use super::house::House;

/// Longest wait for a worker to stop; its own grace is shorter.
const STOP_MAX: Duration = Duration::from_secs(20);

/// The worker processes of one demo.
pub(super) struct Fleet<'a> {
    house: &'a House,
    url: SecretString,
    members: Vec<Member>,
    started: usize,
}

/// Where this program lies. A build replaces the file under a running demo, but Linux keeps the old one reachable.
fn this_program() -> Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    match env::current_exe() {
        Ok(path) if path.exists() => Ok(path),
        _ if running.exists() => Ok(running),
        found => found.context("this program does not know where it lies"),
    }
}

struct Member {
    number: usize,
    process: Child,
}

impl<'a> Fleet<'a> {
    /// No workers yet; they will use the database at `url`.
    pub(super) fn new(house: &'a House, url: SecretString) -> Self {
        Self { house, url, members: Vec::new(), started: 0 }
    }

    /// Starts one more worker and returns its number.
    pub(super) fn start(&mut self) -> Result<usize> {
        self.started += 1;
        let number = self.started;
        let path = self.house.log(number);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let errors = log.try_clone().context("cannot open the worker's log twice")?;
        let program = this_program()?;
        let mut command = Command::new(program);
        // Settings of the caller's environment are not meant for the demo, but for its telemetry.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("BACKHAUL__") && !text.starts_with("BACKHAUL__TELEMETRY__") {
                command.env_remove(&name);
            }
        }
        let process = command
            .arg("--config")
            .arg(self.house.settings())
            .args(["work", "--until-stdin-ends"])
            .env("DATABASE_URL", self.url.expose_secret())
            // The pipe ends with this process, however it ends, and the worker with the pipe.
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C goes to the terminal's group; workers are stopped by the demo, in its order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a worker")?;
        self.members.push(Member { number, process });
        Ok(number)
    }

    /// Process ids of the living, oldest first.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.members.iter().filter_map(|member| member.process.id()).filter_map(|pid| pid.try_into().ok()).collect()
    }

    /// Kills a worker with SIGKILL: no goodbye, its jobs stay in its hands. Returns its number.
    pub(super) async fn kill(&mut self, pid: i32) -> Result<usize> {
        let at = self
            .members
            .iter()
            .position(|member| member.process.id().is_some_and(|id| i64::from(id) == i64::from(pid)));
        let mut victim = self.members.remove(at.context("there is no such worker")?);
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot kill the worker")?;
        victim.process.wait().await.context("cannot wait for the killed worker")?;
        Ok(victim.number)
    }

    /// An error if a worker has ended although nobody asked it to.
    pub(super) fn check(&mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(status) = member.process.try_wait().context("cannot look at a worker")? {
                let log = self.house.log(member.number);
                bail!("worker {} has ended ({status}): see {}", member.number, log.display());
            }
        }
        Ok(())
    }

    /// Asks all to stop and waits for them.
    pub(super) async fn stop(&mut self) {
        for member in &mut self.members {
            drop(member.process.stdin.take());
        }
        for member in &mut self.members {
            if tokio::time::timeout(STOP_MAX, member.process.wait()).await.is_err() {
                // It is killed when it is dropped; the next demo's workers would take its jobs over.
                tracing::warn!(worker = member.number, "the worker did not stop in time");
            }
        }
        self.members.clear();
    }
}
