//! The kind `handshake` over HTTP and WebSocket: what the channel says in the end, and who was let in.

use backhaul_simulator::CertificateKind;
use serde_json::{Value, json};

use crate::support::Upstream;

const KIND: &str = "handshake";
const ORIGIN: &str = "https://allowed.example";

fn payload(mode: &str, webchat_url: &str) -> Value {
    json!({
        "mode": mode,
        "channelId": "ch_1",
        "channel": {
            "name": "Web shop",
            "enabled": true,
            "webchatUrl": webchat_url,
            "corsAllowedOrigins": [ORIGIN],
            "authProviderId": "auth-1",
            "webchatId": "webchat-1"
        }
    })
}

/// Covers row 33, row 134, row 148, row 149, row 153, row 154, row 157 and row 160: the whole job twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_applied_probed_watched_and_audited() {
    let upstream = Upstream::start("hs-whole", "first_message = '{\"action\":\"configureSession\"}'", "").await;
    let mut payload = payload("apply_and_probe", &upstream.tls(CertificateKind::Good));
    payload["audit"] = json!({"windowDays": 7});
    payload["healthCallbackUrl"] = json!("https://hooks.example.com/health");
    upstream.run(KIND, &[payload.clone(), payload]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let channel = upstream.document("channels", "ch_1").await;
    assert_eq!(channel["name"], "Web shop");
    assert_eq!(channel["division"]["name"], "Home", "members that nobody here knows are kept");
    assert_eq!(channel["webchatSettings"]["theme"], "classic");
    let puts: Vec<Value> =
        upstream.requests("genesys/channels").await.into_iter().filter(|request| request["method"] == "PUT").collect();
    assert_eq!(puts.len(), 1, "the second job found everything as it should be");
    assert_eq!(puts[0]["headers"]["if-match"], "\"1\"");
    assert_eq!(upstream.exchanges("genesys/webhooks").await, ["GET 200", "POST 201", "GET 200"]);
    assert!(upstream.exchanges("genesys/audit").await.len() >= 6, "250 entries are three pages, twice");
    let types = upstream.event_types().await;
    let once = [
        "handshake.applied",
        "handshake.probed",
        "handshake.origin_policy_checked",
        "handshake.webhook_ensured",
        "handshake.audited",
    ];
    assert_eq!(types, [once, once].concat());
    let events = upstream.events().await;
    assert_eq!(events[4].1["entries"], 251, "one change and 250 views");
    assert!(events[1].1["latency_ms"].is_u64() && events[1].1["first_message_answered"] == true);
}

/// Covers row 137, row 133, row 141, row 136 and row 138: every way in which a probe fails has a code of its own.
#[tokio::test(flavor = "multi_thread")]
async fn probes_fail_by_name() {
    let upstream = Upstream::start("hs-codes", "", "").await;
    let good = upstream.tls(CertificateKind::Good);
    let mut cases: Vec<(String, &str)> = vec![
        (upstream.tls(CertificateKind::Expired), "probe_tls_expired"),
        (upstream.tls(CertificateKind::NotYetValid), "probe_tls_not_yet_valid"),
        (upstream.tls(CertificateKind::SelfSigned), "probe_tls_self_signed"),
        (upstream.tls(CertificateKind::UnknownCa), "probe_tls_unknown_ca"),
        (upstream.tls(CertificateKind::WrongHost), "probe_tls_wrong_host"),
        ("https://169.254.169.254".to_owned(), "address_not_allowed"),
        (upstream.simulator.base_url(), "address_not_allowed"),
    ];
    for (path, code) in [
        ("refuse-403", "probe_forbidden"),
        ("refuse-404", "probe_not_found"),
        ("redirect", "probe_redirected"),
        ("any-origin", "origin_policy_not_enforced"),
    ] {
        cases.push((format!("{good}/{path}"), code));
    }
    let payloads: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(number, (url, _))| {
            let mut payload = payload("probe", url);
            payload["channelId"] = json!(format!("ch_{number}"));
            payload
        })
        .collect();
    let jobs = upstream.run(KIND, &payloads).await;
    let dead = upstream.dead().await;
    for (job, (url, code)) in jobs.iter().zip(&cases) {
        assert_eq!(dead.get(job).map(String::as_str), Some(*code), "{url}");
    }
    assert!(upstream.exchanges("genesys/channels").await.is_empty(), "a probe that says all itself reads nothing");
}

