//! Audit events: their bytes, and the rows they become.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::{Builder, Uuid};

use crate::context::{AuditEvent, JobInfo};

/// Prefix of every event type.
pub const TYPE_PREFIX: &str = "dev.backhaul.";

/// One event on its way into the log. `data` is canonical JSON (RFC 8785) and is stored as these bytes.
#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    pub event_id: Uuid,
    pub occurred_at: DateTime<Utc>,
    pub event_type: Cow<'static, str>,
    pub subject: String,
    pub data: Vec<u8>,
}

/// Parallel arrays, as the SQL functions take them.
pub(crate) struct EventColumns<'a> {
    pub job: Vec<i64>,
    pub id: Vec<Uuid>,
    pub at: Vec<DateTime<Utc>>,
    pub event_type: Vec<&'a str>,
    pub tenant: Vec<&'a str>,
    pub kind: Vec<&'a str>,
    pub subject: Vec<&'a str>,
    pub trace: Vec<Option<&'a str>>,
    pub data: Vec<&'a [u8]>,
}

impl<'a> EventColumns<'a> {
    pub(crate) fn of(events: &'a [(Arc<JobInfo>, EventRow)]) -> Self {
        Self {
            job: events.iter().map(|(job, _)| job.id).collect(),
            id: events.iter().map(|(_, event)| event.event_id).collect(),
            at: events.iter().map(|(_, event)| event.occurred_at).collect(),
            event_type: events.iter().map(|(_, event)| event.event_type.as_ref()).collect(),
            tenant: events.iter().map(|(job, _)| job.tenant.as_str()).collect(),
            kind: events.iter().map(|(job, _)| job.kind.as_str()).collect(),
            subject: events.iter().map(|(_, event)| event.subject.as_str()).collect(),
            trace: events.iter().map(|(job, _)| job.traceparent.as_deref()).collect(),
            data: events.iter().map(|(_, event)| event.data.as_slice()).collect(),
        }
    }
}

/// A time-ordered id. Its random part comes from the thread's generator: asking the system for each id is a call into
/// the kernel.
fn event_id(at: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

/// How a job ended or went on. Members stand in the order of canonical JSON and hold only strings and small integers,
/// so that plain serialisation gives the canonical bytes; a test holds it to that.
#[derive(Serialize)]
struct JobMembers<'a> {
    attempt: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    enqueued_at: String,
    enqueued_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    job_id: i64,
    kind: &'a str,
    latency_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    replay: u16,
    rescues: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    tenant: &'a str,
}

/// What an event about the whole job says beside the job's facts.
#[derive(Debug, Default)]
pub(crate) struct JobEvent<'a> {
    pub code: Option<&'a str>,
    pub http_status: Option<u16>,
    pub message: Option<&'a str>,
    pub step: Option<&'a str>,
    pub latency_ms: u64,
}

/// An event about the whole job. `event_type` is whole: `dev.backhaul.job.completed`.
pub(crate) fn of_job(event_type: &'static str, job: &JobInfo, at: DateTime<Utc>, about: &JobEvent<'_>) -> EventRow {
    let members = JobMembers {
        attempt: job.attempt,
        code: about.code,
        enqueued_at: job.enqueued_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        enqueued_by: &job.enqueued_by,
        http_status: about.http_status,
        job_id: job.id,
        kind: &job.kind,
        latency_ms: about.latency_ms,
        message: about.message,
        replay: job.replays,
        rescues: job.rescues,
        step: about.step,
        tenant: &job.tenant,
    };
    EventRow {
        event_id: event_id(at),
        occurred_at: at,
        event_type: Cow::Borrowed(event_type),
        subject: format!("job/{}", job.id),
        // Serialising strings and integers to memory has nothing that could fail.
        data: serde_json::to_vec(&members).unwrap_or_default(),
    }
}

