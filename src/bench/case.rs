//! One measured run of one contestant.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{cost::Cost, tally::Tally, usage};

/// What one contestant did in one round, and whether its books balance.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Case {
    /// `worker`, `bare`, `apalis`, …
    pub name: String,
    /// Jobs (or rows, or requests) that it was given.
    pub jobs: u64,
    /// Those that were done at least once.
    pub done: u64,
    /// Starts, repeated ones included.
    pub started: u64,
    /// Those that are still unfinished, and those in the dead letters.
    pub left: u64,
    pub seconds: f64,
    /// Jobs a second.
    pub rate: f64,
    pub cost: Option<Cost>,
    /// CPU microseconds a job, of this process and of Postgres.
    pub cpu_us_per_job: Option<f64>,
    pub postgres_cpu_us_per_job: Option<f64>,
    /// Whatever else is worth knowing, by name.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Case {
    /// A case where everything was done exactly once.
    pub(crate) fn new(name: &str, jobs: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        Self {
            name: name.to_owned(),
            jobs,
            done: jobs,
            started: jobs,
            left: 0,
            seconds,
            rate: jobs as f64 / seconds.max(1e-9),
            cost: None,
            cpu_us_per_job: None,
            postgres_cpu_us_per_job: None,
            more: Map::new(),
        }
    }

    /// Takes the counts from what the handlers reported.
    #[must_use]
    pub(crate) fn counted(mut self, tally: &Tally) -> Self {
        self.done = tally.distinct();
        self.started = tally.started();
        self
    }

    #[must_use]
    pub(crate) fn cost(mut self, cost: Cost) -> Self {
        self.cost = Some(cost);
        self
    }

    #[must_use]
    pub(crate) fn left(mut self, left: i64) -> Self {
        self.left = left.unsigned_abs();
        self
    }

    #[must_use]
    pub(crate) fn used(mut self, cpu: &Cpu) -> Self {
        let (own, server) = cpu.since();
        let per_job = |seconds: f64| seconds * 1e6 / self.jobs.max(1) as f64;
        self.cpu_us_per_job = Some(per_job(own));
        self.postgres_cpu_us_per_job = server.map(per_job);
        self
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

/// CPU time from a moment on.
pub(crate) struct Cpu {
    postmaster: Option<u32>,
    own: f64,
    server: f64,
}

impl Cpu {
    pub(crate) fn start(postmaster: Option<u32>) -> Self {
        let own = usage::cpu_s(std::process::id()).unwrap_or(0.0);
        Self { postmaster, own, server: postmaster.map_or(0.0, usage::server_cpu_s) }
    }

    /// Seconds of this process and of the server since the start.
    pub(crate) fn since(&self) -> (f64, Option<f64>) {
        let own = usage::cpu_s(std::process::id()).unwrap_or(0.0) - self.own;
        (own, self.postmaster.map(|pid| usage::server_cpu_s(pid) - self.server))
    }
}