/// Covers row 136, row 138, row 140: what may pass is tried again, and named in the end.
#[tokio::test(flavor = "multi_thread")]
async fn probes_that_may_pass_are_tried_again() {
    let upstream = Upstream::start("hs-transient", "timeout_ms = 1500\nfirst_message = 'hello'", "").await;
    let good = upstream.tls(CertificateKind::Good);
    let cases = [
        (format!("{good}/mute"), "probe_timeout"),
        (format!("{good}/close-before"), "probe_closed_early"),
        (format!("{good}/refuse-503"), "probe_unavailable"),
        (format!("{good}/silent"), "probe_degraded"),
    ];
    let payloads: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(number, (url, _))| {
            let mut payload = payload("probe", url);
            payload["channelId"] = json!(format!("ch_{number}"));
            payload
        })
        .collect();
    let jobs = upstream.run(KIND, &payloads).await;
    let dead = upstream.dead().await;
    for (job, (url, code)) in jobs.iter().zip(&cases) {
        assert_eq!(dead.get(job).map(String::as_str), Some(*code), "{url}");
    }
}

/// Covers row 139, row 142: the gateway lets everybody in, so the old channel is put back, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_probe_puts_the_old_channel_back() {
    let upstream = Upstream::start("hs-rollback", "rollback = true", "").await;
    let url = format!("{}/any-origin", upstream.tls(CertificateKind::Good));
    let jobs = upstream.run(KIND, &[payload("apply_and_probe", &url)]).await;
    assert_eq!(upstream.dead().await.get(&jobs[0]).map(String::as_str), Some("origin_policy_not_enforced"));
    let channel = upstream.document("channels", "ch_1").await;
    assert_eq!(channel["name"], "Channel ch_1");
    assert_eq!(channel["webchatSettings"]["webchatUrl"], "https://chat.example.com");
    assert_eq!(upstream.exchanges("genesys/channels").await, ["GET 200", "PUT 200", "GET 200", "PUT 200"]);
    let types = upstream.event_types().await;
    assert_eq!(types, ["handshake.applied", "handshake.probed", "handshake.rolled_back", "handshake.probe_failed"]);
}

/// Covers row 150, row 151, row 152: 409, then 429 on the reading, then all goes well.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_merged_across_a_throttled_reading() {
    let upstream = Upstream::start("hs-conflict", "", "").await;
    upstream.faults(
        r#"
[[faults]]
name = "somebody was faster"
match = { class = "genesys/channels", method = "PUT" }
when = { first = 1 }
then = { status = 409 }
[[faults]]
name = "slow down"
match = { class = "genesys/channels", method = "GET" }
when = { nth = [2] }
then = { status = 429, retry_after_s = 1 }
"#,
    );
    upstream.run(KIND, &[payload("apply", "https://chat.example.com/new")]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let exchanges = upstream.exchanges("genesys/channels").await;
    assert_eq!(exchanges, ["GET 200", "PUT 409", "GET 429", "GET 200", "PUT 200"]);
}

/// Covers row 150 in its other mode: the version travels in the body.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_may_travel_in_the_body() {
    let upstream = Upstream::start("hs-body", "", "[genesys.occ]\nmode = \"body_version\"\n").await;
    upstream.run(KIND, &[payload("apply", "https://chat.example.com/new")]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let requests = upstream.requests("genesys/channels").await;
    assert_eq!(requests[1]["body"]["version"], 1);
    assert!(requests[1]["headers"].get("if-match").is_none());
}

