use serde_json::json;

use super::*;

fn facts(body: &[u8]) -> Facts<'_> {
    Facts { tenant: "acme", class: Class::CxoneProfiles, method: "PATCH", path: "/api/v2/profiles/p1", body, now_ms: 0 }
}

/// On which of the first twelve requests a rule with this `when` fires.
fn fires(when: serde_json::Value) -> Vec<u64> {
    let faults = Faults::default();
    let rule = json!({"name": "r", "when": when, "then": {"status": 500}});
    faults.add(faults_from_json(rule).expect("a rule"), 0).expect("room");
    (1..=12).filter(|_| faults.decide(&facts(b"")).is_some()).collect()
}

#[test]
fn occasions_are_counted() {
    assert_eq!(fires(json!({"nth": [2, 5]})), [2, 5]);
    assert_eq!(fires(json!({"first": 3})), [1, 2, 3]);
    assert_eq!(fires(json!({"every": 5})), [5, 10]);
    assert_eq!(fires(json!({"every": 2, "first": 5})), [2, 4], "all conditions must agree");
    assert_eq!(fires(json!({})).len(), 12);
    assert_eq!(fires(json!({"probability": 0.0})).len(), 0);
    assert_eq!(fires(json!({"probability": 1.0})).len(), 12);
    assert_eq!(fires(json!({"probability": 0.5, "seed": 7})), fires(json!({"probability": 0.5, "seed": 7})));
    assert_ne!(fires(json!({"probability": 0.5, "seed": 7})), fires(json!({"probability": 0.5, "seed": 8})));
}

#[test]
fn a_probability_is_met_in_the_long_run() {
    let mut state = 1;
    let hits = (0..10_000).filter(|_| next_unit(&mut state) < 0.2).count();
    assert!((1_850..2_150).contains(&hits), "{hits} of 10000 at 0.2");
}

#[test]
fn all_parts_of_a_match_must_agree() {
    let agrees = |matching: serde_json::Value, body: &[u8]| {
        let matching: Match = serde_json::from_value(matching).expect("a match");
        matching.agrees(&facts(body))
    };
    assert!(agrees(json!({}), b""));
    assert!(agrees(json!({"tenant": "acme", "class": "cxone/profiles", "method": "patch"}), b""));
    assert!(agrees(json!({"path_prefix": "/api/v2/", "path_contains": "p1", "body_contains": "gold"}), b"a gold b"));
    assert!(!agrees(json!({"tenant": "other"}), b""));
    assert!(!agrees(json!({"class": "webchat"}), b""));
    assert!(!agrees(json!({"body_contains": "gold"}), b"golf"));
}

#[test]
fn rules_are_asked_in_order_and_time_ends_them() {
    let faults = Faults::default();
    let rules = json!({"faults": [
        {"name": "one", "when": {"first": 1}, "then": {"status": 500}},
        {"name": "two", "when": {"first": 1, "for_ms": 1000}, "then": {"status": 502}},
        {"name": "three", "when": {"for_ms": 1000}, "then": {"status": 503}},
    ]});
    faults.add(faults_from_json(rules).expect("rules"), 0).expect("room");
    let next = |now_ms| faults.decide(&Facts { now_ms, ..facts(b"") }).map(|rule| rule.name.clone());
    assert_eq!(next(0).as_deref(), Some("one"));
    assert_eq!(next(1).as_deref(), Some("two"), "a request that a rule fired on does not reach the next");
    assert_eq!(next(999).as_deref(), Some("three"));
    assert_eq!(next(1000), None);
    assert_eq!(faults.remove(Some("three")), 1);
    assert_eq!((faults.remove(None), faults.list().len()), (2, 0));
}

#[test]
fn what_commits_follows_from_what_is_done() {
    let commits = |then: serde_json::Value| serde_json::from_value::<Then>(then).expect("a then").commits();
    for instead in [json!({"status": 503}), json!({"redirect": "x"}), json!({"reset": "before"})] {
        assert!(!commits(instead.clone()), "{instead}");
    }
    for after in [
        json!({"reset": "after_commit"}),
        json!({"empty_204": true}),
        json!({"delay_ms": 1}),
        json!({"body": "x"}),
        json!({"status": 500, "commit": true}),
    ] {
        assert!(commits(after.clone()), "{after}");
    }
}

#[test]
fn scripts_name_the_rule_that_is_wrong() {
    let error = faults_from_toml("[[faults]]\nname = \"bad\"\nthen = { status = 42 }\n").expect_err("status 42");
    assert!(error.to_string().contains("\"bad\""), "{error}");
    assert!(faults_from_toml("[[faults]]\nname = \"x\"\nthn = {}\n").is_err());
}
