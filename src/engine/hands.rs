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

struct Held {
    lease: i64,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Inner {
    jobs: HashMap<i64, Held>,
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
                inner.jobs.insert(job, Held { lease, cancel });
                *inner.leases.entry(lease).or_default() += 1;
            }
            inner.jobs.len() - before
        });
        self.count.fetch_add(taken, Ordering::AcqRel);
    }

    /// The leases among those of `jobs` that nothing else of ours is in any more.
    pub(crate) fn ending(&self, jobs: &[i64]) -> Vec<i64> {
        self.with(|inner| {
            let mut left: HashMap<i64, usize> = HashMap::new();
            for held in jobs.iter().filter_map(|job| inner.jobs.get(job)) {
                let all = inner.leases.get(&held.lease).copied().unwrap_or(0);
                let rest = left.entry(held.lease).or_insert(all);
                *rest = rest.saturating_sub(1);
            }
            left.into_iter().filter(|(_, rest)| *rest == 0).map(|(lease, _)| lease).collect()
        })
    }

    pub(crate) fn release(&self, jobs: &[i64]) {
        let released = self.with(|inner| {
            let mut released = 0;
            for job in jobs {
                let Some(held) = inner.jobs.remove(job) else { continue };
                released += 1;
                if let Some(rest) = inner.leases.get_mut(&held.lease) {
                    *rest -= 1;
                    if *rest == 0 {
                        inner.leases.remove(&held.lease);
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
        self.with(|inner| (inner.jobs.keys().copied().collect(), inner.leases.keys().copied().collect()))
    }

    /// Stops the attempts of these jobs; their outcomes will be refused.
    pub(crate) fn cancel(&self, jobs: &[i64]) {
        self.with(|inner| {
            for job in jobs {
                if let Some(held) = inner.jobs.get(job) {
                    held.cancel.cancel();
                }
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
        assert!(hands.ending(&[1]).is_empty());
        assert_eq!(hands.ending(&[3]), [11]);
        hands.release(&[1]);
        assert_eq!(hands.ending(&[2]), [10]);
        hands.release(&[2, 3, 99]);
        assert_eq!((hands.count(), hands.ids()), (0, (vec![], vec![])));
    }
}
