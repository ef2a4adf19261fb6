use std::time::Instant;

use serde_json::{Value, json};

use super::receiver::{House, INTERACTIONS, Letter, Setup, serve, voice};
use crate::support::{Process, SimulatorProcess, eventually, scratch, worker_process};

fn targets(simulator: &str) -> String {
    format!(
        "[callback]\nallow_hosts = [{{ host = \"127.0.0.1\", private = true, insecure = true }}]\nsecret_file = \"callback\"\n\
         [kinds.deliver.targets]\nanalytics = {{ url = \"{simulator}/callbacks/analytics\" }}\n\
         crm-sync = {{ url = \"{simulator}/callbacks/crm-sync\" }}\n\
         notification = {{ url = \"{simulator}/callbacks/notification\" }}\n"
    )
}

async fn stage(name: &str) -> (SimulatorProcess, House, super::receiver::Receiver) {
    let simulator = SimulatorProcess::start(&scratch(&format!("ingress-{name}-simulator")), &[]).await;
    let setup = Setup { tables: targets(&simulator.url), ..Setup::default() };
    let (house, receiver) = serve(name, setup).await;
    (simulator, house, receiver)
}

fn worker(house: &House) -> Process {
    worker_process(&house.database.url, &house.dir.join("profiles"), &house.dir.join("events.jsonl"))
}

async fn received(simulator: &SimulatorProcess, target: &str) -> Vec<Value> {
    let callbacks = simulator.get(&format!("/_sim/callbacks?path=/callbacks/{target}&limit=1000")).await;
    let list = callbacks["callbacks"].as_array().or(callbacks.as_array()).cloned().unwrap_or_default();
    list.iter()
        .map(|callback| serde_json::from_str(callback["body"].as_str().expect("a text")).expect("JSON"))
        .collect()
}

/// Covers row 83, row 85, row 86, row 97, row 98: destinations do not wait for each other; the one that is down has a
/// dead letter with the whole payload, and a replay delivers what was meant.
#[tokio::test(flavor = "multi_thread")]
async fn each_destination_has_its_own_fate() {
    let (simulator, house, receiver) = stage("own-fate").await;
    let down = json!({"name": "down", "match": {"path_contains": "/callbacks/crm-sync"}, "then": {"status": 400}});
    simulator.post("/_sim/faults", &down).await;
    let mut sms = voice("i1");
    sms["data"] = json!({"id": "i1", "channelType": "sms", "direction": "inbound",
        "customer": {"phoneNumber": "+1 (555) 000-1001"}, "message": {"body": "my pin is 1234"}});
    assert_eq!(receiver.interaction(&sms).await.status, 200);
    let _worker = worker(&house);
    eventually("two are delivered and one is dead", async || {
        house.database.unfinished().await == 0
            && house.database.one::<i64>("select count(*) from backhaul.dead_letters").await == 1
    })
    .await;
    let (analytics, notified) = (received(&simulator, "analytics").await, received(&simulator, "notification").await);
    assert_eq!((analytics.len(), notified.len()), (1, 1));
    let told = analytics[0].to_string();
    // No bare digits: an id may hold them.
    assert!(["my pin", "(555)", "5550001001"].iter().all(|word| !told.contains(word)), "{told}");
    assert!(told.contains("\"phone\""), "{told}");
    assert_eq!(notified[0]["normalizedCustomer"], json!({"identifier": "+15550001001", "type": "phone"}));
    assert!(!notified[0].to_string().contains("my pin"));

    let payload: Value = house.database.one("select payload from backhaul.dead_letters").await;
    assert_eq!(payload["event"]["normalizedContext"]["message"], "my pin is 1234");
    simulator.delete("/_sim/faults").await;
    house.database.run("select backhaul.dead_replay(id, 'test', 'mended') from backhaul.dead_letters").await;
    eventually("it is delivered", async || !received(&simulator, "crm-sync").await.is_empty()).await;
    let crm = received(&simulator, "crm-sync").await;
    let last = crm.last().expect("one");
    assert_eq!(last, &payload["event"]);
    assert_eq!(last["normalizedCustomer"]["raw"], "+1 (555) 000-1001");
}

