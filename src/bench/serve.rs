//! The webhook receiver in a process of its own, as `backhaul serve` runs it.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::letters::{SECRET, TENANT};

/// Longest wait for the schema, and for the receiver's addresses.
const START_MAX: Duration = Duration::from_secs(60);
/// What becomes of which event: the file that is shipped.
const ROUTES: &str = include_str!("../../config/routes.toml");

/// A running receiver. Dropped, it is killed and its files are removed.
pub(crate) struct Receiver {
    child: Child,
    /// Where senders reach it: `http://127.0.0.1:1234`.
    pub url: String,
    dir: Dir,
}

/// A directory that goes with its owner.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        // A directory that cannot be removed harms nobody, and there is nobody to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What it prints first.
#[derive(Deserialize)]
struct Addresses {
    public: String,
}

/// Makes the schema with the kinds of the product.
pub(crate) async fn migrate(arguments: &[String], url: &str) -> Result<()> {
    let mut command = this_program(arguments, url)?;
    let ended = timeout(START_MAX, command.stdout(Stdio::null()).status()).await;
    let status = ended.context("the schema was not made in time")??;
    if !status.success() {
        bail!("making the schema ended with {status}");
    }
    Ok(())
}

impl Receiver {
    /// Starts it on the database `url` and waits until it listens. Its log goes to a file, as it would in production:
    /// there is a line for each delivery.
    pub(crate) async fn start(arguments: &[String], url: &str) -> Result<Self> {
        let dir = Dir(std::env::temp_dir().join(format!("backhaul-bench-{}", uuid::Uuid::new_v4().simple())));
        let profiles = dir.0.join("profiles");
        fs::create_dir_all(&profiles).with_context(|| format!("cannot make {}", profiles.display()))?;
        fs::write(profiles.join("secret"), SECRET)?;
        fs::write(profiles.join(format!("{TENANT}.toml")), "[webhook]\nsecret_file = \"secret\"\n")?;
        fs::write(dir.0.join("routes.toml"), ROUTES)?;
        let mut child = this_program(arguments, url)?
            .current_dir(&dir.0)
            .env("BACKHAUL__PROFILES__DIR", &profiles)
            .env("BACKHAUL__INGRESS__ROUTES", dir.0.join("routes.toml"))
            // Nobody works the jobs off here, and senders must not be sent away because of that.
            .env("BACKHAUL__INGRESS__BACKLOG_MAX", "10000000")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.0.join("log"))?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the receiver")?;
        let output = child.stdout.take().context("the receiver has no output")?;
        let told = timeout(START_MAX, addresses(output)).await.context("the receiver did not start in time")?;
        let Some(addresses) = told else {
            let log = fs::read_to_string(dir.0.join("log")).unwrap_or_default();
            bail!("the receiver did not start: {}", log.chars().take(2_000).collect::<String>());
        };
        Ok(Self { child, url: format!("http://{}", addresses.public), dir })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Bytes of its log.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(self.dir.0.join("log")).map_or(0, |log| log.len())
    }

    /// Kills it, with no chance to finish anything: what it has said 200 to must be there.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("the receiver could not be killed")
    }
}

/// The JSON object that the receiver prints once it listens, over several lines. None where its output ends before.
async fn addresses(output: ChildStdout) -> Option<Addresses> {
    let mut lines = BufReader::new(output).lines();
    let mut text = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        text.push_str(&line);
        if let Ok(addresses) = serde_json::from_str(&text) {
            return Some(addresses);
        }
    }
    None
}

fn this_program(arguments: &[String], url: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // In the environment and not in the arguments, where everybody could read the password.
    command.args(arguments).env("DATABASE_URL", url).stdin(Stdio::null());
    Ok(command)
}
