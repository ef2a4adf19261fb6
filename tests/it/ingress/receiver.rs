//! A real `backhaul serve` on a database of the test's own, and senders that sign.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use backhaul_engine::migrate;
use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Database, PATIENCE, Process, binary, database, scratch};

/// The tenants' secrets: the current one, and the one that is being replaced.
pub(crate) const SECRET: &str = "test-secret-current";
pub(crate) const OLD_SECRET: &str = "test-secret-previous";
pub(crate) const OTHER_SECRET: &str = "test-secret-of-globex";
pub(crate) const ADMIN_TOKEN: &str = "test-admin-token-1";
/// Where interactions and threads of `acme` are posted.
pub(crate) const INTERACTIONS: &str = "/webhooks/acme/cxone";
pub(crate) const THREADS: &str = "/api/webhooks/acme/cxone-threads";

/// What a receiver is started with.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// Settings, as `("BACKHAUL__INGRESS__SWEEP_S", "1")`.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Further lines of acme's `[webhook]` table.
    pub(crate) webhook: String,
    /// Further tables of acme's profile.
    pub(crate) tables: String,
    /// Only `acme`, without `globex`.
    pub(crate) alone: bool,
    /// `routes.toml` instead of the shipped one.
    pub(crate) routes: Option<String>,
}

/// What all receivers of a test share: the database and the files.
pub(crate) struct House {
    pub(crate) database: Database,
    pub(crate) dir: PathBuf,
}

/// One running receiver.
pub(crate) struct Receiver {
    process: Process,
    pub(crate) public: String,
    pub(crate) admin: String,
    pub(crate) client: reqwest::Client,
}

/// What a sender got back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl House {
    /// A fresh database with the product's kinds, and profiles for `acme` and `globex`.
    pub(crate) async fn new(name: &str, setup: &Setup) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = database().await;
        migrate(&database.store, &backhaul_workers::kinds()).await.expect("registers the kinds");
        let dir = scratch(&format!("ingress-{name}"));
        let write = |file: &str, text: &str| std::fs::write(dir.join(file), text).expect("writable");
        std::fs::create_dir_all(dir.join("profiles")).expect("creatable");
        write("profiles/current", SECRET);
        write("profiles/previous", OLD_SECRET);
        write("profiles/other", OTHER_SECRET);
        write("profiles/callback", "test-secret-of-callbacks");
        let acme = format!(
            "[webhook]\nsecret_file = \"current\"\nprevious_secret_file = \"previous\"\n{}\n{}\n",
            setup.webhook, setup.tables
        );
        write("profiles/acme.toml", &acme);
        if !setup.alone {
            write("profiles/globex.toml", "[webhook]\nsecret_file = \"other\"\n");
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/routes.toml");
        let routes = setup.routes.clone().unwrap_or_else(|| std::fs::read_to_string(shipped).expect("readable"));
        write("routes.toml", &routes);
        Self { database, dir }
    }

    /// Starts a receiver; several may run at once.
    pub(crate) async fn serve(&self, setup: &Setup) -> Receiver {
        let mut command = binary();
        command
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .current_dir(&self.dir)
            .env("DATABASE_URL", &self.database.url)
            .env("BACKHAUL__PROFILES__DIR", self.dir.join("profiles"))
            .env("BACKHAUL__INGRESS__ROUTES", self.dir.join("routes.toml"))
            .env("BACKHAUL__INGRESS__ADMIN_TOKEN", ADMIN_TOKEN)
            .envs(setup.settings.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.dir.join(format!("{}.log", uuid::Uuid::new_v4()))).expect("creatable"));
        let (process, said) = tokio::task::spawn_blocking(move || Process::start_and_hear(&mut command))
            .await
            .expect("the receiver tells its addresses");
        let address = |name: &str| format!("http://{}", said[name].as_str().expect("an address"));
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Receiver { process, public: address("public"), admin: address("admin"), client }
    }

    /// What the receivers have logged so far.
    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(&self.dir).expect("readable").filter_map(Result::ok);
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        logs.map(|file| std::fs::read_to_string(file.path()).expect("readable")).collect()
    }

    /// Payloads of all jobs, by destination and in the order in which they were made.
    pub(crate) async fn payloads(&self) -> Vec<(String, Value)> {
        let rows: Vec<(String, Value)> =
            sqlx::query_as("select split_part(idempotency_key, '/', 3), payload from backhaul.jobs order by id")
                .fetch_all(self.database.store.pool())
                .await
                .expect("reads");
        rows
    }

    /// How many events were taken in, and how many jobs stand there.
    pub(crate) async fn counts(&self) -> (i64, i64) {
        (
            self.database.one("select count(*) from backhaul.ingress_events").await,
            self.database.one("select count(*) from backhaul.jobs").await,
        )
    }
}

