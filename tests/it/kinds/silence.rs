//! What must not be said: no personal data and no secret in logs, events, files and listings.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{profile::HOOK_SECRET, stage::Stage};
use crate::{
    support::{PATIENCE, Process, binary, eventually, run},
    telemetry::receiver,
};

/// Covers row 119, row 11: digits that a job carries appear nowhere but in its sealed payload; secrets nowhere at all.
#[tokio::test(flavor = "multi_thread")]
async fn neither_personal_data_nor_secrets_are_told() {
    let stage = Stage::new().await;
    let profile = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    let enrich = |id: &str, attributes: serde_json::Value, strategy: &str| json!({"profileId": id, "attributes": attributes, "mergeStrategy": strategy, "sourceSystem": "crm_main"});
    // Blocked, invalid in every member, echoed by the server in its refusal, and accepted.
    let echoed = json!({"status": 400, "body": {"error": "321-54-9876 is not allowed", "code": "321-54-9876"}});
    let matching = json!({"class": "profiles", "path_contains": profile(3)});
    stage.fault_where(matching, json!({}), echoed).await;
    let payloads = [
        enrich(&profile(1), json!({"ssn": "321-54-9876"}), "OVERWRITE"),
        enrich(&profile(2), json!({"card": "4111111111111111", "321-54-9876": 1}), "OVERWRITE"),
        enrich(&profile(3), json!({"email": "ann.321549876@example.com"}), "OVERWRITE"),
        enrich("321-54-9876", json!({"note": "321549876"}), "321-54-9876"),
        enrich(&profile(4), json!({"phone": "+15553215498"}), "OVERWRITE"),
    ];
    let mut jobs = stage.enqueue("enrichment", &payloads).await;
    let stray = [
        json!({"configurationId": "321-54-9876 ", "theme": {"primary": "321-54-9876"}, "321-54-9876": 1}),
        json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}, "callbackUrl": "https://elsewhere.example/321-54-9876"}),
    ];
    jobs.extend(stage.enqueue("widget-patch", &stray).await);
    let bad_channel = json!({"mode": "321-54-9876", "channelId": "321-54-9876 ", "channel": {"name": ["321-54-9876"]}});
    jobs.extend(stage.enqueue("handshake", &[bad_channel]).await);
    let text = json!({"id": "m1", "text": "321-54-9876", "timestamp": "321-54-9876", "authorId": "p1"});
    let bad_thread = json!({"threadId": "t1", "event": "321-54-9876", "timestamp": "2026-01-02T10:00:00Z",
        "data": {"threadId": "t1", "version": "321549876", "participants": [{"id": "p1", "role": "321-54-9876"}],
            "messages": [text]}});
    jobs.extend(stage.enqueue("crm-sync", &[bad_thread]).await);

    let process = stage.process();
    stage.ended().await;
    eventually("the events are published", async || {
        std::fs::read_to_string(stage.events_file()).unwrap_or_default().matches("job.dead").count() == 8
    })
    .await;
    process.kill();

    let dead = |arguments: &[&str]| run(binary().arg("dead").args(arguments).env("DATABASE_URL", &stage.database.url));
    let mut told = vec![
        ("the log", stage.logs()),
        ("the file of events", std::fs::read_to_string(stage.events_file()).expect("readable")),
        ("the list of dead letters", dead(&["list"])),
        ("the list of dead letters as JSON", dead(&["list", "--json"])),
        ("the groups of dead letters", dead(&["list", "--group"])),
        ("the events", stage.events().await.iter().map(|(kind, data)| format!("{kind} {data}\n")).collect()),
    ];
    let letters: Vec<(i64,)> = stage.database.rows("select id from backhaul.dead_letters").await;
    assert_eq!(letters.len(), 8, "all but the accepted one");
    for (id,) in &letters {
        // The ordering key is the resource's id as it was given; whoever looks at one letter needs it.
        let shown = dead(&["show", &id.to_string()]);
        let lines = shown.lines().filter(|line| !line.starts_with("ordering_key"));
        told.push(("a dead letter", lines.collect::<Vec<_>>().join("\n")));
    }
    assert!(told[0].1.len() > 1_000, "the log was written");
    for (place, text) in told {
        for secret in [
            "321-54-9876",
            "321549876",
            "4111111111111111",
            "5553215498",
            "sim-secret",
            "sim-crm-",
            HOOK_SECRET,
            "test-hash-key",
        ] {
            let at = text.find(secret);
            let around = at.map(|at| text[at.saturating_sub(200)..].chars().take(300).collect::<String>());
            assert!(at.is_none(), "{place} tells {secret}: …{}…", around.unwrap_or_default());
        }
    }
}

/// Covers row 213: twelve times the profiles make no further series, and no id is a label.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_do_not_grow_with_the_data() {
    let mut series = Vec::new();
    for count in [5, 60] {
        let stage = Stage::new().await;
        let profile = |n: usize| format!("00000000-0000-4000-8000-{n:012}");
        let enrich = |n: usize| {
            json!({"profileId": profile(n), "attributes": {"orders": n}, "mergeStrategy": "OVERWRITE",
                "sourceSystem": "crm_main"})
        };
        stage.enqueue("enrichment", &(0..count).map(enrich).collect::<Vec<Value>>()).await;
        let (url, exports) = receiver();
        let mut command = stage.command();
        command.env("BACKHAUL__TELEMETRY__OTLP_ENDPOINT", &url);
        // Nothing but the end of the process makes it send.
        command.env("BACKHAUL__TELEMETRY__EXPORT_INTERVAL_S", "3600");
        let process = Process::start(&mut command);
        stage.ended().await;
        kill(Pid::from_raw(i32::try_from(process.id()).expect("a pid")), Signal::SIGTERM).expect("runs");
        let metrics = std::iter::from_fn(|| exports.recv_timeout(PATIENCE).ok())
            .find(|export| export.path == "/v1/metrics")
            .expect("metrics were exported");
        let told = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(told.contains("backhaul.job.attempts") && told.contains("enrichment"));
        assert!(!told.contains("00000000-0000") && !told.contains(&stage.tenant), "an id is a label");
        series.push((told.matches("outcome").count(), told.matches("kind").count()));
    }
    assert_eq!(series[0], series[1], "occurrences of the labels");
}
