//! What every request handler shares, and the views the control plane and the Rust API give of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use serde::Serialize;

use crate::{
    clock::Clock,
    effects::EffectTotals,
    faults::Faults,
    limits::Limits,
    locked::locked,
    oauth::Tokens,
    options::SimOptions,
    record::{Record, RecordTotals},
    server::TlsEndpoint,
    settings::Settings,
    world::World,
};

/// Where the simulator listens.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: Vec<TlsEndpoint>,
    /// Accepts connections and never says a word.
    pub(crate) mute: Option<SocketAddr>,
    pub(crate) ca_pem: String,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: SimOptions,
    settings: RwLock<Arc<Settings>>,
    pub(crate) clock: Clock,
    pub(crate) world: Mutex<World>,
    pub(crate) tokens: Tokens,
    pub(crate) limits: Limits,
    pub(crate) faults: Faults,
    pub(crate) record: Record,
    pub(crate) addresses: OnceLock<Addresses>,
}

/// Counts since start or reset.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Requests by tenant, class and status, replays, and faults by rule.
    #[serde(flatten)]
    pub record: RecordTotals,
    /// The ledger's totals.
    pub effects: EffectTotals,
    /// The most requests any 60 s held, by tenant and class.
    pub peak_per_minute: BTreeMap<String, BTreeMap<&'static str, usize>>,
    /// Tokens issued.
    pub tokens_issued: u64,
    /// Token requests refused for their client or secret.
    pub tokens_refused: u64,
    /// Requests whose idempotency key had come with another body.
    pub idempotency_conflicts: u64,
    /// Idempotency keys forgotten for want of room.
    pub idempotency_forgotten: u64,
    /// Callbacks received.
    pub callbacks: u64,
    /// Documents held.
    pub documents: usize,
    /// Documents forgotten for want of room.
    pub documents_forgotten: u64,
}

impl App {
    pub(crate) fn new(options: SimOptions) -> Self {
        Self {
            settings: RwLock::new(Arc::new(options.settings.clone())),
            clock: Clock::new(),
            world: Mutex::new(World::new(&options)),
            tokens: Tokens::new(options.client_secret.clone(), options.tokens_max),
            limits: Limits::default(),
            faults: Faults::default(),
            record: Record::new(options.records_max, options.record_bodies_bytes_max),
            addresses: OnceLock::new(),
            options,
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    pub(crate) fn summary(&self) -> Summary {
        let record = self.record.totals();
        let (tokens_issued, tokens_refused) = self.tokens.counts();
        let peak_per_minute = self.limits.peaks();
        let world = locked(&self.world);
        Summary {
            record,
            effects: world.effects.totals(),
            peak_per_minute,
            tokens_issued,
            tokens_refused,
            idempotency_conflicts: world.key_conflicts,
            idempotency_forgotten: world.idempotency.evicted(),
            callbacks: world.callbacks.received(),
            documents: world.documents.len(),
            documents_forgotten: world.documents.evicted(),
        }
    }

    /// Forgets what was received and done, and every fault rule. Settings stay; tokens and clients stay unless asked.
    pub(crate) fn reset(&self, tokens_too: bool) {
        self.record.reset();
        locked(&self.world).reset();
        self.limits.reset();
        self.faults.remove(None);
        if tokens_too {
            self.tokens.reset();
        }
    }
}
