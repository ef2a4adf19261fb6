//! What this worker has in its hands: claimed and not yet settled.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A job and the lease under which it is held. A job that was put back can be claimed again before its release is
/// noted here, and is then in hand under two.
pub(crate) type Held = (i64, i64);

#[derive(Default)]
struct Inner {
    jobs: HashMap<Held, CancellationToken>,
    /// How many jobs of each lease are not settled yet.
    leases: HashMap<i64, usize>,
}

/// Jobs and leases of one worker. The count bounds claims, so it is an atomic of its own.
#[derive(Default)]
pub(crate) struct Hands {
    inner: Mutex<Inner>,
    count: AtomicUsize,
    freed: Notify,
}

impl Hands {
    fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> R {
        // A panic while the lock is held leaves two maps of plain numbers behind, which stay usable.
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn take(&self, jobs: impl Iterator<Item = (i64, i64, CancellationToken)>) {
        let taken = self.with(|inner| {
            let before = inner.jobs.len();
            for (job, lease, cancel) in jobs {
                inner.jobs.insert((job, lease), cancel);
                *inner.leases.entry(lease).or_default() += 1;
            }
            inner.jobs.len() - before
        });
        self.count.fetch_add(taken, Ordering::AcqRel);
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
        let released = self.with(|inner| {
            let mut released = 0;
            for held in jobs {
                if inner.jobs.remove(held).is_none() {
                    continue;
                }
                released += 1;
                let (_, lease) = held;
                if let Some(rest) = inner.leases.get_mut(lease) {
                    *rest -= 1;
                    if *rest == 0 {
                        inner.leases.remove(lease);
                    }
                }
            }
            released
        });
        self.count.fetch_sub(released, Ordering::AcqRel);
        self.freed.notify_one();
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Resolves after the next release, or at once when one happened since the last call.
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
            for (_, cancel) in inner.jobs.iter().filter(|((job, _), _)| jobs.contains(job)) {
                cancel.cancel();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_with_its_last_job() {
        let hands = Hands::default();
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
    fn a_job_that_is_claimed_again_before_its_release_stays_in_hand() {
        let hands = Hands::default();
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
