//! The circuit breaker: an upstream that looks down is left alone by the whole fleet and probed.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// So many jobs in a row must find the upstream down.
const FAILURES_IN_A_ROW: u32 = 10;
/// How long the bucket stays closed before the next probe.
pub(crate) const CLOSED_FOR: Duration = Duration::from_secs(10);
/// Failures that were on their way when the bucket closed say nothing new.
const QUIET: Duration = Duration::from_secs(1);

/// What to do about a bucket after an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Close,
    Open,
}

#[derive(Default)]
struct Bucket {
    failures: u32,
    closed_at: Option<Instant>,
}

/// One worker's view of its upstreams. The decision is this worker's; the closed bucket is everybody's.
#[derive(Default)]
pub(crate) struct Breaker {
    buckets: HashMap<(String, &'static str), Bucket>,
    /// When the pauses end that upstreams asked for.
    pauses: HashMap<(String, String), Instant>,
}

impl Breaker {
    /// A job found the upstream down. `probe`: it was sent to find out.
    pub(crate) fn failed(&mut self, tenant: &str, bucket: &'static str, probe: bool, now: Instant) -> Change {
        let state = self.buckets.entry((tenant.to_owned(), bucket)).or_default();
        state.failures = state.failures.saturating_add(1);
        let just_closed = state.closed_at.is_some_and(|at| now.duration_since(at) < QUIET);
        if just_closed || (state.failures < FAILURES_IN_A_ROW && !probe) {
            return Change::None;
        }
        state.closed_at = Some(now);
        Change::Close
    }

    /// Whether a pause that an upstream asked for is news: all attempts that were under way are told of it.
    pub(crate) fn is_news(&mut self, tenant: &str, bucket: &str, pause: Duration, now: Instant) -> bool {
        self.pauses.retain(|_, until| *until > now);
        self.pauses.insert((tenant.to_owned(), bucket.to_owned()), now + pause).is_none()
    }

    /// A job got through.
    pub(crate) fn succeeded(&mut self, tenant: &str, bucket: &'static str, probe: bool) -> Change {
        // Only buckets with a recent failure are known here, so a healthy system pays one look-up.
        let was_closed = !self.buckets.is_empty()
            && self.buckets.remove(&(tenant.to_owned(), bucket)).is_some_and(|state| state.closed_at.is_some());
        if was_closed || probe { Change::Open } else { Change::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_news_once_while_it_lasts() {
        let mut breaker = Breaker::default();
        let (now, pause) = (Instant::now(), Duration::from_secs(30));
        assert!(breaker.is_news("a", "cxone/profiles", pause, now));
        assert!(!breaker.is_news("a", "cxone/profiles", pause, now + pause / 2));
        assert!(breaker.is_news("b", "cxone/profiles", pause, now + pause / 2));
        assert!(breaker.is_news("a", "cxone/profiles", pause, now + pause * 2));
    }

    /// Covers row 208 in the engine's part: ten in a row close, one success opens.
    #[test]
    fn closes_after_ten_in_a_row_and_opens_with_the_first_success() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..9 {
            assert_eq!(breaker.failed("a", "crm/threads", false, now), Change::None);
        }
        assert_eq!(breaker.succeeded("a", "crm/threads", false), Change::None);
        for _ in 0..9 {
            assert_eq!(breaker.failed("a", "crm/threads", false, now), Change::None);
        }
        assert_eq!(breaker.failed("b", "crm/threads", false, now), Change::None);
        assert_eq!(breaker.failed("a", "crm/threads", false, now), Change::Close);
        assert_eq!(breaker.failed("a", "crm/threads", false, now), Change::None);
        assert_eq!(breaker.failed("a", "crm/threads", true, now + QUIET), Change::Close);
        assert_eq!(breaker.succeeded("a", "crm/threads", true), Change::Open);
        assert_eq!(breaker.failed("c", "crm/threads", true, now), Change::Close);
    }
}
