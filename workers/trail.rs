//! Audit events with one set of members, whatever the kind: who did what to which resource, how it went, and how that
//! can be found in the upstream's logs. The engine adds the event's id, number, tenant and time.

use backhaul_engine::{AuditEvent, Failure, JobInfo};
use serde_json::{Map, Value, json};

use crate::api::Exchange;

/// The members that every event carries, `null` where they do not apply, so that consumers need no guessing.
const MEMBERS: [&str; 12] = [
    "etag_before",
    "etag_after",
    "version_before",
    "version_after",
    "request_id",
    "http_status",
    "latency_ms",
    "pii_labels",
    "payload_hmac",
    "payload_hmac_key_id",
    "error",
    "side_effects",
];

/// Builds one audit event. Values must be free of secrets and of personal data.
#[derive(Debug, Clone)]
pub struct Trail {
    event_type: &'static str,
    subject: String,
    data: Map<String, Value>,
}

impl Trail {
    /// An event about `resource`, written by the step `step` of `job`.
    pub fn new(event_type: &'static str, job: &JobInfo, resource: &str, step: &str, status: &str) -> Self {
        let mut data = Map::new();
        data.insert("tenant".into(), json!(job.tenant));
        data.insert("actor".into(), json!(job.enqueued_by));
        data.insert("job_id".into(), json!(job.id));
        data.insert("kind".into(), json!(job.kind));
        data.insert("step".into(), json!(step));
        data.insert("attempt".into(), json!(job.attempt));
        data.insert("resource_id".into(), json!(resource));
        data.insert("status".into(), json!(status));
        for name in MEMBERS {
            data.insert(name.into(), Value::Null);
        }
        Self { event_type, subject: resource.to_owned(), data }
    }

    /// Sets a member: one of the common ones, or one that only this kind has.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.to_owned(), value.into());
        self
    }

    /// Sets what the upstream's answer tells, where there was one.
    #[must_use]
    pub fn exchange<'e>(self, exchange: impl Into<Option<&'e Exchange>>) -> Self {
        let Some(exchange) = exchange.into() else { return self };
        self.with("http_status", exchange.http_status)
            .with("request_id", exchange.request_id.as_str())
            .with("latency_ms", exchange.latency_ms)
    }

    /// Sets the error: its class, its stable code, and its message, which carries no payload value.
    #[must_use]
    pub fn failure(self, failure: &Failure) -> Self {
        let (class, cause) = match failure {
            Failure::Permanent(cause) => ("permanent", Some(cause)),
            Failure::Transient { cause, .. } => ("transient", Some(cause)),
            Failure::Throttled { cause, .. } => ("throttled", Some(cause)),
            Failure::Snoozed { cause, .. } => ("snoozed", Some(cause)),
            Failure::Conflict { .. } => ("conflict", None),
            Failure::LeaseLost => ("lease_lost", None),
        };
        let message = cause.map_or("somebody else changed the same members", |cause| cause.message.as_str());
        let trail = self.with("error", json!({"class": class, "code": failure.code(), "message": message}));
        match cause.and_then(|cause| cause.http_status) {
            Some(status) => trail.with("http_status", status),
            None => trail,
        }
    }

    /// The finished event.
    pub fn event(self) -> AuditEvent {
        AuditEvent { event_type: self.event_type, subject: self.subject, data: Value::Object(self.data) }
    }
}

/// Whether `failure` ends the job, as far as its kind can tell: a deadline that passes later is the engine's to report.
pub fn ends_job(failure: &Failure, job: &JobInfo) -> bool {
    match failure {
        Failure::Permanent(_) | Failure::Conflict { .. } => true,
        Failure::Transient { .. } => job.attempt.saturating_add(1) >= job.max_attempts,
        Failure::Throttled { .. } | Failure::Snoozed { .. } | Failure::LeaseLost => false,
    }
}

#[cfg(test)]
pub(crate) fn test_job() -> JobInfo {
    JobInfo {
        id: 7,
        kind: "widget-patch".into(),
        version: 1,
        tenant: "acme".into(),
        attempt: 1,
        max_attempts: 4,
        rescues: 0,
        replays: 0,
        enqueued_at: chrono::DateTime::UNIX_EPOCH,
        enqueued_by: "u1".into(),
        deadline_at: chrono::DateTime::UNIX_EPOCH,
        ordering_key: None,
        traceparent: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 62, row 123: a failed job's event carries all members, and row 39: the actor is who enqueued it.
    #[test]
    fn failed_jobs_have_every_member() {
        let failure = Failure::permanent("widget_not_found", "no such configuration").with_status(404);
        let event = Trail::new("widget.failed", &test_job(), "cfg_1", "patch", "failed").failure(&failure).event();
        for name in MEMBERS {
            assert!(event.data.get(name).is_some(), "{name}");
        }
        assert_eq!(event.data["actor"], "u1");
        assert_eq!(event.data["tenant"], "acme");
        assert_eq!(event.data["attempt"], 1);
        assert_eq!(event.data["http_status"], 404);
        assert_eq!(event.data["error"]["code"], "widget_not_found");
        assert_eq!(event.data["error"]["class"], "permanent");
    }

    #[test]
    fn only_the_last_try_ends_a_job_that_fails_for_now() {
        let failure = Failure::transient("upstream_unavailable", "503");
        let job = test_job();
        assert!(!ends_job(&failure, &job));
        assert!(ends_job(&failure, &JobInfo { attempt: 3, ..job.clone() }));
        assert!(ends_job(&Failure::permanent("x", "y"), &job));
        assert!(!ends_job(&Failure::throttled("cxone/webchat", chrono::DateTime::UNIX_EPOCH, "x", "y"), &job));
    }
}