/// What the log tells of a delivery, and of a destination that was given up.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_events_interactions_and_queues() {
    let (simulator, house, receiver) = stage("log-lines").await;
    let down = json!({"name": "down", "match": {"path_contains": "/callbacks/crm-sync"}, "then": {"status": 400}});
    simulator.post("/_sim/faults", &down).await;
    for _ in 0..2 {
        assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    }
    let _worker = worker(&house);
    eventually("all jobs end", async || house.database.unfinished().await == 0).await;
    let lines: Vec<Value> = house.logs().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let told = |event: &str| -> Vec<&Value> { lines.iter().filter(|line| line["event"] == event).collect() };
    let (taken, again) = (told("webhook.success"), told("idempotency.duplicate"));
    assert_eq!((taken.len(), again.len()), (1, 1));
    for (line, status) in [(taken[0], "accepted"), (again[0], "duplicate")] {
        assert_eq!((&line["interaction_id"], &line["channel_type"]), (&json!("i1"), &json!("voice")));
        assert_eq!(line["status"], status);
        assert!(line["latency_ms"].is_u64());
    }
    let published: Vec<&Value> = told("queue.publish").iter().map(|line| &line["queue"]).collect();
    assert_eq!(published, ["analytics", "interactions-crm", "notification"]);
    let dead = told("dead-letter");
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0]["queue"], &dead[0]["error"]), (&json!("crm-sync"), &json!("delivery_refused")));
}

/// Covers row 20, row 83: a destination that asks for peace gets it, keeps nobody else waiting, and costs no try.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_destination_closes_for_itself_alone() {
    let (simulator, house, receiver) = stage("busy").await;
    let busy = json!({"name": "busy", "match": {"path_contains": "/callbacks/analytics"},
        "then": {"status": 429, "retry_after_s": 600}});
    simulator.post("/_sim/faults", &busy).await;
    let _worker = worker(&house);
    for nth in 0..5 {
        assert_eq!(receiver.interaction(&voice(&format!("i{nth}"))).await.status, 200);
    }
    eventually("the others are delivered", async || {
        received(&simulator, "crm-sync").await.len() == 5 && received(&simulator, "notification").await.len() == 5
    })
    .await;
    eventually("five wait for the busy one", async || {
        let waiting = "select count(*) from backhaul.jobs where due_at > now() + interval '1 minute' and attempt = 0";
        house.database.one::<i64>(waiting).await == 5
    })
    .await;
    assert_eq!(house.database.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
}

/// Covers row 84: what was acknowledged is there, though the receiver is killed the moment it has answered.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_event_has_its_jobs() {
    for nth in 0..3 {
        let (house, receiver) = serve(&format!("killed-{nth}"), Setup::default()).await;
        let answer = receiver.interaction(&voice("i1")).await;
        receiver.kill();
        assert_eq!(answer.status, 200);
        assert_eq!(house.counts().await, (1, 3));
    }
}

/// Covers row 87: a destination that hangs does not slow the receiver.
#[tokio::test(flavor = "multi_thread")]
async fn hung_destinations_do_not_slow_the_receiver() {
    let (simulator, house, receiver) = stage("hung").await;
    let hung =
        json!({"name": "hung", "match": {"path_contains": "/callbacks/"}, "then": {"delay_ms": 10000, "status": 200}});
    simulator.post("/_sim/faults", &hung).await;
    let _worker = worker(&house);
    let mut took = Vec::new();
    for nth in 0..100 {
        let letter = Letter::json(INTERACTIONS, &voice(&format!("i{nth}")));
        let started = Instant::now();
        assert_eq!(receiver.send(letter).await.status, 200);
        took.push(started.elapsed());
    }
    took.sort();
    assert!(took[98].as_millis() < 500, "the 99th of 100 took {:?}", took[98]);
    assert_eq!(house.counts().await.0, 100);
}

/// Covers row 78, row 96: events are taken in any order, with the time at which they happened and the one at which they
/// arrived.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_in_any_order() {
    let (house, receiver) = serve("order", Setup::default()).await;
    let at = |event_type: &str, time: &str| {
        let mut event = voice("i1");
        event["eventType"] = json!(event_type);
        event["timestamp"] = json!(time);
        event
    };
    assert_eq!(receiver.interaction(&at("interaction.completed", "2026-01-31T12:05:00+01:00")).await.status, 200);
    assert_eq!(receiver.interaction(&at("interaction.created", "2026-01-31T12:00:00+01:00")).await.status, 200);
    let payloads = house.payloads().await;
    assert_eq!(payloads.len(), 6);
    let occurred: Vec<&Value> = payloads.iter().map(|(_, payload)| &payload["event"]["occurredAt"]).collect();
    assert_eq!((occurred[0], occurred[3]), (&json!("2026-01-31T11:05:00Z"), &json!("2026-01-31T11:00:00Z")));
    let arrived = |nth: usize| payloads[nth].1["event"]["receivedAt"].as_str().expect("a time").to_owned();
    assert!(arrived(0) < arrived(3));
    assert_eq!(payloads[0].1["event"]["timestamp"], "2026-01-31T12:05:00+01:00");
    let ordered: Vec<String> =
        sqlx::query_scalar("select event_type from backhaul.ingress_events order by occurred_at")
            .fetch_all(house.database.store.pool())
            .await
            .expect("reads");
    assert_eq!(ordered, ["interaction.created", "interaction.completed"]);
}
