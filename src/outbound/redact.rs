//! Secrets that cannot be printed by accident, and the removal of secrets from text that others wrote.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// A secret from the environment or a file. Its memory is wiped when it is dropped; `Debug` and `Display` hide it.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The secret itself. Every call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Replaces every occurrence of the given secrets in `text`, for messages that quote somebody else's words.
pub fn scrub<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut clean = text.to_owned();
    for secret in secrets {
        // Shorter strings would turn the text to holes and are no secrets.
        if secret.len() >= 4 && clean.contains(secret) {
            clean = clean.replace(secret, REDACTED);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 11.
    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("test-secret");
        assert_eq!(format!("{secret:?} {secret}"), "[redacted] [redacted]");
        assert_eq!(format!("{:?}", vec![Some(secret)]), "[Some([redacted])]");
    }

    /// Covers row 11.
    #[test]
    fn scrub_removes_every_occurrence() {
        assert_eq!(scrub("a test-token b test-token", ["test-token", ""]), "a [redacted] b [redacted]");
    }
}
