//! The job kinds this program was built with, with what they share.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use backhaul_engine::{KindSpec, Registry, Store, StoreError};
use backhaul_outbound::{Client, Profiles, client};
use backhaul_workers::{Env, Storage};

use super::{
    exit::{self, Coded},
    session::Session,
};

/// The kinds that a worker runs, and the connection profiles behind them.
pub(crate) struct Kinds {
    env: Arc<Env>,
    wanted: Vec<String>,
}

/// What each kind demands of its jobs.
pub(crate) fn specs() -> Vec<KindSpec> {
    backhaul_workers::kinds()
}

impl Kinds {
    /// Loads the connection profiles and builds what attempts share. `wanted` names the kinds; empty means all.
    /// Everything that is wrong with the profiles is reported at once.
    pub(crate) fn load(session: &Session, wanted: &[String]) -> Result<Self> {
        check_names(wanted)?;
        let dir = &session.settings.profiles.dir;
        let wrong = |problems: String| {
            anyhow!(Coded::new(exit::USAGE, format!("the connection profiles in {}: {problems}", dir.display())))
        };
        let profiles = Profiles::load_dir(dir).map_err(|problems| wrong(problems.to_string()))?;
        if profiles.tenants().next().is_none() {
            tracing::warn!(dir = %dir.display(), "there is no connection profile: every job will be refused");
        }
        let storage = Storage {
            encrypted: session.settings.storage.encrypted,
            retention_days: u32::try_from(session.settings.worker.retention.as_secs() / 86_400).ok(),
        };
        let client = Client::new(client::Settings::default()).context("the HTTP client cannot be built")?;
        let env = Env::new(client, profiles, storage).map_err(|problems| wrong(problems.join("; ")))?;
        Ok(Self { env: Arc::new(env), wanted: wanted.to_vec() })
    }

    /// The registry of one life of the worker.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::new();
        backhaul_workers::register(&mut registry, Arc::clone(&self.env));
        if !self.wanted.is_empty() {
            registry.retain(|kind| self.wanted.iter().any(|wanted| wanted == kind));
        }
        registry
    }

    /// Tells the database the limits of every tenant's upstreams, which the whole fleet shares.
    pub(crate) async fn set_limits(&self, store: &Store) -> Result<(), StoreError> {
        for profile in self.env.profiles.iter() {
            for provider in profile.providers() {
                let wide = provider.wide_limits();
                for limit in &provider.limits {
                    let bucket = provider.bucket(&limit.name);
                    backhaul_engine::set_limit(store, &profile.tenant, &bucket, limit.per_minute, &[]).await?;
                }
                for (class, per_minute) in &provider.buckets {
                    // Tokens are asked for at another endpoint, whose limit each process keeps for itself.
                    let within: &[String] = if class == "token" { &[] } else { &wide };
                    let bucket = provider.bucket(class);
                    backhaul_engine::set_limit(store, &profile.tenant, &bucket, *per_minute, within).await?;
                }
            }
        }
        Ok(())
    }
}

fn check_names(wanted: &[String]) -> Result<()> {
    let specs = specs();
    let known: Vec<&str> = specs.iter().map(|spec| spec.kind).collect();
    match wanted.iter().find(|kind| !known.contains(&kind.as_str())) {
        None => Ok(()),
        Some(stranger) => {
            let text = format!("there is no kind {stranger:?}; this program has {}", known.join(", "));
            Err(anyhow!(Coded::new(exit::USAGE, text)))
        }
    }
}
