//! What a call's bad end means for the job: the one place where an outbound [`Class`] becomes an engine [`Failure`].

use backhaul_engine::{Cause, Failure};
use backhaul_outbound::{CallError, Class, Reply};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::personal_data;

/// A call that did not succeed.
#[derive(Debug)]
pub enum Trouble {
    /// The upstream, or the way to it. Boxed because it is rare and large.
    Upstream(Box<Upstream>),
    /// The call was not made: the tenant's pace or the lease forbids it.
    Withheld(Failure),
}

/// A classified answer, or the lack of one.
#[derive(Debug)]
pub struct Upstream {
    /// What it means.
    pub class: Class,
    /// Stable code, for example `widget_not_found`; the class's own where the client has no better name.
    pub code: &'static str,
    /// Status of the answer, where one arrived.
    pub http_status: Option<u16>,
    /// `cxone`, `genesys`, `crm`, or `callback` for a receiver of callbacks.
    pub provider: &'static str,
    /// The error code of the answer, where it has one and it is a word.
    pub error_code: Option<String>,
    /// One line for operators: endpoint, status, request id. No part of a body but an error code.
    pub detail: String,
}

impl Trouble {
    /// The trouble with a reply that is not a success.
    pub fn of_reply(class: Class, reply: &Reply, provider: &'static str, endpoint: &str) -> Self {
        let mut detail = format!("{provider} {endpoint} answered {} (request {})", reply.status, reply.request_id);
        let error_code = error_code(&reply.body);
        if let Some(code) = &error_code {
            detail.push_str(&format!(", error code {code}"));
        }
        Self::new(class, Some(reply.status), provider, detail, error_code)
    }

    /// The trouble with a call that got no answer.
    pub fn of_error(class: Class, error: &CallError, provider: &'static str, endpoint: &str) -> Self {
        Self::new(class, error.http_status(), provider, format!("{provider} {endpoint}: {error}"), None)
    }

    fn new(
        class: Class,
        http_status: Option<u16>,
        provider: &'static str,
        detail: String,
        error_code: Option<String>,
    ) -> Self {
        let code = match &class {
            Class::Ok => "unexpected_success",
            Class::Permanent { code } | Class::AuthBlocked { code, .. } | Class::Transient { code, .. } => code,
            Class::Ambiguous { code } => code,
            Class::Conflict => "unexpected_conflict",
            Class::Throttled { .. } => "throttled",
        };
        Self::Upstream(Box::new(Upstream { class, code, http_status, provider, error_code, detail }))
    }

    /// Says that the bucket is closed until then, where the upstream says so by the error code `spent` of a 403.
    #[must_use]
    pub fn throttled_by(mut self, spent: &str, bucket: String, until: DateTime<Utc>) -> Self {
        if let Self::Upstream(upstream) = &mut self
            && upstream.http_status == Some(403)
            && upstream.error_code.as_deref() == Some(spent)
        {
            upstream.code = "throttled";
            upstream.class = Class::Throttled { bucket, until };
        }
        self
    }

    /// Whether somebody else changed the resource.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Upstream(upstream) if upstream.class == Class::Conflict)
    }

    /// Whether the upstream may have acted although no usable answer arrived.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Upstream(upstream) if matches!(upstream.class, Class::Ambiguous { .. }))
    }

    /// Whether the upstream knows no such resource.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Upstream(upstream) if matches!(upstream.http_status, Some(404 | 410)))
    }

    /// Whether the upstream took the request and refused what it says.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Upstream(upstream) if matches!(upstream.http_status, Some(400 | 422)))
    }

    /// Gives a client's own names to general codes, as `[("not_found", "widget_not_found")]`.
    #[must_use]
    pub fn named(mut self, names: &[(&'static str, &'static str)]) -> Self {
        if let Self::Upstream(upstream) = &mut self
            && let Some((_, own)) = names.iter().find(|(general, _)| *general == upstream.code)
        {
            upstream.code = own;
        }
        self
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        let upstream = match trouble {
            Trouble::Withheld(failure) => return failure,
            Trouble::Upstream(upstream) => *upstream,
        };
        let Upstream { class, code, http_status, provider, detail, error_code: _ } = upstream;
        let down = matches!(class, Class::Transient { .. } | Class::Ambiguous { .. }).then_some(provider);
        let cause = Cause { http_status, down, ..Cause::new(code, detail) };
        match class {
            // A conflict or a success that reaches this point is one that the kind has no rule for.
            Class::Permanent { .. } | Class::Conflict | Class::Ok => Failure::Permanent(cause),
            // Scopes, roles and keys are mended by a person; the job waits only where the client has set a time.
            Class::AuthBlocked { until: None, .. } => Failure::Permanent(cause),
            Class::AuthBlocked { until: Some(until), .. } => {
                Failure::Throttled { bucket: Some(format!("{provider}/token")), until, cause }
            }
            Class::Throttled { bucket, until } => Failure::Throttled { bucket: Some(bucket), until, cause },
            Class::Transient { not_before, .. } => Failure::Transient { cause, not_before },
            // The next attempt finds its write begun, and reads back before it sends again.
            Class::Ambiguous { .. } => Failure::Transient { cause, not_before: None },
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Withheld(failure)
    }
}

