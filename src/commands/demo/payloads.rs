//! One payload of each kind, different for each job and the same in every run.

use serde_json::{Value, json};

/// A UUID that says whose it is: tenant, sort of resource, number.
pub(super) fn uuid(tenant: usize, sort: u16, number: usize) -> String {
    format!("{:08x}-{sort:04x}-4000-8000-{number:012x}", 0xbac0_0000_usize + tenant)
}

/// Sets a few attributes of a customer profile.
pub(super) fn enrichment(profile: &str, number: usize) -> Value {
    let strategies = ["OVERWRITE", "APPEND", "KEEP_LATEST"];
    let segments = ["trial", "standard", "premium"];
    json!({
        "profileId": profile,
        "mergeStrategy": strategies[number % 3],
        "sourceSystem": "demo-erp",
        "attributes": {
            "segment": segments[number % 3],
            "orders": number,
            "interests": ["outdoor", format!("category-{}", number % 7)],
        },
        "tags": ["demo"],
    })
}

/// Gives a chat widget another colour, and a listener.
pub(super) fn widget(configuration: &str, number: usize) -> Value {
    json!({
        "configurationId": configuration,
        "theme": { "primary": format!("#{:06x}", 0x10_20_30 + number * 0x05_07_0b), "borderRadius": "6px" },
        "eventListeners": [{ "event": "widget_open", "action": "track_latency", "payload": { "sample": number } }],
    })
}

/// A social thread as it stands at `version`: each version has one message more.
pub(super) fn thread(thread: &str, version: u64) -> Value {
    let messages: Vec<Value> = (1..=version + 1)
        .map(|message| {
            json!({
                "id": format!("m-{message}"),
                "authorId": if message % 2 == 1 { "u-1" } else { "a-1" },
                "direction": if message % 2 == 1 { "INBOUND" } else { "OUTBOUND" },
                "text": format!("Message {message} of this thread."),
                "timestamp": format!("2026-03-01T10:0{message}:00Z"),
            })
        })
        .collect();
    let at = format!("2026-03-01T11:0{version}:00Z");
    json!({
        // Beside the envelope, because it orders the updates of one thread.
        "threadId": thread,
        "event": "THREAD_UPDATED",
        "timestamp": at,
        "data": {
            "threadId": thread,
            "version": version,
            "updatedAt": at,
            "participants": [
                { "id": "u-1", "role": "CUSTOMER", "name": "A customer", "platformId": "social-1" },
                { "id": "a-1", "role": "AGENT", "name": "An agent", "platformId": "social-2" },
            ],
            "messages": messages,
        },
    })
}

/// Writes a chat channel and opens its socket, once as a visitor of the right site and once from a foreign one.
pub(super) fn handshake(channel: &str, number: usize, socket: &str) -> Value {
    json!({
        "mode": "apply_and_probe",
        "channelId": channel,
        "channel": {
            "name": format!("Demo channel {number}"),
            "description": "Made by the demo",
            "enabled": true,
            "webchatUrl": socket,
            "corsAllowedOrigins": ["https://shop.example.com"],
            "authProviderId": "demo-auth",
            "webchatId": format!("demo-{number}"),
        },
        "probe": { "allowedOrigin": "https://shop.example.com", "foreignOrigin": "https://elsewhere.example.net" },
    })
}
