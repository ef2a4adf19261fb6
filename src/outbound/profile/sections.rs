//! The sections `[callback]`, `[probe]` and `[webhook]`: what they say and how they are read.

use std::time::Duration;

use reqwest::header::HeaderName;
use url::Url;

use super::document::Section;
use crate::{address::AllowHost, redact::Secret, sign, tls::ExtraRoots};

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
    /// Live tokens of senders that cannot sign, for the sources that say so, the current one first, at most two.
    pub bearer_secrets: Vec<Secret>,
    /// How deliveries are signed.
    pub signature: SignatureRules,
    /// Header that identifies a delivery, by default `webhook-id`.
    pub delivery_id_header: HeaderName,
    /// Largest body in bytes, default 256 KiB.
    pub body_bytes_max: usize,
    /// Answer a body of the wrong shape with 200 and park it, for senders that retry for ever.
    pub park_invalid: bool,
    /// The webhooks whose events the secrets vouch for. Empty: any webhook of the tenant.
    pub webhook_ids: Vec<String>,
}

/// How an incoming delivery is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureRules {
    /// What a delivery proves itself with.
    pub scheme: SignatureScheme,
    /// Header of the signature.
    pub header: HeaderName,
    /// Header of the time stamp, seconds since 1970 or RFC 3339.
    pub timestamp_header: HeaderName,
    /// How the signature is written.
    pub encoding: SignatureEncoding,
    /// What stands before the signature, for example `sha256=` or `v1,`.
    pub prefix: String,
    /// What is signed: a text with `{timestamp}` and `{body}`, and where the sender has them `{id}`, `{method}` and
    /// `{url}`.
    pub template: String,
    /// Largest distance between the time stamp and now. Default 300 s.
    pub tolerance: Duration,
}

/// What a delivery proves itself with. The first two differ in what the other settings are by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignatureScheme {
    /// HMAC-SHA-256 in hex over `timestamp.body`.
    #[default]
    Timestamp,
    /// Standard Webhooks: `v1,` and base64 over `id.timestamp.body`.
    Standard,
    /// The secret itself as a bearer token, for senders that cannot sign. Nothing shows that a delivery is old.
    Bearer,
}

words!(SignatureScheme { Timestamp = "timestamp", Standard = "standard", Bearer = "bearer" });

/// How the bytes of a signature are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureEncoding {
    /// Hexadecimal, either case.
    Hex,
    /// Base64 with padding.
    Base64,
}

words!(SignatureEncoding { Hex = "hex", Base64 = "base64" });

pub(super) fn callback(section: Option<Section<'_>>) -> CallbackProfile {
    let Some(mut section) = section else { return CallbackProfile::default() };
    let allow_hosts = section.allow_hosts();
    let secrets = secrets(&mut section, "secret", "previous_secret");
    for secret in &secrets {
        if let Err(what) = sign::key(secret) {
            section.error("secret", what);
        }
    }
    // A secret that is set but unreadable was reported by its own key.
    if !allow_hosts.is_empty() && !["secret", "secret_env", "secret_file"].iter().any(|key| section.has(key)) {
        section.error("secret_env", "is not set; callbacks are always signed, name an environment variable or a file");
    }
    let extra_roots = section.ca_file();
    section.finish();
    CallbackProfile { allow_hosts, secrets, extra_roots }
}

/// The current secret, and the previous one during a rotation.
fn secrets(section: &mut Section<'_>, current: &str, previous: &str) -> Vec<Secret> {
    let current_env = format!("{current}_env");
    let current = section.secret(current);
    let previous = section.secret(previous);
    if previous.is_some() && current.is_none() {
        section.missing(&current_env, "is not set, although a previous secret is");
    }
    current.into_iter().chain(previous).collect()
}

impl Default for ProbeProfile {
    fn default() -> Self {
        Self {
            allow_hosts: Vec::new(),
            extra_roots: ExtraRoots::default(),
            timeout: Duration::from_secs(5),
            path: "webchat".to_owned(),
            url_template: None,
            user_agent: "Genesys-Channel-Configurator/1.0".to_owned(),
            origin: None,
            // A name that RFC 2606 keeps from ever being anybody's site.
            foreign_origin: "https://foreign-origin.invalid".to_owned(),
            check_foreign_origin: true,
            first_message: None,
            rollback: false,
        }
    }
}

