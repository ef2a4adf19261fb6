use axum::http::HeaderValue;
use serde_json::json;

use super::*;

#[test]
fn merge_patch_follows_the_standard() {
    let mut target = json!({"a": {"b": 1, "c": 2}, "list": [1, 2]});
    merge_patch(&mut target, &json!({"a": {"b": 3, "c": null}, "list": [3], "new": {"x": null}}));
    assert_eq!(target, json!({"a": {"b": 3}, "list": [3], "new": {}}));
}

#[test]
fn preconditions_take_every_documented_form() {
    let mut documents = Documents::new(10);
    documents.put(Kind::Channel, "acme", "c1", json!({}));
    let document = documents.put(Kind::Channel, "acme", "c1", json!({})).clone();
    let judge = |if_match: Option<&str>, body: Option<Value>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = if_match {
            headers.insert(header::IF_MATCH, HeaderValue::from_str(value).expect("a valid header"));
        }
        document.precondition(&headers, body.as_ref())
    };
    let etag = document.etag();
    for held in ["2", "\"2\"", "W/\"2\"", etag.as_str(), "*", "\"1\", \"2\""] {
        assert_eq!(judge(Some(held), None), Precondition::Held, "{held}");
    }
    assert_eq!(judge(Some("1"), None), Precondition::Failed);
    assert_eq!(judge(Some("2"), Some(json!(1))), Precondition::Failed);
    assert_eq!(judge(None, Some(json!(2))), Precondition::Held);
    assert_eq!(judge(None, Some(json!("2"))), Precondition::Failed);
    assert_eq!(judge(None, None), Precondition::Missing);
}

#[test]
fn a_full_store_forgets_the_oldest() {
    let mut documents = Documents::new(2);
    for id in ["a", "b", "c"] {
        documents.put(Kind::Widget, "acme", id, json!({}));
    }
    assert_eq!((documents.ids(Kind::Widget, "acme", 10), documents.evicted()), (vec!["b".into(), "c".into()], 1));
}
