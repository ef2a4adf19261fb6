//! Connection profiles: where a tenant's upstreams are, how to sign in, and the switches of their behaviour.
//!
//! One TOML file a tenant; `config/profiles/README.md` explains every key. Loading reports the errors of all files at
//! once. Secrets come from environment variables or files and never appear in a profile or in `Debug` output.

mod defaults;
mod document;
mod load;
mod provider;
mod sections;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use url::Url;

pub use self::load::{Loader, ProfileError, ProfileErrors};
use crate::{address::AllowHost, classify::RetryRules, redact::Secret, tls::ExtraRoots};

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
    /// The file's stem: `[a-z0-9][a-z0-9_-]{0,62}`.
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
    /// Sections `[kinds.*]`: the knobs of job kinds, read with [`Profile::knobs`].
    pub kinds: BTreeMap<String, toml::Table>,
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
    /// Scheme, host, port and path prefix that endpoint templates are appended to.
    pub base_url: Url,
    /// Plain http is allowed; only ever true for loopback hosts.
    pub insecure: bool,
    /// How calls are authenticated.
    pub oauth: Auth,
    /// Path templates by endpoint name, for example `profile` = `/api/v2/profiles/{profileId}`.
    pub endpoints: BTreeMap<String, String>,
    /// Requests per minute by bucket class; a class without an entry has no limit.
    pub buckets: BTreeMap<String, u32>,
    /// How statuses are classified.
    pub retry: RetryRules,
    /// Optimistic concurrency.
    pub occ: Occ,
    /// Idempotency keys on writes.
    pub idem: Idempotency,
    /// Authorities trusted beside the platform's, from `ca_file`.
    pub extra_roots: ExtraRoots,
}

impl Provider {
    /// The name of a bucket as the engine knows it: `provider/class`.
    pub fn bucket(&self, class: &str) -> String {
        format!("{}/{class}", self.name)
    }
}

/// How calls to a provider are authenticated.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A token endpoint.
    OAuth(Box<OAuth>),
    /// A fixed bearer token.
    Bearer(Secret),
}

/// A client of a token endpoint.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// Where tokens come from.
    pub token_url: TokenUrl,
    /// How the client proves itself there.
    pub auth: ClientAuth,
    /// Client id, or access key id.
    pub client_id: String,
    /// Client secret, or access key secret.
    pub client_secret: Secret,
    /// The grant asked for.
    pub grant: Grant,
    /// Scopes this client needs, sorted and without duplicates. A reply that lists scopes must list these.
    pub scopes: Vec<String>,
    /// Whether `scope` is sent with the token request.
    pub send_scope: bool,
    /// How long before its end a token is renewed; never more than half its life.
    pub margin: Duration,
    /// Form-encode id and secret before base64 in the Basic header, as RFC 6749 2.3.1 asks.
    pub encode_basic: bool,
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenUrl {
    /// The endpoint itself.
    Fixed(Url),
    /// An OpenID configuration whose `token_endpoint` is the endpoint.
    Discovery(Url),
}

impl TokenUrl {
    /// The URL that stands in the profile.
    pub fn url(&self) -> &Url {
        match self {
            Self::Fixed(url) | Self::Discovery(url) => url,
        }
    }
}

/// How a client proves itself to the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// `Authorization: Basic`.
    Basic,
    /// `client_id` and `client_secret` in the form.
    Body,
    /// A JSON body of `accessKeyId` and `accessKeySecret`.
    JsonKey,
}

/// The OAuth grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// `client_credentials`.
    ClientCredentials,
    /// `password`, which CXone access keys use.
    Password {
        /// User name, or access key id.
        username: String,
        /// Password, or access key secret.
        password: Secret,
    },
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

/// Where callbacks may go and how they are signed.
#[derive(Debug, Clone, Default)]
pub struct CallbackProfile {
    /// Hosts that payloads may name. Empty allows none.
    pub allow_hosts: Vec<AllowHost>,
    /// Signing secrets, the current one first; the second serves a rotation. Empty only while `allow_hosts` is.
    pub secrets: Vec<Secret>,
    /// Authorities trusted beside the platform's.
    pub extra_roots: ExtraRoots,
}

/// The channel probe.
#[derive(Debug, Clone)]
pub struct ProbeProfile {
    /// Hosts that payloads may name. Empty allows none.
    pub allow_hosts: Vec<AllowHost>,
    /// Authorities trusted beside the platform's.
    pub extra_roots: ExtraRoots,
    /// Covers name resolution, TCP, TLS and the upgrade. Default 5 s, at most 30 s.
    pub timeout: Duration,
    /// Path appended to the channel's webchat URL, default `webchat`.
    pub path: String,
    /// A whole URL instead of host and path; `{host}` is replaced by the webchat URL's host.
    pub url_template: Option<String>,
    /// `User-Agent` of the probe.
    pub user_agent: String,
    /// `Origin` that must be accepted, where the payload names none.
    pub origin: Option<String>,
    /// `Origin` that must be refused, where the payload names none.
    pub foreign_origin: String,
    /// Whether the second probe with the foreign origin is made.
    pub check_foreign_origin: bool,
    /// A text that is sent after the upgrade and must be answered before the timeout.
    pub first_message: Option<String>,
    /// Put the old channel back when the probe fails.
    pub rollback: bool,
}

/// The tenant's incoming webhooks, and what we tell upstreams about them.
#[derive(Debug, Clone)]
pub struct WebhookProfile {
    /// Hosts that a payload may name as the target of a webhook registration.
    pub allow_hosts: Vec<AllowHost>,
    /// The address under which upstreams reach the ingress, for registrations.
    pub public_url: Option<Url>,
    /// Live secrets, the current one first, at most two. Empty: every delivery is refused.
    pub secrets: Vec<Secret>,
    /// How deliveries are signed.
    pub signature: SignatureRules,
    /// Header that identifies a delivery, by default `webhook-id`.
    pub delivery_id_header: reqwest::header::HeaderName,
    /// Largest body in bytes, default 256 KiB.
    pub body_bytes_max: usize,
    /// Answer a body of the wrong shape with 200 and park it, for senders that retry for ever.
    pub park_invalid: bool,
}

/// How an incoming delivery is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureRules {
    /// Header of the signature.
    pub header: reqwest::header::HeaderName,
    /// Header of the time stamp, seconds since 1970 or RFC 3339.
    pub timestamp_header: reqwest::header::HeaderName,
    /// How the signature is written.
    pub encoding: SignatureEncoding,
    /// What stands before the signature, for example `sha256=` or `v1,`.
    pub prefix: String,
    /// What is signed: a text with `{id}`, `{timestamp}` and `{body}`.
    pub template: String,
    /// Largest distance between the time stamp and now. Default 300 s.
    pub tolerance: Duration,
}

/// How the bytes of a signature are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureEncoding {
    /// Hexadecimal, either case.
    Hex,
    /// Base64 with padding.
    Base64,
}

macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The words of the profile and what they mean.
            pub(crate) const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(ClientAuth { Basic = "basic", Body = "body", JsonKey = "json_key" });
words!(OccMode {
    Etag = "etag",
    BodyVersion = "body_version",
    IfMatchVersion = "if_match_version",
    IfUnmodifiedSince = "if_unmodified_since",
    UpdatedStamp = "updated_stamp",
    None = "none",
});
words!(IdemOn { Always = "always", Create = "create", Never = "never" });
words!(SignatureEncoding { Hex = "hex", Base64 = "base64" });
