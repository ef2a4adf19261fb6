//! Back-pressure: senders wait outside while the queue is full, because they know how to and the database does not.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use backhaul_engine::Store;
use tokio_util::sync::CancellationToken;

/// Time between two counts.
const EVERY: Duration = Duration::from_secs(1);

/// How many jobs wait, as far as this process knows: the last count and what it has added since.
#[derive(Debug)]
pub(crate) struct Backlog {
    jobs_max: u64,
    counted: AtomicU64,
    added_before_count: AtomicU64,
    added: AtomicU64,
}

impl Backlog {
    /// A backlog that is full at `jobs_max` unfinished jobs.
    pub(crate) fn new(jobs_max: u64) -> Self {
        let zero = AtomicU64::default;
        Self { jobs_max, counted: zero(), added_before_count: zero(), added: zero() }
    }

    /// Whether senders should come back later.
    pub(crate) fn is_full(&self) -> bool {
        self.jobs() >= self.jobs_max
    }

    /// Unfinished jobs, never less than there are by this process's own doing.
    pub(crate) fn jobs(&self) -> u64 {
        let added = self.added.load(Ordering::Relaxed).saturating_sub(self.added_before_count.load(Ordering::Relaxed));
        self.counted.load(Ordering::Relaxed).saturating_add(added)
    }

    /// This process has added jobs.
    pub(crate) fn add(&self, jobs: usize) {
        self.added.fetch_add(jobs as u64, Ordering::Relaxed);
    }

    /// Takes a count that was begun after `added_before` jobs had been added. Jobs that were added while it ran count
    /// twice until the next one: too many is the safe side.
    fn set(&self, counted: u64, added_before: u64) {
        self.counted.store(counted, Ordering::Relaxed);
        self.added_before_count.store(added_before, Ordering::Relaxed);
    }

    /// Counts once. The count stops at the bound, so that it costs the same however long the queue is.
    ///
    /// # Errors
    /// The database is not there.
    pub(crate) async fn count(&self, store: &Store) -> Result<(), sqlx::Error> {
        let added_before = self.added.load(Ordering::Relaxed);
        let counted: i64 = sqlx::query_scalar("select backhaul.backlog($1)")
            .bind(i64::try_from(self.jobs_max).unwrap_or(i64::MAX))
            .fetch_one(store)
            .await?;
        self.set(u64::try_from(counted).unwrap_or(0), added_before);
        Ok(())
    }

    /// Counts until told to stop.
    pub(crate) async fn watch(&self, store: &Store, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            // While the database is away the old count stands, and every request is refused anyway.
            if let Err(error) = self.count(store).await {
                tracing::warn!(%error, "the jobs that wait could not be counted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 211: what was added since the last count counts, and what a count may have missed is not lost.
    #[test]
    fn own_jobs_count_at_once() {
        let backlog = Backlog::new(10);
        assert!(!backlog.is_full());
        backlog.add(6);
        assert_eq!((backlog.jobs(), backlog.is_full()), (6, false));
        // A count that began before three more were added, and that saw all nine.
        let before = backlog.added.load(Ordering::Relaxed);
        backlog.add(3);
        backlog.set(9, before);
        assert_eq!((backlog.jobs(), backlog.is_full()), (12, true));
        backlog.set(2, 9);
        assert_eq!((backlog.jobs(), backlog.is_full()), (2, false));
    }
}
