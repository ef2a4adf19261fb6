//! Back-pressure: senders wait outside while the workers are too far behind with their tenant's jobs, because they know
//! how to and the database does not. Each tenant has a bound of its own, so that one's backlog shuts nobody else out.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use backhaul_engine::Store;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

/// Time between two counts.
const EVERY: Duration = Duration::from_secs(1);
/// How many counts start where the last one found the oldest job, before one looks at all that is due: what was due
/// before and is promoted by now may be kept in the way by a snapshot that somebody holds.
const HINTED_COUNTS: u32 = 60;

/// How many jobs of each tenant wait for workers, as far as this process knows.
#[derive(Debug)]
pub(crate) struct Backlog {
    jobs_max: u64,
    tenants: BTreeMap<String, Tenant>,
}

/// One tenant's jobs: the last count and what this process has added since.
#[derive(Debug, Default)]
struct Tenant {
    counted: AtomicU64,
    added_before_count: AtomicU64,
    added: AtomicU64,
}

/// Where each tenant's next count begins to look for what is due; a tenant that is not in it is looked at from the start.
type DueFrom = BTreeMap<String, DateTime<Utc>>;

impl Tenant {
    fn jobs(&self) -> u64 {
        let added = self.added.load(Ordering::Relaxed).saturating_sub(self.added_before_count.load(Ordering::Relaxed));
        self.counted.load(Ordering::Relaxed).saturating_add(added)
    }

    /// Takes a count that was begun after `added_before` jobs had been added. Jobs that were added while it ran count
    /// twice until the next one: too many is the safe side.
    fn set(&self, counted: u64, added_before: u64) {
        self.counted.store(counted, Ordering::Relaxed);
        self.added_before_count.store(added_before, Ordering::Relaxed);
    }
}

impl Backlog {
    /// Backlogs that are full at `jobs_max` jobs of one tenant.
    pub(crate) fn new<'a>(jobs_max: u64, tenants: impl Iterator<Item = &'a str>) -> Self {
        Self { jobs_max, tenants: tenants.map(|name| (name.to_owned(), Tenant::default())).collect() }
    }

    /// Whether the tenant's senders should come back later.
    pub(crate) fn is_full(&self, tenant: &str) -> bool {
        self.jobs(tenant) >= self.jobs_max
    }

    /// The tenant's jobs that wait, never less than there are by this process's own doing; counted up to the bound.
    pub(crate) fn jobs(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(0, Tenant::jobs)
    }

    /// The tenants with jobs that wait, and how many.
    pub(crate) fn waiting(&self) -> BTreeMap<&str, u64> {
        let all = self.tenants.iter().map(|(name, tenant)| (name.as_str(), tenant.jobs()));
        all.filter(|(_, jobs)| *jobs > 0).collect()
    }

    /// This process has added jobs of the tenant.
    pub(crate) fn add(&self, tenant: &str, jobs: usize) {
        if let Some(tenant) = self.tenants.get(tenant) {
            tenant.added.fetch_add(jobs as u64, Ordering::Relaxed);
        }
    }

    /// Counts once. Each count stops at the bound, so that it costs the same however long the queue is.
    async fn count_from(&self, store: &Store, from: &mut DueFrom) -> Result<(), sqlx::Error> {
        let added: BTreeMap<&str, u64> =
            self.tenants.iter().map(|(name, tenant)| (name.as_str(), tenant.added.load(Ordering::Relaxed))).collect();
        let names: Vec<&str> = self.tenants.keys().map(String::as_str).collect();
        let starts: Vec<Option<DateTime<Utc>>> = names.iter().map(|name| from.get(*name).copied()).collect();
        let counts: Vec<(String, i64, DateTime<Utc>)> =
            sqlx::query_as("select tenant, jobs, due_from from backhaul.backlog($1, $2, $3)")
                .bind(&names)
                .bind(starts)
                .bind(i64::try_from(self.jobs_max).unwrap_or(i64::MAX))
                .fetch_all(store)
                .await?;
        for (name, jobs, due_from) in counts {
            if let Some(tenant) = self.tenants.get(&name) {
                tenant.set(u64::try_from(jobs).unwrap_or(0), added.get(name.as_str()).copied().unwrap_or(0));
                from.insert(name, due_from);
            }
        }
        Ok(())
    }

    /// Counts for the first time.
    ///
    /// # Errors
    /// The database is not there.
    pub(crate) async fn count(&self, store: &Store) -> Result<(), sqlx::Error> {
        self.count_from(store, &mut DueFrom::new()).await
    }

    /// Counts until told to stop.
    pub(crate) async fn watch(&self, store: &Store, stop: &CancellationToken) {
        let mut from = DueFrom::new();
        let mut counts = 0;
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if counts % HINTED_COUNTS == 0 {
                from.clear();
            }
            counts = counts.wrapping_add(1);
            // While the database is away the old count stands, and every request is refused anyway.
            if let Err(error) = self.count_from(store, &mut from).await {
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
        let backlog = Backlog::new(10, ["acme", "globex"].into_iter());
        assert!(!backlog.is_full("acme"));
        backlog.add("acme", 6);
        assert_eq!((backlog.jobs("acme"), backlog.is_full("acme")), (6, false));
        // A count that began before three more were added, and that saw all nine.
        let acme = &backlog.tenants["acme"];
        let before = acme.added.load(Ordering::Relaxed);
        backlog.add("acme", 3);
        acme.set(9, before);
        assert_eq!((backlog.jobs("acme"), backlog.is_full("acme")), (12, true));
        assert_eq!(backlog.waiting(), BTreeMap::from([("acme", 12)]), "and nobody else is full");
        assert!(!backlog.is_full("globex"));
        acme.set(2, 9);
        assert_eq!((backlog.jobs("acme"), backlog.is_full("acme")), (2, false));
    }
}
