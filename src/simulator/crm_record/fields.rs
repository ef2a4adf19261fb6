//! The fields of an installation, and the members of the thread that they show.

use serde_json::{Map, Value};

/// The members of a thread that are fields, in the order of [`Installation::fields`].
const MEMBERS: [&str; 6] = ["parentThreadId", "status", "sourceVersion", "updatedAt", "messages", "participants"];

/// What somebody has set up in a product.
pub(super) struct Installation {
    /// The field of each member.
    pub(super) fields: [&'static str; 6],
    /// Longest text of a field, in UTF-16 units.
    pub(super) text_units_max: usize,
    /// Whether the product shows numbers as text.
    pub(super) numbers_are_text: bool,
}

/// What is wrong with a field.
pub(super) enum Flaw {
    /// There is none of this name.
    Unknown(String),
    /// Its text is too long.
    TooLong(String),
}

impl Installation {
    /// Name and value of every field.
    pub(super) fn show(&self, thread: &Value) -> Vec<(&'static str, Value)> {
        let shown = |member: &str| match &thread[member] {
            Value::Array(items) => Value::from(Value::Array(items.clone()).to_string()),
            Value::Number(number) if self.numbers_are_text => Value::from(number.to_string()),
            other => other.clone(),
        };
        self.fields.iter().zip(MEMBERS).map(|(field, member)| (*field, shown(member))).collect()
    }

    /// Sets fields. A text that holds a list is kept as the list, so that it is one thread for all endpoints.
    pub(super) fn write(&self, thread: &mut Value, written: &Map<String, Value>) -> Result<(), Flaw> {
        for (field, value) in written {
            let Some(at) = self.fields.iter().position(|own| own == field) else {
                return Err(Flaw::Unknown(field.clone()));
            };
            if value.as_str().is_some_and(|text| text.encode_utf16().count() > self.text_units_max) {
                return Err(Flaw::TooLong(field.clone()));
            }
            thread[MEMBERS[at]] = match (MEMBERS[at], value) {
                ("messages" | "participants", Value::String(text)) => {
                    serde_json::from_str(text).ok().filter(Value::is_array).unwrap_or_else(|| value.clone())
                }
                ("sourceVersion", Value::String(text)) => text.parse::<u64>().map_or(Value::Null, Value::from),
                (_, Value::String(text)) if text.is_empty() => Value::Null,
                _ => value.clone(),
            };
        }
        Ok(())
    }
}
