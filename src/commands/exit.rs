//! Exit codes: what a script can tell from the number alone.

use std::fmt;

/// Everything that has no code of its own.
pub(crate) const FAILURE: u8 = 1;
/// The command line or the settings are wrong. Clap uses the same number.
pub(crate) const USAGE: u8 = 2;
/// The job, dead letter, schedule or event that was named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// The database cannot be reached, or its schema is not the one this program needs.
pub(crate) const DATABASE: u8 = 4;
/// The command worked, and what it looked at is not well (`doctor`), or not all of it could be done.
pub(crate) const UNWELL: u8 = 5;

/// The end of `backhaul --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed, the reason is on standard error
  2  wrong arguments or settings
  3  the job, dead letter, schedule or event does not exist
  4  the database cannot be reached, or `backhaul migrate` has not been run
  5  the command worked, but what it looked at is not well (doctor, preview), or only part could be done (backfill)";

/// An error that knows its exit code. It travels inside an [`anyhow::Error`].
#[derive(Debug)]
pub(crate) struct Coded {
    code: u8,
    message: String,
}

impl Coded {
    /// An error with `code` and a message for a person.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// The exit code of `error`: the outermost one that was given.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Coded>().map_or(FAILURE, |coded| coded.code)
}
