use super::*;
use crate::trail::test_job;

/// Covers row 57, row 58: a callback that fails for good is a failed callback of a live change.
#[test]
fn failed_callbacks_leave_the_change_live() {
    let failure = Failure::transient("callback_failed", "500").with_status(500);
    let event = failed(&test_job(), "cfg_1", Stage::Callback("completed"), &failure, DateTime::UNIX_EPOCH).event();
    assert_eq!(event.event_type, "widget.callback_failed");
    assert_eq!(event.data["status"], "updated");
    assert_eq!(event.data["side_effects"], json!({"purge": "completed", "callback": "failed"}));
}

/// Covers row 62: a refused payload has its validation in the trail, and no part of itself.
#[test]
fn refused_payloads_are_audited() {
    let job = WidgetPatch::new(json!({"configurationId": "a/b", "theme": {"primary": "<script>"}}));
    let problems = job.check(&Rules::default()).expect_err("it is wrong twice");
    let failure = Failure::permanent("invalid_payload", problems);
    let event = failed(&test_job(), &job.claimed_id(), Stage::Check, &failure, DateTime::UNIX_EPOCH).event();
    assert_eq!(event.subject, "unknown");
    assert_eq!(event.data["validation"]["isValid"], false);
    assert_eq!(event.data["error"]["code"], "invalid_payload");
    assert!(!event.data.to_string().contains("<script>"));
}

/// Covers row 41: the payload's id is the only one there is; it names the path, the body and the ordering key.
#[test]
fn the_payload_is_kept_as_it_was_enqueued() {
    let text = r##"{"configurationId":"cfg_1","theme":{"primary":"#fff"}}"##;
    let job: WidgetPatch = serde_json::from_str(text).expect("any JSON is a job");
    assert_eq!(serde_json::to_string(&job).expect("a job is JSON"), text);
    assert_eq!(WidgetPatch::ORDERING_KEY, Some(&["configurationId"][..]));
}

#[test]
fn weak_and_strong_tags_of_one_document_are_equal() {
    assert_eq!(opaque("W/\"a\""), opaque("\"a\""));
    assert_ne!(opaque("\"a\""), opaque("\"b\""));
}
