//! When a schedule fires: cron lines in time zones, as pure functions of the times they are given.
//!
//! Two nights a year are odd. Where the clock jumps ahead, a fixed time inside the gap fires at the first moment after
//! it, and a repeated time (`*/15`) leaves the gap out. Where the clock goes back, a fixed time fires at its first
//! coming only, and a repeated time in both hours. So a daily job runs daily, and a job every quarter of an hour runs
//! every quarter of an hour.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

/// Most missed runs that one look fires; the rest come with the next looks.
pub(crate) const MISSED_MAX: usize = 1_000;
/// A run found later than this was missed: workers look every second, so nobody was there.
const MISSED_AFTER: Duration = Duration::from_secs(60);
/// A line without an occurrence within this time has none: even 29 February comes every eight years at the latest.
const AHEAD_MAX: TimeDelta = TimeDelta::days(10 * 366);

/// A cron line in a time zone.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
}

/// What becomes of occurrences that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missed {
    /// One run for all of them.
    Coalesce,
    /// A run for each.
    All,
    /// None.
    Skip,
}

/// What a look at a schedule comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Occurrences to run now, oldest first; at most [`MISSED_MAX`].
    pub runs: Vec<DateTime<Utc>>,
    /// The next one to look at. Not later than now where there were more than [`MISSED_MAX`].
    pub next: DateTime<Utc>,
}

impl FromStr for Missed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "coalesce" => Ok(Self::Coalesce),
            "all" => Ok(Self::All),
            "skip" => Ok(Self::Skip),
            other => Err(format!("missed must be coalesce, all or skip, not {other:?}")),
        }
    }
}

impl Timetable {
    /// Reads a line of five fields (minute, hour, day of the month, month, day of the week) or one of `@hourly`,
    /// `@daily`, `@weekly`, `@monthly` and `@yearly`, and the name of a time zone such as `Europe/Berlin`. The error
    /// says what is wrong, in one line.
    pub fn parse(cron: &str, timezone: &str) -> Result<Self, String> {
        let zone = timezone
            .parse()
            .map_err(|_| format!("timezone {timezone:?} is unknown: use a name like UTC or Europe/Berlin"))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(cron).map_err(|error| format!("cron {cron:?} cannot be read: {error}"))?;
        Ok(Self { cron, zone })
    }

    /// The first occurrence later than `after`. The error says that there is none within ten years.
    pub fn next(&self, after: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
        let none = || format!("cron {:?} has no occurrence within ten years", self.cron.as_str());
        let next = self.cron.find_next_occurrence(&after.with_timezone(&self.zone), false).map_err(|_| none())?;
        let next = next.with_timezone(&Utc);
        // A search that went back in time would never end.
        if next > after && next - after <= AHEAD_MAX { Ok(next) } else { Err(none()) }
    }

    /// The last occurrence not later than `until`, where there is one within ten years.
    fn last(&self, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let last = self.cron.find_previous_occurrence(&until.with_timezone(&self.zone), true).ok()?.with_timezone(&Utc);
        (last <= until && until - last <= AHEAD_MAX).then_some(last)
    }

    /// What to run at `now` of the occurrences from `first` on, which is one itself.
    pub(crate) fn plan(&self, missed: Missed, first: DateTime<Utc>, now: DateTime<Utc>) -> Result<Plan, String> {
        if first > now {
            return Ok(Plan { runs: Vec::new(), next: first });
        }
        if missed == Missed::All {
            let mut runs = Vec::new();
            let mut next = first;
            while next <= now && runs.len() < MISSED_MAX {
                runs.push(next);
                next = self.next(next)?;
            }
            return Ok(Plan { runs, next });
        }
        // Straight to the last one: a minute's schedule after a year away has half a million between.
        let last = self.last(now).map_or(first, |last| last.max(first));
        let late = (now - last).to_std().unwrap_or_default();
        let runs = if missed == Missed::Skip && late > MISSED_AFTER { Vec::new() } else { vec![last] };
        Ok(Plan { runs, next: self.next(now)? })
    }
}

#[cfg(test)]
mod tests;