/// An event that a kind tells, with the job's facts added. A member that canonical JSON cannot carry (an integer
/// beyond 2^53 or a number that is none) is replaced by its text, because an audit event must never fail its job.
pub(crate) fn of_kind(event: AuditEvent, job: &JobInfo, step: Option<&str>, at: DateTime<Utc>) -> EventRow {
    let mut members = match event.data {
        Value::Object(members) => members,
        Value::Null => Map::new(),
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    members.insert("attempt".into(), job.attempt.into());
    members.insert("job_id".into(), job.id.into());
    members.insert("kind".into(), job.kind.clone().into());
    members.insert("tenant".into(), job.tenant.clone().into());
    if let Some(step) = step {
        members.insert("step".into(), step.into());
    }
    let mut value = Value::Object(members);
    bound_numbers(&mut value);
    without_nul(&mut value);
    EventRow {
        event_id: event_id(at),
        occurred_at: at,
        event_type: Cow::Owned(format!("{TYPE_PREFIX}{}", event.event_type)),
        subject: event.subject.replace('\0', "\u{fffd}"),
        data: serde_json_canonicalizer::to_vec(&value).unwrap_or_else(|_| value.to_string().into_bytes()),
    }
}

/// Replaces the one character that no text of Postgres can hold, and no `jsonb`.
pub(crate) fn without_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(without_nul),
        Value::Object(members) => {
            if members.keys().any(|name| name.contains('\0')) {
                let named = std::mem::take(members).into_iter();
                *members = named.map(|(name, value)| (name.replace('\0', "\u{fffd}"), value)).collect();
            }
            members.values_mut().for_each(without_nul);
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

fn bound_numbers(value: &mut Value) {
    const EXACT: u64 = 1 << 53;
    match value {
        Value::Number(number) => {
            let exact =
                number.as_u64().map(|n| n <= EXACT).or_else(|| number.as_i64().map(|n| n.unsigned_abs() <= EXACT));
            if exact == Some(false) {
                *value = Value::String(number.to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(bound_numbers),
        Value::Object(members) => members.values_mut().for_each(bound_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job() -> JobInfo {
        JobInfo {
            id: 42,
            kind: "enrichment".into(),
            version: 1,
            tenant: "acme".into(),
            attempt: 1,
            max_attempts: 4,
            rescues: 0,
            replays: 0,
            enqueued_at: DateTime::from_timestamp(1_700_000_000, 123_456_000).expect("in range"),
            enqueued_by: "se\"rvice\u{1}\u{7f}é".into(),
            deadline_at: DateTime::from_timestamp(1_700_086_400, 0).expect("in range"),
            ordering_key: None,
            traceparent: None,
        }
    }

    #[test]
    fn plain_serialisation_of_job_events_is_canonical() {
        let about = JobEvent {
            code: Some("timed_out"),
            http_status: Some(503),
            message: Some("a \"quoted\"\n\u{b}\u{2028}message"),
            step: Some("patch"),
            latency_ms: 12,
        };
        let row = of_job("dev.backhaul.job.dead", &job(), Utc::now(), &about);
        let value: Value = serde_json::from_slice(&row.data).expect("JSON");
        let canonical = serde_json_canonicalizer::to_vec(&value).expect("canonical");
        assert_eq!(String::from_utf8_lossy(&row.data), String::from_utf8_lossy(&canonical));
    }

    #[test]
    fn numbers_that_would_be_rounded_are_kept_as_text() {
        let event = AuditEvent {
            event_type: "profile.enriched",
            subject: "profile/x".into(),
            data: json!({ "big": 9_007_199_254_740_993_i64, "ok": 7, "deep": [18_446_744_073_709_551_615_u64] }),
        };
        let row = of_kind(event, &job(), Some("patch"), Utc::now());
        let value: Value = serde_json::from_slice(&row.data).expect("JSON");
        assert_eq!(value["big"], "9007199254740993");
        assert_eq!(value["deep"][0], "18446744073709551615");
        assert_eq!((value["ok"].as_i64(), value["job_id"].as_i64()), (Some(7), Some(42)));
    }
}
