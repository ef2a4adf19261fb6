//! When an upstream wants to be asked again.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

/// Shortest wait an upstream can ask for; also what stands for zero, negative, empty and unreadable values.
pub const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait an upstream can ask for. A larger figure is a mistake or an attack on the queue.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Wait after a 429 that names no time.
pub const WAIT_UNNAMED: Duration = Duration::from_secs(2);

/// What a Retry-After header said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// A time between [`WAIT_MIN`] and [`WAIT_MAX`] from now.
    At(DateTime<Utc>),
    /// Below one second, negative, empty or unreadable: the later of one second and the caller's backoff.
    Floor,
}

/// Reads a Retry-After value, seconds or an HTTP date in any of its three forms, and clamps it to 1 s - 1 h from `now`.
pub fn parse(value: &[u8], now: DateTime<Utc>) -> RetryAfter {
    let Some(text) = std::str::from_utf8(value).ok().map(str::trim) else {
        return RetryAfter::Floor;
    };
    let wait_s = if is_seconds(text) {
        // More digits than fit a u64 are a very long wait, not garbage.
        text.split('.').next().map_or(0, |whole| whole.parse().unwrap_or(u64::MAX))
    } else {
        match http_date(text, now) {
            // Rounded up: a date has whole seconds, and asking a moment early is asking too early.
            Some(at) => u64::try_from((at - now + chrono::TimeDelta::milliseconds(999)).num_seconds()).unwrap_or(0),
            None => 0,
        }
    };
    if wait_s == 0 {
        return RetryAfter::Floor;
    }
    RetryAfter::At(now + Duration::from_secs(wait_s).clamp(WAIT_MIN, WAIT_MAX))
}

/// The time to wait for where no backoff is at hand: [`RetryAfter::Floor`] is one second.
pub fn at_least(retry_after: RetryAfter, now: DateTime<Utc>) -> DateTime<Utc> {
    match retry_after {
        RetryAfter::At(at) => at,
        RetryAfter::Floor => now + WAIT_MIN,
    }
}

/// Digits, perhaps with a fraction, which the standard does not allow and some gateways send.
fn is_seconds(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    !whole.is_empty()
        && whole.bytes().all(|byte| byte.is_ascii_digit())
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

/// The three forms of RFC 9110 5.6.7; a recipient must read all of them.
fn http_date(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // The year of the second form has two digits; chrono reads 70-99 as 19xx, and RFC 9110 wants a year that lies
    // more than 50 years ahead to mean the past. For a wait, both readings are the past.
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .map(|at| at.and_utc())
        .filter(|at| *at > now)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-03-01T10:00:00Z").unwrap().to_utc()
    }

    fn wait_s(value: &str) -> Option<i64> {
        match parse(value.as_bytes(), now()) {
            RetryAfter::At(at) => Some((at - now()).num_seconds()),
            RetryAfter::Floor => None,
        }
    }

    /// Covers row 16, row 183: a date is a date, in all three forms.
    #[test]
    fn dates_are_read() {
        assert_eq!(wait_s("Sun, 01 Mar 2026 10:00:30 GMT"), Some(30));
        assert_eq!(wait_s("Sunday, 01-Mar-26 10:00:30 GMT"), Some(30));
        assert_eq!(wait_s("Sun Mar  1 10:00:30 2026"), Some(30));
        let late = now() + TimeDelta::milliseconds(500);
        let RetryAfter::At(at) = parse(b"Sun, 01 Mar 2026 10:00:30 GMT", late) else { panic!("a date ahead") };
        assert!(at - late >= TimeDelta::milliseconds(29_500) && at - late <= TimeDelta::seconds(33), "{at}");
    }

    /// Covers row 17.
    #[test]
    fn long_waits_are_clamped_to_an_hour() {
        assert_eq!(wait_s("3000000"), Some(3600));
        assert_eq!(wait_s("99999999999999999999999999"), Some(3600));
        assert_eq!(wait_s("Fri, 01 Mar 2999 10:00:30 GMT"), Some(3600));
    }

    /// Covers row 18.
    #[test]
    fn nothing_below_a_second() {
        for value in ["0", "-5", "abc", "", " ", "0.4", "+3", "1e3", "Sun, 01 Mar 2026 09:59:59 GMT", "12 s", "."] {
            assert_eq!(wait_s(value), None, "{value:?}");
            assert_eq!(at_least(parse(value.as_bytes(), now()), now()), now() + WAIT_MIN, "{value:?}");
        }
        assert_eq!(parse(b"\xff\xfe", now()), RetryAfter::Floor);
    }

    #[test]
    fn seconds_are_read() {
        assert_eq!(wait_s("1"), Some(1));
        assert_eq!(wait_s(" 120 "), Some(120));
        assert_eq!(wait_s("2.5"), Some(2));
    }
}
