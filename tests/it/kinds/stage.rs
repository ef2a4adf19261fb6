//! One test's stage: a tenant of its own at a simulator process, a database with the product's kinds, and workers.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use backhaul_engine::{Registry, migrate};
use backhaul_outbound::{Client, Profiles};
use backhaul_workers::{Env, Storage};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::profile::{Setup, write_profile};

use crate::support::{
    Database, Process, SimulatorProcess, Worker, database, eventually, scratch, target_dir, worker_command,
};

/// A tenant with everything it needs.
pub(super) struct Stage {
    pub(super) simulator: Arc<SimulatorProcess>,
    pub(super) database: Database,
    pub(super) tenant: String,
    dir: PathBuf,
    owns_dir: bool,
    env: Arc<Env>,
    client: reqwest::Client,
}

impl Stage {
    /// A stage at the simulator that the tests which run now share.
    pub(super) async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    pub(super) async fn with(setup: Setup) -> Self {
        let simulator = match &setup.simulator {
            None => shared().await,
            Some(settings) => alone(settings).await,
        };
        let database = database().await;
        migrate(&database.store, &backhaul_workers::kinds()).await.expect("registers the kinds");
        let tenant = tenant();
        let dir = scratch(&format!("stage-{tenant}"));
        let client = reqwest::Client::builder().build().expect("a client");
        let ca = client.get(format!("{}/_sim/ca.pem", simulator.url)).send().await.expect("answers");
        std::fs::write(dir.join("ca.pem"), ca.text().await.expect("PEM")).expect("writable");
        write_profile(&simulator.url, &tenant, &dir, &setup);
        let env = env(&dir);
        Self { simulator, database, tenant, dir, owns_dir: true, env, client }
    }

    /// A further tenant at the same simulator and in the same database. The workers of either serve both.
    pub(super) async fn neighbour(&mut self) -> Self {
        let tenant = tenant();
        write_profile(&self.simulator.url, &tenant, &self.dir, &Setup::default());
        self.env = env(&self.dir);
        Self {
            simulator: self.simulator.clone(),
            database: Database { url: self.database.url.clone(), store: self.database.store.clone() },
            tenant,
            dir: self.dir.clone(),
            owns_dir: false,
            env: self.env.clone(),
            client: self.client.clone(),
        }
    }

    // --- jobs ---

    /// Enqueues jobs of one kind in order; returns their ids.
    pub(super) async fn enqueue(&self, kind: &str, payloads: &[Value]) -> Vec<i64> {
        let job = |payload: &Value| json!({"kind": kind, "tenant": self.tenant, "payload": payload});
        self.database.enqueue(payloads.iter().map(job).collect()).await
    }

    /// Starts a worker in this process.
    pub(super) fn worker(&self) -> Worker {
        self.worker_with(Worker::options())
    }

    pub(super) fn worker_with(&self, options: backhaul_engine::WorkerOptions) -> Worker {
        let env = self.env.clone();
        let registry = move || {
            let mut registry = Registry::new();
            backhaul_workers::register(&mut registry, env.clone());
            registry
        };
        Worker::start_kinds(self.database.store.clone(), registry, Vec::new, options)
    }

    /// Starts `backhaul work` as a process; its events go to [`Stage::events_file`].
    pub(super) fn process(&self) -> Process {
        Process::start(&mut self.command())
    }

    /// The command of [`Stage::process`], for tests that add settings.
    pub(super) fn command(&self) -> Command {
        let mut command = worker_command(&self.database.url, &self.dir, &self.events_file());
        // Whatever a worker could ever log is looked through by tests.
        command.env("BACKHAUL_LOG", "debug,sqlx=info,hyper_util=info,reqwest=info");
        command
    }

    pub(super) fn events_file(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }

    /// Everything that worker processes have logged.
    pub(super) fn logs(&self) -> String {
        let files = std::fs::read_dir(&self.dir).expect("readable").filter_map(Result::ok).map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.map(|path| std::fs::read_to_string(path).expect("readable")).collect()
    }

    /// Runs a worker until no job is left, in real time.
    pub(super) async fn work(&self) {
        let worker = self.worker();
        self.ended().await;
        worker.stop().await;
    }

    /// As [`Stage::work`], but no pause between two tries takes longer than a moment.
    pub(super) async fn work_at_once(&self) {
        let worker = self.worker();
        eventually("all jobs end", async || {
            self.spare_pauses().await;
            self.database.unfinished().await == 0
        })
        .await;
        worker.stop().await;
    }

