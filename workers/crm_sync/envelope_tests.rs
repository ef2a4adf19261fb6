use serde_json::json;

use super::*;
use crate::crm_sync::settings::{IdPattern, OverLength, Role};

fn settings() -> CrmSyncSettings {
    CrmSyncSettings::default()
}

fn envelope() -> Value {
    json!({
        "event": "THREAD_UPDATED",
        "timestamp": "2026-01-02T10:00:00Z",
        "data": {
            "threadId": "7F000000-0000-4000-8000-000000000001",
            "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Ann", "platformId": "x-1"}],
            "messages": [{"id": "m1", "text": "hello", "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1",
                          "direction": "OUTBOUND"}],
            "version": 3
        }
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut envelope = envelope();
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
    envelope.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").insert(member.to_owned(), value);
    envelope
}

fn read(envelope: &Value) -> Thread {
    event(envelope, &settings()).expect("a valid envelope")
}

fn refused(envelope: &Value) -> Refusal {
    event(envelope, &settings()).expect_err("an invalid envelope")
}

#[test]
fn an_envelope_becomes_a_thread() {
    let thread = read(&envelope());
    assert_eq!(thread.id, "7f000000-0000-4000-8000-000000000001");
    assert_eq!((thread.version, thread.event), (Some(3), Some(ThreadEvent::Updated)));
    assert_eq!(thread.updated_at.to_rfc3339(), "2026-01-02T10:00:00+00:00", "the envelope's time stands in");
    assert_eq!(thread.parent, Told::Nothing);
}

/// Covers row 189: any offset is accepted and becomes Z.
#[test]
fn times_are_normalised_to_utc() {
    for (given, sent) in [
        ("2026-01-02T09:00:00+00:00", "2026-01-02T09:00:00Z"),
        ("2026-01-02T11:30:00.250+02:30", "2026-01-02T09:00:00.250Z"),
    ] {
        let thread = read(&with("/data/messages/0/timestamp", json!(given)));
        assert_eq!(thread.messages.expect("messages")[0].wire()["timestamp"], sent);
    }
}

/// Covers row 190: a bad time is refused, and equal times are ordered by id.
#[test]
fn messages_are_ordered_by_time_and_id() {
    for bad in [json!("bad"), json!("2026-01-02"), json!(1_767_340_800), json!(null), json!("2026-01-02T09:00:00")] {
        assert_eq!(refused(&with("/data/messages/0/timestamp", bad)).code(), "invalid_payload");
    }
    let message = |id: &str, at: &str| json!({"id": id, "text": "t", "timestamp": at, "authorId": "p1"});
    let list = json!([
        message("b", "2026-01-02T09:00:00Z"),
        message("a", "2026-01-02T11:00:00+02:00"),
        message("c", "2026-01-02T08:59:59.999Z")
    ]);
    let ids: Vec<String> =
        read(&with("/data/messages", list)).messages.expect("messages").into_iter().map(|m| m.id).collect();
    assert_eq!(ids, ["c", "a", "b"]);
}

/// Covers row 172: versions are integers, and nothing that looks like one.
#[test]
fn versions_are_strict_integers() {
    for bad in [json!("10"), json!(1.5), json!(-1), json!(1e3), json!(true), json!([1])] {
        assert!(refused(&with("/data/version", bad.clone())).to_string().contains("/data/version"), "{bad}");
    }
    assert_eq!(read(&with("/data/version", json!(9_007_199_254_740_993_u64))).version, Some(9_007_199_254_740_993));
    assert_eq!(read(&with("/data/version", json!(null))).version, None);
    assert_eq!(read(&with("/data/version", json!(0))).version, Some(0));
}

/// Covers row 191: roles by map, ids by pattern.
#[test]
fn roles_are_mapped_and_ids_follow_the_pattern() {
    let bot = with("/data/participants/0/role", json!("BOT"));
    assert_eq!(refused(&bot).code(), "thread_role_unmapped");
    let mut mapped = settings();
    mapped.roles.insert("BOT".to_owned(), Role::System);
    let thread = event(&bot, &mapped).expect("mapped");
    assert_eq!(thread.participants.expect("participants")[0].role, Role::System);

    let plain = with("/data/threadId", json!("thread_1"));
    assert_eq!(read(&plain).id, "thread_1");
    let uuids = CrmSyncSettings { id_pattern: IdPattern::Uuid, ..settings() };
    assert_eq!(event(&plain, &uuids).expect_err("not a UUID").code(), "invalid_payload");
    assert!(event(&envelope(), &uuids).is_ok());
}

/// Covers row 15, row 188: an id that would leave its path segment is refused before any call, and as a client error.
#[test]
fn hostile_thread_ids_are_refused() {
    for bad in ["..%2F..%2F..%2Fwebhooks", "../x", "a/b", "", "a b", "a\n", "é", &"x".repeat(129)] {
        assert_eq!(refused(&with("/data/threadId", json!(bad))).code(), "invalid_payload", "{bad:?}");
        assert!(thread_id(bad, &settings()).is_err());
    }
    for bad in [json!(null), json!(7), json!({})] {
        refused(&with("/data/threadId", bad));
    }
    assert_eq!(thread_id("7F000000-0000-4000-8000-000000000001", &settings()).expect("id").as_bytes()[1], b'f');
}

/// Covers row 169: a thread is not its own parent, in whatever spelling.
#[test]
fn a_thread_is_not_its_own_parent() {
    for own in ["7f000000-0000-4000-8000-000000000001", "7F000000-0000-4000-8000-000000000001"] {
        assert!(refused(&with("/data/parentThreadId", json!(own))).to_string().contains("/data/parentThreadId"));
    }
}

