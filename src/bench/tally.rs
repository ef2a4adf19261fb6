//! What handlers report: which job started when, and how often.

use std::{
    sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use tokio::sync::Notify;

/// A moment that has not come. Moments are nanoseconds since the tally was made, by the monotonic clock.
const NEVER: i64 = i64::MIN;

/// Starts of the jobs numbered 0 to n - 1, of one process.
pub(crate) struct Tally {
    origin: Instant,
    runs: Vec<AtomicU8>,
    starts: Vec<AtomicI64>,
    started: AtomicU64,
    distinct: AtomicU64,
    all: Notify,
}

impl Tally {
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            origin: Instant::now(),
            runs: (0..jobs).map(|_| AtomicU8::new(0)).collect(),
            starts: (0..jobs).map(|_| AtomicI64::new(NEVER)).collect(),
            started: AtomicU64::new(0),
            distinct: AtomicU64::new(0),
            all: Notify::new(),
        }
    }

    /// Now, in the tally's nanoseconds.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// Job `number` starts now.
    pub(crate) fn start(&self, number: u64) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let Some(place) = usize::try_from(number).ok().filter(|place| *place < self.runs.len()) else { return };
        if self.runs[place].fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        self.starts[place].store(self.now(), Ordering::Relaxed);
        if self.distinct.fetch_add(1, Ordering::AcqRel) + 1 == self.runs.len() as u64 {
            self.all.notify_one();
        }
    }

    /// When job `number` first started.
    pub(crate) fn started_at(&self, number: usize) -> Option<i64> {
        self.starts.get(number).map(|at| at.load(Ordering::Relaxed)).filter(|at| *at != NEVER)
    }

    /// Starts so far, repeated ones included.
    pub(crate) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Jobs that started at least once.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Acquire)
    }

    /// Waits until every job has started.
    pub(crate) async fn all_started(&self, within: Duration) -> Result<()> {
        if self.distinct() == self.runs.len() as u64 {
            return Ok(());
        }
        tokio::time::timeout(within, self.all.notified())
            .await
            .map_err(|_| anyhow!("{} of {} jobs started within {within:?}", self.distinct(), self.runs.len()))
    }

    /// Waits until so many different jobs have started, looking every few milliseconds.
    pub(crate) async fn reached(&self, jobs: u64, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while self.distinct() < jobs {
            ensure!(Instant::now() < deadline, "{} of {jobs} jobs started within {within:?}", self.distinct());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Starts a second in the part of all first starts from the share `from` to the share `to`.
    pub(crate) fn rate(&self, from: f64, to: f64) -> Option<f64> {
        let mut starts: Vec<i64> = (0..self.starts.len()).filter_map(|number| self.started_at(number)).collect();
        starts.sort_unstable();
        let place = |share: f64| ((starts.len() as f64 * share) as usize).min(starts.len().saturating_sub(1));
        let nanoseconds = starts.get(place(to))? - starts.get(place(from))?;
        (nanoseconds > 0).then(|| (place(to) - place(from)) as f64 * 1e9 / nanoseconds as f64)
    }
}
