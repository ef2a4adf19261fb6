//! What is said of a stored document that does not have the shape that a kind expects: the place, and never a value.
//! serde's own text quotes what it met, and a payload may be personal; this text goes into events, letters and logs.

use serde::de::DeserializeOwned;
use serde_json::{Value, error::Category};
use serde_path_to_error::{Path, Segment};

/// Longest member of a path that is told.
const MEMBER_BYTES_MAX: usize = 64;

/// Why `text` is no `T`, given the error that says so.
pub(crate) fn of_text<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> String {
    // A second look for the path, so that documents that fit are not read more slowly for it.
    let found = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)).err();
    let path = found.map_or_else(|| ".".to_owned(), |found| told(found.path()));
    format!("{} at {path}, line {} column {}", way(error), error.line(), error.column())
}

/// Why `value` is no `T`, given the error that says so.
pub(crate) fn of_value<T: DeserializeOwned>(value: &Value, error: &serde_json::Error) -> String {
    let found = serde_path_to_error::deserialize::<_, T>(value).err();
    format!("{} at {}", way(error), found.map_or_else(|| ".".to_owned(), |found| told(found.path())))
}

fn way(error: &serde_json::Error) -> String {
    let category = match error.classify() {
        Category::Io => "unreadable",
        Category::Syntax => "not JSON",
        Category::Data => "JSON of another shape",
        Category::Eof => "cut off",
    };
    // The name comes from the program and not from the document, and is what a producer needs most.
    let text = error.to_string();
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match missing.filter(|name| plain(name)) {
        Some(name) => format!("{category}, without the member {name}"),
        None => category.to_owned(),
    }
}

/// The path with a star for each member that may be data: in a map the names are whoever wrote it's.
fn told(path: &Path) -> String {
    let parts: Vec<String> = path
        .iter()
        .map(|part| match part {
            Segment::Seq { index } => format!("[{index}]"),
            Segment::Map { key: name } | Segment::Enum { variant: name } if plain(name) => name.clone(),
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => "*".to_owned(),
        })
        .collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join(".") }
}

/// Whether a name looks like a member's, and not like an address or a number of somebody.
fn plain(name: &str) -> bool {
    name.len() <= MEMBER_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Known {
        person: Person,
        notes: Option<BTreeMap<String, u8>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Person {
        phones: Vec<String>,
    }

    fn said(text: &str) -> String {
        let error = serde_json::from_str::<Known>(text).expect_err("does not fit");
        of_text::<Known>(text, &error)
    }

    #[test]
    fn places_are_told_and_values_are_not() {
        assert_eq!(
            said(r#"{"person": {"phones": ["+1", 15551234567]}}"#),
            "JSON of another shape at person.phones.[1], line 1 column 40"
        );
        assert_eq!(
            said(r#"{"person": {"phones": [], "ann@example.com": 1}}"#),
            "JSON of another shape at person.*, line 1 column 43"
        );
        assert!(said(r#"{"person": {"phones": []}, "notes": {"15551234567": 300}}"#).contains(" at notes.*, line 1"));
        assert!(said(r#"{"notes": {}}"#).starts_with("JSON of another shape, without the member person at ., "));
        assert!(said(r#"{"person": "#).starts_with("cut off at person, "));
        let value = json!({"person": {"phones": 15_551_234_567_u64}});
        let error = serde_json::from_value::<Known>(value.clone()).expect_err("does not fit");
        assert_eq!(of_value::<Known>(&value, &error), "JSON of another shape at person.phones");
    }
}
