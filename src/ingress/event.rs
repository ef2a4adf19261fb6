//! From a body to an event: what must be there, who it is about, and when it happened.

#[cfg(test)]
mod tests;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    json::Json,
    normalise,
    path::{self, Path},
    routes::{Customer, Identifier, Route, Routes, Source},
};

/// Longest event type, channel and id in bytes.
const NAME_BYTES_MAX: usize = 256;

/// One thing that is wrong with a body. It never holds the offending value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// JSON pointer of the place; empty for the whole document.
    pub pointer: String,
    /// What is expected there.
    pub message: String,
}

impl Problem {
    /// A problem at a place.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

/// What every event of a source says of itself, whatever becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The event's type.
    pub event_type: String,
    /// Its channel, where the source has channels.
    pub channel: Option<String>,
    /// When it happened, by the sender's clock.
    pub occurred_at: DateTime<Utc>,
    /// The sender's id for the delivery, where the body has one.
    pub delivery_id: Option<String>,
    /// The registered webhook it came by, where the body says so.
    pub webhook_id: Option<String>,
    /// What tells the event from others, in the order of the source's paths; nothing where a place is empty.
    pub identity: Vec<Option<String>>,
}

/// A place that was not where it should be. The provider may have moved a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The record's member.
    pub field: String,
    /// In what way.
    pub sort: DriftSort,
}

/// In what way a field was not where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftSort {
    /// It stood at a later place of the list.
    Fallback,
    /// It stood nowhere, or was null.
    Missing,
    /// It was there and could not be brought into its normal form.
    Unreadable,
}

impl DriftSort {
    /// The metric's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Reads what an event says of itself.
///
/// # Errors
/// Everything that is missing or of the wrong form.
pub fn read(source: &Source, body: &Json) -> Result<Reading, Vec<Problem>> {
    if !matches!(body, Json::Object(_)) {
        return Err(vec![Problem::new("", "must be an object")]);
    }
    let mut problems = Vec::new();
    for path in &source.required {
        if path.find(body).is_none_or(|value| *value == Json::Null) {
            problems.push(Problem::new(path.pointer(), "is required"));
        }
    }
    let event_type = name(&source.event, body, &mut problems).map(|text| without_ids(&text, &source.event_ids));
    let channel = source.channel.as_ref().map(|path| name(path, body, &mut problems));
    let written = name(&source.occurred_at, body, &mut problems);
    let occurred_at = written.as_deref().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    if written.is_some() && occurred_at.is_none() {
        let message = "must be an RFC 3339 time with an offset, for example 2026-01-31T12:00:00Z";
        problems.push(Problem::new(source.occurred_at.pointer(), message));
    }
    let mut identity = Vec::with_capacity(source.identity.len());
    for path in &source.identity {
        identity.push(optional_name(path, body, &mut problems));
    }
    let delivery_id = source.delivery_id.iter().find_map(|path| optional_name(path, body, &mut problems));
    let webhook_id = source.webhook_id.as_ref().and_then(|path| optional_name(path, body, &mut problems));
    problems.dedup();
    match (event_type, occurred_at, problems.is_empty()) {
        (Some(event_type), Some(at), true) => Ok(Reading {
            event_type,
            channel: channel.flatten(),
            occurred_at: at.to_utc(),
            delivery_id,
            webhook_id,
            identity,
        }),
        _ => Err(problems),
    }
}

/// A dotted type without the part that follows each of `words`: with the ids that some senders put into their types there
/// would be as many types as things.
fn without_ids(event_type: &str, words: &[String]) -> String {
    let mut after_word = false;
    let is_kept = |part: &&str| {
        let is_id = after_word;
        after_word = !is_id && words.iter().any(|word| word == part);
        !is_id
    };
    event_type.split('.').filter(is_kept).collect::<Vec<_>>().join(".")
}

/// A text that must be there.
fn name(path: &Path, body: &Json, problems: &mut Vec<Problem>) -> Option<String> {
    let found = path.find(body).filter(|value| **value != Json::Null);
    if found.is_none() {
        let missing = Problem::new(path.pointer(), "is required");
        if !problems.contains(&missing) {
            problems.push(missing);
        }
        return None;
    }
    let text = found.and_then(Json::as_text).filter(|text| !text.is_empty() && text.len() <= NAME_BYTES_MAX);
    if text.is_none() {
        problems.push(Problem::new(path.pointer(), format!("must be text of 1 to {NAME_BYTES_MAX} bytes")));
    }
    text.map(str::to_owned)
}

/// A text or number that may be missing. An id that is anything else is a mistake: it would be the same for all.
fn optional_name(path: &Path, body: &Json, problems: &mut Vec<Problem>) -> Option<String> {
    let text = match path.find(body)? {
        Json::Null => return None,
        Json::Text(text) | Json::Number(text) => text,
        _ => {
            problems.push(Problem::new(path.pointer(), "must be text"));
            return None;
        }
    };
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        problems.push(Problem::new(path.pointer(), format!("must be text of 1 to {NAME_BYTES_MAX} bytes")));
        return None;
    }
    Some(text.clone())
}

