//! Previews of `enrichment`: the difference to the profile, and nothing of a person that the policy does not let pass.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_same_request, command, enrichment_table, of_job, of_payload, rows};
use crate::support::Upstream;

const KIND: &str = "enrichment";
const CLASS: &str = "cxone/profiles";
const ID: &str = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";

async fn upstream(name: &str, more: &str) -> Upstream {
    Upstream::start(name, "", &enrichment_table(name, more)).await
}

fn payload(strategy: &str, attributes: Value) -> Value {
    json!({"profileId": ID, "attributes": attributes, "mergeStrategy": strategy, "sourceSystem": "crm", "tags": ["vip"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_what_is_sent() {
    let upstream = upstream("preview-enrich", "").await;
    let standing = json!({"attributes": {"interests": ["chess"], "tier": "gold"}, "tags": ["vip"]});
    upstream.write(Method::PATCH, "profiles", ID, &standing).await;
    let attributes = json!({"interests": ["chess", "sailing"], "tier": "silver", "city": "Oslo"});
    let jobs = upstream.enqueue(KIND, &[payload("APPEND", attributes)]).await;
    let before = rows(&upstream).await;
    let shown = of_job(&upstream, jobs[0]).await;
    assert_eq!((shown.verdict(), shown.code), ("would_change", Some(0)), "{shown:?}");
    assert_eq!(
        shown.said["difference"],
        json!([
            {"pointer": "/attributes/city", "after": "Oslo"},
            {"pointer": "/attributes/interests/1", "after": "sailing"},
            {"pointer": "/tags/1", "after": "enriched_via_rest"},
            {"pointer": "/tags/2", "after": "digital_engagement"},
        ])
    );
    // Appending leaves a value that stands there alone.
    assert_eq!(shown.said["conflicts"], json!([{"pointer": "/attributes/tier", "ours": "silver", "theirs": "gold"}]));
    assert_eq!(shown.said["current"]["attributes"], json!({"interests": ["chess"], "tier": "gold"}));
    assert_eq!(rows(&upstream).await, before);
    assert_eq!(upstream.exchanges(CLASS).await, ["GET 200"]);

    upstream.work().await;
    assert!(upstream.dead().await.is_empty());
    let requests = upstream.requests(CLASS).await;
    let patch = requests.iter().find(|request| request["method"] == "PATCH").expect("a write");
    assert_same_request(&shown.said["request"], patch);
    let profile = upstream.document("profiles", ID).await;
    assert_eq!(profile["attributes"]["interests"], json!(["chess", "sailing"]));

    let again = of_payload(&upstream, KIND, &payload("APPEND", json!({"city": "Oslo"}))).await;
    assert_eq!((again.verdict(), &again.said["request"]), ("already_applied", &Value::Null));
    let kept_out = of_payload(&upstream, KIND, &payload("APPEND", json!({"city": "Bergen"}))).await;
    assert_eq!((kept_out.verdict(), kept_out.code), ("would_conflict", Some(5)));
    assert_eq!(
        kept_out.said["conflicts"],
        json!([{"pointer": "/attributes/city", "ours": "Bergen", "theirs": "Oslo"}])
    );
}

/// Covers row 119 for previews: personal data is masked, and what the policy masks or blocks stays so whoever asks.
#[tokio::test(flavor = "multi_thread")]
async fn personal_data_is_shown_on_demand_as_far_as_it_is_sent() {
    let upstream = upstream("preview-enrich-pii", "[kinds.enrichment.personal_data]\nSSN = \"mask\"\n").await;
    let attributes = json!({"mail": "ann@example.com", "note": "ssn 123-45-6789", "tier": "gold"});
    upstream.write(Method::PATCH, "profiles", ID, &json!({"attributes": {"mail": "old@example.com"}})).await;
    let job = payload("OVERWRITE", attributes);
    let shown = of_payload(&upstream, KIND, &job).await;
    assert_eq!(shown.verdict(), "would_change");
    assert!(!shown.text.contains("example.com") && !shown.text.contains("6789"), "{}", shown.text);
    assert_eq!(
        shown.said["difference"][0],
        json!({"pointer": "/attributes/mail", "before": "[EMAIL]", "after": "[EMAIL]"})
    );
    assert_eq!(shown.said["request"]["body"]["attributes"]["mail"], "[EMAIL]");

    let args = ["jobs", "preview", "--kind", KIND, "--tenant", "acme", "-", "--json", "--personal-data"];
    let shown = command(&upstream, &upstream.database.url, &args, Some(&job)).await;
    assert_eq!(shown.said["difference"][0]["before"], "old@example.com");
    assert_eq!(shown.said["request"]["body"]["attributes"]["note"], "ssn [SSN]", "as it would be sent");
    assert!(!shown.text.contains("6789"));
    assert_eq!(upstream.exchanges(CLASS).await, ["GET 200"; 2]);
}

/// Covers row 127 beforehand: newer data stands there, so the job would send nothing.
#[tokio::test(flavor = "multi_thread")]
async fn older_data_is_said_to_be_older() {
    let upstream = upstream("preview-enrich-older", "").await;
    let at = |value: &str, time: &str| {
        let mut job = payload("KEEP_LATEST", json!({"tier": value}));
        job["sourceUpdatedAt"] = json!(time);
        job
    };
    upstream.run(KIND, &[at("gold", "2026-02-01T00:00:00Z")]).await;
    let older = of_payload(&upstream, KIND, &at("silver", "2026-01-01T00:00:00Z")).await;
    assert_eq!(older.verdict(), "would_conflict");
    assert_eq!(older.said["conflicts"], json!([{"pointer": "/attributes/tier", "ours": "silver", "theirs": "gold"}]));
    assert!(older.note("newer data"));
    let newer = of_payload(&upstream, KIND, &at("silver", "2026-03-01T00:00:00Z")).await;
    assert_eq!(newer.said["difference"], json!([{"pointer": "/attributes/tier", "before": "gold", "after": "silver"}]));
    let same = of_payload(&upstream, KIND, &at("gold", "2026-03-01T00:00:00Z")).await;
    assert_eq!(same.verdict(), "already_applied");
    assert!(same.note("does not read first") && same.said["request"].is_object());
    assert_eq!(upstream.exchanges(CLASS).await, ["PATCH 200", "GET 200", "GET 200", "GET 200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_payload_is_told_all_of_its_mistakes() {
    let upstream = upstream("preview-enrich-invalid", "time_fields = [\"seen\"]\n").await;
    let wrong = json!({"profileId": "x", "attributes": {"a": [[[1]]]}, "mergeStrategy": "MERGE", "sourceSystem": ""});
    let invalid = of_payload(&upstream, KIND, &wrong).await;
    assert_eq!((invalid.verdict(), invalid.code), ("invalid", Some(5)));
    assert_eq!(invalid.pointers("problems"), ["/profileId", "/attributes/a", "/mergeStrategy", "/sourceSystem"]);
    let blocked = payload("OVERWRITE", json!({"note": "123-45-6789", "card": "4111 1111 1111 1111"}));
    let invalid = of_payload(&upstream, KIND, &blocked).await;
    assert!(invalid.note("personal_data_blocked") && !invalid.text.contains("6789"), "{}", invalid.text);
    assert_eq!(invalid.pointers("problems"), ["/attributes/card", "/attributes/note"]);
    let stale = payload("OVERWRITE", json!({"seen": "2001-01-01T00:00:00Z"}));
    assert!(of_payload(&upstream, KIND, &stale).await.note("stale_data"));
    assert_eq!(upstream.exchanges(CLASS).await, [""; 0]);
}
