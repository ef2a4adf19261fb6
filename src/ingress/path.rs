//! Where a value stands in a document: names with dots between them and list places in brackets, and nothing more. A
//! general path language could run scripts, and would be a second way to be wrong.

use std::fmt;

use crate::json::Json;

/// Longest path in bytes.
const BYTES_MAX: usize = 200;
/// Largest place in a list.
const INDEX_MAX: usize = 9_999;

/// A path such as `data.participants[0].phoneNumber`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// What a path may look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no path; write names and list places, like data.participants[0].phoneNumber");
        if text.is_empty() || text.len() > BYTES_MAX {
            return Err(wrong());
        }
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (name, mut places) = part.split_at(part.find('[').unwrap_or(part.len()));
            if !is_name(name) {
                return Err(wrong());
            }
            steps.push(Step::Member(name.to_owned()));
            while !places.is_empty() {
                let (place, rest) = places.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(wrong)?;
                let plain = !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit());
                let index = place.parse().ok().filter(|index| plain && *index <= INDEX_MAX).ok_or_else(wrong)?;
                steps.push(Step::Item(index));
                places = rest;
            }
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// Stands in for a path that could not be read, until the file that holds it is refused.
    pub(crate) fn nowhere() -> Self {
        Self { text: String::new(), steps: Vec::new() }
    }

    /// The value that stands there. A value that is null is there.
    pub fn find<'j>(&self, document: &'j Json) -> Option<&'j Json> {
        self.steps.iter().try_fold(document, |value, step| match step {
            Step::Member(name) => value.member(name),
            Step::Item(index) => value.item(*index),
        })
    }

    /// The JSON pointer of the place, as problems name it.
    pub fn pointer(&self) -> String {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Member(name) => format!("/{name}"),
                Step::Item(index) => format!("/{index}"),
            })
            .collect()
    }

    /// Copies the value at this path, with the objects around it, from one document into another. Paths into lists
    /// copy the whole list.
    pub fn copy(&self, from: &Json, into: &mut Json) {
        let mut names = self.steps.iter().map_while(|step| match step {
            Step::Member(name) => Some(name.as_str()),
            Step::Item(_) => None,
        });
        if let Some(first) = names.next() {
            copy(first, &mut names, from, into);
        }
    }
}

fn copy<'a>(name: &str, rest: &mut impl Iterator<Item = &'a str>, from: &Json, into: &mut Json) {
    let Some(value) = from.member(name) else { return };
    let Some(next) = rest.next() else {
        into.set(name, value.clone());
        return;
    };
    let mut inner = into.member(name).cloned().unwrap_or_else(Json::object);
    copy(next, rest, value, &mut inner);
    into.set(name, inner);
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The first of `paths` at which something other than null stands, and whether it was not the first path.
pub fn first<'j>(paths: &[Path], document: &'j Json) -> Option<(&'j Json, bool)> {
    paths.iter().enumerate().find_map(|(nth, path)| {
        let value = path.find(document).filter(|value| **value != Json::Null)?;
        Some((value, nth > 0))
    })
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).expect(text)
    }

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn values_are_found_by_names_and_places() {
        let document = json(r#"{"data":{"participants":[{"phoneNumber":"+1"},[7,8]],"n":null}}"#);
        let found = |text: &str| path(text).find(&document).map(ToString::to_string);
        assert_eq!(found("data.participants[0].phoneNumber").as_deref(), Some("\"+1\""));
        assert_eq!(found("data.participants[1][1]").as_deref(), Some("8"));
        assert_eq!(found("data.n").as_deref(), Some("null"));
        assert_eq!(found("data.participants[9].phoneNumber"), None);
        assert_eq!(found("data.participants.phoneNumber"), None);
        // Covers row 80: a name is looked up among the members that were sent, never anywhere else.
        assert_eq!(found("data.constructor"), None);
        assert_eq!(path("data.participants[0].phoneNumber").pointer(), "/data/participants/0/phoneNumber");
    }

    /// Covers row 81: a fallback is used where the first path leads nowhere, or to null.
    #[test]
    fn fallbacks_are_told_apart() {
        let document = json(r#"{"a":null,"b":1}"#);
        let paths = [path("a"), path("b")];
        assert_eq!(first(&paths, &document), Some((&Json::Number("1".into()), true)));
        assert_eq!(first(&paths[1..], &document), Some((&Json::Number("1".into()), false)));
        assert_eq!(first(&paths[..1], &document), None);
    }

    /// Covers row 82: filters, scripts, wildcards and everything else of a general path language are refused.
    #[test]
    fn only_plain_paths_are_read() {
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "$",
            "$.a",
            "$..[?(@.x)]",
            "a[?(1)]",
            "a[*]",
            "*",
            "a.*",
            "a[-1]",
            "a[1:2]",
            "a[",
            "a]",
            "a[1",
            "a[]",
            "a[+1]",
            "a[10000]",
            "a b",
            "a['b']",
            "a[\"b\"]",
            "(a)",
            "a[0]b",
            "1a",
            "é",
        ] {
            assert!(Path::parse(text).is_err(), "{text:?}");
        }
        assert!(Path::parse(&"a".repeat(BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn copies_keep_the_objects_around() {
        let from = json(r#"{"a":{"b":1,"c":2},"d":[3]}"#);
        let mut into = Json::object();
        for text in ["a.c", "d[0]", "x.y"] {
            path(text).copy(&from, &mut into);
        }
        assert_eq!(into.to_string(), r#"{"a":{"c":2},"d":[3]}"#);
    }
}
