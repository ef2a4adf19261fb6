//! Which outcomes go into the next settle.

use std::collections::HashSet;

use crate::settle::Settlement;

/// Most outcomes in one transaction.
pub(crate) const BATCH_MAX: usize = 1_000;
/// Settles at once: while one waits for the disk, the other executes.
const AT_ONCE_MAX: usize = 2;
/// Outcomes that are worth a second settle.
const BESIDE_MIN: usize = 100;

/// What waits to be written. The outcomes of one lease never lie in two settles at once: the one that ends the lease
/// could commit first, and the other would be refused. A job never lies in one settle twice: a server that crashed may
/// have forgotten the lease of one that then came into the same hands under another, and of two outcomes in one settle
/// both would be told.
#[derive(Default)]
pub(crate) struct Desk {
    ready: Vec<Settlement>,
    /// Outcomes of leases that a settle in flight has rows of.
    behind: Vec<Settlement>,
    in_flight: HashSet<i64>,
}

impl Desk {
    pub(crate) fn accept(&mut self, arrived: impl IntoIterator<Item = Settlement>) {
        for settled in arrived {
            let queue = if self.in_flight.contains(&settled.lease) { &mut self.behind } else { &mut self.ready };
            queue.push(settled);
        }
    }

    /// The next batch, where it is worth a transaction beside `writing` others.
    pub(crate) fn next(&mut self, writing: usize) -> Option<Vec<Settlement>> {
        let enough = if writing == 0 { 1 } else { BESIDE_MIN };
        if writing >= AT_ONCE_MAX || self.ready.len() < enough {
            return None;
        }
        let mut jobs = HashSet::new();
        let (batch, again): (Vec<_>, Vec<_>) =
            self.ready.drain(..self.ready.len().min(BATCH_MAX)).partition(|settled| jobs.insert(settled.job.id));
        self.in_flight.extend(batch.iter().map(|settled| settled.lease));
        // What was left over may share a lease with it.
        let rest = again.into_iter().chain(std::mem::take(&mut self.ready)).collect::<Vec<_>>();
        self.accept(rest);
        Some(batch)
    }

    pub(crate) fn written(&mut self, leases: &[i64]) {
        for lease in leases {
            self.in_flight.remove(lease);
        }
        let behind = std::mem::take(&mut self.behind);
        self.accept(behind);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.behind.is_empty()
    }

    /// Whether it can take more now.
    pub(crate) fn has_room(&self) -> bool {
        self.ready.len() < BATCH_MAX
    }

    /// No settle is under way.
    pub(crate) fn quiet(&mut self) {
        let leases: Vec<_> = self.in_flight.iter().copied().collect();
        self.written(&leases);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::{
        attempt::Finished,
        context::JobInfo,
        decide::{Outcome, Verdict},
    };

    const NONE: [i64; 0] = [];

    fn settlement(job: i64, lease: i64) -> Settlement {
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("in range");
        let job = JobInfo {
            id: job,
            kind: "toy".into(),
            version: 1,
            tenant: "acme".into(),
            attempt: 0,
            max_attempts: 4,
            rescues: 0,
            replays: 0,
            enqueued_at: at,
            enqueued_by: "test".into(),
            deadline_at: at,
            ordering_key: None,
            traceparent: None,
        };
        let finished = Finished::without_a_start(Outcome::Done);
        Settlement { job: Arc::new(job), lease, probe: false, verdict: Verdict::Done, finished }
    }

    fn jobs(batch: Option<Vec<Settlement>>) -> Vec<i64> {
        batch.unwrap_or_default().iter().map(|settled| settled.job.id).collect()
    }

    #[test]
    fn outcomes_of_one_lease_never_lie_in_two_settles_at_once() {
        let mut desk = Desk::default();
        desk.accept([settlement(1, 10), settlement(2, 11)]);
        assert_eq!(jobs(desk.next(0)), [1, 2]);
        let many = i64::try_from(BESIDE_MIN).expect("small");
        desk.accept((0..many).map(|n| settlement(100 + n, 10 + n % 3)));
        // Two thirds are of leases in flight, and the rest is not worth a second settle.
        assert_eq!(jobs(desk.next(1)), NONE);
        desk.accept((0..many).map(|n| settlement(1_000 + n, 12)));
        let second = desk.next(1).expect("worth it");
        assert!(second.iter().all(|settled| settled.lease == 12), "only of the lease that is free");
        desk.accept((0..many).map(|n| settlement(2_000 + n, 13)));
        assert_eq!(jobs(desk.next(2)), NONE, "two are enough");
        desk.written(&[10, 11]);
        let third = desk.next(1).expect("worth it");
        assert!(third.iter().all(|settled| settled.lease != 12));
        assert!(third.iter().any(|settled| settled.lease == 10) && third.iter().any(|settled| settled.lease == 13));
        assert!(desk.is_empty());
    }

    #[test]
    fn a_job_never_lies_in_one_settle_twice() {
        let mut desk = Desk::default();
        desk.accept([settlement(1, 10), settlement(1, 11), settlement(2, 11), settlement(1, 12)]);
        assert_eq!(jobs(desk.next(0)), [1, 2]);
        desk.quiet();
        assert_eq!(jobs(desk.next(0)), [1]);
        desk.quiet();
        assert_eq!(jobs(desk.next(0)), [1]);
        assert!(desk.is_empty());
    }

    #[test]
    fn a_lone_outcome_waits_for_nobody() {
        let mut desk = Desk::default();
        desk.accept([settlement(1, 10)]);
        assert_eq!(jobs(desk.next(0)), [1]);
        assert_eq!(jobs(desk.next(1)), NONE);
    }
}
