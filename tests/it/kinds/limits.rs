//! Limits that lie across classes, end to end: from the profile over the database to the simulator.

use serde_json::{Value, json};

use super::{profile::Setup, stage::Stage};

/// When the requests were made, in seconds, in order.
fn times(requests: &[Value]) -> Vec<f64> {
    let at = |request: &Value| {
        let text = request["at"].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis() as f64 / 1_000.0
    };
    let mut times: Vec<f64> = requests.iter().map(at).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// The most requests in any window of `seconds`.
fn most(times: &[f64], seconds: f64) -> usize {
    let within = |from: &f64| times.iter().filter(|at| **at >= *from && **at <= from + seconds).count();
    times.iter().map(within).max().unwrap_or_default()
}

/// Webchat and profiles each may have thousands of requests a minute, but the client only 600 for both, and only 120 of
/// them may be writes. What a worker process read of it in the profile holds at the simulator.
#[tokio::test(flavor = "multi_thread")]
async fn classes_share_the_limit_of_their_client() {
    let limits = "[[cxone.limits]]\nname = \"client\"\nper_minute = 600\n\
                  [[cxone.limits]]\nname = \"writes\"\nper_minute = 120\nmethods = [\"PATCH\"]\n";
    let stage = Stage::with(Setup { genesys: limits.to_owned(), ..Setup::default() }).await;
    let mut jobs = Vec::new();
    for n in 0..4 {
        let widget = json!({"configurationId": format!("cfg_{n}"), "theme": {"primary": "#abc"}});
        jobs.push(json!({"kind": "widget-patch", "tenant": stage.tenant, "payload": widget}));
        let profile = json!({"profileId": format!("0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3{n}"),
            "attributes": {"tier": "gold"}, "mergeStrategy": "OVERWRITE", "sourceSystem": "crm_main"});
        jobs.push(json!({"kind": "enrichment", "tenant": stage.tenant, "payload": profile}));
    }
    stage.database.enqueue(jobs).await;
    let process = stage.process();
    stage.ended().await;
    process.kill();
    stage.all_done().await;
    let mut requests = stage.requests("cxone/webchat").await;
    requests.extend(stage.requests("cxone/profiles").await);
    assert!(requests.iter().all(|request| request["status"] != 429), "{requests:?}");
    let all = times(&requests);
    requests.retain(|request| request["method"] == "PATCH");
    let writes = times(&requests);
    assert!(all.len() >= 16 && writes.len() == 8, "{} and {}", all.len(), writes.len());
    for (times, per_minute) in [(&all, 600.0), (&writes, 120.0)] {
        let burst = 1.0 + per_minute * 0.009;
        let rate = (per_minute - burst) / 61.0;
        for seconds in [0.5, 1.0, 2.0] {
            // A claim's token is good for a second.
            let allowed = burst + rate * (seconds + 1.0) + 1.0;
            let most = most(times, seconds);
            assert!(most as f64 <= allowed, "{most} in {seconds} s, {allowed} allowed of {per_minute}");
        }
    }
    let took = writes[7] - writes[0];
    assert!(took >= 2.0, "eight writes at two a second took {took} s");
    // The operator sees them as buckets, and what lies within them.
    let within: Vec<(String, Vec<String>)> = stage
        .database
        .rows("select name, within from backhaul.buckets where name ~ '^cxone/(client|profiles|token|writes)$' order by name")
        .await;
    let row = |name: &str, within: &[&str]| (name.to_owned(), within.iter().map(|w| (*w).to_owned()).collect());
    assert_eq!(
        within,
        [
            row("cxone/client", &[]),
            row("cxone/profiles", &["cxone/client"]),
            row("cxone/token", &[]),
            row("cxone/writes", &[])
        ]
    );
}
