//! JSON pointers (RFC 6901) that are fit for messages, logs and audit events.

use std::fmt;

use crate::personal_data;

/// Longest member name that is shown; a longer one is cut.
const SEGMENT_CHARS_MAX: usize = 64;

/// Where in a document something stands. Member names come from payloads, so they are shown without personal data,
/// without control characters and cut to a bounded length: a pointer may be logged as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pointer(String);

impl Pointer {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The member `name` of the object here.
    #[must_use]
    pub fn member(&self, name: &str) -> Self {
        let masked = personal_data::mask_all(name);
        let mut text = String::with_capacity(self.0.len() + masked.len() + 1);
        text.push_str(&self.0);
        text.push('/');
        for (at, char) in masked.chars().enumerate() {
            match char {
                _ if at == SEGMENT_CHARS_MAX => {
                    text.push('…');
                    break;
                }
                '~' => text.push_str("~0"),
                '/' => text.push_str("~1"),
                char if char.is_control() => text.push('?'),
                char => text.push(char),
            }
        }
        Self(text)
    }

    /// The item `index` of the array here.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }

    /// The pointer's text; empty for the whole document.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "(document)" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_escaped_and_bounded() {
        let pointer = Pointer::root().member("a/b~c").item(3).member(&"x".repeat(100));
        assert_eq!(pointer.as_str(), format!("/a~1b~0c/3/{}…", "x".repeat(64)));
        assert_eq!(Pointer::root().member("a\nb").as_str(), "/a?b");
        assert_eq!(Pointer::root().to_string(), "(document)");
    }

    /// Covers row 119: a member name that is itself an address does not reach a message.
    #[test]
    fn segments_show_no_personal_data() {
        assert_eq!(Pointer::root().member("ann@example.com").as_str(), "/[EMAIL]");
    }
}
