//! What every attempt of every kind shares.

use std::{collections::BTreeMap, sync::Arc};

use backhaul_engine::Failure;
use backhaul_outbound::{Client, Profile, Profiles};

use crate::{
    crm_sync::settings::CrmSyncSettings, deliver::settings::DeliverSettings, enrichment,
    handshake::settings::HandshakeSettings, widget_patch,
};

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
        let Sections { widget_rules, enrichment } = Sections::read(&profiles, variables)?;
        Ok(Self { client, profiles, storage, widget_rules: Arc::new(widget_rules), enrichment: Arc::new(enrichment) })
    }

    /// The connection profile of `tenant`, or the passing failure `profile_missing`.
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

/// The `[kinds.*]` tables of all profiles, by tenant.
struct Sections {
    widget_rules: BTreeMap<String, widget_patch::settings::Rules>,
    enrichment: BTreeMap<String, enrichment::settings::Settings>,
}

impl Sections {
    fn read(profiles: &Profiles, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut sections = Self { widget_rules: BTreeMap::new(), enrichment: BTreeMap::new() };
        let mut problems = Vec::new();
        for profile in profiles.iter() {
            let tenant = &profile.tenant;
            let known = crate::kinds();
            for section in profile.kinds.keys().filter(|section| known.iter().all(|spec| spec.kind != *section)) {
                let names: Vec<&str> = known.iter().map(|spec| spec.kind).collect();
                problems
                    .push(format!("{tenant}: kinds.{section}: there is no such kind; known are {}", names.join(", ")));
            }
            match widget_patch::settings::Rules::of(profile) {
                Ok(rules) => drop(sections.widget_rules.insert(tenant.clone(), rules)),
                Err(found) => problems.extend(found),
            }
            match enrichment::settings::Settings::of(profile, variables) {
                Ok(Some(settings)) => drop(sections.enrichment.insert(tenant.clone(), settings)),
                Ok(None) => {}
                Err(found) => problems.extend(found),
            }
            problems.extend(CrmSyncSettings::of(profile).err().into_iter().flatten());
            problems.extend(DeliverSettings::of(profile).err().into_iter().flatten());
            problems.extend(HandshakeSettings::of(profile).err().into_iter().flatten());
        }
        if problems.is_empty() { Ok(sections) } else { Err(problems) }
    }
}

/// Everything that is wrong in the `[kinds.*]` tables of `profiles`, one line each, for a check without a start.
/// `variables` answers environment variables.
pub fn validate_profiles(profiles: &Profiles, variables: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    Sections::read(profiles, variables).err().unwrap_or_default()
}

/// Passing, because another worker of the fleet may have been started with it already.
fn missing(tenant: &str) -> Failure {
    let message = format!("no connection profile for tenant {tenant:?}; add its TOML file and restart the workers");
    Failure::transient("profile_missing", message)
}

#[cfg(test)]
mod tests {
    use backhaul_outbound::profile::Loader;

    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        let files = [("acme.toml".to_owned(), toml.to_owned()), ("globex.toml".to_owned(), String::new())];
        let profiles = Loader::new().from_toml(files).expect("profiles");
        validate_profiles(&profiles, &|_| Some("test-secret-test-secret".to_owned()))
    }

    /// Covers row 122: a tenant without a legal basis stops the start, one without the table is only refused jobs.
    #[test]
    fn mistakes_of_all_kinds_are_listed_with_their_tenant() {
        assert_eq!(problems(""), Vec::<String>::new());
        let found = problems("[kinds.enrichment]\nhash_key_env = \"K\"\n[kinds.widget-patch]\nactions = [\"<b>\"]\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("acme: kinds.widget-patch.actions"), "{found:?}");
        assert!(found[1].starts_with("acme: kinds.enrichment.legal_basis"), "{found:?}");
        assert_eq!(problems("[kinds.enrichmnt]\n").len(), 1);
        assert_eq!(problems("[kinds.enrichment]\nlegal_base = \"x\"\n").len(), 1);
    }
}
