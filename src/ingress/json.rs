//! JSON as it was sent: numbers keep their digits, members their order, and what other readers would disagree about is
//! refused.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting of objects and arrays.
pub const DEPTH_MAX: usize = 64;
/// Most digits, sign and exponent of a number together.
const NUMBER_BYTES_MAX: usize = 128;
/// Largest exponent either way: beyond it a number fits no machine, and a thousand bytes would say a gigabyte.
const EXPONENT_MAX: i32 = 308;

/// A JSON value. Numbers are texts, because 2^53 + 1 must arrive as it left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// A text, decoded.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object, in the order of the document.
    Object(Vec<(String, Json)>),
}

/// Why a body is refused. Holds no part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8, not JSON, or more than one value.
    #[error("the body is not JSON (line {line}, column {column})")]
    Syntax {
        /// Line from 1.
        line: usize,
        /// Column from 1.
        column: usize,
    },
    /// An object names a member twice: readers differ in which one counts.
    #[error("an object of the body has a member twice")]
    DuplicateMember,
    /// Nested too deeply.
    #[error("the body is nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// JSON, but with a NUL character in a text, or a number that no program can hold.
    #[error("the body holds {0}")]
    Unstorable(&'static str),
}

impl Json {
    /// Reads a whole document.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
            JsonError::Syntax { line, column }
        })?;
        // One pass over the whole first, so that a mistake is told by its place in the document.
        let raw: &RawValue = serde_json::from_str(text).map_err(syntax)?;
        parse(raw.get(), 1)
    }

    /// The member of an object.
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(own, _)| own == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The item of a list.
    pub fn item(&self, index: usize) -> Option<&Self> {
        match self {
            Self::List(items) => items.get(index),
            _ => None,
        }
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Sets a member of an object; the last place where it is new.
    pub fn set(&mut self, name: &str, value: Self) {
        let Self::Object(members) = self else { return };
        match members.iter_mut().find(|(own, _)| own == name) {
            Some((_, slot)) => *slot = value,
            None => members.push((name.to_owned(), value)),
        }
    }

    /// Sets many members of an object, in their order. One by one they would take the square of their number, and a body
    /// may have thirty thousand.
    pub fn extend(&mut self, more: impl IntoIterator<Item = (String, Self)>) {
        let Self::Object(members) = self else { return };
        let mut places: HashMap<String, usize> =
            members.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
        for (name, value) in more {
            match places.get(&name) {
                Some(&place) => members[place].1 = value,
                None => {
                    places.insert(name.clone(), members.len());
                    members.push((name, value));
                }
            }
        }
    }

    /// An empty object.
    pub fn object() -> Self {
        Self::Object(Vec::new())
    }

    /// A text, or null where there is none.
    pub fn text_or_null(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Compact JSON.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(digits) => f.write_str(digits),
            Self::Text(text) => quoted(f, text),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    quoted(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

/// `text` is one JSON value, already known to be well-formed but for what its strings decode to. Every level scans its
/// own text, so the work is the size times the depth, which are both bounded.
fn parse(text: &str, depth: usize) -> Result<Json, JsonError> {
    match text.as_bytes().first() {
        Some(b'{' | b'[') if depth > DEPTH_MAX => Err(JsonError::TooDeep),
        Some(b'{') => {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let members = deserializer.deserialize_map(Members).map_err(syntax)?;
            let mut seen = HashSet::with_capacity(members.len());
            let mut parsed = Vec::with_capacity(members.len());
            for (name, raw) in &members {
                if !seen.insert(name.as_str()) {
                    return Err(JsonError::DuplicateMember);
                }
                storable(name)?;
                parsed.push((name.clone(), parse(raw.get(), depth + 1)?));
            }
            Ok(Json::Object(parsed))
        }
        Some(b'[') => {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let items = deserializer.deserialize_seq(Items).map_err(syntax)?;
            items.into_iter().map(|raw| parse(raw.get(), depth + 1)).collect::<Result<_, _>>().map(Json::List)
        }
        Some(b'"') => {
            let decoded: String = serde_json::from_str(text).map_err(syntax)?;
            storable(&decoded)?;
            Ok(Json::Text(decoded))
        }
        Some(b't') => Ok(Json::Bool(true)),
        Some(b'f') => Ok(Json::Bool(false)),
        Some(b'n') => Ok(Json::Null),
        _ => number(text),
    }
}

fn number(text: &str) -> Result<Json, JsonError> {
    let exponent = text.split_once(['e', 'E']).map(|(_, exponent)| exponent.parse::<i32>());
    let fits = match exponent {
        None => true,
        Some(Ok(exponent)) => exponent.abs() <= EXPONENT_MAX,
        Some(Err(_)) => false,
    };
    // Many digits before a large exponent leave the range too, and no worker could read the job.
    if text.len() > NUMBER_BYTES_MAX || !fits || !text.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err(JsonError::Unstorable("a number that is out of range"));
    }
    Ok(Json::Number(text.to_owned()))
}

/// Postgres keeps any text but this character.
fn storable(text: &str) -> Result<(), JsonError> {
    if text.contains('\0') { Err(JsonError::Unstorable("a NUL character")) } else { Ok(()) }
}

fn syntax(error: serde_json::Error) -> JsonError {
    JsonError::Syntax { line: error.line(), column: error.column() }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(entry) = map.next_entry()? {
            members.push(entry);
        }
        Ok(members)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}