    /// Ends every pause: of jobs that back off, and then of buckets that a Retry-After has closed. The other way round a
    /// bucket could close in between, and one of the jobs would meet it closed.
    pub(super) async fn spare_pauses(&self) {
        self.database
            .run(
                "update backhaul.jobs j set due_at = clock_timestamp()
                 where j.id in (select d.id from backhaul.jobs d where d.due_at > clock_timestamp() for update skip locked);
                 update backhaul.buckets b set blocked_until = null, probing = false where b.blocked_until is not null;
                 select pg_notify('backhaul', '')",
            )
            .await;
    }

    pub(super) async fn ended(&self) {
        eventually("all jobs end", async || self.database.unfinished().await == 0).await;
    }

    /// Enqueues, and works without pauses.
    pub(super) async fn run(&self, kind: &str, payloads: &[Value]) -> Vec<i64> {
        let ids = self.enqueue(kind, payloads).await;
        self.work_at_once().await;
        ids
    }

    /// Enqueues, works without pauses, and expects every job to be done.
    pub(super) async fn done(&self, kind: &str, payloads: &[Value]) -> Vec<i64> {
        let ids = self.run(kind, payloads).await;
        self.all_done().await;
        ids
    }

    pub(super) async fn all_done(&self) {
        let dead = self.dead().await;
        assert!(dead.is_empty(), "{dead:?}");
    }

    /// Reasons of the dead letters, by job.
    pub(super) async fn dead(&self) -> BTreeMap<i64, String> {
        self.database.rows("select id, reason from backhaul.dead_letters").await.into_iter().collect()
    }

    /// The errors of a dead letter, oldest first.
    pub(super) async fn errors(&self, job: i64) -> Vec<Value> {
        let errors: sqlx::types::Json<Vec<Value>> =
            sqlx::query_scalar("select errors from backhaul.dead_letters where id = $1")
                .bind(job)
                .fetch_one(self.database.store.pool())
                .await
                .expect("a dead letter");
        errors.0
    }

    /// Type and data of the kinds' audit events, in order.
    pub(super) async fn events(&self) -> Vec<(String, Value)> {
        let rows: Vec<(String, Vec<u8>)> = self
            .database
            .rows("select type, data from backhaul.events where type !~ '^dev[.]backhaul[.]job[.]' order by id")
            .await;
        let told = |(kind, data): (String, Vec<u8>)| {
            let data: Value = serde_json::from_slice(&data).expect("events are JSON");
            (kind.trim_start_matches("dev.backhaul.").to_owned(), data)
        };
        rows.into_iter().map(told).collect()
    }

    /// Types of the kinds' audit events, in order.
    pub(super) async fn event_types(&self) -> Vec<String> {
        self.events().await.into_iter().map(|(kind, _)| kind).collect()
    }

    /// Data of the audit events of one type.
    pub(super) async fn told(&self, event_type: &str) -> Vec<Value> {
        let of_type = |(kind, data): (String, Value)| (kind == event_type).then_some(data);
        self.events().await.into_iter().filter_map(of_type).collect()
    }

    // --- the simulator ---

    /// Puts a fault rule in force for this tenant's requests of `class` with `method`.
    pub(super) async fn fault(&self, class: &str, method: &str, when: Value, then: Value) {
        self.fault_where(json!({"class": class, "method": method}), when, then).await;
    }

