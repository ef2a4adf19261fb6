//! `backhaul doctor`: is everything as Backhaul needs it?

mod checks;

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{
    exit::{self, Coded},
    session::Session,
    table,
};

/// Look at the connection, the schema, the oldest snapshot, roles, workers and sinks.
///
/// Each finding says what to do. Warnings leave the exit code at 0; something that keeps Backhaul from working makes
/// it 5, and a database that cannot be reached makes it 4. What the login may not see is skipped, and said to be.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul doctor
  backhaul doctor --json | jq '.checks[] | select(.level != \"ok\")'")]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Failure,
    /// This login may not look.
    Skipped,
}

/// What one check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    /// What is the case.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), advice: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn failure(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Failure, found: found.into(), advice: Some(advice.into()) }
    }

    fn skipped(check: &'static str, advice: impl Into<String>) -> Self {
        let found = "not looked at: this login may not see it".to_owned();
        Self { check, level: Level::Skipped, found, advice: Some(advice.into()) }
    }
}

/// Runs all checks.
pub(crate) async fn run(session: &Session, command: Doctor) -> Result<()> {
    let pool = session.connect().await?;
    let findings = checks::all(&pool).await?;
    let failures = findings.iter().filter(|finding| finding.level == Level::Failure).count();
    if command.json {
        table::print_json(&json!({ "well": failures == 0, "checks": findings }))?;
    } else {
        let mut text = String::new();
        for finding in &findings {
            let mark = match finding.level {
                Level::Ok => "ok     ",
                Level::Warning => "WARNING",
                Level::Failure => "FAILURE",
                Level::Skipped => "skipped",
            };
            text.push_str(&format!("{mark}  {:<12}  {}\n", finding.check, finding.found));
            if let Some(advice) = &finding.advice {
                text.push_str(&format!("{:23}{advice}\n", ""));
            }
        }
        table::write_out(&text)?;
    }
    if failures > 0 {
        return Err(anyhow!(Coded::new(exit::UNWELL, format!("{failures} checks failed"))));
    }
    Ok(())
}
