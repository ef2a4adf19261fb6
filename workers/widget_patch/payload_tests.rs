use super::*;

fn places(payload: &Value) -> Vec<String> {
    match check(payload, &Rules::default()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list().iter().map(|problem| problem.pointer.clone()).collect(),
    }
}

fn with(members: Value) -> Value {
    let mut payload = json!({"configurationId": "cfg_1"});
    if let (Some(payload), Value::Object(members)) = (payload.as_object_mut(), members) {
        payload.extend(members);
    }
    payload
}

fn request(members: Value) -> Request {
    check(&with(members), &Rules::default()).expect("a valid payload")
}

/// Covers row 38, row 39: a patch of one colour carries one colour, no layout, no metadata.
#[test]
fn patches_are_sparse() {
    assert_eq!(request(json!({"theme": {"primary": "#fff"}})).patch, json!({"theme": {"primaryColor": "#fff"}}));
    let all = request(json!({"theme": {
        "primary": "#1a73e8", "secondary": "#ffffff", "font": "Inter, sans-serif", "borderRadius": "12px",
        "size": "large"}}));
    assert_eq!(
        all.patch,
        json!({"theme": {
            "primaryColor": "#1a73e8", "secondaryColor": "#ffffff", "fontFamily": "Inter, sans-serif",
            "borderRadius": "12px", "widgetSize": "large"}})
    );
}

/// Covers row 38: defaults are sent where the tenant asks for whole documents, and only there.
#[test]
fn full_documents_carry_the_defaults() {
    let rules = Rules { full_document: true, ..Rules::default() };
    let request = check(&with(json!({"theme": {"primary": "#fff"}})), &rules).expect("a valid payload");
    assert_eq!(request.patch["theme"]["primaryColor"], "#fff");
    assert_eq!(request.patch["theme"]["secondaryColor"], "#f0f4f8");
    assert_eq!(request.patch["layout"]["zIndex"], 9999);
    assert_eq!(request.patch["metadata"]["version"], "1.0.0");
    assert_eq!(request.patch.get("eventListeners"), None);
}

/// Covers row 15, row 41: an id that would change the path is refused.
#[test]
fn configuration_ids_are_one_path_segment() {
    let long = "x".repeat(129);
    for id in ["a/b", "..", "..%2F..%2Fwebhooks", "", "a b", "ä", "cfg_1\n", &long] {
        let payload = json!({"configurationId": id, "theme": {"primary": "#fff"}});
        assert_eq!(places(&payload), ["/configurationId"], "{id:?}");
    }
    assert_eq!(places(&json!({"theme": {"primary": "#fff"}})), ["/configurationId"]);
}

/// Covers row 42, row 52: wrong types are errors with a place; absent members stay absent.
#[test]
fn types_are_checked() {
    assert_eq!(places(&with(json!({"theme": null}))), ["/theme"]);
    assert_eq!(places(&with(json!({"theme": []}))), ["/theme"]);
    assert_eq!(places(&with(json!({"theme": {"primary": {"a": 1}}}))), ["/theme/primary"]);
    assert_eq!(places(&with(json!({"theme": {"primary": 5}}))), ["/theme/primary"]);
    assert_eq!(places(&json!([])), [""]);
    assert_eq!(request(json!({"theme": {"primary": "#fff"}})).patch.get("eventListeners"), None);
}

/// Every problem is listed, unknown members too.
#[test]
fn all_problems_are_listed() {
    let payload = with(json!({
        "theme": {"primary": "red;}", "size": "huge", "colour": "#fff"},
        "eventListeners": [{"event": "boom", "action": "log_to_external"}, {"action": "eval"}],
        "layout": {"zIndex": -1, "mobileResponsive": "yes"},
        "extra": 1,
    }));
    let mut found = places(&payload);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "/eventListeners/0/event",
            "/eventListeners/1/action",
            "/eventListeners/1/event",
            "/extra",
            "/layout/mobileResponsive",
            "/layout/zIndex",
            "/theme/colour",
            "/theme/primary",
            "/theme/size",
        ]
    );
    assert_eq!(places(&json!({"configurationId": "cfg_1"})), [""]);
    assert_eq!(places(&with(json!({"theme": {}, "eventListeners": []}))), [""]);
}

