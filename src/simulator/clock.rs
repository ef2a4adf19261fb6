//! The simulator's own clock: steady while it runs, and movable, so that a test of expiry or of a rate limit need
//! not wait for an hour or a minute to pass.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use chrono::{DateTime, SecondsFormat, Utc};

/// Wall-clock time at start plus monotonic time since, plus what the control plane added.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: i64,
    offset_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), started_ms: Utc::now().timestamp_millis(), offset_ms: AtomicI64::new(0) }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        let elapsed_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX / 4);
        self.started_ms.saturating_add(elapsed_ms).saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Moves the clock; negative values move it back. Answers the new time.
    pub(crate) fn advance(&self, by_ms: i64) -> i64 {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.now_ms()
    }
}

/// RFC 3339 text in UTC with milliseconds and `Z`.
pub(crate) fn rfc3339(at_ms: i64) -> String {
    moment(at_ms).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The form HTTP headers use, for example `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(at_ms: i64) -> String {
    moment(at_ms).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn moment(at_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at_ms).unwrap_or(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_forms_of_their_standards() {
        assert_eq!(rfc3339(784_111_777_000), "1994-11-06T08:49:37.000Z");
        assert_eq!(http_date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn the_clock_moves_when_told() {
        let clock = Clock::new();
        let before = clock.now_ms();
        assert!(clock.advance(60_000) >= before + 60_000);
    }
}
