//! The retry matrix of A7 as a table.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::*;
use crate::{
    address::Refusal,
    call::BodyError,
    test_server::{load, noon},
    tls::TlsClass,
};

fn reply(status: u16, headers: &[(HeaderName, &'static str)]) -> Reply {
    Reply {
        status,
        headers: headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect(),
        body: Vec::new(),
        request_id: "r-1".to_owned(),
        latency: Duration::ZERO,
        bucket: "cxone/profiles".to_owned(),
    }
}

fn of(status: u16, rules: &RetryRules) -> Class {
    classify(Ok(&reply(status, &[])), rules, noon())
}

fn permanent(code: &'static str) -> Class {
    Class::Permanent { code }
}

fn transient(code: &'static str) -> Class {
    Class::Transient { code, not_before: None }
}

/// Covers row 25, row 26, row 30: the status alone decides.
#[test]
fn every_status_has_a_class() {
    let rules = RetryRules::default();
    let blocked = |code| Class::AuthBlocked { code, until: None };
    for (status, want) in [
        (200, Class::Ok),
        (201, Class::Ok),
        (202, Class::Ok),
        (204, Class::Ok),
        (206, Class::Ok),
        (400, permanent("rejected")),
        (401, blocked("auth_blocked")),
        (402, permanent("unexpected_status")),
        (403, blocked("forbidden")),
        (404, permanent("not_found")),
        (405, permanent("method_not_allowed")),
        (408, transient("upstream_timeout")),
        (409, Class::Conflict),
        (410, permanent("gone")),
        (412, Class::Conflict),
        (413, permanent("payload_too_large")),
        (415, permanent("rejected")),
        (422, permanent("rejected")),
        (425, transient("too_early")),
        (428, Class::Conflict),
        (500, transient("upstream_error")),
        (501, permanent("upstream_error")),
        (502, transient("upstream_unavailable")),
        (503, transient("upstream_unavailable")),
        (504, transient("upstream_unavailable")),
        (505, permanent("upstream_error")),
        (520, transient("upstream_error")),
    ] {
        assert_eq!(of(status, &rules), want, "{status}");
    }
}

/// Covers row 25: words in a body decide nothing.
#[test]
fn a_400_about_429_is_permanent() {
    let reply = Reply { body: b"colour 429 invalid".to_vec(), ..reply(400, &[]) };
    assert_eq!(classify(Ok(&reply), &RetryRules::default(), noon()), permanent("rejected"));
}

/// 500 is a switch: CXone and the CRM retry it, Genesys does not.
#[test]
fn profiles_switch_the_rules() {
    let text = "[genesys]\nbase_url = \"https://api.example.com\"\ntoken_env = \"SECRET\"\n\
                [cxone]\nbase_url = \"https://api.example.com\"\ntoken_env = \"SECRET\"\n[cxone.retry]\n\
                statuses = [404, 503]\nretry_500 = false\n[cxone.occ]\nstatuses = [412]";
    let profiles = load(text).unwrap();
    let profile = profiles.get("acme").unwrap();
    let (cxone, genesys) = (&profile.cxone.as_ref().unwrap().retry, &profile.genesys.as_ref().unwrap().retry);
    assert_eq!(of(500, genesys), permanent("upstream_error"));
    assert_eq!(of(503, genesys), transient("upstream_unavailable"));
    assert_eq!(of(404, cxone), transient("upstream_error"));
    assert_eq!(of(502, cxone), permanent("upstream_error"));
    assert_eq!(of(500, cxone), permanent("upstream_error"));
    assert_eq!(of(409, cxone), permanent("unexpected_status"));
    assert_eq!(of(412, cxone), Class::Conflict);
}

fn throttled_wait_s(headers: &[(HeaderName, &'static str)], rate_headers: RateHeaders) -> i64 {
    let rules = RetryRules { rate_headers, ..RetryRules::default() };
    match classify(Ok(&reply(429, headers)), &rules, noon()) {
        Class::Throttled { bucket, until } if bucket == "cxone/profiles" => (until - noon()).num_seconds(),
        other => panic!("{other:?}"),
    }
}

/// Covers row 16, row 17, row 18, row 20, row 183: a 429 closes its bucket until the named time, between 1 s and 1 h.
#[test]
fn a_429_closes_the_bucket() {
    for (value, wait_s) in [
        ("30", 30),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("3000000", 3600),
        ("0", 1),
        ("-5", 1),
        ("abc", 1),
        ("", 1),
        ("Sun, 01 Mar 2026 11:59:30 GMT", 1),
    ] {
        assert_eq!(throttled_wait_s(&[(RETRY_AFTER, value)], RateHeaders::Inin), wait_s, "{value:?}");
    }
    assert_eq!(throttled_wait_s(&[], RateHeaders::None), 2);
}

/// Genesys may name the window's end in its own header; Retry-After goes before it.
#[test]
fn rate_headers_name_the_end_of_the_window() {
    let reset = HeaderName::from_static("inin-ratelimit-reset");
    assert_eq!(throttled_wait_s(&[(reset.clone(), "43")], RateHeaders::Inin), 43);
    assert_eq!(throttled_wait_s(&[(reset.clone(), "43")], RateHeaders::None), 2);
    assert_eq!(throttled_wait_s(&[(reset.clone(), "99999")], RateHeaders::Inin), 3600);
    assert_eq!(throttled_wait_s(&[(reset.clone(), "0")], RateHeaders::Inin), 2);
    assert_eq!(throttled_wait_s(&[(reset, "43"), (RETRY_AFTER, "5")], RateHeaders::Inin), 5);
}

/// Covers row 18: a useless Retry-After on a 503 is a second, and the backoff where that is later.
#[test]
fn a_503_honours_retry_after() {
    let rules = RetryRules::default();
    let class = |value| classify(Ok(&reply(503, &[(RETRY_AFTER, value)])), &rules, noon());
    for (value, wait_s) in [("20", 20), ("0", 1), ("-5", 1), ("abc", 1), ("", 1), ("0.4", 1)] {
        let not_before = Some(noon() + Duration::from_secs(wait_s));
        assert_eq!(class(value), Class::Transient { code: "upstream_unavailable", not_before }, "{value:?}");
    }
    assert_eq!(of(503, &rules), transient("upstream_unavailable"));
}

#[test]
fn every_failure_has_a_class() {
    let until = noon();
    let detail = String::new;
    let lost = |replay_safe, timed_out| CallError::Ambiguous { detail: detail(), timed_out, replay_safe };
    let large = |replay_safe| CallError::BodyTooLarge { status: 200, limit_bytes: 1, replay_safe };
    let throttled = CallError::TokenThrottled { bucket: "cxone/token".to_owned(), until };
    for (error, want, before_sending) in [
        (CallError::Unconfigured(detail()), permanent("unconfigured"), true),
        (CallError::BadParameter { name: detail(), reason: "" }, permanent("invalid_id"), true),
        (CallError::AddressNotAllowed(Refusal::Scheme(detail())), permanent("address_not_allowed"), true),
        (
            CallError::AuthBlocked { until: Some(until), detail: detail() },
            Class::AuthBlocked { code: "auth_blocked", until: Some(until) },
            true,
        ),
        (throttled, Class::Throttled { bucket: "cxone/token".to_owned(), until }, true),
        (CallError::TokenUnavailable { detail: detail(), not_before: None }, transient("token_unavailable"), true),
        (
            CallError::DiscoveryUnavailable { detail: detail(), not_before: None },
            transient("discovery_unavailable"),
            true,
        ),
        (CallError::Connect { detail: detail() }, transient("connect_failed"), true),
        (CallError::Tls { class: TlsClass::Expired, detail: detail() }, transient("tls_failed"), true),
        (lost(false, true), Class::Ambiguous { code: "timed_out" }, false),
        (lost(false, false), Class::Ambiguous { code: "connection_lost" }, false),
        (lost(true, true), transient("timed_out"), false),
        (large(false), Class::Ambiguous { code: "body_too_large" }, false),
        (large(true), permanent("body_too_large"), false),
        (CallError::Redirect { status: 302 }, permanent("redirected"), false),
    ] {
        assert_eq!(classify(Err(&error), &RetryRules::default(), noon()), want, "{error:?}");
        assert_eq!(error.before_sending(), before_sending, "{error:?}");
    }
}

/// Covers row 29: an empty or unreadable body is a value, not a crash, and is not quoted.
#[test]
fn bodies_that_cannot_be_used_say_why() {
    let json = |body: &[u8]| Reply { body: body.to_vec(), ..reply(200, &[]) }.json::<Vec<u8>>();
    assert_eq!(json(b"[1, 2]"), Ok(vec![1, 2]));
    assert_eq!(json(b""), Err(BodyError::Empty { status: 200 }));
    assert_eq!(json(b" \n"), Err(BodyError::Empty { status: 200 }));
    for body in [&b"<html>"[..], b"[1", b"[\"secret@example.com\"]", b"[1] x"] {
        let text = json(body).unwrap_err().to_string();
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(json(b"[1, \"a\"]").unwrap_err().to_string().contains("[1]"));
}

#[test]
fn etags_and_rate_limits_are_read() {
    let headers: HeaderMap = [
        ("etag", "W/\"v1\""),
        ("inin-ratelimit-count", "299"),
        ("inin-ratelimit-allowed", "300"),
        ("inin-ratelimit-reset", "12"),
    ]
    .into_iter()
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .collect();
    let reply = Reply { headers, ..reply(200, &[]) };
    assert_eq!(reply.etag(), Some("W/\"v1\""));
    let limit = reply.rate_limit(RateHeaders::Inin);
    assert_eq!((limit.used, limit.allowed, limit.reset_s), (Some(299), Some(300), Some(12)));
    assert_eq!(reply.rate_limit(RateHeaders::XRateLimit), crate::call::RateLimit::default());
}
