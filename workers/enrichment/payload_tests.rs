use chrono::TimeDelta;
use serde_json::json;

use super::{super::settings::test_settings, *};

const ID: &str = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn payload(members: Value) -> Value {
    let mut payload = json!({
        "profileId": ID, "attributes": {"loyalty_tier": "gold"}, "mergeStrategy": "OVERWRITE", "sourceSystem": "crm"});
    if let (Some(payload), Value::Object(members)) = (payload.as_object_mut(), members) {
        payload.extend(members);
    }
    payload
}

fn places_with(toml: &str, payload: &Value) -> Vec<String> {
    let problems = match check(payload, &test_settings(toml), now()) {
        Ok(_) => return Vec::new(),
        Err(Refusal::Invalid(problems) | Refusal::Stale(problems)) => problems,
    };
    problems.list().iter().map(|problem| problem.pointer.clone()).collect()
}

fn places(members: Value) -> Vec<String> {
    places_with("", &payload(members))
}

fn attributes(count: usize) -> Value {
    json!({"attributes": (0..count).map(|at| (format!("a{at}"), json!(at))).collect::<Map<_, _>>()})
}

/// Covers row 99.
#[test]
fn fifty_attributes_pass_and_one_more_does_not() {
    assert_eq!(places(attributes(50)), Vec::<String>::new());
    assert_eq!(places(attributes(51)), ["/attributes"]);
}

/// Covers row 100: unknown members are refused, all problems are listed.
#[test]
fn unknown_members_are_refused() {
    let mut wrong = payload(json!({"mergeStratgy": "APPEND"}));
    wrong.as_object_mut().expect("an object").remove("mergeStrategy");
    assert_eq!(places_with("", &wrong), ["/mergeStrategy", "/mergeStratgy"]);
    let all = json!({"profileId": 5, "attributes": [], "mergeStrategy": "MERGE", "sourceSystem": "", "tags": [1, ""]});
    assert_eq!(
        places_with("", &all),
        ["/profileId", "/attributes", "/mergeStrategy", "/sourceSystem", "/tags/0", "/tags/1"]
    );
}

/// Covers row 101.
#[test]
fn names_and_values_are_bounded() {
    let one = |name: &str, value: Value| json!({"attributes": {name: value}});
    assert_eq!(places(one("big", json!("x".repeat(9 * 1024)))), ["/attributes/big"]);
    assert_eq!(places(one("fits", json!("x".repeat(8 * 1024 - 2)))), Vec::<String>::new());
    assert_eq!(places(one("deep", json!({"a": {"b": {"c": 1}}}))), ["/attributes/deep"]);
    assert_eq!(places(one("three", json!({"a": {"b": 1}}))), Vec::<String>::new());
    assert_eq!(places(one(&"k".repeat(129), json!(1))).len(), 1);
    assert_eq!(places(one(&"k".repeat(128), json!(1))), Vec::<String>::new());
    assert_eq!(places(one("", json!(1))), ["/attributes/"]);
}

/// Covers row 102, row 15: any UUID in its usual text form, in lower case from here on.
#[test]
fn profile_ids_are_uuids_of_any_version() {
    for id in [ID, "00000000-0000-0000-0000-000000000001", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"] {
        let request = check(&payload(json!({"profileId": id})), &test_settings(""), now()).expect("a valid payload");
        assert_eq!(request.profile_id, id.to_lowercase());
    }
    for id in
        ["", "a/b", "..%2F..%2Fwebhooks", "{0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e}", "0b51f2a67c1d4c599d2e5d1c7f0a9b3e"]
    {
        assert_eq!(places(json!({"profileId": id})), ["/profileId"], "{id:?}");
    }
}

