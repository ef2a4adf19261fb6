//! What to run, and how much of it.

use std::str::FromStr;

use crate::scenarios::Scenario;

/// How large a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Below a second each, for checking that the scenarios work. Its ratios mean nothing.
    Small,
    /// Some seconds each.
    Medium,
    /// The sizes that the targets speak of.
    Full,
}

impl Size {
    /// The name that `FromStr` reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Full => "full",
        }
    }

    /// One of three values.
    pub(crate) fn pick<T>(self, small: T, medium: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Medium => medium,
            Self::Full => full,
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Small, Self::Medium, Self::Full]
            .into_iter()
            .find(|size| size.name() == text)
            .ok_or_else(|| "a size is small, medium or full".to_owned())
    }
}

/// One run of the benchmark.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of any database of the server; its login must be allowed to create databases.
    pub url: String,
    /// What to run, in this order. Empty: everything.
    pub scenarios: Vec<Scenario>,
    /// How much.
    pub size: Size,
    /// How often each scenario runs; the median counts.
    pub rounds: usize,
    /// Arguments of this program that lead to [`crate::worker_process`], for scenarios with several processes.
    pub worker_arguments: Vec<String>,
    /// Arguments of this program that make the schema and register the product's kinds.
    pub migrate_arguments: Vec<String>,
    /// Arguments of this program that serve webhooks, on the addresses that it prints as JSON.
    pub serve_arguments: Vec<String>,
    /// Whether this program was built with optimisations; stated in the report.
    pub optimised: bool,
}
