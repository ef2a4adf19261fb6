//! What all requests share.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use backhaul_engine::Store;
use backhaul_outbound::{Profile, Profiles, clock::Clock};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use crate::{
    backlog::Backlog, event::Problem, json::Json, metrics::Metrics, readers::Readers, registration::Registrations,
    routes::Routes,
};

/// Judges a payload before it becomes a job of its kind: the tenant's profile, the payload, and everything that is
/// wrong with it. What the job can only find out later is no problem here.
pub type Check = Box<dyn Fn(&Profile, &serde_json::Value) -> Vec<Problem> + Send + Sync>;

/// The checks of kinds, by kind. The receiver itself knows no kind.
#[derive(Default)]
pub struct Checks {
    by_kind: HashMap<String, Check>,
}

impl Checks {
    /// No checks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the check of a kind.
    #[must_use]
    pub fn with(
        mut self,
        kind: &str,
        check: impl Fn(&Profile, &serde_json::Value) -> Vec<Problem> + Send + Sync + 'static,
    ) -> Self {
        self.by_kind.insert(kind.to_owned(), Box::new(check));
        self
    }

    /// What is wrong with a payload, by the account of its kind.
    pub(crate) fn check(&self, profile: &Profile, kind: &str, payload: &Json) -> Vec<Problem> {
        let Some(check) = self.by_kind.get(kind) else { return Vec::new() };
        // A check reads names, ids and times; numbers beyond 2^53 may lose digits here and keep them in the job.
        match serde_json::from_str(&payload.to_string()) {
            Ok(payload) => check(profile, &payload),
            Err(_) => vec![Problem::new("", "holds a number that is out of range")],
        }
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_kind.keys()).finish()
    }
}

/// The bounds of the receiver.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of one listener.
    pub connections_max: usize,
    /// Deliveries under way whose senders are known, each with at most one body; of others twice as many bodies are read.
    pub in_flight_max: usize,
    /// Jobs of one tenant that wait for workers, from which on its senders are sent away.
    pub backlog_max: u64,
    /// Longest time for the head of a request.
    pub head_timeout: Duration,
    /// Longest time for a body.
    pub body_timeout: Duration,
    /// Longest wait for the database.
    pub store_timeout: Duration,
    /// When senders that were sent away should come back.
    pub retry_after: Duration,
    /// Time between two looks for keys and events that have expired.
    pub sweep: Duration,
    /// How long requests may go on after a stop was asked for.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            in_flight_max: 256,
            backlog_max: 100_000,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            store_timeout: Duration::from_secs(5),
            retry_after: Duration::from_secs(5),
            sweep: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// What all requests share.
pub(crate) struct App {
    /// The database.
    pub(crate) store: Store,
    /// What becomes of events.
    pub(crate) routes: Routes,
    /// Whose webhooks are taken.
    pub(crate) profiles: Profiles,
    /// What kinds say about payloads.
    pub(crate) checks: Checks,
    /// Bounds.
    pub(crate) limits: Limits,
    /// Who may use the admin listener; nobody where there is none.
    pub(crate) admin_token: Option<SecretString>,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// How far behind the workers are.
    pub(crate) backlog: Backlog,
    /// How registrations stand.
    pub(crate) registrations: Registrations,
    /// Bodies of senders who are not known yet.
    pub(crate) readers: Readers,
    /// Free places for deliveries of known senders.
    pub(crate) places: Semaphore,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
}
