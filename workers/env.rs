//! What every attempt of every kind shares.

use std::{collections::BTreeMap, sync::Arc};

use backhaul_engine::Failure;
use backhaul_outbound::{Client, Profile, Profiles};

use crate::{enrichment, widget_patch};

/// The clients, the connection profiles, and what the profiles say about kinds, read once. One value serves the whole
/// process; it holds no state of a job.
#[derive(Clone)]
pub struct Env {
    /// The one HTTP client: deadlines, body caps, tokens, the address guard.
    pub client: Client,
    /// The connection profiles of all tenants.
    pub profiles: Profiles,
    /// How this installation keeps payloads, as audit events state it.
    pub storage: Storage,
    widget_rules: Arc<BTreeMap<String, widget_patch::settings::Rules>>,
    enrichment: Arc<BTreeMap<String, enrichment::settings::Settings>>,
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
    /// Reads what the profiles say about kinds. Secrets come from the process environment or from files.
    ///
    /// # Errors
    /// Everything that is wrong in the `[kinds.*]` tables of all profiles, one line each.
    pub fn new(client: Client, profiles: Profiles, storage: Storage) -> Result<Self, Vec<String>> {
        Self::with_variables(client, profiles, storage, &|name| std::env::var(name).ok())
    }

    /// As [`Env::new`], with environment variables looked up in `variables`.
    ///
    /// # Errors
    /// As [`Env::new`].
    pub fn with_variables(
        client: Client,
        profiles: Profiles,
        storage: Storage,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<String>> {
        let (mut problems, mut widget_rules, mut enrichment) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for profile in profiles.iter() {
            match widget_patch::settings::Rules::of(profile) {
                Ok(rules) => {
                    widget_rules.insert(profile.tenant.clone(), rules);
                }
                Err(found) => problems.extend(found),
            }
            match enrichment::settings::Settings::of(profile, variables) {
                Ok(Some(settings)) => {
                    enrichment.insert(profile.tenant.clone(), settings);
                }
                Ok(None) => {}
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { client, profiles, storage, widget_rules: Arc::new(widget_rules), enrichment: Arc::new(enrichment) })
    }

    /// The connection profile of `tenant`, or a permanent failure `profile_missing`.
    pub fn profile(&self, tenant: &str) -> Result<&Arc<Profile>, Failure> {
        self.profiles.get(tenant).ok_or_else(|| missing(tenant))
    }

    /// The tenant's rules for widgets; the defaults where its profile says nothing about them.
    pub fn widget_rules(&self, tenant: &str) -> Result<&widget_patch::settings::Rules, Failure> {
        self.widget_rules.get(tenant).ok_or_else(|| missing(tenant))
    }

    /// The tenant's settings for enrichment, or a permanent failure `enrichment_unconfigured`: without a legal basis
    /// and a key for hashes nothing is enriched.
    pub fn enrichment_settings(&self, tenant: &str) -> Result<&enrichment::settings::Settings, Failure> {
        self.profile(tenant)?;
        self.enrichment.get(tenant).ok_or_else(|| {
            let message = format!(
                "the profile of tenant {tenant:?} has no table [kinds.enrichment] with legal_basis and a hash key"
            );
            Failure::permanent("enrichment_unconfigured", message)
        })
    }
}

fn missing(tenant: &str) -> Failure {
    let message = format!("no connection profile for tenant {tenant:?}; add its TOML file and restart the workers");
    Failure::permanent("profile_missing", message)
}
