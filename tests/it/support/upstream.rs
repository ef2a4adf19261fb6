//! The product's own kinds against a simulator, in the test's process.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use backhaul_engine::{Registry, migrate};
use backhaul_outbound::{Client, Profiles};
use backhaul_simulator::{CertificateKind, FaultRule, SimOptions, Simulator, faults_from_toml};
use backhaul_workers::{Env, Storage};
use serde_json::{Value, json};
use sqlx::types::Json;

use super::{Database, Worker, database, eventually, scratch};

/// A simulator, a database with the product's kinds, and one tenant, `acme`, whose profile points at the simulator.
pub(crate) struct Upstream {
    pub(crate) simulator: Simulator,
    pub(crate) database: Database,
    /// Where the tenant's profile and its secrets are.
    pub(crate) dir: PathBuf,
    client: reqwest::Client,
    env: Arc<Env>,
}

impl Upstream {
    /// `extra` is added to the tenant's profile; `{good}` and so on in it are not replaced.
    pub(crate) async fn start(name: &str, probe: &str, extra: &str) -> Self {
        Self::start_with_crm(name, probe, extra, ("/api/v1", "")).await
    }

    /// As [`Upstream::start`], with what follows the CRM's mount, and lines of `[crm]`.
    pub(crate) async fn start_with_crm(name: &str, probe: &str, extra: &str, crm: (&str, &str)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut options = SimOptions::default();
        options.settings = options.settings.unlimited();
        let simulator = Simulator::start(options).await.expect("the simulator starts");
        let database = database().await;
        migrate(&database.store, &backhaul_workers::kinds()).await.expect("registers the kinds");
        let dir = scratch(name);
        std::fs::write(dir.join("ca.pem"), simulator.ca_pem()).expect("writable");
        std::fs::write(dir.join("secret"), "sim-secret").expect("writable");
        std::fs::write(dir.join("hook"), "test-secret-test-secret-test-secret").expect("writable");
        std::fs::write(dir.join("crm"), "sim-crm-acme").expect("writable");
        std::fs::write(dir.join("acme.toml"), profile(&simulator.base_url(), probe, extra, crm)).expect("writable");
        let profiles = Profiles::load_dir(&dir).expect("a valid profile");
        let client = Client::new(backhaul_outbound::Settings::default()).expect("a client");
        let env = Env::new(client, profiles, Storage::default()).expect("valid settings");
        Self {
            simulator,
            database,
            dir,
            client: reqwest::Client::builder().build().expect("a client"),
            env: Arc::new(env),
        }
    }

    /// Enqueues jobs of one kind in order.
    pub(crate) async fn enqueue(&self, kind: &str, payloads: &[Value]) -> Vec<i64> {
        let jobs: Vec<Value> =
            payloads.iter().map(|payload| json!({"kind": kind, "tenant": "acme", "payload": payload})).collect();
        let rows: Vec<(i64, String)> =
            sqlx::query_as("select job_id, outcome from backhaul.enqueue_many($1) order by position")
                .bind(Json(jobs))
                .fetch_all(self.database.store.pool())
                .await
                .expect("enqueues");
        assert!(rows.iter().all(|(_, outcome)| outcome == "inserted"), "{rows:?}");
        rows.into_iter().map(|(id, _)| id).collect()
    }

    /// Runs a worker until no job is left.
    pub(crate) async fn work(&self) {
        let env = self.env.clone();
        let registry = move || {
            let mut registry = Registry::new();
            backhaul_workers::register(&mut registry, env.clone());
            registry
        };
        let worker = Worker::start_kinds(self.database.store.clone(), registry, Vec::new, Worker::options());
        eventually("all jobs end", async || self.database.unfinished().await == 0).await;
        worker.stop().await;
    }

    /// Enqueues and works.
    pub(crate) async fn run(&self, kind: &str, payloads: &[Value]) -> Vec<i64> {
        let ids = self.enqueue(kind, payloads).await;
        self.work().await;
        ids
    }

    /// Reasons of the dead letters, by job.
    pub(crate) async fn dead(&self) -> BTreeMap<i64, String> {
        let rows: Vec<(i64, String)> = sqlx::query_as("select id, reason from backhaul.dead_letters")
            .fetch_all(self.database.store.pool())
            .await
            .expect("reads");
        rows.into_iter().collect()
    }