/// Covers row 32 for channels, row 153, row 156, row 158: lost and failed answers repeat nothing that was done.
#[tokio::test(flavor = "multi_thread")]
async fn failures_repeat_only_their_own_step() {
    let upstream = Upstream::start("hs-steps", "", "").await;
    upstream.faults(
        r#"
[[faults]]
name = "lost"
match = { class = "genesys/channels", method = "PUT" }
when = { first = 1 }
then = { reset = "after_commit" }
[[faults]]
name = "webhooks are down"
match = { class = "genesys/webhooks", method = "POST" }
when = { first = 1 }
then = { status = 503 }
[[faults]]
name = "third page"
match = { class = "genesys/audit" }
when = { nth = [3] }
then = { status = 429, retry_after_s = 1 }
"#,
    );
    let mut payload = payload("apply", "https://chat.example.com/new");
    payload["audit"] = json!({});
    payload["healthCallbackUrl"] = json!("https://hooks.example.com/health");
    upstream.run(KIND, &[payload]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let puts = upstream.requests("genesys/channels").await;
    assert_eq!(puts.iter().filter(|request| request["method"] == "PUT").count(), 1);
    let webhooks = upstream.exchanges("genesys/webhooks").await;
    assert_eq!(webhooks, ["GET 200", "POST 503", "GET 200", "POST 201"]);
    assert_eq!(upstream.exchanges("genesys/audit").await, ["GET 200", "GET 200", "GET 429", "GET 200"]);
    let audited = upstream.events().await.pop().expect("events");
    assert_eq!((audited.0.as_str(), &audited.1["pages"]), ("handshake.audited", &json!(3)));
}

/// Covers row 157, row 160: a cursor that comes back is an error, which leaves the good probe a good probe.
#[tokio::test(flavor = "multi_thread")]
async fn circling_pages_end_the_query_only() {
    let upstream = Upstream::start("hs-circle", "", "").await;
    upstream.faults(
        r#"
[[faults]]
name = "circle"
match = { class = "genesys/audit" }
then = { merge_body = { nextPageCursor = "c.100.0.86400000" } }
"#,
    );
    let mut payload = payload("probe", &upstream.tls(CertificateKind::Good));
    payload["audit"] = json!({});
    let jobs = upstream.run(KIND, &[payload]).await;
    assert_eq!(upstream.dead().await.get(&jobs[0]).map(String::as_str), Some("audit_cursor_repeated"));
    let types = upstream.event_types().await;
    assert_eq!(types, ["handshake.probed", "handshake.origin_policy_checked", "handshake.audit_failed"]);
}

/// Covers row 162: a channel that does not exist is created under its external id, and once though the answer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_channel_is_created_once() {
    let upstream = Upstream::start("hs-create", "", "[kinds.handshake]\ncreate_missing = true\n").await;
    upstream.faults(
        r#"
[[faults]]
name = "no such channel"
match = { class = "genesys/channels", method = "GET", path_contains = "/channels/ch_1" }
then = { status = 404 }
[[faults]]
name = "lost"
match = { class = "genesys/channels", method = "POST" }
when = { first = 1 }
then = { reset = "after_commit" }
"#,
    );
    let payload = payload("apply", "https://chat.example.com/new");
    upstream.run(KIND, &[payload.clone(), payload]).await;
    assert!(upstream.dead().await.is_empty(), "{:?}", upstream.dead().await);
    let requests = upstream.requests("genesys/channels").await;
    assert_eq!(requests.iter().filter(|request| request["method"] == "POST").count(), 1);
}

/// Covers row 155, row 159: refused before any call.
#[tokio::test(flavor = "multi_thread")]
async fn bad_payloads_make_no_call() {
    let upstream = Upstream::start("hs-refused", "", "").await;
    let mut filter = payload("apply", "https://chat.example.com");
    filter["channelId"] = json!("x OR entityId:*");
    let mut callback = payload("apply", "https://chat.example.com");
    callback["healthCallbackUrl"] = json!("undefined");
    let mut stranger = payload("apply", "https://chat.example.com");
    stranger["healthCallbackUrl"] = json!("https://evil.example/x");
    let plain = payload("apply", "http://chat.example.com");
    // The origin to keep out is one that the channel would let in.
    let mut welcome = payload("apply_and_probe", &upstream.tls(CertificateKind::Good));
    welcome["probe"] = json!({"foreignOrigin": ORIGIN});
    let jobs = upstream.run(KIND, &[filter, callback, stranger, plain, welcome]).await;
    let dead = upstream.dead().await;
    let codes: Vec<&str> = jobs.iter().map(|job| dead.get(job).map_or("", String::as_str)).collect();
    let invalid = "invalid_payload";
    assert_eq!(codes, [invalid, invalid, "address_not_allowed", invalid, invalid]);
    assert!(upstream.exchanges("genesys/channels").await.is_empty());
    assert_eq!(upstream.event_types().await, vec!["handshake.refused"; 5]);
}
