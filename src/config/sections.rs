//! The sections of the settings, each with the checks of its own keys.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::reader::Reader;

/// A shorter token could be guessed.
const ADMIN_TOKEN_BYTES_MIN: usize = 16;

/// `[database]`
#[derive(Debug, Clone)]
pub(crate) struct DatabaseSection {
    /// None: the private cluster.
    pub(crate) url: Option<SecretString>,
    /// Most connections of one process.
    pub(crate) pool_max: u32,
    /// Longest wait for a connection.
    pub(crate) connect_timeout: Duration,
    /// A transaction pooler is in between.
    pub(crate) pooler: bool,
}

impl DatabaseSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = Self {
            url: None,
            pool_max: reader.number("database.pool_max", 4..=200),
            connect_timeout: Duration::from_secs(reader.number("database.connect_timeout_s", 1..=300)),
            pooler: reader.flag("database.pooler"),
        };
        if let Some(url) = reader.optional_text("database.url")
            && let Err(problem) = section.set_url(&url)
        {
            reader.problem("database.url", &problem);
        }
        section
    }

    /// Takes `url` if it is one of Postgres. The error does not hold the URL, which holds a password.
    pub(crate) fn set_url(&mut self, url: &str) -> Result<(), String> {
        let scheme = Url::parse(url).map(|parsed| parsed.scheme().to_owned());
        match scheme.as_deref() {
            Ok("postgres" | "postgresql") => {
                self.url = Some(url.to_owned().into());
                Ok(())
            }
            _ => Err("must be a URL like postgres://user:password@host:5432/database".to_owned()),
        }
    }
}

/// `[cluster]`
#[derive(Debug, Clone)]
pub(crate) struct ClusterSection {
    /// Home of the private Postgres.
    pub(crate) dir: PathBuf,
    /// Where the server's programs are; None: searched.
    pub(crate) bin_dir: Option<PathBuf>,
}

impl ClusterSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let dir = reader.optional_text("cluster.dir");
        if dir.is_none() {
            reader.problem("cluster.dir", "must name a directory");
        }
        Self {
            dir: dir.unwrap_or_default().into(),
            bin_dir: reader.optional_text("cluster.bin_dir").map(PathBuf::from),
        }
    }
}

/// `[worker]`
#[derive(Debug, Clone)]
pub(crate) struct WorkerSection {
    /// Attempts at once, in one process.
    pub(crate) concurrency: usize,
    /// Jobs claimed beyond those.
    pub(crate) prefetch: usize,
    /// Kinds to work on; empty: all.
    pub(crate) kinds: Vec<String>,
    /// How long running attempts may go on after a stop was asked for.
    pub(crate) grace: Duration,
    /// Time between heartbeats.
    pub(crate) heartbeat: Duration,
    /// A worker that was silent for this long loses its jobs.
    pub(crate) dead_after: Duration,
    /// Longest sleep without a notification.
    pub(crate) poll: Duration,
    /// Time between sweeps for stragglers.
    pub(crate) sweep: Duration,
    /// How long events are kept.
    pub(crate) retention: Duration,
    /// How long dead letters wait for a decision; None: for ever.
    pub(crate) dead_letters: Option<Duration>,
    /// How long kinds remember a resource that no job writes about; None: for ever.
    pub(crate) memories: Option<Duration>,
    /// Unpublished events of a sink from which on nothing is claimed; 0: no limit.
    pub(crate) unpublished_max: u64,
}

impl WorkerSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut age = |key: &'static str, least: u64| {
            let days: u64 = reader.number(key, 0..=36_500);
            if days > 0 && days < least {
                reader.problem(key, &format!("must be 0 or at least {least}"));
            }
            (days > 0).then(|| Duration::from_secs(86_400 * days))
        };
        // Shorter than a resource's jobs may be apart, a memory would be of no use.
        let (dead_letters, memories) = (age("worker.dead_letters_days", 1), age("worker.memories_days", 30));
        let section = Self {
            dead_letters,
            memories,
            concurrency: usize::from(reader.number("worker.concurrency", 1_u16..=1_000)),
            prefetch: usize::from(reader.number("worker.prefetch", 0_u16..=1_000)),
            kinds: reader.words("worker.kinds"),
            grace: Duration::from_secs(reader.number("worker.grace_s", 0..=600)),
            heartbeat: Duration::from_millis(reader.number("worker.heartbeat_ms", 100..=60_000)),
            dead_after: Duration::from_millis(reader.number("worker.dead_after_ms", 500..=600_000)),
            poll: Duration::from_millis(reader.number("worker.poll_ms", 10..=60_000)),
            sweep: Duration::from_millis(reader.number("worker.sweep_ms", 10..=60_000)),
            retention: Duration::from_secs(86_400 * reader.number::<u64>("worker.retention_days", 1..=36_500)),
            unpublished_max: reader.number("worker.unpublished_max", 0..=1_000_000_000_000),
        };
        if section.dead_after < section.heartbeat * 3 {
            reader.problem("worker.dead_after_ms", "must be at least three times worker.heartbeat_ms");
        }
        section
    }
}

/// `[profiles]`
#[derive(Debug, Clone)]
pub(crate) struct ProfilesSection {
    /// One TOML file a tenant.
    pub(crate) dir: PathBuf,
}

impl ProfilesSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self { dir: reader.text("profiles.dir").into() }
    }
}