/// Covers row 45: sizes are bounded.
#[test]
fn sizes_are_bounded() {
    let listener = json!({"event": "widget_open", "action": "log_to_external"});
    assert_eq!(places(&with(json!({"eventListeners": vec![listener; 1_000]}))), ["/eventListeners"]);
    let font = "a".repeat(10 * 1024 * 1024);
    assert_eq!(places(&with(json!({"theme": {"font": font}}))), ["/theme/font"]);
}

/// Covers row 46, row 47, row 49: the whole document is checked, on decoded values.
#[test]
fn style_checks_reach_every_string() {
    assert_eq!(places(&with(json!({"layout": {"position": "javascript:x"}}))), ["/layout/position"]);
    assert_eq!(places(&with(json!({"metadata": {"version": "javascript\n:x"}}))), ["/metadata/version"]);
    assert_eq!(
        places(&with(json!({"theme": {"primary": "url(\"data:text/html\")", "font": "expression\n(1)"}}))),
        ["/theme/primary", "/theme/font"]
    );
    assert_eq!(places(&with(json!({"layout": {"position": "bottom-left"}}))), Vec::<String>::new());
}

/// Covers row 53: actions are names on the tenant's list.
#[test]
fn actions_are_on_the_list() {
    for action in ["<SCRIPT", "<img onerror=1", "eval", "Log_to_external", "log_to_external ", ""] {
        let payload = with(json!({"eventListeners": [{"event": "widget_open", "action": action}]}));
        assert_eq!(places(&payload), ["/eventListeners/0/action"], "{action:?}");
    }
    let rules = Rules { actions: vec!["my_action".into()], ..Rules::default() };
    let payload = with(json!({"eventListeners": [{"event": "widget_open", "action": "my_action"}]}));
    assert!(check(&payload, &rules).is_ok());
}

/// Covers row 54, row 43: a listener's payload holds harmless scalars and nothing nested, so five levels suffice.
#[test]
fn listener_payloads_hold_safe_scalars() {
    let payload = |inner: Value| {
        with(json!({"eventListeners": [{"event": "widget_open", "action": "track_latency", "payload": inner}]}))
    };
    assert_eq!(places(&payload(json!({"h": "<script>"}))), ["/eventListeners/0/payload/h"]);
    for nested in [json!({}), json!([]), json!({"a": 1}), json!(null)] {
        assert_eq!(places(&payload(json!({"h": nested}))), ["/eventListeners/0/payload/h"]);
    }
    assert_eq!(places(&payload(json!({"a b": 1}))), ["/eventListeners/0/payload/a b"]);
    assert_eq!(places(&payload(json!([]))), ["/eventListeners/0/payload"]);
    let fine = payload(json!({"metric": "render_success", "style": "scroll-behavior: smooth", "n": 1.5, "on": true}));
    let request = check(&fine, &Rules::default()).expect("a valid payload");
    assert_eq!(depth(&request.patch), 5);
    assert_eq!(
        request.patch["eventListeners"][0],
        json!({"eventType": "widget_open", "action": "track_latency",
            "payload": {"metric": "render_success", "style": "scroll-behavior: smooth", "n": 1.5, "on": true}})
    );
}

#[test]
fn one_listener_is_named_once() {
    let listener = json!({"event": "widget_open", "action": "track_latency"});
    assert_eq!(places(&with(json!({"eventListeners": [listener, listener]}))), ["/eventListeners/1"]);
}

/// Covers row 34: a star is no entity tag.
#[test]
fn expected_etags_are_entity_tags() {
    for tag in ["*", "abc", "\"a\"b\"", "W/abc", "\"a\nb\""] {
        let payload = with(json!({"theme": {"primary": "#fff"}, "expectedEtag": tag}));
        assert_eq!(places(&payload), ["/expectedEtag"], "{tag:?}");
    }
    for tag in ["W/\"abc\"", "\"abc\"", "\"\""] {
        let payload = with(json!({"theme": {"primary": "#fff"}, "expectedEtag": tag}));
        assert_eq!(places(&payload), Vec::<String>::new(), "{tag:?}");
    }
}

/// The address guard judges the text, so that it must not be normalised on the way.
#[test]
fn callback_urls_are_kept_as_they_are_written() {
    let url = "https://0x7f000001/hook";
    assert_eq!(request(json!({"theme": {"primary": "#fff"}, "callbackUrl": url})).callback_url.as_deref(), Some(url));
    for wrong in [json!(5), json!(""), json!(null), json!("x".repeat(2_049))] {
        assert_eq!(places(&with(json!({"theme": {"primary": "#fff"}, "callbackUrl": wrong}))), ["/callbackUrl"]);
    }
}
