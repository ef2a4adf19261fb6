//! Real processes of the binary: a simulator with its profiles, and workers that can be killed.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{binary, target_dir};

/// A child that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("starts"))
    }

    /// Starts a command that says one JSON value on its standard output when it is ready. Blocks until it does.
    pub(crate) fn start_and_hear(command: &mut Command) -> (Self, Value) {
        let mut process = Self(command.spawn().expect("starts"));
        let output = process.0.stdout.take().expect("piped");
        let said = serde_json::Deserializer::from_reader(output).into_iter::<Value>().next();
        (process, said.expect("it ended before it was ready").expect("JSON"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has not ended by itself.
    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().expect("ours").is_none()
    }

    /// Waits for the end and tells the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.0.wait().ok()?.code()
    }

    /// SIGKILL, and wait for the end of it.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself; what counts is that it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A directory of one test's own, emptied.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = target_dir().join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("creatable");
    dir
}

/// A running `backhaul simulate`.
pub(crate) struct SimulatorProcess {
    _process: Process,
    pub(crate) url: String,
    pub(crate) profiles: PathBuf,
    client: reqwest::Client,
}

impl SimulatorProcess {
    /// Starts one for the tenants, without limits of its own, with profiles that point at it and allow far more
    /// requests than a test can send.
    pub(crate) async fn start(dir: &Path, tenants: &[&str]) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let profiles = dir.join("profiles");
        let mut command = binary();
        command.current_dir(dir).args(["simulate", "--port", "0", "--json"]);
        if !tenants.is_empty() {
            command.arg("--profiles").arg(&profiles);
        }
        for tenant in tenants {
            command.args(["--tenant", tenant]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        let said =
            serde_json::Deserializer::from_reader(child.stdout.take().expect("piped")).into_iter::<Value>().next();
        let addresses = said.expect("tells its addresses").expect("as JSON");
        let url = addresses["http"].as_str().expect("an address").to_owned();
        for tenant in tenants {
            let path = profiles.join(format!("{tenant}.toml"));
            let mut profile: toml::Table = std::fs::read_to_string(&path).expect("written").parse().expect("a profile");
            let limits = profile["cxone"]["buckets"].as_table_mut().expect("limits by class");
            limits.iter_mut().for_each(|(_, per_minute)| *per_minute = 600_000.into());
            std::fs::write(path, profile.to_string()).expect("writable");
        }
        // Tests may share a simulator and end one by one, and a connection lives no longer than its test's runtime.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        let simulator = Self { _process: Process(child), url, profiles, client };
        let settings: Value = simulator.get("/_sim/settings").await;
        let classes = settings["limits"].as_object().expect("limits by class");
        let unlimited: Value =
            classes.keys().map(|class| (class.clone(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
        simulator.patch("/_sim/settings", &serde_json::json!({ "limits": unlimited })).await;
        simulator
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let reply = self.client.get(format!("{}{path}", self.url)).send().await.expect("answers");
        reply.json().await.expect("JSON")
    }

    /// None where there is nothing.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Value> {
        let reply = self.client.get(format!("{}{path}", self.url)).send().await.expect("answers");
        if reply.status().is_success() { Some(reply.json().await.expect("JSON")) } else { None }
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) {
        let reply = self.client.patch(format!("{}{path}", self.url)).json(body).send().await.expect("answers");
        assert!(reply.status().is_success(), "{}", reply.status());
    }

    pub(crate) async fn delete(&self, path: &str) {
        let reply = self.client.delete(format!("{}{path}", self.url)).send().await.expect("answers");
        assert!(reply.status().is_success(), "{}", reply.status());
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) {
        let reply = self.client.post(format!("{}{path}", self.url)).json(body).send().await.expect("answers");
        assert!(reply.status().is_success(), "{}", reply.status());
    }
}

/// Starts `backhaul work` on a database, with an early rescue. `events` is the file of its sink.
pub(crate) fn worker_process(url: &str, profiles: &Path, events: &Path) -> Process {
    Process::start(&mut worker_command(url, profiles, events))
}

/// As [`worker_process`], for tests that add settings. Each worker logs to a file of its own beside `events`.
pub(crate) fn worker_command(url: &str, profiles: &Path, events: &Path) -> Command {
    let mut command = binary();
    command
        .args(["work"])
        .current_dir(profiles)
        .env("DATABASE_URL", url)
        .env("BACKHAUL__PROFILES__DIR", profiles)
        .env("BACKHAUL__SINKS__FILE__PATH", events)
        .env("BACKHAUL__WORKER__HEARTBEAT_MS", "200")
        .env("BACKHAUL__WORKER__DEAD_AFTER_MS", "2000")
        .env("BACKHAUL__WORKER__CONCURRENCY", "16")
        .env("BACKHAUL__WORKER__PREFETCH", "8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(events.with_extension(format!("{}.log", rand_name()))).expect("creatable"));
    command
}

fn rand_name() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
