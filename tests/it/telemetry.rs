//! Traces and metrics leave when a receiver is configured, and a job carries its producer's trace.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use backhaul_engine::{Failure, Job, JobContext, KindSpec, Registry, register_kinds};
use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality,
        data::{AggregatedMetrics, GaugeDataPoint, MetricData, ResourceMetrics, ScopeMetrics},
        exporter::PushMetricExporter,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::support::{PATIENCE, Toy, Worker, binary, database, eventually, target_dir};

/// One export: the path it came to, its `authorization` header and its body.
pub(crate) struct Export {
    pub(crate) path: String,
    token: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// An OTLP receiver that accepts everything.
pub(crate) fn receiver() -> (String, mpsc::Receiver<Export>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, exports) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || serve(&stream, &sender));
        }
    });
    (url, exports)
}

fn serve(stream: &TcpStream, sender: &mpsc::Sender<Export>) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                line.split_once(':')
                    .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.trim().to_owned())
            })
        };
        let length = header("content-length").and_then(|text| text.parse().ok()).expect("a length");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let path = head[0].split(' ').nth(1).expect("a path").to_owned();
        let _ = sender.send(Export { path, token: header("authorization"), body });
        (&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("answers");
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_command_exports_its_spans_and_its_job_continues_their_trace() {
    let database = database().await;
    let (url, exports) = receiver();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let output = binary()
        .args(["enqueue", Toy::KIND, "--payload", "{\"n\":1}", "--json"])
        .env("DATABASE_URL", &database.url)
        .env("BACKHAUL__TELEMETRY__OTLP_ENDPOINT", &url)
        .env("BACKHAUL__TELEMETRY__OTLP_HEADERS", "authorization=Bearer test-secret")
        .env("BACKHAUL__TELEMETRY__SERVICE_NAME", "producer-under-test")
        .env("TRACEPARENT", format!("00-{trace}-b7ad6b7169203331-01"))
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // The last spans left before the command ended.
    let spans = std::iter::from_fn(|| exports.recv_timeout(PATIENCE).ok()).find(|export| export.path == "/v1/traces");
    let spans = spans.expect("spans were exported");
    assert_eq!(spans.token.as_deref(), Some("Bearer test-secret"));
    assert!(contains(&spans.body, "producer-under-test") && contains(&spans.body, "enqueue"));

    let id = serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["id"].as_i64().expect("an id");
    let stored: String = sqlx::query_scalar("select traceparent from backhaul.jobs where id = $1")
        .bind(id)
        .fetch_one(database.store.pool())
        .await
        .expect("reads");
    assert!(stored.starts_with(&format!("00-{trace}-")), "{stored}");
    assert!(!stored.contains("b7ad6b7169203331"), "the job's parent is this command's span: {stored}");
}

#[tokio::test]
async fn a_worker_exports_metrics_and_sends_the_last_ones_when_it_stops() {
    let database = database().await;
    let (url, exports) = receiver();
    let mut worker = binary();
    worker.args(["work", "--until-stdin-ends"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    worker.env("DATABASE_URL", &database.url).env("BACKHAUL__PROFILES__DIR", target_dir());
    worker.env("BACKHAUL__TELEMETRY__OTLP_ENDPOINT", &url).env("BACKHAUL__SINKS__FILE__PATH", "");
    worker.env("BACKHAUL_LOG", "info");
    // Nothing but the end of the process makes it send.
    worker.env("BACKHAUL__TELEMETRY__EXPORT_INTERVAL_S", "3600");
    let mut worker = worker.spawn().expect("spawns");
    eventually("the worker signs on", async || database.one::<i64>("select count(*) from backhaul.workers").await == 1)
        .await;
    database.run("insert into backhaul.sinks (name, kind, target) values ('elsewhere', 'file', 'there')").await;
    database.run("select * from backhaul.enqueue(kind => 'crm-sync', payload => '{\"threadId\": \"t\"}')").await;
    eventually("the job dies for want of a profile", async || {
        database.one::<i64>("select count(*) from backhaul.dead_letters").await == 1
    })
    .await;
    drop(worker.stdin.take());
    let ended = worker.wait_with_output().expect("ends");
    assert!(ended.status.success());
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(log.contains("backhaul_engine") && !log.contains("apalis"), "what the engine says is said once: {log}");
    assert!(log.contains("working") && log.contains("stopped"), "nothing that it says is lost: {log}");
    let metrics = exports.try_iter().find(|export| export.path == "/v1/metrics").expect("metrics were exported");
    assert!(contains(&metrics.body, "backhaul"), "the engine's metrics are among them");
    assert!(contains(&metrics.body, "backhaul.job.success_ratio"), "one job ended, so there is a ratio");
    assert!(contains(&metrics.body, "backhaul.sink.behind"), "there is a sink");
}

/// A kind of this test's own: the meter provider of the process hears of all tests' workers.
#[derive(Debug, Serialize, Deserialize)]
struct Mortal {
    dies: bool,
}

impl Job for Mortal {
    const KIND: &'static str = "mortal";
    type Env = ();

    async fn run(&self, (): &(), _: &mut JobContext) -> Result<(), Failure> {
        if self.dies { Err(Failure::permanent("it_dies", "as it was told")) } else { Ok(()) }
    }
}

/// Keeps the ratios of mortals that were last exported.
#[derive(Debug, Clone, Default)]
struct Ratios(Arc<Mutex<Vec<f64>>>);

impl PushMetricExporter for Ratios {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let metrics = metrics.scope_metrics().flat_map(ScopeMetrics::metrics);
        let mut ratios = Vec::new();
        for metric in metrics.filter(|metric| metric.name() == "backhaul.job.success_ratio") {
            let AggregatedMetrics::F64(MetricData::Gauge(gauge)) = metric.data() else { continue };
            let mortal = KeyValue::new("kind", Mortal::KIND);
            let points = gauge.data_points().filter(|point| point.attributes().any(|label| *label == mortal));
            ratios.extend(points.map(GaugeDataPoint::value));
        }
        *self.0.lock().expect("no panic under the lock") = ratios;
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// A worker that was given up for dead lives on under another id, and counts on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_workers_lives_are_counted_together() {
    let ratios = Ratios::default();
    let meters = SdkMeterProvider::builder().with_reader(PeriodicReader::builder(ratios.clone()).build()).build();
    opentelemetry::global::set_meter_provider(meters.clone());
    let db = database().await;
    register_kinds(&db.store, &[KindSpec::of::<Mortal>()]).await.expect("registers");
    let registry = || {
        let mut registry = Registry::new();
        registry.add::<Mortal>(Arc::new(()));
        registry
    };
    let worker = Worker::start_kinds(db.store.clone(), registry, Vec::new, Worker::patient());
    let mortals = async |dies: bool| {
        db.enqueue(vec![serde_json::json!({ "kind": "mortal", "payload": { "dies": dies } }); 2]).await;
        db.drained().await;
    };
    mortals(false).await;
    let first: uuid::Uuid = db.one("select id from backhaul.workers").await;
    db.run("delete from backhaul.workers").await;
    eventually("it lives again", async || {
        db.one::<Option<uuid::Uuid>>("select max(id::text)::uuid from backhaul.workers")
            .await
            .is_some_and(|id| id != first)
    })
    .await;
    mortals(true).await;
    worker.stop().await;
    tokio::task::spawn_blocking(move || meters.force_flush()).await.expect("does not panic").expect("flushes");
    assert_eq!(*ratios.0.lock().expect("no panic under the lock"), [50.0]);
}

#[tokio::test]
async fn nothing_is_collected_unless_it_is_configured() {
    let database = database().await;
    let output = binary()
        .args(["enqueue", Toy::KIND, "--payload", "{\"n\":1}"])
        .env("DATABASE_URL", &database.url)
        .env_remove("TRACEPARENT")
        .output()
        .expect("runs");
    assert!(output.status.success());
    assert_eq!(database.one::<Option<String>>("select traceparent from backhaul.jobs").await, None);
}

#[test]
fn logs_are_json_where_no_terminal_reads_them() {
    let mut command = binary();
    // A worker without profiles says so in its log, and then finds no database.
    command
        .args(["work"])
        .env("DATABASE_URL", "postgres://u@127.0.0.1:1/d")
        .env("BACKHAUL__PROFILES__DIR", env!("CARGO_TARGET_TMPDIR"));
    let output = command.output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON in {text}"));
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["level"], "WARN");
    assert!(line["timestamp"].is_string() && line["message"].is_string(), "{line}");
}
