//! The payloads in the kinds' documents are jobs that work as they stand.

use std::path::Path;

use serde_json::Value;

use super::{profile::Setup, stage::Stage};

/// Every payload of `docs/kinds/*.md`, enqueued as it is printed, ends done.
#[tokio::test(flavor = "multi_thread")]
async fn documented_payloads_are_done() {
    // The examples' hosts are nobody's, so probe and delivery go to the simulator instead.
    let neighbour = Stage::new().await;
    let socket = neighbour.tls().await.replace("https://", "wss://");
    let probe = format!("url_template = \"{socket}/webchat\"");
    let target = neighbour.callback_url();
    let kinds = format!("[kinds.deliver.targets]\nanalytics = {{ url = \"{target}\" }}\n");
    let stage = Stage::with(Setup { probe, kinds, ..Setup::default() }).await;
    let mut told = Vec::new();
    for (kind, payload) in examples() {
        let job = stage.enqueue(&kind, &[payload]).await[0];
        told.push((kind, job));
    }
    stage.work_at_once().await;
    stage.all_done().await;
    let kinds: std::collections::BTreeSet<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    let known: std::collections::BTreeSet<&str> = backhaul_workers::kinds().iter().map(|spec| spec.kind).collect();
    assert_eq!(kinds, known, "each kind's document has an example");
}

/// `(kind, payload)` of every block of JSON.
fn examples() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kinds");
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable").filter_map(Result::ok) {
        let path = entry.path();
        let Some(kind) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else { continue };
        let text = std::fs::read_to_string(&path).expect("readable");
        for block in text.split("```json\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            examples.push((kind.clone(), serde_json::from_str(block).expect("valid JSON")));
        }
    }
    examples
}
