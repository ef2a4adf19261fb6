//! Connection profiles: where a tenant's upstreams are, how to sign in, and the switches of their behaviour.
//!
//! One TOML file a tenant; `config/profiles/README.md` explains every key. Loading reports the errors of all files at
//! once. Secrets come from environment variables or files and never appear in a profile or in `Debug` output.

/// Gives an enumeration its words in profiles.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The words of the profile and what they mean.
            pub(crate) const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

mod auth;
mod base;
mod defaults;
mod document;
mod limits;
mod load;
mod provider;
mod record;
mod sections;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::de::DeserializeOwned;

pub use self::{
    auth::{Auth, ClientAuth, Grant, OAuth, TokenUrl},
    base::{BaseUrl, Discovery},
    limits::Limit,
    load::{KindSection, Loader, ProfileError, ProfileErrors},
    record::{MEMBERS, Product, RecordForm, THREAD_ID},
    sections::{CallbackProfile, ProbeProfile, SignatureEncoding, SignatureRules, SignatureScheme, WebhookProfile},
};
use crate::{classify::RetryRules, tls::ExtraRoots};

/// The profiles of all tenants. Immutable; a clone shares them.
#[derive(Debug, Clone, Default)]
pub struct Profiles {
    tenants: Arc<BTreeMap<String, Arc<Profile>>>,
}

impl Profiles {
    /// Loads every `*.toml` of `dir`, one tenant each. For environment stand-ins and the sections of kinds,
    /// see [`Loader`].
    ///
    /// # Errors
    /// Every error of every file at once, each with its file and key.
    pub fn load_dir(dir: &Path) -> Result<Self, ProfileErrors> {
        Loader::new().load_dir(dir)
    }

    /// Loads profiles from pairs of file name and text. The tenant is the name without `.toml`.
    ///
    /// # Errors
    /// As [`Profiles::load_dir`].
    pub fn from_toml(files: impl IntoIterator<Item = (String, String)>) -> Result<Self, ProfileErrors> {
        Loader::new().from_toml(files)
    }

    /// The profile of a tenant.
    pub fn get(&self, tenant: &str) -> Option<&Arc<Profile>> {
        self.tenants.get(tenant)
    }

    /// All tenants, sorted.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }

    /// All profiles, sorted by tenant.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.tenants.values()
    }
}

/// One tenant's connections.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The file's stem: `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, as jobs name their tenants.
    pub tenant: String,
    /// Section `[cxone]`.
    pub cxone: Option<Provider>,
    /// Section `[genesys]`.
    pub genesys: Option<Provider>,
    /// Section `[crm]`.
    pub crm: Option<Provider>,
    /// Section `[callback]`; without it no callback is allowed.
    pub callback: CallbackProfile,
    /// Section `[probe]`; without it no probe is allowed.
    pub probe: ProbeProfile,
    /// Section `[webhook]`.
    pub webhook: WebhookProfile,
    /// Sections `[kinds.*]` as they were written: the knobs of job kinds.
    pub kinds: BTreeMap<String, toml::Table>,
    /// Where its relative paths start; `None` where it is no file.
    dir: Option<PathBuf>,
    /// What the loader's readers made of them.
    settings: BTreeMap<String, Arc<dyn Any + Send + Sync>>,
}

impl Profile {
    /// The provider of that section name: `cxone`, `genesys` or `crm`.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        match name {
            "cxone" => self.cxone.as_ref(),
            "genesys" => self.genesys.as_ref(),
            "crm" => self.crm.as_ref(),
            _ => None,
        }
    }

    /// All configured providers.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        [&self.cxone, &self.genesys, &self.crm].into_iter().flatten()
    }

    /// A file that the profile names: a relative path starts in the profile's folder.
    pub fn file(&self, path: &Path) -> PathBuf {
        self.dir.as_deref().unwrap_or(Path::new("")).join(path)
    }

    /// What the reader of `[kinds.<section>]` made of it; see [`Loader::section`]. `None` where the file has no such
    /// section, or the reader makes another type.
    pub fn settings<T: 'static>(&self, section: &str) -> Option<&T> {
        self.settings.get(section)?.downcast_ref()
    }

    /// The section `[kinds.<section>]`, or `T::default()` where the file has none. A [`Loader`] that knows the section
    /// has already read it once, so that this fails only for sections nobody registered.
    ///
    /// # Errors
    /// The section does not have the shape of `T`; the message names the key.
    pub fn knobs<T: DeserializeOwned + Default>(&self, section: &str) -> Result<T, ProfileError> {
        let Some(table) = self.kinds.get(section) else {
            return Ok(T::default());
        };
        load::read_section(&self.tenant, section, table)
    }
}

/// One upstream of a tenant.
#[derive(Debug, Clone)]
pub struct Provider {
    /// `cxone`, `genesys` or `crm`.
    pub name: &'static str,
    /// Where its API is.
    pub base_url: BaseUrl,
    /// Plain http is allowed; only ever true for loopback hosts.
    pub insecure: bool,
    /// How calls are authenticated.
    pub oauth: Auth,
    /// Path templates by endpoint name, for example `profile` = `/api/v2/profiles/{profileId}`.
    pub endpoints: BTreeMap<String, String>,
    /// Requests per minute by bucket class; a class without an entry has no limit.
    pub buckets: BTreeMap<String, u32>,
    /// Limits that several classes share, or that hold for some endpoints or methods only.
    pub limits: Vec<Limit>,
    /// How statuses are classified.
    pub retry: RetryRules,
    /// Optimistic concurrency.
    pub occ: Occ,
    /// Idempotency keys on writes.
    pub idem: Idempotency,
    /// How a CRM keeps threads as flat records; `None` where its threads have lists of their own, and elsewhere.
    pub record: Option<RecordForm>,
    /// Authorities trusted beside the platform's, from `ca_file`.
    pub extra_roots: ExtraRoots,
}

impl Provider {
    /// The name of a bucket as the engine knows it: `provider/class`.
    pub fn bucket(&self, class: &str) -> String {
        format!("{}/{class}", self.name)
    }
}

/// How concurrent changes are detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OccMode {
    /// `If-Match` carries the entity-tag that was read.
    Etag,
    /// The version that was read travels in the body.
    BodyVersion,
    /// `If-Match` carries the integer version, quoted as an entity-tag.
    IfMatchVersion,
    /// `If-Unmodified-Since` carries the `Last-Modified` that was read.
    IfUnmodifiedSince,
    /// The body carries the time stamp that was read.
    UpdatedStamp,
    /// The upstream offers nothing: read and compare.
    None,
}

/// Optimistic concurrency of a provider. The statuses that mean a conflict are in [`RetryRules::conflict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occ {
    /// How the precondition is carried.
    pub mode: OccMode,
}

/// Where an idempotency key is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Header name, by default `idempotency-key`.
    pub header: reqwest::header::HeaderName,
    /// On which writes.
    pub on: IdemOn,
}

/// Which writes carry an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdemOn {
    /// Every write.
    Always,
    /// Creations only.
    Create,
    /// None.
    Never,
}

words!(OccMode {
    Etag = "etag",
    BodyVersion = "body_version",
    IfMatchVersion = "if_match_version",
    IfUnmodifiedSince = "if_unmodified_since",
    UpdatedStamp = "updated_stamp",
    None = "none",
});
words!(IdemOn { Always = "always", Create = "create", Never = "never" });
