//! What this worker has in its hands: claimed and not yet settled.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A job and the lease under which it is held. A job that was put back can be claimed again before its release is
/// noted here, and is then in hand under two.
pub(crate) type Held = (i64, i64);

struct Job {
    cancel: CancellationToken,
    /// Its attempt has ended; only the settle is missing.
    ended: bool,
}

#[derive(Default)]
struct Inner {
    jobs: HashMap<Held, Job>,
    /// How many of them have not ended yet.
    open: usize,
    /// How many jobs of each lease are not settled yet.
    leases: HashMap<i64, usize>,
}

/// Jobs and leases of one worker.
pub(crate) struct Hands {
    inner: Mutex<Inner>,
    freed: Notify,
    /// Most jobs that run or wait for their turn. As many again may wait for their settle, or the next attempts would
    /// wait for the disk with them.
    open_max: usize,
}

impl Hands {
    pub(crate) fn new(open_max: usize) -> Self {
        Self { inner: Mutex::default(), freed: Notify::new(), open_max }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> R {
        // A panic while the lock is held leaves two maps of plain numbers behind, which stay usable.
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn take(&self, jobs: impl Iterator<Item = (i64, i64, CancellationToken)>) {
        self.with(|inner| {
            for (job, lease, cancel) in jobs {
                inner.jobs.insert((job, lease), Job { cancel, ended: false });
                inner.open += 1;
                *inner.leases.entry(lease).or_default() += 1;
            }
        });
    }

    /// These attempts have ended, and wait for their settle.
    pub(crate) fn end(&self, jobs: impl Iterator<Item = Held>) {
        let open = self.with(|inner| {
            for held in jobs {
                if let Some(job) = inner.jobs.get_mut(&held).filter(|job| !job.ended) {
                    job.ended = true;
                    inner.open -= 1;
                }
            }
            inner.open
        });
        // A claim for each would be many; for half of what fits it pays.
        if open * 2 <= self.open_max {
            self.freed.notify_one();
        }
    }

    /// How many more jobs may be claimed.
    pub(crate) fn room(&self) -> usize {
        self.with(|inner| {
            let all = (self.open_max * 2).saturating_sub(inner.jobs.len());
            self.open_max.saturating_sub(inner.open).min(all)
        })
    }

    /// The leases among those of `jobs` that nothing else of ours is in any more.
    pub(crate) fn ending(&self, jobs: &[Held]) -> Vec<i64> {
        self.with(|inner| {
            let mut left: HashMap<i64, usize> = HashMap::new();
            for (_, lease) in jobs.iter().filter(|held| inner.jobs.contains_key(held)) {
                let all = inner.leases.get(lease).copied().unwrap_or(0);
                let rest = left.entry(*lease).or_insert(all);
                *rest = rest.saturating_sub(1);
            }
            left.into_iter().filter(|(_, rest)| *rest == 0).map(|(lease, _)| lease).collect()
        })
    }

    pub(crate) fn release(&self, jobs: &[Held]) {
        self.with(|inner| {
            for held in jobs {
                let Some(job) = inner.jobs.remove(held) else { continue };
                inner.open -= usize::from(!job.ended);
                let (_, lease) = held;
                if let Some(rest) = inner.leases.get_mut(lease) {
                    *rest -= 1;
                    if *rest == 0 {
                        inner.leases.remove(lease);
                    }
                }
            }
        });
        self.freed.notify_one();
    }

    pub(crate) fn count(&self) -> usize {
        self.with(|inner| inner.jobs.len())
    }

    /// Resolves once there may be more room, or at once when one happened since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Ids of jobs and leases, for the heartbeat.
    pub(crate) fn ids(&self) -> (Vec<i64>, Vec<i64>) {
        self.with(|inner| (inner.jobs.keys().map(|(job, _)| *job).collect(), inner.leases.keys().copied().collect()))
    }

    /// Stops the attempts of these jobs; their outcomes will be refused.
    pub(crate) fn cancel(&self, jobs: &[i64]) {
        if jobs.is_empty() {
            return;
        }
        self.with(|inner| {
            for (_, job) in inner.jobs.iter().filter(|((job, _), _)| jobs.contains(job)) {
                job.cancel.cancel();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_with_its_last_job() {
        let hands = Hands::new(4);
        hands.take([(1, 10), (2, 10), (3, 11)].into_iter().map(|(job, lease)| (job, lease, CancellationToken::new())));
        assert_eq!(hands.count(), 3);
        assert!(hands.ending(&[(1, 10)]).is_empty());
        assert_eq!(hands.ending(&[(3, 11)]), [11]);
        hands.release(&[(1, 10)]);
        assert_eq!(hands.ending(&[(2, 10)]), [10]);
        hands.release(&[(2, 10), (3, 11), (99, 9)]);
        assert_eq!((hands.count(), hands.ids()), (0, (vec![], vec![])));
    }

    #[test]
    fn those_that_wait_for_their_settle_leave_room_for_as_many_again() {
        let hands = Hands::new(4);
        let take = |from: i64| hands.take((from..from + 4).map(|job| (job, 10, CancellationToken::new())));
        take(1);
        assert_eq!(hands.room(), 0);
        hands.end([(1, 10), (2, 10), (3, 10), (4, 10)].into_iter());
        hands.end([(1, 10)].into_iter());
        assert_eq!((hands.room(), hands.count()), (4, 4));
        take(5);
        hands.end([(5, 10), (6, 10)].into_iter());
        assert_eq!(hands.room(), 0, "eight in hand are all that may be");
        hands.release(&[(1, 10), (7, 10)]);
        assert_eq!(hands.room(), 2);
    }

    #[test]
    fn a_job_that_is_claimed_again_before_its_release_stays_in_hand() {
        let hands = Hands::new(4);
        let (old, new) = (CancellationToken::new(), CancellationToken::new());
        hands.take([(1, 10, old)].into_iter());
        hands.take([(1, 11, new.clone())].into_iter());
        hands.release(&[(1, 10)]);
        assert_eq!((hands.count(), hands.ids()), (1, (vec![1], vec![11])));
        assert_eq!(hands.ending(&[(1, 11)]), [11]);
        hands.cancel(&[1]);
        assert!(new.is_cancelled());
    }
}