pub(super) fn probe(section: Option<Section<'_>>) -> ProbeProfile {
    let mut probe = ProbeProfile::default();
    let Some(mut section) = section else { return probe };
    probe.allow_hosts = section.allow_hosts();
    probe.extra_roots = section.ca_file();
    if let Some(timeout_ms) = section.number("timeout_ms", 100..=30_000) {
        probe.timeout = Duration::from_millis(timeout_ms);
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    probe.path = owned(section.text("path")).unwrap_or(probe.path);
    probe.url_template = owned(section.text("url_template"));
    if probe.url_template.as_ref().is_some_and(|template| !template.starts_with("wss://")) {
        section.error("url_template", "must begin with wss://");
    }
    for (key, target) in [("user_agent", &mut probe.user_agent), ("foreign_origin", &mut probe.foreign_origin)] {
        if let Some(text) = section.text(key) {
            if reqwest::header::HeaderValue::from_str(text).is_err() {
                section.error(key, "cannot stand in a header");
            }
            text.clone_into(target);
        }
    }
    probe.origin = owned(section.text("origin"));
    probe.check_foreign_origin = section.flag("check_foreign_origin", true);
    probe.first_message = owned(section.text("first_message"));
    probe.rollback = section.flag("rollback", false);
    section.finish();
    probe
}

impl SignatureRules {
    /// The rules of a scheme where the profile says no more.
    pub fn of(scheme: SignatureScheme) -> Self {
        let standard = scheme == SignatureScheme::Standard;
        let header = |own, others| HeaderName::from_static(if standard { own } else { others });
        Self {
            scheme,
            header: header("webhook-signature", "x-cxone-signature"),
            timestamp_header: header("webhook-timestamp", "x-cxone-timestamp"),
            encoding: if standard { SignatureEncoding::Base64 } else { SignatureEncoding::Hex },
            prefix: if standard { "v1," } else { "" }.to_owned(),
            template: if standard { "{id}.{timestamp}.{body}" } else { "{timestamp}.{body}" }.to_owned(),
            tolerance: Duration::from_secs(300),
        }
    }
}

impl Default for SignatureRules {
    fn default() -> Self {
        Self::of(SignatureScheme::Timestamp)
    }
}

impl Default for WebhookProfile {
    fn default() -> Self {
        Self {
            allow_hosts: Vec::new(),
            public_url: None,
            secrets: Vec::new(),
            bearer_secrets: Vec::new(),
            signature: SignatureRules::default(),
            delivery_id_header: HeaderName::from_static("webhook-id"),
            body_bytes_max: 256 * 1024,
            park_invalid: false,
            webhook_ids: Vec::new(),
        }
    }
}

pub(super) fn webhook(section: Option<Section<'_>>) -> WebhookProfile {
    let mut webhook = WebhookProfile::default();
    let Some(mut section) = section else { return webhook };
    let insecure = section.flag("insecure", false);
    webhook.allow_hosts = section.allow_hosts();
    webhook.public_url = section.url("public_url", insecure);
    webhook.secrets = secrets(&mut section, "secret", "previous_secret");
    webhook.bearer_secrets = secrets(&mut section, "bearer", "previous_bearer");
    if webhook.bearer_secrets.iter().any(|token| webhook.secrets.iter().any(|key| key.expose() == token.expose())) {
        section.error("bearer_env", "is a secret that also signs; who sends it along gives it away, so use another");
    }
    webhook.delivery_id_header = section.header("delivery_id_header", "webhook-id");
    if let Some(bytes) = section.number("body_bytes_max", 1_024..=16 * 1024 * 1024) {
        webhook.body_bytes_max = usize::try_from(bytes).unwrap_or(webhook.body_bytes_max);
    }
    webhook.park_invalid = section.flag("park_invalid", false);
    for value in section.list("webhook_ids").unwrap_or_default() {
        match value.as_str() {
            Some(id) if !id.is_empty() => webhook.webhook_ids.push(id.to_owned()),
            _ => section.error("webhook_ids", "must be a list of non-empty texts"),
        }
    }
    if let Some(table) = section.table("signature") {
        webhook.signature = signature(table);
    }
    section.finish();
    webhook
}

fn signature(mut section: Section<'_>) -> SignatureRules {
    let mut rules = SignatureRules::of(section.word("scheme", SignatureScheme::WORDS).unwrap_or_default());
    if section.has("header") {
        rules.header = section.header("header", "x-cxone-signature");
    }
    if section.has("timestamp_header") {
        rules.timestamp_header = section.header("timestamp_header", "x-cxone-timestamp");
    }
    rules.encoding = section.word("encoding", SignatureEncoding::WORDS).unwrap_or(rules.encoding);
    if section.has("prefix") {
        // An empty prefix is a prefix: `text` would refuse it.
        rules.prefix = section.any_text("prefix").unwrap_or_default().to_owned();
    }
    if let Some(template) = section.text("template") {
        if !template.contains("{body}") || !template.contains("{timestamp}") {
            section.error("template", "must hold {timestamp} and {body}, or old deliveries could be sent again");
        }
        template.clone_into(&mut rules.template);
    }
    if let Some(seconds) = section.number("tolerance_s", 1..=3_600) {
        rules.tolerance = Duration::from_secs(seconds);
    }
    section.finish();
    rules
}