/// `[ingress]`: the webhook receiver.
#[derive(Debug, Clone)]
pub(crate) struct IngressSection {
    /// Where senders reach it.
    pub(crate) listen: SocketAddr,
    /// Where operators reach it.
    pub(crate) admin_listen: SocketAddr,
    /// What becomes of events.
    pub(crate) routes: PathBuf,
    /// Bearer token of the admin listener; None: its API refuses everybody.
    pub(crate) admin_token: Option<SecretString>,
    /// Unfinished jobs from which on senders are sent away.
    pub(crate) backlog_max: u64,
    /// Deliveries under way.
    pub(crate) in_flight_max: usize,
    /// Connections of one listener.
    pub(crate) connections_max: usize,
    /// Longest time for a body.
    pub(crate) body_timeout: Duration,
    /// Longest wait for the database.
    pub(crate) store_timeout: Duration,
    /// When senders that were sent away should come back.
    pub(crate) retry_after: Duration,
    /// Time between two looks for expired deliveries.
    pub(crate) sweep: Duration,
    /// How long requests may go on after a stop was asked for.
    pub(crate) grace: Duration,
}

impl IngressSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut address = |key: &'static str| {
            let text = reader.text(key);
            text.parse().unwrap_or_else(|_| {
                reader.problem(key, "must be an address and a port, like 127.0.0.1:3000");
                SocketAddr::from(([127, 0, 0, 1], 0))
            })
        };
        let (listen, admin_listen) = (address("ingress.listen"), address("ingress.admin_listen"));
        let token = reader.optional_text("ingress.admin_token");
        if token.as_ref().is_some_and(|token| token.len() < ADMIN_TOKEN_BYTES_MIN) {
            reader.problem("ingress.admin_token", "must have at least 16 characters, or be empty");
        }
        Self {
            listen,
            admin_listen,
            routes: reader.text("ingress.routes").into(),
            admin_token: token.map(Into::into),
            backlog_max: reader.number("ingress.backlog_max", 1..=100_000_000),
            in_flight_max: usize::from(reader.number("ingress.in_flight_max", 1_u16..=10_000)),
            connections_max: usize::from(reader.number("ingress.connections_max", 1_u16..=50_000)),
            body_timeout: Duration::from_secs(reader.number("ingress.body_timeout_s", 1..=300)),
            store_timeout: Duration::from_millis(reader.number("ingress.store_timeout_ms", 100..=60_000)),
            retry_after: Duration::from_secs(reader.number("ingress.retry_after_s", 1..=3_600)),
            sweep: Duration::from_secs(reader.number("ingress.sweep_s", 1..=3_600)),
            grace: Duration::from_secs(reader.number("ingress.grace_s", 0..=600)),
        }
    }
}

/// `[storage]`
#[derive(Debug, Clone)]
pub(crate) struct StorageSection {
    /// Whether the database's storage is encrypted.
    pub(crate) encrypted: bool,
}

impl StorageSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self { encrypted: reader.flag("storage.encrypted") }
    }
}

/// `[sinks.…]`: where events go.
#[derive(Debug, Clone)]
pub(crate) struct SinksSection {
    /// File of the file sink; None: no file sink.
    pub(crate) file_path: Option<PathBuf>,
}

impl SinksSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self { file_path: reader.optional_text("sinks.file.path").map(PathBuf::from) }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[telemetry]`
#[derive(Clone)]
pub(crate) struct TelemetrySection {
    /// Filter of the log, in the syntax of `RUST_LOG`.
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    /// Base URL of an OTLP receiver over HTTP; None: no traces and no metrics.
    pub(crate) otlp_endpoint: Option<Url>,
    /// Headers for the receiver, as `name=value,name=value`. Often a token.
    pub(crate) otlp_headers: SecretString,
    pub(crate) service_name: String,
    /// Share of the traces that start here and are kept.
    pub(crate) sample_ratio: f64,
    /// How often metrics are sent.
    pub(crate) export_interval: Duration,
}

impl TelemetrySection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let endpoint = reader.optional_text("telemetry.otlp_endpoint").and_then(|text| {
            let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            if url.is_none() {
                reader.problem("telemetry.otlp_endpoint", "must be a URL like http://127.0.0.1:4318");
            }
            url
        });
        let headers: SecretString = reader.text("telemetry.otlp_headers").into();
        if header_pairs(&headers).is_none() {
            reader.problem("telemetry.otlp_headers", "must be written as name=value,name=value");
        }
        let log = reader.text("telemetry.log");
        if tracing_subscriber::EnvFilter::try_new(&log).is_err() {
            reader.problem("telemetry.log", "must be a filter like info,backhaul_engine=debug");
        }
        Self {
            log,
            log_format: reader.choice(
                "telemetry.log_format",
                &[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)],
            ),
            otlp_endpoint: endpoint,
            otlp_headers: headers,
            service_name: reader.text("telemetry.service_name"),
            sample_ratio: reader.share("telemetry.sample_ratio"),
            export_interval: Duration::from_secs(reader.number("telemetry.export_interval_s", 1..=3_600)),
        }
    }

    /// The receiver's headers as pairs; they were checked when the settings were read.
    pub(crate) fn otlp_header_pairs(&self) -> Vec<(String, String)> {
        header_pairs(&self.otlp_headers).unwrap_or_default()
    }
}

impl fmt::Debug for TelemetrySection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The endpoint may carry a password, the headers a token.
        formatter
            .debug_struct("TelemetrySection")
            .field("log", &self.log)
            .field("log_format", &self.log_format)
            .field("otlp", &self.otlp_endpoint.is_some())
            .field("service_name", &self.service_name)
            .field("sample_ratio", &self.sample_ratio)
            .field("export_interval", &self.export_interval)
            .finish()
    }
}

fn header_pairs(headers: &SecretString) -> Option<Vec<(String, String)>> {
    let text = headers.expose_secret().trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            (is_name && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
                .then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}