    /// As [`Stage::fault`] with any match; the tenant is added.
    pub(super) async fn fault_where(&self, matching: Value, when: Value, then: Value) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut matching = matching;
        if matching["class"] == "callback" {
            // A callback carries no token, so its tenant is known by its path alone.
            if matching.get("path_contains").is_none() {
                matching["path_contains"] = json!(self.tenant);
            }
        } else {
            matching["tenant"] = json!(self.tenant);
        }
        let name = format!("{}-{}", self.tenant, NEXT.fetch_add(1, Ordering::Relaxed));
        self.control(Method::POST, "faults", &json!({"name": name, "match": matching, "when": when, "then": then}))
            .await;
    }

    /// Takes this tenant's fault rules back.
    pub(super) async fn no_faults(&self) {
        let rules = self.get("faults").await;
        for rule in rules["faults"].as_array().expect("a list") {
            let name = rule["rule"]["name"].as_str().or(rule["name"].as_str()).expect("a name");
            if name.starts_with(&format!("{}-", self.tenant)) {
                self.control(Method::DELETE, &format!("faults?name={name}"), &json!({})).await;
            }
        }
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let reply = self.client.get(format!("{}/_sim/{path}", self.simulator.url)).send().await.expect("answers");
        reply.json().await.expect("JSON")
    }

    pub(super) async fn control(&self, method: Method, path: &str, body: &Value) -> Value {
        let url = format!("{}/_sim/{path}", self.simulator.url);
        let reply = self.client.request(method, url).json(body).send().await.expect("answers");
        assert!(reply.status().is_success(), "{}", reply.text().await.unwrap_or_default());
        reply.json().await.expect("JSON")
    }

    /// A document as it stands, `null` where there is none.
    pub(super) async fn document(&self, kind: &str, id: &str) -> Value {
        self.get(&format!("documents/{kind}/{}/{id}", self.tenant)).await["document"].clone()
    }

    /// Another writer replaces (PUT), changes (PATCH) or deletes a document.
    pub(super) async fn write(&self, method: Method, kind: &str, id: &str, body: &Value) {
        self.control(method, &format!("documents/{kind}/{}/{id}", self.tenant), body).await;
    }

    /// This tenant's requests of one class, in the order in which they were answered.
    pub(super) async fn requests(&self, class: &str) -> Vec<Value> {
        // Callbacks carry no token; their tenant is in the path.
        let whose = if class == "callback" { "path" } else { "tenant" };
        let record = self.get(&format!("record?{whose}={}&class={class}&limit=50000", self.tenant)).await;
        let requests = record["requests"].as_array().expect("a list").clone();
        assert!(requests.len() < 50_000, "there may be more than the simulator lists");
        requests
    }

    /// Methods and statuses of this tenant's requests of one class, as `PATCH 200`.
    pub(super) async fn exchanges(&self, class: &str) -> Vec<String> {
        self.requests(class).await.iter().map(exchange).collect()
    }

    /// This tenant's requests of one class and method.
    pub(super) async fn sent(&self, class: &str, method: &str) -> Vec<Value> {
        let mut requests = self.requests(class).await;
        requests.retain(|request| request["method"] == method);
        requests
    }

    /// How often each resource was changed, as the simulator's ledger has it: `resource what` and count.
    pub(super) async fn effects(&self) -> BTreeMap<String, u64> {
        let ledger = self.get(&format!("effects?tenant={}&limit=10000", self.tenant)).await;
        let mut effects = BTreeMap::new();
        for row in ledger["effects"].as_array().expect("a list") {
            let text = |member: &str| row[member].as_str().expect("text").to_owned();
            *effects.entry(format!("{} {}", text("resource"), text("what"))).or_default() +=
                row["count"].as_u64().expect("a number");
        }
        effects
    }

    /// Callbacks to this tenant's address, oldest first.
    pub(super) async fn callbacks(&self) -> Vec<Value> {
        let shown = self.get(&format!("callbacks?path={}&limit=1000", self.tenant)).await;
        shown["callbacks"].as_array().expect("a list").clone()
    }

    /// An address of this tenant's that takes callbacks.
    pub(super) fn callback_url(&self) -> String {
        format!("{}/callbacks/{}", self.simulator.url, self.tenant)
    }

    /// Address of the listener whose certificate is good.
    pub(super) async fn tls(&self) -> String {
        let health = self.get("health").await;
        health["tls"]["good"].as_str().expect("a TLS listener").trim_end_matches('/').to_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What a failed test leaves behind is worth a look.
        if self.owns_dir && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// `PATCH 200` of one recorded request.
pub(super) fn exchange(request: &Value) -> String {
    format!("{} {}", request["method"].as_str().unwrap_or_default(), request["status"])
}

fn env(dir: &std::path::Path) -> Arc<Env> {
    let profiles = Profiles::load_dir(dir).expect("a valid profile");
    let client = Client::new(backhaul_outbound::Settings::default()).expect("a client");
    Arc::new(Env::new(client, profiles, Storage::default()).expect("valid settings"))
}

fn tenant() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One simulator for all tests that run at the same time. It ends with the last of them: a static would outlive them.
async fn shared() -> Arc<SimulatorProcess> {
    static SHARED: Mutex<Weak<SimulatorProcess>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(simulator) = shared.upgrade() {
        return simulator;
    }
    let simulator = start().await;
    *shared = Arc::downgrade(&simulator);
    simulator
}

async fn alone(settings: &Value) -> Arc<SimulatorProcess> {
    let simulator = start().await;
    simulator.patch("/_sim/settings", settings).await;
    simulator
}

async fn start() -> Arc<SimulatorProcess> {
    Arc::new(SimulatorProcess::start(&target_dir(), &[]).await)
}
