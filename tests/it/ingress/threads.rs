use serde_json::{Value, json};

use super::receiver::{ADMIN_TOKEN, Answer, House, Receiver, Setup, answer};
use crate::support::{Process, SimulatorProcess, eventually, scratch, worker_process};

const THREAD: &str = "0b6f3a52-6a3e-4d53-9a5e-6f0f4b7a1c11";

/// A receiver and a worker whose tenant `acme` is at a simulator, with the profile that the simulator wrote.
async fn stage(name: &str) -> (SimulatorProcess, House, Receiver, Process) {
    let simulator = SimulatorProcess::start(&scratch(&format!("ingress-{name}-simulator")), &["acme"]).await;
    let setup = Setup { alone: true, ..Setup::default() };
    let house = House::new(name, &setup).await;
    std::fs::remove_dir_all(house.dir.join("profiles")).expect("removable");
    std::os::unix::fs::symlink(&simulator.profiles, house.dir.join("profiles")).expect("linkable");
    let receiver = house.serve(&setup).await;
    let worker = worker_process(&house.database.url, &simulator.profiles, &house.dir.join("events.jsonl"));
    (simulator, house, receiver, worker)
}

async fn reconcile(receiver: &Receiver, thread: &str) -> Answer {
    let url = format!("{}/api/reconcile/{thread}?wait_s=30", receiver.admin);
    answer(receiver.client.post(url).bearer_auth(ADMIN_TOKEN)).await
}

/// From a webhook that the simulated source signs to the record in the CRM; and back, covers row 164, row 195, row 197:
/// a reconciliation tells how it went, and repairs what somebody changed.
#[tokio::test(flavor = "multi_thread")]
async fn threads_reach_the_crm_and_are_repaired() {
    let (simulator, house, receiver, _worker) = stage("thread-to-crm").await;
    let secret = std::fs::read_to_string(simulator.profiles.join("callback-secret")).expect("readable");
    let order = json!({"url": format!("{}/api/webhooks/cxone-threads", receiver.public), "channel": "social",
        "tenant": "acme", "id": THREAD, "secret": secret});
    simulator.post("/_sim/generate", &order).await;
    let record = format!("/_sim/documents/threads/acme/{THREAD}");
    eventually("the thread is in the CRM", async || {
        house.counts().await == (1, 0) && simulator.try_get(&record).await.is_some()
    })
    .await;
    let kept = simulator.get(&record).await;
    let quiet = reconcile(&receiver, THREAD).await;
    assert_eq!((quiet.status, &quiet.body["status"]), (200, &json!("UP_TO_DATE")), "{quiet:?}");
    simulator.patch(&record, &json!({"messages": []})).await;
    let repaired = reconcile(&receiver, THREAD).await;
    assert_eq!((repaired.status, &repaired.body["status"]), (200, &json!("RECONCILED")), "{repaired:?}");
    let messages = |document: &Value| document.pointer("/value/messages").or(document.get("messages")).cloned();
    assert_eq!(messages(&simulator.get(&record).await), messages(&kept));
}

/// Covers row 196: the source's answers are passed on for what they are, and not all as 502.
#[tokio::test(flavor = "multi_thread")]
async fn the_sources_answers_are_told_apart() {
    let (simulator, _house, receiver, _worker) = stage("reconcile-answers").await;
    let fault = |status: u16| json!({"name": "source", "match": {"class": "cxone/interactions"}, "then": {"status": status, "retry_after_s": 40}});
    simulator.post("/_sim/faults", &fault(404)).await;
    assert_eq!(reconcile(&receiver, "t-gone").await.status, 404);
    simulator.delete("/_sim/faults").await;
    simulator.post("/_sim/faults", &fault(400)).await;
    let bad = reconcile(&receiver, "t-bad").await;
    assert_eq!((bad.status, &bad.body["error"]["code"]), (502, &json!("upstream_failed")), "{bad:?}");
    simulator.delete("/_sim/faults").await;
    simulator.post("/_sim/faults", &fault(429)).await;
    let began = std::time::Instant::now();
    let busy = reconcile(&receiver, "t-busy").await;
    let passed = began.elapsed();
    assert_eq!((busy.status, &busy.body["error"]["code"]), (503, &json!("upstream_busy")), "{busy:?}");
    let seconds: u32 = busy.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    // The engine adds up to a tenth, so that waiting jobs do not come back all at once. What passed since the refusal
    // is taken off, and never more than has passed here.
    assert!(f64::from(seconds) >= 40.0 - passed.as_secs_f64() && seconds <= 44, "{seconds} after {passed:?}");
}
