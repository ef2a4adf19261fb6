//! `backhaul jobs reschedule`: another time for a job that is not running.

use std::str::FromStr;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;
use sqlx::PgPool;

use crate::commands::{database::explain, session::Actor, table};

/// Move an unfinished job that is not running to another time
///
/// A job that is ready already keeps its place when it is moved to now; `backhaul jobs reprioritize` gives it a better one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul jobs reschedule 4711 --at now
  backhaul jobs reschedule 4711 --at +2h --why 'the upstream is being maintained'
  backhaul jobs reschedule 4711 --at 2030-01-31T08:00:00Z")]
pub(crate) struct Reschedule {
    /// The job's id
    id: i64,
    /// When: now, a time from now as +90s, +15m, +2h or +3d, or a time as 2030-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    at: When,
    #[command(flatten)]
    actor: Actor,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "rescheduled by hand")]
    why: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A time, or a time from now. The database's clock says what now is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    At(DateTime<Utc>),
    After { seconds: u32 },
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither now, nor as +15m, nor as 2030-01-31T08:00:00Z");
        if text == "now" {
            return Ok(Self::After { seconds: 0 });
        }
        let Some(offset) = text.strip_prefix('+') else {
            return text.parse().map(Self::At).map_err(|_| wrong());
        };
        let unit = match offset.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let count: u32 = offset[..offset.len() - 1].parse().map_err(|_| wrong())?;
        count.checked_mul(unit).map(|seconds| Self::After { seconds }).ok_or_else(wrong)
    }
}

/// Moves it.
pub(crate) async fn run(pool: &PgPool, one: Reschedule) -> Result<()> {
    let (at, seconds) = match one.at {
        When::At(at) => (Some(at), 0),
        When::After { seconds } => (None, seconds),
    };
    let (at, outcome): (DateTime<Utc>, String) = sqlx::query_as(
        "with t as materialized (select coalesce($2, clock_timestamp() + make_interval(secs => $3)) as at)
         select t.at, r.outcome from t cross join lateral backhaul.reschedule($1, t.at, $4, $5) r (outcome)",
    )
    .bind(one.id)
    .bind(at)
    .bind(f64::from(seconds))
    .bind(one.actor.name())
    .bind(&one.why)
    .fetch_one(pool)
    .await
    .map_err(explain)?;
    if one.json {
        return table::print_json(&json!({ "id": one.id, "outcome": outcome, "run_at": at }));
    }
    if outcome == "ready" {
        let note = "is ready already and keeps its place; `backhaul jobs explain` says what it waits for";
        return table::write_out(&format!("job {} {note}\n", one.id));
    }
    table::write_out(&format!("job {} is due at {}\n", one.id, at.format("%Y-%m-%d %H:%M:%S UTC")))
}

#[cfg(test)]
mod tests {
    use super::When;

    #[test]
    fn times_are_read_in_all_three_forms() {
        let after = |seconds| Ok(When::After { seconds });
        assert_eq!("now".parse(), after(0));
        assert_eq!("+90s".parse(), after(90));
        assert_eq!("+3d".parse(), after(259_200));
        let at: When = "2030-01-31T08:00:00+01:00".parse().expect("a time");
        assert_eq!(at, When::At("2030-01-31T07:00:00Z".parse().expect("a time")));
        for wrong in ["", "+", "+5", "+5w", "+m", "-5m", "+99999999d", "tomorrow", "+5µ"] {
            assert!(wrong.parse::<When>().is_err(), "{wrong}");
        }
    }
}