/// Covers row 103, row 104: lengths in UTF-16 units, nothing empty.
#[test]
fn words_are_not_empty_and_count_utf16_units() {
    assert_eq!(places(json!({"sourceSystem": "😀".repeat(32)})), Vec::<String>::new());
    assert_eq!(places(json!({"sourceSystem": "😀".repeat(33)})), ["/sourceSystem"]);
    assert_eq!(places(json!({"sourceSystem": ""})), ["/sourceSystem"]);
    assert_eq!(places(json!({"tags": vec!["t"; 10]})), Vec::<String>::new());
    assert_eq!(places(json!({"tags": vec!["t"; 11]})), ["/tags"]);
    assert_eq!(places(json!({"tags": ["x".repeat(65)]})), ["/tags/0"]);
}

const TIMES: &str = "time_fields = [\"lastPurchaseDate\", \"last_seen_at\", \"Timestamp\"]";

/// Covers row 105, row 106, row 108, row 109: declared times are times, fresh and not ahead.
#[test]
fn declared_times_must_be_fresh() {
    for wrong in [json!("not-a-date"), json!("5"), json!(null), json!(1_700_000_000), json!("2999-01-01"), json!("")] {
        let payload = payload(json!({"attributes": {"lastPurchaseDate": wrong}}));
        assert!(matches!(check(&payload, &test_settings(TIMES), now()), Err(Refusal::Invalid(_))), "{wrong}");
    }
    for stale in ["2999-01-01T00:00:00Z", "2026-01-01T00:00:00Z"] {
        for name in ["lastPurchaseDate", "last_seen_at", "Timestamp"] {
            let payload = payload(json!({"attributes": {name: stale}}));
            assert!(matches!(check(&payload, &test_settings(TIMES), now()), Err(Refusal::Stale(_))), "{name} {stale}");
        }
    }
    let required = "required_time_fields = [\"lastPurchaseDate\"]";
    assert_eq!(places_with(required, &payload(json!({}))), ["/attributes/lastPurchaseDate"]);
}

/// Covers row 107: names that merely contain `date` are not times.
#[test]
fn undeclared_names_are_not_times() {
    let payload = payload(json!({"attributes": {"update_count": "7", "birthdate": 1990, "candidate_score": "x"}}));
    assert_eq!(places_with(TIMES, &payload), Vec::<String>::new());
}

/// Covers row 110: two stale attributes are two problems; exactly 30 days pass.
#[test]
fn all_stale_attributes_are_reported() {
    let at = |age: TimeDelta| json!((now() - age).to_rfc3339());
    let old = TimeDelta::days(30) + TimeDelta::milliseconds(1);
    let two = payload(json!({"attributes": {"last_seen_at": at(old), "Timestamp": at(old)}}));
    let mut found = places_with(TIMES, &two);
    found.sort_unstable();
    assert_eq!(found, ["/attributes/Timestamp", "/attributes/last_seen_at"]);
    let exact = payload(json!({"attributes": {"last_seen_at": at(TimeDelta::days(30))}}));
    assert_eq!(places_with(TIMES, &exact), Vec::<String>::new());
}

/// Covers row 111: the same payload is fresh today and stale two days later.
#[test]
fn freshness_is_a_matter_of_the_attempt() {
    let payload =
        payload(json!({"attributes": {"last_seen_at": (now() - TimeDelta::hours(29 * 24 + 21)).to_rfc3339()}}));
    let settings = test_settings(TIMES);
    assert!(check(&payload, &settings, now()).is_ok());
    assert!(matches!(check(&payload, &settings, now() + TimeDelta::days(2)), Err(Refusal::Stale(_))));
}

#[test]
fn source_times_may_be_old_but_not_ahead() {
    assert_eq!(places(json!({"sourceUpdatedAt": "2001-01-01T00:00:00Z"})), Vec::<String>::new());
    assert_eq!(places(json!({"sourceUpdatedAt": "2026-03-01T12:05:01Z"})), ["/sourceUpdatedAt"]);
    assert_eq!(places(json!({"sourceUpdatedAt": "2026-03-01"})), ["/sourceUpdatedAt"]);
}

#[test]
fn a_job_changes_something() {
    assert_eq!(places(json!({"attributes": {}})), [""]);
    assert_eq!(places(json!({"attributes": {}, "tags": ["a"]})), Vec::<String>::new());
}
