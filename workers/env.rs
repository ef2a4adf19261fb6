//! What every attempt of every kind shares.

use std::sync::Arc;

use backhaul_engine::Failure;
use backhaul_outbound::{Client, Profile, Profiles};

/// The clients and the connection profiles. One value serves the whole process; it holds no state of a job.
#[derive(Clone)]
pub struct Env {
    /// The one HTTP client: deadlines, body caps, tokens, the address guard.
    pub client: Client,
    /// The connection profiles of all tenants.
    pub profiles: Profiles,
    /// How this installation keeps payloads, as audit events state it.
    pub storage: Storage,
}

/// Facts of the installation that compliance statements are derived from; they are never constants of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Storage {
    /// Whether payloads are encrypted at rest.
    pub encrypted: bool,
    /// After how many days events and payloads are purged, where a purge is switched on.
    pub retention_days: Option<u32>,
}

impl Env {
    /// The connection profile of `tenant`, or a permanent failure `profile_missing`.
    pub fn profile(&self, tenant: &str) -> Result<&Arc<Profile>, Failure> {
        self.profiles.get(tenant).ok_or_else(|| {
            Failure::permanent(
                "profile_missing",
                format!("no connection profile for tenant {tenant:?}; add its TOML file and restart the workers"),
            )
        })
    }
}
