//! Traces and metrics leave when a receiver is configured, and a job carries its producer's trace.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use backhaul_engine::Job;
use serde_json::Value;

use crate::support::{PATIENCE, Toy, binary, database, eventually, target_dir};

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
    worker.args(["work", "--until-stdin-ends"]).stdin(Stdio::piped()).stderr(Stdio::null());
    worker.env("DATABASE_URL", &database.url).env("BACKHAUL__PROFILES__DIR", target_dir());
    worker.env("BACKHAUL__TELEMETRY__OTLP_ENDPOINT", &url).env("BACKHAUL__SINKS__FILE__PATH", "");
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
    assert!(worker.wait().expect("ends").success());
    let metrics = exports.try_iter().find(|export| export.path == "/v1/metrics").expect("metrics were exported");
    assert!(contains(&metrics.body, "backhaul"), "the engine's metrics are among them");
    assert!(contains(&metrics.body, "backhaul.job.success_ratio"), "one job ended, so there is a ratio");
    assert!(contains(&metrics.body, "backhaul.sink.behind"), "there is a sink");
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
