//! The one envelope of every sink: CloudEvents 1.0 in structured JSON mode.

use backhaul_engine::SealedEvent;
use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Epoch of the log. It is part of `sequence`, so that a log continued after a loss sorts behind the lost one.
const EPOCH: u16 = 1;

#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: Uuid,
    source: String,
    r#type: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    dataschema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    /// Events of one key are delivered in order: the tenant and what the event is about.
    partitionkey: String,
    /// Sorts as text.
    sequence: String,
    recordedtime: String,
    data: &'a RawValue,
}

/// `source` of a deployment's events about jobs of `kind`.
pub(crate) fn source(deployment: Uuid, kind: Option<&str>) -> String {
    format!("/backhaul/{deployment}/{}", kind.unwrap_or("system"))
}

/// One event as a line of JSON, without its line end. `data` goes out as it was stored, byte for byte.
///
/// # Errors
/// When the stored bytes are no JSON, which only damage can cause.
pub fn line(deployment: Uuid, event: &SealedEvent) -> Result<Vec<u8>, serde_json::Error> {
    let envelope = Envelope {
        specversion: "1.0",
        id: event.event_id,
        source: source(deployment, event.kind.as_deref()),
        r#type: &event.event_type,
        subject: &event.subject,
        time: event.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        datacontenttype: "application/json",
        dataschema: format!("urn:{}:1", event.event_type.replace('.', ":")),
        traceparent: event.traceparent.as_deref(),
        partitionkey: format!("{}/{}", event.tenant, event.subject),
        sequence: sequence(event.seq),
        recordedtime: event.sealed_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        data: serde_json::from_slice(&event.data)?,
    };
    serde_json::to_vec(&envelope)
}

pub(crate) fn sequence(seq: i64) -> String {
    format!("{EPOCH:04}-{seq:020}")
}

#[cfg(test)]
pub(crate) fn example(seq: i64) -> SealedEvent {
    let at = chrono::DateTime::from_timestamp(1_800_000_000, 5_000_000).expect("in range");
    SealedEvent {
        seq,
        sealed_at: at,
        event_id: Uuid::from_u128(seq.unsigned_abs().into()),
        event_type: "dev.backhaul.job.completed".into(),
        tenant: "acme".into(),
        kind: Some("enrichment".into()),
        job_id: Some(7),
        subject: "job/7".into(),
        occurred_at: at,
        traceparent: None,
        data: br#"{"a":1.50,"z":"x"}"#.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_out_byte_for_byte_and_the_sequence_sorts_as_text() {
        let text = String::from_utf8(line(Uuid::nil(), &example(9)).expect("JSON")).expect("UTF-8");
        assert!(text.ends_with(r#""data":{"a":1.50,"z":"x"}}"#), "{text}");
        assert!(text.contains(r#""source":"/backhaul/00000000-0000-0000-0000-000000000000/enrichment""#), "{text}");
        assert!(sequence(9) < sequence(10) && sequence(99) < sequence(1_000_000));
    }
}
