//! A preview says what a job would do, and does nothing: neither here nor at the upstream.

mod crm_records;
mod crm_sync;
mod enrichment;
mod handshake;
mod rights;
mod widget_patch;

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{PATIENCE, Upstream, binary, target_dir};

/// What a command answered.
#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    /// The JSON on standard output; `null` where there is none.
    said: Value,
    text: String,
    complaint: String,
}

impl Answer {
    fn verdict(&self) -> &str {
        self.said["verdict"].as_str().unwrap_or_else(|| panic!("no verdict: {self:?}"))
    }

    /// JSON pointers of one of the lists.
    fn pointers(&self, list: &str) -> Vec<&str> {
        let list = self.said[list].as_array().unwrap_or_else(|| panic!("no {list}: {self:?}"));
        list.iter().map(|entry| entry["pointer"].as_str().expect("a pointer")).collect()
    }

    fn note(&self, part: &str) -> bool {
        self.said["notes"].as_array().into_iter().flatten().any(|note| note.as_str().unwrap_or_default().contains(part))
    }
}

/// Runs the binary with the profiles of `upstream` on a database, and `input` as its standard input.
async fn command(upstream: &Upstream, url: &str, args: &[&str], input: Option<&Value>) -> Answer {
    let mut command = tokio::process::Command::from(binary());
    command.args(args).env("DATABASE_URL", url).env("BACKHAUL__PROFILES__DIR", &upstream.dir).kill_on_drop(true);
    let input_is = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child =
        command.stdin(input_is).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        pipe.write_all(input.to_string().as_bytes()).await.expect("it reads");
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("it is ours");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Answer {
        code: output.status.code(),
        said: serde_json::from_str(&text).unwrap_or_default(),
        text,
        complaint: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Previews a job.
async fn of_job(upstream: &Upstream, job: i64) -> Answer {
    let args = ["jobs", "preview", &job.to_string(), "--json"];
    command(upstream, &upstream.database.url, &args, None).await
}

/// Previews a payload that is not enqueued.
async fn of_payload(upstream: &Upstream, kind: &str, payload: &Value) -> Answer {
    let args = ["jobs", "preview", "--kind", kind, "--tenant", "acme", "-", "--json"];
    command(upstream, &upstream.database.url, &args, Some(payload)).await
}

/// What the database holds of jobs and their doings.
async fn rows(upstream: &Upstream) -> i64 {
    upstream
        .database
        .one(
            "select (select count(*) from backhaul.jobs) + (select count(*) from backhaul.dead_letters)
                  + (select count(*) from backhaul.steps) + (select count(*) from backhaul.events)
                  + (select count(*) from backhaul.memories) + (select count(*) from backhaul.idempotency_keys)",
        )
        .await
}

/// That `sent`, a recorded request, is the one that a preview had announced.
fn assert_same_request(announced: &Value, sent: &Value) {
    assert_eq!(announced["method"], sent["method"]);
    let endpoint = announced["endpoint"].as_str().expect("a URL");
    let path = sent["path"].as_str().expect("a path");
    assert!(endpoint.ends_with(path), "{endpoint} is not {path}");
    assert_eq!(announced["body"], sent["body"]);
    for name in ["if-match", "if-none-match", "if-unmodified-since", "idempotency-key", "content-type", "accept"] {
        assert_eq!(announced["headers"][name], sent["headers"][name], "{name}");
    }
    assert_eq!(announced["headers"]["authorization"], "(not shown)");
}

/// The tenant's settings for enrichment.
fn enrichment_table(name: &str, more: &str) -> String {
    let path = target_dir().join(format!("{name}-{}.hash", std::process::id()));
    std::fs::write(&path, "test-hash-key-test-hash-key").expect("writable");
    let path = toml::Value::String(path.to_string_lossy().into_owned());
    format!("[kinds.enrichment]\nlegal_basis = \"6(1)(f)\"\nhash_key_file = {path}\n{more}")
}
