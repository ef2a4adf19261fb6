use super::*;
use crate::{enrichment::settings::test_settings, trail::test_job};

/// Covers row 122, row 123, row 119: a refused job's event tells labels, hash and compliance, and no value.
#[test]
fn refused_jobs_are_audited_without_their_values() {
    let payload = json!({"profileId": "not-a-uuid", "attributes": {"note": "123-45-6789", "email": "a@b.co"}});
    let settings = test_settings("");
    let job = Enrichment::new(payload.clone());
    let Err(Refusal::Invalid(problems)) = job.check(&settings, DateTime::UNIX_EPOCH) else {
        panic!("the payload is wrong")
    };
    let failure = Failure::permanent("invalid_payload", problems);
    let storage = Storage { encrypted: false, retention_days: Some(365) };
    let trail = Trail::new("profile.enrichment_failed", &test_job(), &job.claimed_id(), "enrich", "FAILED");
    let event = Facts::of(&payload, &settings, storage).add_to(trail).failure(&failure).event();
    assert_eq!(event.subject, "unknown");
    assert_eq!(event.data["pii_labels"], json!({"/attributes/email": ["EMAIL"], "/attributes/note": ["SSN"]}));
    assert_eq!(event.data["payload_hmac"].as_str().map(str::len), Some(64));
    assert_eq!(event.data["compliance"], json!({"gdpr_article": "6(1)(f)", "retention_days": 365, "encrypted": false}));
    let text = event.data.to_string();
    assert!(!text.contains("6789") && !text.contains("a@b.co"), "{text}");
}

/// Covers row 102: the ordering key is the payload's member, which the engine compares in lower case.
#[test]
fn jobs_of_one_profile_run_one_at_a_time() {
    assert_eq!(Enrichment::ORDERING_KEY, Some(&["profileId"][..]));
    assert_eq!(Enrichment::PACING, ["cxone/profiles"]);
}