/// The facts of a delivery that are not in its body.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Our id of the event.
    pub id: Uuid,
    /// When it arrived, by our clock.
    pub received_at: DateTime<Utc>,
}

/// The normalised record of an event, and what was not where it should be.
pub fn record(
    routes: &Routes,
    source: &Source,
    route: &Route,
    reading: &Reading,
    arrival: Arrival,
    body: &Json,
) -> (Json, Vec<Drift>) {
    let mut drifts = Vec::new();
    let mut record = Json::object();
    record.set("eventId", arrival.id.to_string().into());
    record.set("source", source.name.as_str().into());
    record.set("eventType", reading.event_type.as_str().into());
    record.set("channelType", Json::text_or_null(reading.channel.as_deref()));
    for (name, paths) in &source.record {
        let value = pick(name, paths, body, &mut drifts).cloned().unwrap_or(Json::Null);
        record.set(name, value);
    }
    record.set("occurredAt", instant(reading.occurred_at).into());
    record.set("receivedAt", instant(arrival.received_at).into());
    if let Some(customer) = &route.customer {
        record.set("normalizedCustomer", about(customer, routes, body, &mut drifts));
    }
    let mut context = Json::object();
    for (name, paths) in &route.context {
        let value = pick(name, paths, body, &mut drifts).cloned().unwrap_or(Json::Null);
        context.set(name, value);
    }
    record.set("normalizedContext", context);
    (record, drifts)
}

fn about(customer: &Customer, routes: &Routes, body: &Json, drifts: &mut Vec<Drift>) -> Json {
    let raw = pick("customer", &customer.from, body, drifts);
    let normal = raw.and_then(Json::as_text).and_then(|text| match customer.sort {
        Identifier::Phone => normalise::phone(text, routes.dialling.as_ref()),
        Identifier::Email => normalise::mail(text),
    });
    if raw.is_some() && normal.is_none() {
        drifts.push(Drift { field: "customer".to_owned(), sort: DriftSort::Unreadable });
    }
    let mut about = Json::object();
    about.set("identifier", Json::text_or_null(normal));
    about.set("type", customer.sort.as_str().into());
    about.set("raw", raw.cloned().unwrap_or(Json::Null));
    about
}

fn pick<'j>(field: &str, paths: &[Path], body: &'j Json, drifts: &mut Vec<Drift>) -> Option<&'j Json> {
    let found = path::first(paths, body);
    let sort = match found {
        None => Some(DriftSort::Missing),
        Some((_, true)) => Some(DriftSort::Fallback),
        Some((_, false)) => None,
    };
    drifts.extend(sort.map(|sort| Drift { field: field.to_owned(), sort }));
    found.map(|(value, _)| value)
}

/// RFC 3339 in UTC, with as many decimals as there are.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
