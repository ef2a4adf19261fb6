//! The database's clock, as this process estimates it. Leases and deadlines never look at the host's.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};

/// Host clock plus the difference to the database's, renewed by every heartbeat. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_us: Arc<AtomicI64>,
}

impl Clock {
    /// The database's time now.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::microseconds(self.ahead_us.load(Ordering::Relaxed))
    }

    /// The database answered that its time is `now`.
    pub fn set(&self, now: DateTime<Utc>) {
        self.ahead_us.store((now - Utc::now()).num_microseconds().unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 212: a host whose clock is wrong has the database's time all the same.
    #[test]
    fn a_wrong_host_clock_does_not_count() {
        for hours in [-1, 1, 24 * 365] {
            let clock = Clock::default();
            let database = Utc::now() + TimeDelta::hours(hours);
            clock.set(database);
            let off = clock.clone().now() - database;
            // The difference is kept in whole microseconds, so the estimate may be one of them early.
            assert!(off >= TimeDelta::microseconds(-1) && off < TimeDelta::minutes(1), "{hours} h: {off}");
        }
    }
}
