//! Everything that is wrong with a payload, told at once.

use std::fmt;

use serde::Serialize;

use crate::pointer::Pointer;

/// How many problems are kept; a payload with more is told so.
const PROBLEMS_MAX: usize = 100;

/// One thing that is wrong with a payload. It never holds the offending value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// JSON pointer of the place; empty for the whole document.
    pub pointer: String,
    /// What is expected there.
    pub message: String,
}

/// The problems found so far, in the order of the document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// No problem yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that something is wrong `at`. Beyond the bound further problems are dropped: the first hundred are
    /// enough to act on.
    pub fn add(&mut self, at: &Pointer, message: impl Into<String>) {
        self.push(Problem { pointer: at.as_str().to_owned(), message: message.into() });
    }

    /// Takes a problem that was noted elsewhere over, within the same bound.
    pub fn push(&mut self, problem: Problem) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// `value` where nothing is wrong, or everything that is.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.list.len();
        write!(formatter, "{count} problem{}", if count == 1 { "" } else { "s" })?;
        for (index, problem) in self.list.iter().enumerate() {
            let place = if problem.pointer.is_empty() { "(document)" } else { &problem.pointer };
            write!(formatter, "{} {place}: {}", if index == 0 { ":" } else { ";" }, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_and_their_number_is_bounded() {
        let mut problems = Problems::new();
        problems.add(&Pointer::root(), "must be an object");
        problems.add(&Pointer::root().member("a"), "is required");
        assert_eq!(problems.to_string(), "2 problems: (document): must be an object; /a: is required");
        for _ in 0..1_000 {
            problems.add(&Pointer::root(), "again");
        }
        assert_eq!(problems.list().len(), PROBLEMS_MAX);
    }
}
