use super::*;

fn entry(status: u16, body: &str) -> Entry {
    Entry {
        at_ms: 0,
        tenant: "acme".into(),
        method: "PATCH".into(),
        path: "/api/v2/profiles/p".into(),
        class: Class::CxoneProfiles,
        status,
        applied: status == 200,
        idempotency_key: None,
        replayed: false,
        fault: (status == 503).then(|| "down".into()),
        token: None,
        fingerprint: 1,
        body_bytes: body.len(),
        body: Some(Bytes::from(body.to_owned())),
        headers: Vec::new(),
        latency_us: 1,
    }
}

#[test]
fn counters_outlive_the_ring() {
    let record = Record::new(2, 1000);
    for status in [200, 503, 200] {
        record.add(entry(status, "{}"));
    }
    let totals = record.totals();
    assert_eq!((totals.requests, totals.forgotten), (3, 1));
    assert_eq!(totals.by_tenant["acme"]["cxone/profiles"], BTreeMap::from([(200, 2), (503, 1)]));
    assert_eq!(totals.faults["down"], 1);
    let listed = record.list(&RecordFilter::default(), 10);
    assert_eq!(listed.iter().map(|one| one.seq).collect::<Vec<_>>(), [2, 3]);
    let newer = RecordFilter { since: 2, ..RecordFilter::default() };
    assert_eq!(record.list(&newer, 10).len(), 1);
}

#[test]
fn old_bodies_go_first_and_secrets_are_masked() {
    let record = Record::new(10, 30);
    record.add(entry(200, r#"{"theme":{"a":"b"}}"#));
    record.add(entry(200, r#"{"hook":{"secret":"x"}}"#));
    let listed = record.list(&RecordFilter::default(), 10);
    assert!(listed[0].body.is_none());
    assert_eq!(listed[1].body, Some(serde_json::json!({"hook": {"secret": "***"}})));
}
