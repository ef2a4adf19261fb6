//! Reads the small parts of a thread: ids, times, versions, texts.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    refusal::{Place, Refusal},
    settings::{CrmSyncSettings, IdPattern, OverLength},
    thread::Told,
};

/// Longest name, platform id and other short text, in UTF-16 units.
const SHORT_UNITS_MAX: usize = 256;

/// Reads a document and collects what is wrong with it.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a CrmSyncSettings,
    pub(super) refusal: Refusal,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a CrmSyncSettings) -> Self {
        Self { settings, refusal: Refusal::default() }
    }

    pub(super) fn problem(&mut self, at: &Place<'_>, why: impl Into<String>) {
        self.refusal.add("invalid_payload", at, why);
    }

    pub(super) fn fail(mut self, at: &Place<'_>, why: &str) -> Refusal {
        self.problem(at, why);
        self.refusal
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Refusal> {
        match value {
            Some(value) if self.refusal.is_empty() => Ok(value),
            _ => Err(self.refusal),
        }
    }

    pub(super) fn text(&mut self, text: &str, at: &Place<'_>) -> Option<String> {
        let max = self.settings.text_units_max;
        // Every character is at least one byte, so a short text needs no counting.
        if text.len() <= max || text.encode_utf16().count() <= max {
            return Some(text.to_owned());
        }
        match self.settings.over_length {
            OverLength::Reject => {
                self.refusal.add("thread_text_too_long", at, format!("is longer than {max} UTF-16 units"));
                None
            }
            OverLength::Truncate => Some(cut(text, max)),
        }
    }

    pub(super) fn short(&mut self, item: &Map<String, Value>, member: &'static str, at: &Place<'_>) -> Told<String> {
        match item.get(member) {
            None => Told::Nothing,
            Some(Value::Null) => Told::Null,
            Some(Value::String(text)) if text.encode_utf16().take(SHORT_UNITS_MAX + 1).count() <= SHORT_UNITS_MAX => {
                Told::Value(text.clone())
            }
            Some(_) => {
                let why = format!("must be text of at most {SHORT_UNITS_MAX} UTF-16 units, null or absent");
                self.problem(&at.member(member), why);
                Told::Nothing
            }
        }
    }

    pub(super) fn thread_id(&mut self, value: Option<&Value>, at: &Place<'_>) -> Option<String> {
        let text = value.and_then(Value::as_str).unwrap_or_default();
        let (fits, form) = match self.settings.id_pattern {
            IdPattern::Token => (is_token(text), "text of the form [A-Za-z0-9_-]{1,128}"),
            IdPattern::Uuid => (is_uuid(text), "a UUID"),
        };
        if !fits {
            self.problem(at, format!("must be {form}"));
            return None;
        }
        Some(if is_uuid(text) { text.to_ascii_lowercase() } else { text.to_owned() })
    }

    /// Ids of messages and people travel in bodies only, so they need no pattern, only a bound.
    pub(super) fn id(&mut self, value: Option<&Value>, at: &Place<'_>) -> Option<String> {
        match value.and_then(Value::as_str) {
            Some(id) if !id.is_empty() && id.len() <= SHORT_UNITS_MAX && !id.chars().any(char::is_control) => {
                Some(id.to_owned())
            }
            _ => {
                self.problem(at, format!("must be non-empty text of at most {SHORT_UNITS_MAX} bytes"));
                None
            }
        }
    }

    /// An integer, exactly: text and fractions would compare in ways nobody expects.
    pub(super) fn version(&mut self, value: Option<&Value>, at: &Place<'_>) -> Option<u64> {
        match value {
            None | Some(Value::Null) => None,
            Some(value) => {
                let version = value.as_u64();
                if version.is_none() {
                    self.problem(at, "must be an integer of at least 0, not text; leave it out where there is none");
                }
                version
            }
        }
    }

    pub(super) fn instant(&mut self, value: Option<&Value>, at: &Place<'_>) -> Option<DateTime<Utc>> {
        let instant = value.and_then(Value::as_str).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        if instant.is_none() {
            self.problem(at, "must be an RFC 3339 time with an offset, for example 2026-01-31T12:00:00Z");
        }
        instant.map(|instant| instant.with_timezone(&Utc))
    }
}

fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// The longest beginning of `text` that has at most `units_max` UTF-16 units.
fn cut(text: &str, units_max: usize) -> String {
    let mut units = 0;
    text.chars()
        .take_while(|character| {
            units += character.len_utf16();
            units <= units_max
        })
        .collect()
}