    /// Type and data of the kinds' audit events, in order.
    pub(crate) async fn events(&self) -> Vec<(String, Value)> {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "select type, data from backhaul.events where type !~ '^dev[.]backhaul[.]job[.]' order by id",
        )
        .fetch_all(self.database.store.pool())
        .await
        .expect("reads");
        rows.into_iter()
            .map(|(kind, data)| {
                let data: Value = serde_json::from_slice(&data).expect("events are JSON");
                (kind.trim_start_matches("dev.backhaul.").to_owned(), data)
            })
            .collect()
    }

    /// Types of the kinds' audit events, in order.
    pub(crate) async fn event_types(&self) -> Vec<String> {
        self.events().await.into_iter().map(|(kind, _)| kind).collect()
    }

    /// Puts fault rules, `[[faults]]` tables of TOML, in force.
    pub(crate) fn faults(&self, toml: &str) {
        let rules: Vec<FaultRule> = faults_from_toml(toml).expect("valid faults");
        self.simulator.add_faults(rules).expect("few enough rules");
    }

    /// Reads from the simulator's control plane.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let reply = self.client.get(format!("{}{path}", self.simulator.base_url())).send().await.expect("answers");
        reply.json().await.unwrap_or_default()
    }

    /// A document as it stands, `null` where there is none.
    pub(crate) async fn document(&self, kind: &str, id: &str) -> Value {
        let shown = self.get(&format!("/_sim/documents/{kind}/acme/{id}")).await;
        shown.get("value").or(shown.get("document")).cloned().unwrap_or(shown)
    }

    /// Changes a document behind everybody's back.
    pub(crate) async fn write(&self, method: reqwest::Method, kind: &str, id: &str, body: &Value) {
        let url = format!("{}/_sim/documents/{kind}/acme/{id}", self.simulator.base_url());
        let reply = self.client.request(method, url).json(body).send().await.expect("answers");
        assert!(reply.status().is_success(), "{}", reply.text().await.unwrap_or_default());
    }

    /// The requests of one class that the simulator has seen, oldest first.
    pub(crate) async fn requests(&self, class: &str) -> Vec<Value> {
        let record = self.get(&format!("/_sim/record?class={class}&limit=1000")).await;
        let list = record.get("requests").or(record.get("records")).cloned().unwrap_or(record);
        list.as_array().cloned().unwrap_or_default()
    }

    /// Methods and statuses of the requests of one class, as `PATCH 200`.
    pub(crate) async fn exchanges(&self, class: &str) -> Vec<String> {
        let shown =
            |request: &Value| format!("{} {}", request["method"].as_str().unwrap_or_default(), request["status"]);
        self.requests(class).await.iter().map(shown).collect()
    }

    /// Address of the TLS listener with this certificate.
    pub(crate) fn tls(&self, kind: CertificateKind) -> String {
        self.simulator.tls_url(kind).expect("a TLS listener").trim_end_matches('/').to_owned()
    }
}

fn profile(http: &str, probe: &str, extra: &str, (crm_base, crm): (&str, &str)) -> String {
    format!(
        r#"
[cxone]
base_url = "{http}/cxone"
insecure = true
oauth = {{ client_id = "sim-acme", client_secret_file = "secret" }}
buckets = {{ interactions = 60000 }}
[genesys]
base_url = "{http}/genesys"
insecure = true
oauth = {{ token_url = "{http}/genesys/oauth/token", client_id = "sim-acme", client_secret_file = "secret" }}
buckets = {{ channels = 60000, webhooks = 60000, audit = 60000 }}
[crm]
base_url = "{http}/crm{crm_base}"
insecure = true
token_file = "crm"
buckets = {{ threads = 60000 }}
{crm}
[probe]
allow_hosts = [{{ host = "127.0.0.1", private = true }}, {{ host = "localhost", private = true }}]
ca_file = "ca.pem"
{probe}
[webhook]
allow_hosts = [{{ host = "hooks.example.com" }}]
secret_file = "hook"
{extra}
"#
    )
}
