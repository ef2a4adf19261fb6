use serde_json::json;

use super::*;

fn payload() -> Value {
    json!({
        "mode": "apply_and_probe",
        "channelId": "ch_1",
        "channel": {
            "name": "Shop", "description": "Web shop", "enabled": true,
            "webchatUrl": "https://chat.example.com", "corsAllowedOrigins": ["https://shop.example.com"],
            "authProviderId": "auth-1", "webchatId": "webchat-1"
        },
        "probe": {"allowedOrigin": "https://shop.example.com", "foreignOrigin": "https://evil.example"},
        "audit": {"windowDays": 3},
        "healthCallbackUrl": "https://hooks.example.com/health"
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut payload = payload();
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
    payload.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").insert(member.to_owned(), value);
    payload
}

fn without(pointer: &str) -> Value {
    let mut payload = payload();
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
    payload.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(member);
    payload
}

fn places(payload: &Value) -> Vec<String> {
    match check(payload) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list().iter().map(|problem| problem.pointer.clone()).collect(),
    }
}

#[test]
fn a_full_payload_is_read() {
    let request = check(&payload()).expect("a valid payload");
    assert!(request.mode.applies() && request.mode.probes());
    assert_eq!(request.audit_days, Some(3));
    assert_eq!(request.foreign_origin.as_deref(), Some("https://evil.example"));
    assert_eq!(check(&with("/audit", json!({}))).expect("valid").audit_days, Some(7));
    assert_eq!(check(&without("/audit")).expect("valid").audit_days, None);
}

/// Covers row 144: origins are normalised and without duplicates; more than an origin is refused.
#[test]
fn origins_are_normalised() {
    let given = json!(["HTTPS://A.com", "https://a.com:443", "https://b.com"]);
    let channel = check(&with("/channel/corsAllowedOrigins", given)).expect("valid").channel.expect("a channel");
    assert_eq!(channel.origins, ["https://a.com", "https://b.com"]);
    for bad in ["https://", "https://*", "https://a.com/path", "https://user:pw@a.com", "https://a.com\n"] {
        let payload = with("/channel/corsAllowedOrigins", json!(["https://a.com", bad]));
        assert_eq!(places(&payload), ["/channel/corsAllowedOrigins/1"], "{bad:?}");
    }
}

/// Covers row 145: members that are no text, and empty lists, are refused.
#[test]
fn origin_lists_are_strict() {
    for bad in [json!([1]), json!([null]), json!([["https://a.com"]])] {
        assert_eq!(places(&with("/channel/corsAllowedOrigins", bad)), ["/channel/corsAllowedOrigins/0"]);
    }
    for bad in [json!([]), json!("https://a.com"), json!({}), json!(vec!["https://a.com"; 101])] {
        assert_eq!(places(&with("/channel/corsAllowedOrigins", bad)), ["/channel/corsAllowedOrigins"]);
    }
    let many: Vec<String> = (0..100).map(|n| format!("https://a{n}.com")).collect();
    assert_eq!(places(&with("/channel/corsAllowedOrigins", json!(many))), Vec::<String>::new());
}

/// Covers row 146: nothing but a boolean is one.
#[test]
fn enabled_is_a_boolean() {
    for bad in [json!("false"), json!(0), json!(1), json!(null), json!([])] {
        assert_eq!(places(&with("/channel/enabled", bad.clone())), ["/channel/enabled"], "{bad}");
    }
    assert!(!check(&with("/channel/enabled", json!(false))).expect("valid").channel.expect("a channel").enabled);
}

/// Covers row 147: what the channel needs must be there.
#[test]
fn required_members_are_required() {
    for name in ["name", "enabled", "webchatUrl", "corsAllowedOrigins", "authProviderId", "webchatId"] {
        let at = format!("/channel/{name}");
        assert_eq!(places(&without(&at)), [at.as_str()]);
        assert_eq!(places(&with(&at, json!(""))), [at.as_str()]);
    }
    assert_eq!(places(&without("/channel")), ["/channel"]);
    assert_eq!(places(&without("/channelId")), ["/channelId"]);
    assert_eq!(places(&without("/mode")), ["/mode"]);
    assert_eq!(places(&with("/mode", json!("delete"))), ["/mode"]);
    assert_eq!(places(&with("/chanel", json!({}))), ["/chanel"]);
    let bare = json!({"mode": "probe", "channelId": "ch_1"});
    assert_eq!(check(&bare).expect("a probe may read the live channel").channel, None);
}

/// Covers row 159, row 15: an id that means something in a filter or a path is refused before any call.
#[test]
fn channel_ids_are_plain() {
    for bad in ["x OR entityId:*", "..", "a/b", "a b", "..%2F..%2Fwebhooks", "ä", "a:b", &"x".repeat(129)] {
        assert_eq!(places(&with("/channelId", json!(bad))), ["/channelId"], "{bad}");
    }
}

/// Covers row 155: a callback address that is none is refused.
#[test]
fn callback_urls_are_checked() {
    for bad in
        ["undefined", "", "ftp://a.com", "https://u:p@a.com", "https://a.com/#x", "https://a.com/ x", "https:\\\\a"]
    {
        assert_eq!(places(&with("/healthCallbackUrl", json!(bad))), ["/healthCallbackUrl"], "{bad:?}");
    }
    let mut probe = payload();
    probe["mode"] = json!("probe");
    assert_eq!(places(&probe), ["/healthCallbackUrl"], "a probe registers nothing");
}

#[test]
fn audit_windows_and_probe_origins_are_bounded() {
    for bad in [json!(0), json!(91), json!(-1), json!("7"), json!(1.5)] {
        assert_eq!(places(&with("/audit/windowDays", bad)), ["/audit/windowDays"]);
    }
    assert_eq!(places(&with("/probe/foreignOrigin", json!("https://shop.example.com"))), ["/probe"]);
    assert_eq!(places(&with("/probe/foreignOrigin", json!("http://a.com"))), ["/probe/foreignOrigin"]);
}

#[test]
fn all_problems_are_told_at_once() {
    let mut payload = with("/channel/name", json!("a\u{0}b"));
    payload["channel"]["enabled"] = json!("yes");
    payload["extra"] = json!(1);
    assert_eq!(places(&payload), ["/channel/name", "/channel/enabled", "/extra"]);
}