/// Covers row 168: absent, null and given parents are three things.
#[test]
fn the_parent_has_three_states() {
    assert_eq!(read(&envelope()).parent, Told::Nothing);
    assert_eq!(read(&with("/data/parentThreadId", json!(null))).parent, Told::Null);
    assert_eq!(read(&with("/data/parentThreadId", json!("t2"))).parent, Told::Value("t2".to_owned()));
}

/// Covers row 186, row 187: null text is media, 5000 units fit, 5001 are refused or cut.
#[test]
fn texts_are_optional_and_bounded() {
    let media = read(&with("/data/messages/0/text", json!(null))).messages.expect("messages");
    assert_eq!(media[0].wire()["text"], Value::Null);
    let text = |units: usize| with("/data/messages/0/text", json!("x".repeat(units)));
    assert!(event(&text(5_000), &settings()).is_ok());
    assert_eq!(refused(&text(5_001)).code(), "thread_text_too_long");
    let cutting = CrmSyncSettings { over_length: OverLength::Truncate, ..settings() };
    let cut =
        |envelope: &Value| match event(envelope, &cutting).expect("cut").messages.expect("messages").remove(0).text {
            Told::Value(text) => text,
            other => panic!("{other:?}"),
        };
    assert_eq!(cut(&text(5_001)).len(), 5_000);
    // An emoji has two units and is not cut in half.
    let emoji = cut(&with("/data/messages/0/text", json!(format!("x{}", "😀".repeat(2_500)))));
    assert_eq!(emoji.encode_utf16().count(), 4_999);
}

/// Covers row 192: direction and platform id are forwarded, and a missing direction is null.
#[test]
fn direction_and_platform_id_are_forwarded() {
    let thread = read(&envelope());
    assert_eq!(thread.messages.expect("messages")[0].wire()["direction"], "OUTBOUND");
    assert_eq!(thread.participants.expect("participants")[0].wire()["platformId"], "x-1");
    let mut silent = envelope();
    silent["data"]["messages"][0].as_object_mut().expect("a message").remove("direction");
    let wire = read(&silent).messages.expect("messages")[0].wire();
    assert_eq!(wire.get("direction"), Some(&Value::Null));
    refused(&with("/data/messages/0/direction", json!("SIDEWAYS")));
}

/// Covers row 193: a missing name is not sent, and neither is null, which the CRM does not take.
#[test]
fn names_are_never_invented() {
    let mut nameless = envelope();
    nameless["data"]["participants"][0].as_object_mut().expect("a participant").remove("name");
    let wire = |envelope: &Value| read(envelope).participants.expect("participants")[0].wire();
    assert_eq!(wire(&nameless).get("name"), None);
    assert_eq!(wire(&with("/data/participants/0/name", json!(null))).get("name"), None);
    let platform = with("/data/participants/0/platformId", json!(null));
    assert_eq!(wire(&platform).get("platformId"), Some(&Value::Null));
}

/// Covers row 200: of several items with one id the last counts.
#[test]
fn the_last_of_several_items_with_one_id_counts() {
    let message = |text: &str| json!({"id": "m1", "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p"});
    let messages = read(&with("/data/messages", json!([message("one"), message("two")]))).messages.expect("messages");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].wire()["text"], "two");
}

#[test]
fn absent_lists_say_nothing_and_null_lists_are_refused() {
    let mut silent = envelope();
    let data = silent["data"].as_object_mut().expect("data");
    data.remove("messages");
    data.remove("participants");
    let thread = read(&silent);
    assert!(thread.messages.is_none() && thread.participants.is_none());
    refused(&with("/data/messages", json!(null)));
    refused(&with("/data/participants", json!({})));
    refused(&with("/data/messages", json!(["m1"])));
}

#[test]
fn every_problem_is_told_without_its_value() {
    let mut envelope = with("/data/version", json!("secret-version"));
    envelope["event"] = json!("THREAD_SECRET");
    envelope["data"]["messages"][0]["authorId"] = json!("");
    let refusal = refused(&envelope);
    let told = refusal.to_string();
    assert_eq!(refusal.problems().list().len(), 3);
    assert_eq!(refusal.code(), "invalid_payload", "problems of several sorts have the general code");
    assert!(told.contains("/data/messages/0/authorId") && !told.to_lowercase().contains("secret"), "{told}");
    envelope = self::envelope();
    envelope["event"] = json!("THREAD_DELETED");
    assert_eq!(refused(&envelope).code(), "thread_event_unknown");
}

#[test]
fn the_thread_id_beside_the_data_must_agree() {
    assert!(event(&with("/threadId", json!("7f000000-0000-4000-8000-000000000001")), &settings()).is_ok());
    refused(&with("/threadId", json!("t2")));
}

/// Covers row 164: a fetched thread goes through the same reader, with or without a wrapper.
#[test]
fn fetched_threads_are_read_alike() {
    let now = DateTime::UNIX_EPOCH;
    let data = envelope()["data"].clone();
    let bare = fetched(&data, &settings(), now).expect("bare");
    let wrapped = fetched(&json!({"data": data}), &settings(), now).expect("wrapped");
    assert_eq!(bare, wrapped);
    assert_eq!((bare.updated_at, bare.event), (now, None));
    for broken in [json!([]), json!({"data": "x"}), json!({}), json!("text")] {
        assert!(fetched(&broken, &settings(), now).is_err());
    }
}

#[test]
fn envelopes_of_other_shapes_are_refused() {
    for other in [json!([]), json!("x"), json!(null), json!({}), with("/data", json!("x")), with("/data", json!(null))]
    {
        refused(&other);
    }
}
