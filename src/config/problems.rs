//! Everything that is wrong with the settings, in one error.

use std::fmt;

/// At least one problem, each a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// The problems found; None when there are none.
    pub(crate) fn found(list: Vec<String>) -> Option<Self> {
        (!list.is_empty()).then_some(Self(list))
    }

    /// A single problem.
    pub(crate) fn one(problem: String) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(formatter, "the settings are wrong: {only}"),
            several => {
                write!(formatter, "the settings are wrong in {} places:", several.len())?;
                several.iter().try_for_each(|problem| write!(formatter, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

/// What a TOML error says, with its line's number and without the line's text: it may hold a secret.
pub(super) fn without_source(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    match line {
        Some(line) => format!("line {line}: {}", error.message()),
        None => error.message().to_owned(),
    }
}
