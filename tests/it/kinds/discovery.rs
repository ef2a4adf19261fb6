//! CXone's API where its configuration document says, end to end.

use serde_json::json;

use super::{profile::Setup, stage::Stage};
use crate::support::binary;

fn payload() -> serde_json::Value {
    json!({"profileId": "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e", "attributes": {"tier": "gold"},
        "mergeStrategy": "OVERWRITE", "sourceSystem": "crm_main"})
}

/// How often the document was asked for.
async fn asked(stage: &Stage) -> usize {
    let record = stage.get(&format!("record?path=tenantId={}&limit=1000", stage.tenant)).await;
    record["requests"].as_array().expect("a list").len()
}

/// A job finds API and token endpoint by the documents, and further jobs of the worker ask no more.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_where_the_document_says() {
    let stage = Stage::with(Setup { discovered: true, ..Setup::default() }).await;
    let widget = json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}});
    stage.enqueue("widget-patch", &[widget]).await;
    stage.done("enrichment", &[payload(), payload()]).await;
    assert_eq!(asked(&stage).await, 1);
    assert_eq!(stage.sent("cxone/profiles", "PATCH").await.len(), 2);
    assert_eq!(stage.sent("cxone/webchat", "PATCH").await.len(), 1);
}

/// A preview asks the document as an attempt would, and shows the address that it names.
#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_where_the_document_leads() {
    let stage = Stage::with(Setup { discovered: true, ..Setup::default() }).await;
    let jobs = stage.enqueue("enrichment", &[payload()]).await;
    let output = binary()
        .args(["jobs", "preview", &jobs[0].to_string(), "--json"])
        .env("DATABASE_URL", &stage.database.url)
        .env("BACKHAUL__PROFILES__DIR", stage.events_file().parent().expect("a folder"))
        .output()
        .expect("the binary runs");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let endpoint = said["request"]["endpoint"].as_str().expect("a URL");
    assert!(endpoint.starts_with(&format!("{}/cxone/api/v2/profiles/", stage.simulator.url)), "{endpoint}");
    assert_eq!(asked(&stage).await, 1);
}

/// A document that is not there for a while costs tries like any other failure on the way; a forged one gets no token, and
/// its job dies under a name of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_misleads_costs_tries() {
    let stage = Stage::with(Setup { discovered: true, ..Setup::default() }).await;
    let forged = json!({"body": {"api_endpoint": "https://evil.example"}});
    let rule = json!({"name": format!("{}-forged", stage.tenant), "when": {}, "then": forged,
        "match": {"path_contains": format!("tenantId={}", stage.tenant)}});
    stage.control(reqwest::Method::POST, "faults", &rule).await;
    let jobs = stage.run("enrichment", &[payload()]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "discovery_unavailable");
    let errors = stage.errors(jobs[0]).await;
    assert!(errors.iter().all(|error| error["class"] == "transient"), "{errors:?}");
    let said = errors[0]["message"].as_str().expect("a message");
    assert!(said.contains("evil.example") && said.contains("not allowed"), "{said}");
    assert!(asked(&stage).await >= 1);
    // The request for the document tells no tenant.
    let others = stage.get(&format!("record?tenant={}&limit=100", stage.tenant)).await;
    assert_eq!(others["requests"], json!([]), "neither a token nor a call");
}