/// The error code in an error body, where it is a word; anything else could echo the payload.
fn error_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // Salesforce tells several errors, HubSpot the category of one.
    let body = body.get(0).unwrap_or(&body);
    let members = [
        body.get("code"),
        body.get("error").and_then(|error| error.get("code")),
        body.get("error"),
        body.get("errorCode"),
        body.get("category"),
    ];
    let code = members.into_iter().flatten().find_map(Value::as_str)?;
    let word = (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    word.then(|| personal_data::mask_all(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(class: Class, http_status: Option<u16>) -> Trouble {
        let code = match &class {
            Class::Permanent { code } => code,
            _ => "other",
        };
        let detail = "cxone widget answered".to_owned();
        Trouble::Upstream(Box::new(Upstream { class, code, http_status, provider: "cxone", error_code: None, detail }))
    }

    /// Covers row 25, row 26, row 28: the class decides and the status is kept.
    #[test]
    fn classes_become_failures() {
        let until = DateTime::<Utc>::UNIX_EPOCH;
        let failure =
            Failure::from(trouble(Class::Permanent { code: "not_found" }, Some(404)).named(&[("not_found", "x")]));
        assert_eq!(failure, Failure::permanent("x", "cxone widget answered").with_status(404));
        let failure = Failure::from(trouble(Class::Transient { code: "u", not_before: Some(until) }, Some(503)));
        assert!(matches!(failure, Failure::Transient { not_before: Some(_), cause } if cause.http_status == Some(503)));
        let throttled = Class::Throttled { bucket: "cxone/webchat".into(), until };
        assert!(matches!(Failure::from(trouble(throttled, Some(429))),
            Failure::Throttled { bucket: Some(bucket), .. } if bucket == "cxone/webchat"));
        let blocked = Class::AuthBlocked { code: "auth_blocked", until: Some(until) };
        assert!(matches!(Failure::from(trouble(blocked, None)),
            Failure::Throttled { bucket: Some(bucket), .. } if bucket == "cxone/token"));
        let blocked = Class::AuthBlocked { code: "forbidden", until: None };
        assert!(matches!(Failure::from(trouble(blocked, Some(403))), Failure::Permanent(_)));
        let ambiguous = trouble(Class::Ambiguous { code: "timed_out" }, None);
        assert!(ambiguous.is_ambiguous());
        assert!(matches!(Failure::from(ambiguous), Failure::Transient { .. }));
        assert!(trouble(Class::Conflict, Some(409)).is_conflict());
    }

    /// Covers row 119: an error body is not repeated, its code is.
    #[test]
    fn only_a_word_is_taken_from_error_bodies() {
        assert_eq!(error_code(br#"{"error": {"code": "validation_failed"}}"#).as_deref(), Some("validation_failed"));
        assert_eq!(error_code(br#"{"error": "invalid_grant"}"#).as_deref(), Some("invalid_grant"));
        let salesforce = br#"[{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "of 123-45-6789"}]"#;
        assert_eq!(error_code(salesforce).as_deref(), Some("REQUEST_LIMIT_EXCEEDED"));
        assert_eq!(error_code(br#"{"code": "ssn 123-45-6789 is wrong"}"#), None);
        assert_eq!(error_code(br#"{"code": "123-45-6789"}"#).as_deref(), Some("[SSN]"));
        assert_eq!(error_code(b"<html>"), None);
    }
}
