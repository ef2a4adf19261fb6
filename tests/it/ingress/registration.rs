use serde_json::{Value, json};

use super::receiver::{House, Setup, voice};
use crate::support::{SimulatorProcess, eventually, scratch};

/// Acme's way to a simulator, and the address that upstreams reach us under.
fn tables(simulator: &str) -> String {
    format!(
        "[cxone]\nbase_url = \"{simulator}/cxone\"\ninsecure = true\n\
         oauth = {{ client_id = \"sim-acme\", client_secret_file = \"client-secret\" }}\n"
    )
}

const PUBLIC_URL: &str = "public_url = \"https://hooks.example.com/in/\"";

async fn house(name: &str, simulator: &str) -> (House, Setup) {
    let setup = Setup { tables: tables(simulator), webhook: PUBLIC_URL.to_owned(), alone: true, ..Setup::default() };
    let house = House::new(name, &setup).await;
    std::fs::write(house.dir.join("profiles/client-secret"), "sim-secret").expect("writable");
    (house, setup)
}

async fn writes(simulator: &SimulatorProcess) -> Vec<(String, String)> {
    let record = simulator.get("/_sim/record?class=webhooks&limit=100").await;
    let rows = record["requests"].as_array().or(record.as_array()).cloned().unwrap_or_default();
    let told = |row: &Value, member: &str| row[member].as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (told(row, "method"), told(row, "path"))).filter(|(method, _)| method != "GET").collect()
}

async fn settled(receiver: &super::receiver::Receiver, word: &str) {
    settled_all(receiver, 2, word).await;
}

async fn settled_all(receiver: &super::receiver::Receiver, count: usize, word: &str) {
    eventually(&format!("{count} registrations are {word}"), async || {
        let metrics = receiver.admin("/api/metrics").await;
        let states = metrics["registrations"].as_array().cloned().unwrap_or_default();
        states.len() == count && states.iter().all(|state| state["state"] == word)
    })
    .await;
}

/// Covers row 92, row 93: registered once, found by the next start, and repaired where somebody changed it.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_ensured_and_repaired() {
    let dir = scratch("ingress-registration-simulator");
    let simulator = SimulatorProcess::start(&dir, &[]).await;
    let (house, setup) = house("registration", &simulator.url).await;
    let first = house.serve(&setup).await;
    settled(&first, "created").await;
    assert_eq!(writes(&simulator).await.len(), 2, "one call a webhook: {:?}", writes(&simulator).await);
    first.kill();
    let second = house.serve(&setup).await;
    settled(&second, "found").await;
    assert_eq!(writes(&simulator).await.len(), 2, "nothing to do");
    second.kill();

    // We move; the webhooks stand there with the old address.
    let profile = std::fs::read_to_string(house.dir.join("profiles/acme.toml")).expect("readable");
    std::fs::write(house.dir.join("profiles/acme.toml"), profile.replace("hooks.example.com", "new.example.com"))
        .expect("writable");
    let third = house.serve(&setup).await;
    settled(&third, "repaired").await;
    let made = writes(&simulator).await;
    assert_eq!(made[2..].iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>(), ["PUT", "PUT"], "{made:?}");
    third.kill();
    let fourth = house.serve(&setup).await;
    settled(&fourth, "found").await;
    let metrics = fourth.admin("/api/metrics").await;
    assert!(metrics["registrations"].as_array().expect("a list").iter().all(|state| state["webhookId"].is_string()));
}

/// Covers row 94: with the upstream down the receiver starts, takes events, and goes on trying.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_keeps_nobody_waiting() {
    let dir = scratch("ingress-token-outage");
    let simulator = SimulatorProcess::start(&dir, &[]).await;
    simulator
        .post("/_sim/faults", &json!({"name": "no-tokens", "match": {"class": "cxone/token"}, "then": {"status": 503}}))
        .await;
    let (house, setup) = house("token-outage", &simulator.url).await;
    let receiver = house.serve(&setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    assert_eq!(house.counts().await, (1, 3));
    settled(&receiver, "retrying").await;
    simulator.delete("/_sim/faults").await;
    settled(&receiver, "created").await;
}

/// Covers row 129: two starts register one webhook for changes of profiles, and only for a tenant that enriches. Its
/// events verify, because the secret that it was registered with is the one that the receiver knows; nobody else's do.
#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_for_profiles_is_registered_once_and_its_events_verify() {
    let simulator = SimulatorProcess::start(&scratch("ingress-profile-simulator"), &[]).await;
    let tables =
        tables(&simulator.url) + "[kinds.enrichment]\nlegal_basis = \"6(1)(f)\"\nhash_key_file = \"hash-key\"\n";
    let setup = Setup { tables, webhook: PUBLIC_URL.to_owned(), alone: true, ..Setup::default() };
    let house = House::new("profile-changes", &setup).await;
    std::fs::write(house.dir.join("profiles/client-secret"), "sim-secret").expect("writable");
    // A relative path starts in the profile's folder, wherever the program runs.
    std::fs::write(house.dir.join("profiles/hash-key"), "test-secret-for-hashing-payloads").expect("writable");
    for (word, posts) in [("created", 3), ("found", 3)] {
        let receiver = house.serve(&setup).await;
        settled_all(&receiver, 3, word).await;
        let made = writes(&simulator).await;
        assert!(made.len() == posts && made.iter().all(|(method, _)| method == "POST"), "{made:?}");
        receiver.kill();
    }
    let receiver = house.serve(&setup).await;
    let send = async |more: Value| {
        let mut order = json!({"url": format!("{}/webhooks/acme/cxone-profiles", receiver.public), "channel": "profile",
            "tenant": "acme", "id": "6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4"});
        order.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let reply = client.post(format!("{}/_sim/generate", simulator.url)).json(&order).send().await.expect("answers");
        let told: Value = reply.json().await.expect("JSON");
        told["deliveries"][0]["http"].clone()
    };
    let ours = json!({"signed_as": "cxone_profile_enrichment_sync"});
    assert_eq!(send(ours.clone()).await, 200);
    let merged = json!({"signed_as": "cxone_profile_enrichment_sync", "event_type": "PROFILE_MERGED",
        "merge": {"data": {"survivorProfileId": "7a1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4"}}});
    assert_eq!(send(merged).await, 200);
    assert_eq!(send(json!({"secret": "made-up-on-the-spot"})).await, 401);
    let payloads = house.payloads().await;
    let told: Vec<(&Value, &Value)> = payloads
        .iter()
        .map(|(_, payload)| (&payload["target"], &payload["event"]["normalizedContext"]["survivorProfileId"]))
        .collect();
    let survivor = json!("7a1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4");
    assert_eq!(told, [(&json!("profile-changes"), &Value::Null), (&json!("profile-changes"), &survivor)]);
    assert_eq!(payloads[0].1["event"]["profileId"], "6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4");
}
