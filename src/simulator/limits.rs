//! Rate limits in sliding windows: no window of 60 s, wherever it begins, holds more than the limit.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Mutex,
};

use crate::{locked::locked, routes::Class};

/// Length of the window in milliseconds.
const WINDOW_MS: i64 = 60_000;
/// Times kept per window where no limit is set, for the peak alone. A peak at this figure means "at least".
const TRACKED_MAX: usize = 20_000;
/// Windows at one time; beyond it all are forgotten, which only a test with thousands of tenants can reach.
const WINDOWS_MAX: usize = 10_000;

/// What the limiter says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Requests allowed in 60 s, where there is a limit.
    pub(crate) limit: Option<u32>,
    /// Requests taken in the current window, this one included where it was let in.
    pub(crate) used: u32,
    /// Seconds until the oldest request leaves the window, at least 1.
    pub(crate) reset_s: u32,
    /// Whether the request may pass.
    pub(crate) allowed: bool,
}

#[derive(Debug, Default)]
struct Window {
    times_ms: VecDeque<i64>,
    peak: usize,
}

/// The windows of every (tenant, client, class).
#[derive(Debug, Default)]
pub(crate) struct Limits {
    windows: Mutex<HashMap<(String, String, Class), Window>>,
}

impl Limits {
    /// Counts one request. A refused request takes no room in the window.
    pub(crate) fn take(&self, tenant: &str, client: &str, class: Class, limit: Option<u32>, now_ms: i64) -> Standing {
        let mut windows = locked(&self.windows);
        let key = (tenant.to_owned(), client.to_owned(), class);
        if windows.len() >= WINDOWS_MAX && !windows.contains_key(&key) {
            windows.clear();
        }
        windows.entry(key).or_default().take(limit, now_ms)
    }

    /// The most requests that any window of 60 s let in, by tenant and class; clients of a tenant are not summed.
    pub(crate) fn peaks(&self) -> BTreeMap<String, BTreeMap<&'static str, usize>> {
        let mut peaks: BTreeMap<String, BTreeMap<&'static str, usize>> = BTreeMap::new();
        for ((tenant, _, class), window) in locked(&self.windows).iter() {
            let peak = peaks.entry(tenant.clone()).or_default().entry(class.as_str()).or_default();
            *peak = (*peak).max(window.peak);
        }
        peaks
    }

    /// Forgets every window.
    pub(crate) fn reset(&self) {
        locked(&self.windows).clear();
    }
}

impl Window {
    fn take(&mut self, limit: Option<u32>, now_ms: i64) -> Standing {
        while self.times_ms.front().is_some_and(|&oldest| oldest <= now_ms - WINDOW_MS) {
            self.times_ms.pop_front();
        }
        let allowed = limit.is_none_or(|limit| self.times_ms.len() < limit as usize);
        if allowed {
            if self.times_ms.len() >= TRACKED_MAX.max(limit.unwrap_or(0) as usize) {
                self.times_ms.pop_front();
            }
            self.times_ms.push_back(now_ms);
            self.peak = self.peak.max(self.times_ms.len());
        }
        // Rounded up to seconds, so that a client that waits as told is let in.
        let oldest_leaves_ms = self.times_ms.front().map_or(WINDOW_MS, |&oldest| oldest + WINDOW_MS - now_ms);
        Standing {
            limit,
            used: u32::try_from(self.times_ms.len()).unwrap_or(u32::MAX),
            reset_s: u32::try_from((oldest_leaves_ms + 999) / 1000).unwrap_or(60).max(1),
            allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_holds_more_than_the_limit() {
        let limits = Limits::default();
        let take = |now_ms| limits.take("acme", "sim-acme", Class::CxoneProfiles, Some(3), now_ms);
        assert!(take(0).allowed && take(10_000).allowed && take(59_000).allowed);
        let refused = take(59_500);
        assert_eq!(refused, Standing { limit: Some(3), used: 3, reset_s: 1, allowed: false });
        assert!(take(60_000).allowed, "the request at 0 has left the window");
        assert!(!take(69_999).allowed);
        assert!(take(70_000).allowed);
        assert_eq!(limits.peaks()["acme"]["cxone/profiles"], 3);
    }

    #[test]
    fn tenants_and_classes_do_not_share() {
        let limits = Limits::default();
        assert!(limits.take("a", "sim-a", Class::CxoneProfiles, Some(1), 0).allowed);
        assert!(limits.take("b", "sim-b", Class::CxoneProfiles, Some(1), 0).allowed);
        assert!(limits.take("a", "sim-a", Class::CxoneWebchat, Some(1), 0).allowed);
        assert!(!limits.take("a", "sim-a", Class::CxoneProfiles, Some(1), 0).allowed);
    }
}
