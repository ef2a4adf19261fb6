//! Whether times in a payload are recent enough, and whether they are times at all.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// How old and how far ahead a time may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Oldest acceptable age; exactly this old is fresh.
    pub age_max: TimeDelta,
    /// How far ahead of our clock a sender's clock may be.
    pub skew_max: TimeDelta,
}

/// Reads an RFC 3339 time with its offset, as `2024-01-15T10:30:00Z`. Nothing else is a time: no bare date, no epoch
/// seconds, no local time.
pub fn time(value: &Value) -> Result<DateTime<Utc>, &'static str> {
    const EXPECTED: &str = "must be an RFC 3339 time with an offset, such as 2024-01-15T10:30:00Z";
    let text = value.as_str().ok_or(EXPECTED)?;
    // chrono also accepts a space between date and time, which RFC 3339 leaves to agreement.
    if !text.as_bytes().get(10).is_some_and(|byte| byte.eq_ignore_ascii_case(&b'T')) {
        return Err(EXPECTED);
    }
    DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)).map_err(|_| EXPECTED)
}

/// Checks that `at` is not ahead of `now` by more than the skew.
pub fn not_ahead(at: DateTime<Utc>, now: DateTime<Utc>, window: Window) -> Result<(), String> {
    if at - now > window.skew_max {
        return Err(format!("lies more than {} s in the future", window.skew_max.num_seconds()));
    }
    Ok(())
}

/// Checks that `at` is neither too old nor ahead. The message holds the age and not the value.
pub fn fresh(at: DateTime<Utc>, now: DateTime<Utc>, window: Window) -> Result<(), String> {
    not_ahead(at, now, window)?;
    let age = now - at;
    if age > window.age_max {
        return Err(format!("is stale: {} days old, the window is {} days", age.num_days(), window.age_max.num_days()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WINDOW: Window = Window { age_max: TimeDelta::days(30), skew_max: TimeDelta::minutes(5) };

    fn now() -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().expect("a time")
    }

    /// Covers row 105, row 109: what is not an RFC 3339 time is refused, however leniently it could be read.
    #[test]
    fn only_rfc_3339_is_a_time() {
        let refused = [
            json!("not-a-date"),
            json!(""),
            json!("5"),
            json!(null),
            json!(1_700_000_000),
            json!("1700000000"),
            json!("2024-01-15"),
            json!("2024-01-15 10:30:00Z"),
            json!("2024-01-15T10:30:00"),
            json!("2024-02-30T10:30:00Z"),
            json!(["2024-01-15T10:30:00Z"]),
        ];
        for value in refused {
            assert!(time(&value).is_err(), "{value}");
        }
        assert_eq!(time(&json!("2024-01-15T11:30:00+01:00")), time(&json!("2024-01-15T10:30:00Z")));
    }

    /// Covers row 106.
    #[test]
    fn the_future_is_refused_beyond_the_skew() {
        assert!(fresh("2999-01-01T00:00:00Z".parse().expect("a time"), now(), WINDOW).is_err());
        assert_eq!(fresh(now() + TimeDelta::minutes(5), now(), WINDOW), Ok(()));
        assert!(fresh(now() + TimeDelta::minutes(5) + TimeDelta::milliseconds(1), now(), WINDOW).is_err());
    }

    /// Covers row 110: exactly 30 days is fresh, a millisecond more is stale.
    #[test]
    fn the_boundary_is_exact() {
        assert_eq!(fresh(now() - TimeDelta::days(30), now(), WINDOW), Ok(()));
        let stale = fresh(now() - TimeDelta::days(30) - TimeDelta::milliseconds(1), now(), WINDOW);
        assert_eq!(stale, Err("is stale: 30 days old, the window is 30 days".to_owned()));
    }
}
