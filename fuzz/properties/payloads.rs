//! The payloads of the kinds.

use std::{collections::HashSet, sync::LazyLock};

use backhaul_workers::{
    crm_sync::{
        envelope,
        settings::{CrmSyncSettings, IdPattern, OverLength},
        thread::{Item, Thread, Told},
    },
    enrichment::{self, policy, settings::Settings},
    handshake,
    personal_data::{self, Label},
    widget_patch::{self, plan, settings::Rules},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{json, made_of, texts};

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn is_id(text: &str) -> bool {
    text.len() <= 128 && made_of(text, |it| it.is_ascii_alphanumeric() || it == '_' || it == '-')
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Levels of a value as the gateway counts them, by breadth.
fn levels(value: &Value) -> usize {
    let (mut levels, mut row) = (0, vec![value]);
    while !row.is_empty() {
        levels += 1;
        row = row
            .into_iter()
            .flat_map(|value| match value {
                Value::Object(members) => members.values().collect::<Vec<_>>(),
                Value::Array(items) => items.iter().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    levels
}

fn names(value: &Value) -> HashSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn within(value: &Value, known: &[&str]) {
    let strangers: Vec<&str> = names(value).into_iter().filter(|name| !known.contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

/// An accepted patch holds nothing but what the gateway knows, in forms that do no harm, and is safe to repeat.
pub(super) fn widget_patch(bytes: &[u8]) {
    let Some(payload) = json(bytes) else { return };
    for rules in [Rules::default(), Rules { full_document: true, ..Rules::default() }] {
        let Ok(request) = widget_patch::payload::check(&payload, &rules) else { return };
        within(
            &payload,
            &["configurationId", "theme", "eventListeners", "layout", "metadata", "expectedEtag", "callbackUrl"],
        );
        assert!(is_id(&request.configuration_id));
        assert!(request.expected_etag.as_deref().is_none_or(|tag| tag != "*" && tag.ends_with('"')));
        assert!(request.callback_url.as_deref().is_none_or(|url| units(url) <= 2_048));
        assert_patch(&request.patch, &rules);
        let base = json!({"configurationId": "x", "theme": {"primaryColor": "#000"}, "eventListeners": []});
        if let plan::Plan::Send(body) = plan::plan(&base, &request.patch, &base) {
            let after = backhaul_workers::merge::overlay(&base, &body, &[]);
            assert_eq!(plan::plan(&base, &request.patch, &after), plan::Plan::Nothing, "a repetition sends nothing");
        }
    }
}

fn assert_patch(patch: &Value, rules: &Rules) {
    within(patch, &["theme", "eventListeners", "layout", "metadata"]);
    assert!(!names(patch).is_empty() && levels(patch) <= 5, "{patch}");
    if let Some(theme) = patch.get("theme") {
        within(theme, &["primaryColor", "secondaryColor", "fontFamily", "borderRadius", "widgetSize"]);
        for (name, value) in theme.as_object().expect("an object") {
            let text = value.as_str().expect("text");
            match name.as_str() {
                "fontFamily" => texts::assert_font(text),
                "borderRadius" => texts::assert_radius(text),
                "widgetSize" => assert!(rules.sizes.iter().any(|size| size == text)),
                _ => texts::assert_colour(text),
            }
        }
    }
    for listener in patch.get("eventListeners").and_then(Value::as_array).into_iter().flatten() {
        within(listener, &["eventType", "action", "payload"]);
        assert!(rules.actions.iter().any(|action| listener["action"] == action.as_str()), "{listener}");
        let payload = listener.get("payload").and_then(Value::as_object);
        for value in payload.into_iter().flat_map(|payload| payload.values()) {
            assert!(!value.is_object() && !value.is_array() && !value.is_null(), "{listener}");
            value.as_str().into_iter().for_each(texts::assert_harmless);
        }
    }
    for text in patch.get("metadata").and_then(Value::as_object).into_iter().flat_map(|it| it.values()) {
        texts::assert_harmless(text.as_str().expect("text"));
    }
    if let Some(index) = patch.get("layout").and_then(|layout| layout.get("zIndex")) {
        assert!(index.as_u64().is_some_and(|index| index < 1 << 31), "{index}");
    }
}

static SETTINGS: LazyLock<[Settings; 2]> = LazyLock::new(|| {
    [
        "",
        "[personal_data]\nSSN = \"mask\"\nPOSSIBLE_SSN = \"mask\"\nCARD = \"mask\"\nEMAIL = \"mask\"\nPHONE = \"mask\"",
    ]
    .map(|policies| {
        let text =
            format!("legal_basis = \"6(1)(f)\"\nhash_key_env = \"K\"\ntime_fields = [\"last_purchase\"]\n{policies}");
        let table: enrichment::settings::Table = toml::from_str(&text).expect("a table");
        table.complete("acme", &|_| Some("test-secret-test-secret".to_owned())).expect("settings")
    })
});

/// An accepted enrichment keeps to its bounds, and what is cleared for sending carries nothing that the policy forbids.
pub(super) fn enrichment(bytes: &[u8]) {
    let Some(payload) = json(bytes) else { return };
    let labels = policy::labels(&payload);
    assert!(labels.len() <= 201);
    for settings in SETTINGS.iter() {
        let Ok(request) = enrichment::payload::check(&payload, settings, now()) else { return };
        within(&payload, &["profileId", "attributes", "mergeStrategy", "sourceSystem", "tags", "sourceUpdatedAt"]);
        let id = &request.profile_id;
        assert!(id.len() == 36 && id.chars().all(|it| it == '-' || it.is_ascii_digit() || ('a'..='f').contains(&it)));
        assert!(request.attributes.len() <= 50 && request.tags.len() <= 10);
        for (name, value) in &request.attributes {
            assert!((1..=128).contains(&units(name)) && levels(value) <= 3 && value.to_string().len() <= 8 * 1024);
        }
        assert!(request.tags.iter().chain([&request.source_system]).all(|word| (1..=64).contains(&units(word))));
        assert!(request.source_updated_at.is_none_or(|at| at <= now() + chrono::TimeDelta::minutes(5)));
        let Ok(cleared) = policy::clear(&request, settings) else { continue };
        let sent = json!({ "attributes": cleared.attributes, "tags": cleared.tags });
        let forbidden = |label: Label| settings.policy(label) != enrichment::settings::Policy::Allow;
        let leaks: Vec<_> =
            personal_data::scan(&sent).into_iter().filter(|found| forbidden(found.span.label)).collect();
        assert!(leaks.is_empty(), "{leaks:?} in {sent}");
    }
}

/// An accepted thread is in normal form: bounded, ordered, each item once.
pub(super) fn crm_envelope(bytes: &[u8]) {
    let Some(payload) = json(bytes) else { return };
    let strict = CrmSyncSettings::default();
    let cutting = CrmSyncSettings {
        id_pattern: IdPattern::Uuid,
        over_length: OverLength::Truncate,
        text_units_max: 7,
        ..CrmSyncSettings::default()
    };
    for settings in [strict, cutting] {
        if let Ok(thread) = envelope::event(&payload, &settings) {
            assert!(thread.event.is_some());
            assert_thread(&thread, &settings);
        }
        if let Ok(thread) = envelope::fetched(&payload, &settings, now()) {
            assert_thread(&thread, &settings);
        }
        if let Ok(id) = envelope::reconcile(&payload, &settings) {
            assert!(is_id(&id) && payload["reconcile"] == true);
        }
    }
}

fn assert_thread(thread: &Thread, settings: &CrmSyncSettings) {
    assert!(is_id(&thread.id));
    if let Told::Value(parent) = &thread.parent {
        assert!(is_id(parent) && *parent != thread.id);
    }
    let messages = thread.messages.as_deref().unwrap_or_default();
    assert!(messages.is_sorted_by_key(|message| (message.at, message.id.clone())));
    let ids: HashSet<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids.len(), messages.len());
    for message in messages {
        if let Told::Value(text) = &message.text {
            assert!(units(text) <= settings.text_units_max);
        }
        let wire = message.wire();
        assert!(wire["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')));
        within(&wire, &["id", "text", "timestamp", "authorId", "direction", "attachments"]);
    }
    let participants = thread.participants.as_deref().unwrap_or_default();
    let ids: HashSet<&str> = participants.iter().map(|participant| participant.id.as_str()).collect();
    assert_eq!(ids.len(), participants.len());
    for participant in participants {
        let wire = participant.wire();
        within(&wire, &["id", "role", "name", "platformId"]);
        assert!(["CUSTOMER", "AGENT", "SYSTEM"].iter().any(|role| wire["role"] == *role));
    }
}

/// An accepted channel has real origins, and an id that is nothing but one.
pub(super) fn handshake(bytes: &[u8]) {
    let Some(payload) = json(bytes) else { return };
    let Ok(request) = handshake::payload::check(&payload) else { return };
    within(&payload, &["mode", "channelId", "channel", "probe", "audit", "healthCallbackUrl"]);
    assert!(is_id(&request.channel_id));
    assert!(request.audit_days.is_none_or(|days| (1..=90).contains(&days)));
    assert!(!request.mode.applies() || request.channel.is_some());
    let Some(channel) = &request.channel else { return };
    assert!((1..=100).contains(&channel.origins.len()));
    for origin in &channel.origins {
        texts::origin(origin.as_bytes());
        assert!(origin.starts_with("https://"));
    }
    let url = url::Url::parse(&channel.webchat_url).expect("a URL");
    assert!(url.host().is_some() && url.username().is_empty() && url.fragment().is_none());
}
