use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::receiver::{House, Receiver, SECRET, Setup, voice};
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

async fn settled(receiver: &Receiver, word: &str) {
    settled_all(receiver, 2, word).await;
}

async fn settled_all(receiver: &Receiver, count: usize, word: &str) {
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

/// The words of the registrations by source.
async fn words(receiver: &Receiver) -> BTreeMap<String, String> {
    let metrics = receiver.admin("/api/metrics").await;
    let states = metrics["registrations"].as_array().cloned().unwrap_or_default();
    let word = |state: &Value, member: &str| state[member].as_str().unwrap_or_default().to_owned();
    states.iter().map(|state| (word(state, "source"), word(state, "state"))).collect()
}

/// The word of the webhook for profiles, once all three have settled.
async fn settled_word(receiver: &Receiver) -> String {
    eventually("three registrations stand", async || {
        let words = words(receiver).await;
        words.len() == 3 && words.values().all(|word| word != "retrying")
    })
    .await;
    words(receiver).await["profile-changes"].clone()
}

/// A house whose tenant enriches, so that it has a webhook which is registered with a secret.
async fn enriching(name: &str, simulator: &SimulatorProcess) -> (House, Setup) {
    let tables =
        tables(&simulator.url) + "[kinds.enrichment]\nlegal_basis = \"6(1)(f)\"\nhash_key_file = \"hash-key\"\n";
    let setup = Setup { tables, webhook: PUBLIC_URL.to_owned(), alone: true, ..Setup::default() };
    let house = House::new(name, &setup).await;
    std::fs::write(house.dir.join("profiles/client-secret"), "sim-secret").expect("writable");
    // A relative path starts in the profile's folder, wherever the program runs.
    std::fs::write(house.dir.join("profiles/hash-key"), "test-secret-for-hashing-payloads").expect("writable");
    (house, setup)
}

/// Has the simulator post a change of a profile; the status that it got.
async fn change(simulator: &SimulatorProcess, receiver: &Receiver, more: Value) -> Value {
    let mut order = json!({"url": format!("{}/webhooks/acme/cxone-profiles", receiver.public), "channel": "profile",
        "tenant": "acme", "id": "6f1c0f8e-7a34-4a0e-9a53-2f60d9b6a1c4"});
    order.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let reply = client.post(format!("{}/_sim/generate", simulator.url)).json(&order).send().await.expect("answers");
    let told: Value = reply.json().await.expect("JSON");
    told["deliveries"][0]["http"].clone()
}

/// Covers row 129: two starts register one webhook for changes of profiles, and only for a tenant that enriches. Its
/// events verify, because the secret that it was registered with is the one that the receiver knows; nobody else's do.
#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_for_profiles_is_registered_once_and_its_events_verify() {
    let simulator = SimulatorProcess::start(&scratch("ingress-profile-simulator"), &[]).await;
    let (house, setup) = enriching("profile-changes", &simulator).await;
    for (word, posts) in [("created", 3), ("found", 3)] {
        let receiver = house.serve(&setup).await;
        settled_all(&receiver, 3, word).await;
        let made = writes(&simulator).await;
        assert!(made.len() == posts && made.iter().all(|(method, _)| method == "POST"), "{made:?}");
        receiver.kill();
    }
    let receiver = house.serve(&setup).await;
    let send = async |more: Value| change(&simulator, &receiver, more).await;
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

/// A new secret reaches the upstream with the next start, although the upstream never shows the one it has; so the
/// previous one can be taken away. A webhook that somebody made anew with another secret is repaired as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_is_registered() {
    let simulator = SimulatorProcess::start(&scratch("ingress-rotation-simulator"), &[]).await;
    let (house, setup) = enriching("rotation", &simulator).await;
    let ours = json!({"signed_as": "cxone_profile_enrichment_sync"});
    let secrets = |current: &str, previous: &str| {
        std::fs::write(house.dir.join("profiles/current"), current).expect("writable");
        std::fs::write(house.dir.join("profiles/previous"), previous).expect("writable");
    };
    let mut seen = Vec::new();
    for (current, previous) in [
        (SECRET, "test-secret-older"),
        ("test-secret-rotated", SECRET),
        ("test-secret-rotated", SECRET),
        ("test-secret-rotated", "test-secret-nobody-has"),
    ] {
        secrets(current, previous);
        let receiver = house.serve(&setup).await;
        seen.push(settled_word(&receiver).await);
        assert_eq!(change(&simulator, &receiver, ours.clone()).await, 200, "{current} {previous}");
        receiver.kill();
    }
    assert_eq!(seen, ["created", "repaired", "found", "found"]);
    let made = writes(&simulator).await;
    assert_eq!(made.iter().filter(|(method, _)| method == "PUT").count(), 1, "{made:?}");

    let stored: Vec<u8> = house.database.one("select secret_mark from backhaul.ingress_registrations").await;
    assert!(!String::from_utf8_lossy(&stored).contains("test-secret") && stored.len() == 32);
    // What is remembered counts for one webhook: with nothing remembered, nobody knows which secret stands there.
    house.database.run("delete from backhaul.ingress_registrations").await;
    let receiver = house.serve(&setup).await;
    assert_eq!(settled_word(&receiver).await, "repaired");
}

/// Covers row 93: ours is found wherever it stands in a listing that comes in pages, although the upstream would take
/// a second one of its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_on_a_later_page_is_found() {
    let simulator = SimulatorProcess::start(&scratch("ingress-pages-simulator"), &[]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let settings = json!({"webhook_page_size": 1, "webhook_duplicates": "allowed"});
    let patched = client.patch(format!("{}/_sim/settings", simulator.url)).json(&settings).send().await;
    assert!(patched.expect("answers").status().is_success());
    let (house, setup) = enriching("pages", &simulator).await;
    for word in ["created", "found"] {
        let receiver = house.serve(&setup).await;
        settled_all(&receiver, 3, word).await;
        receiver.kill();
    }
    assert_eq!(writes(&simulator).await.len(), 3);
}