/// A house and one receiver in it.
pub(crate) async fn serve(name: &str, setup: Setup) -> (House, Receiver) {
    let house = House::new(name, &setup).await;
    let receiver = house.serve(&setup).await;
    (house, receiver)
}

/// A delivery before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) secret: String,
    pub(crate) age_s: i64,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Letter {
    pub(crate) fn new(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.to_owned(),
            body: body.into(),
            secret: SECRET.to_owned(),
            age_s: 0,
            headers: vec![("content-type", "application/json".to_owned())],
        }
    }

    pub(crate) fn json(path: &str, body: &Value) -> Self {
        Self::new(path, body.to_string())
    }

    pub(crate) fn signed_with(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.secret);
        self
    }

    pub(crate) fn old(mut self, age_s: i64) -> Self {
        self.age_s = age_s;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(own, _)| *own != name);
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// HMAC-SHA-256 in hex over `timestamp.body`.
pub(crate) fn signature(secret: &str, stamp: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key");
    let mac = mac.chain_update(stamp).chain_update(".").chain_update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Receiver {
    /// Sends a letter as its sender would.
    pub(crate) async fn send(&self, letter: Letter) -> Answer {
        let stamp = (Utc::now().timestamp() - letter.age_s).to_string();
        let signature = signature(&letter.secret, &stamp, &letter.body);
        let mut request = self.client.post(format!("{}{}", self.public, letter.path)).body(letter.body);
        request = request.header("x-cxone-timestamp", stamp).header("x-cxone-signature", signature);
        for (name, value) in letter.headers {
            request = request.header(name, value);
        }
        answer(request).await
    }

    /// Sends an interaction to `acme`.
    pub(crate) async fn interaction(&self, event: &Value) -> Answer {
        self.send(Letter::json(INTERACTIONS, event)).await
    }

    /// Asks the admin listener with the token.
    pub(crate) async fn admin(&self, path: &str) -> Value {
        answer(self.client.get(format!("{}{path}", self.admin)).bearer_auth(ADMIN_TOKEN)).await.body
    }

    /// SIGTERM; the exit code, or nothing where it does not end in time.
    pub(crate) async fn terminate(self) -> Option<i32> {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("it runs");
        tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || self.process.wait())).await.ok()?.ok()?
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        self.process.kill();
    }
}

/// What comes back for a request, which must be JSON.
pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let reply = request.send().await.expect("answers");
    let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
    let text = reply.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} with {text:?} is no JSON"));
    Answer { status, headers, body }
}

/// An interaction as CXone sends it.
pub(crate) fn voice(id: &str) -> Value {
    json!({
        "webhookId": "w1", "eventType": "interaction.created", "timestamp": "2026-01-31T12:00:00Z",
        "data": {"id": id, "channelType": "voice", "direction": "inbound",
            "customer": {"phoneNumber": "+1 (555) 000-1001"}, "queue": {"name": "General"}},
    })
}

/// A thread as CXone sends it.
pub(crate) fn thread(id: &str) -> Value {
    json!({
        "event": "THREAD_UPDATED", "timestamp": "2026-01-31T12:00:00Z",
        "data": {"threadId": id, "version": 1, "participants": [{"id": "p1", "role": "CUSTOMER"}],
            "messages": [{"id": "m1", "text": "hello", "timestamp": "2026-01-31T12:00:00Z", "authorId": "p1"}]},
    })
}
