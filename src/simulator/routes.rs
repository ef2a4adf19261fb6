//! From a method-less path to the resource it names. Pure: no state, no I/O.

use serde_json::Value;

use crate::crm_record::{self, At};

/// Which system a request is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Provider {
    Cxone,
    Genesys,
    Crm,
}

impl Provider {
    fn parse(segment: &str) -> Option<Self> {
        match segment {
            "cxone" => Some(Self::Cxone),
            "genesys" => Some(Self::Genesys),
            "crm" => Some(Self::Crm),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cxone => "cxone",
            Self::Genesys => "genesys",
            Self::Crm => "crm",
        }
    }
}

/// The endpoint class: the unit of rate limits, counters and fault rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    CxoneToken,
    CxoneProfiles,
    CxoneWebchat,
    CxoneWebhooks,
    CxoneInteractions,
    GenesysToken,
    GenesysChannels,
    GenesysWebhooks,
    GenesysAudit,
    CrmToken,
    CrmThreads,
    Callback,
    Socket,
    Other,
}

impl Class {
    const ALL: [Self; 14] = [
        Self::CxoneToken,
        Self::CxoneProfiles,
        Self::CxoneWebchat,
        Self::CxoneWebhooks,
        Self::CxoneInteractions,
        Self::GenesysToken,
        Self::GenesysChannels,
        Self::GenesysWebhooks,
        Self::GenesysAudit,
        Self::CrmToken,
        Self::CrmThreads,
        Self::Callback,
        Self::Socket,
        Self::Other,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CxoneToken => "cxone/token",
            Self::CxoneProfiles => "cxone/profiles",
            Self::CxoneWebchat => "cxone/webchat",
            Self::CxoneWebhooks => "cxone/webhooks",
            Self::CxoneInteractions => "cxone/interactions",
            Self::GenesysToken => "genesys/token",
            Self::GenesysChannels => "genesys/channels",
            Self::GenesysWebhooks => "genesys/webhooks",
            Self::GenesysAudit => "genesys/audit",
            Self::CrmToken => "crm/token",
            Self::CrmThreads => "crm/threads",
            Self::Callback => "callback",
            Self::Socket => "socket",
            Self::Other => "other",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// Whether a rule that says `name` means this class: the whole name, or the part after the provider.
    pub(crate) fn is_named(self, name: &str) -> bool {
        let own = self.as_str();
        own == name || own.split_once('/').is_some_and(|(_, class)| class == name)
    }

    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::GenesysToken | Self::GenesysChannels | Self::GenesysWebhooks | Self::GenesysAudit => "genesys",
            Self::CrmToken | Self::CrmThreads => "crm",
            _ => "cxone",
        }
    }
}

/// The resource a path names. Ids are decoded and well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// CXone's document that names the API's host.
    CxoneConfiguration,
    /// The document that names the token endpoint.
    OpenIdConfiguration,
    Token,
    Widget(String),
    WidgetPurge(String),
    Profile(String),
    Webhooks,
    Webhook(String),
    Channels,
    Channel(String),
    ChannelPublish(String),
    ChannelPublished(String),
    AuditQuery,
    AuditTransaction(String),
    AuditResults(String),
    SocialThread(String),
    Threads,
    Thread(String),
    /// A record of a CRM that keeps flat records.
    Record(At),
    Callback,
    Socket,
    /// The path has the shape of a resource, but its id is not well formed.
    BadId,
    Unknown,
}

/// A path, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The system, where the path's first segment names one.
    pub(crate) mount: Option<Provider>,
    pub(crate) route: Route,
    pub(crate) class: Class,
    /// True for `/api/v2/interactions/webhooks`, whose webhooks are a list of their own.
    pub(crate) social_webhooks: bool,
}

/// Reads a raw (still percent-encoded) path.
pub(crate) fn parse(path: &str) -> Target {
    let mut segments: Vec<String> = path.split('/').skip(1).map(percent_decode).collect();
    let mount = segments.first().and_then(|segment| Provider::parse(segment));
    if mount.is_some() {
        segments.remove(0);
    }
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (route, class) = route(&parts, mount);
    let social_webhooks = matches!(parts.as_slice(), ["api", "v2", "interactions", "webhooks", ..]);
    Target { mount, route, class, social_webhooks }
}

fn route(parts: &[&str], mount: Option<Provider>) -> (Route, Class) {
    let genesys = mount == Some(Provider::Genesys);
    let webhooks = if genesys { Class::GenesysWebhooks } else { Class::CxoneWebhooks };
    match parts {
        [".well-known", "cxone-configuration"] => (Route::CxoneConfiguration, Class::Other),
        [".well-known", "openid-configuration"] => (Route::OpenIdConfiguration, Class::Other),
        ["callbacks", ..] => (Route::Callback, Class::Callback),
        [.., "webchat"] if !parts.starts_with(&["api"]) => (Route::Socket, Class::Socket),
        ["api", "v2", "oauth", "token"] | ["oauth", "token"] => (Route::Token, token_class(parts, mount)),
        ["api", "v2", "digitalmessaging", "webchat", "configurations", id] => {
            (with_id(id, Route::Widget), Class::CxoneWebchat)
        }
        ["api", "v2", "digitalmessaging", "webchat", "configurations", id, "cache", "purge"] => {
            (with_id(id, Route::WidgetPurge), Class::CxoneWebchat)
        }
        ["api", "v2", "profiles", id] => (with_id(id, Route::Profile), Class::CxoneProfiles),
        ["api", "v2", "webhooks"] => (Route::Webhooks, webhooks),
        ["api", "v2", "webhooks", id] => (with_id(id, Route::Webhook), webhooks),
        ["api", "v2", "interactions", "webhooks"] => (Route::Webhooks, Class::CxoneWebhooks),
        ["api", "v2", "interactions", "webhooks", id] => (with_id(id, Route::Webhook), Class::CxoneWebhooks),
        ["api", "v2", "interactions", "social", "threads", id] => {
            (with_id(id, Route::SocialThread), Class::CxoneInteractions)
        }
        ["api", "v2", "webchat", "channels"] => (Route::Channels, Class::GenesysChannels),
        ["api", "v2", "webchat", "channels", id] => (with_id(id, Route::Channel), Class::GenesysChannels),
        ["api", "v2", "webchat", "channels", id, "publish"] => {
            (with_id(id, Route::ChannelPublish), Class::GenesysChannels)
        }
        ["api", "v2", "webchat", "channels", id, "published"] => {
            (with_id(id, Route::ChannelPublished), Class::GenesysChannels)
        }
        ["api", "v2", "audits", "query"] | ["api", "v2", "auditlog" | "auditlogs" | "audit"] => {
            (Route::AuditQuery, Class::GenesysAudit)
        }
        ["api", "v2", "audits", "query", id] => (with_id(id, Route::AuditTransaction), Class::GenesysAudit),
        ["api", "v2", "audits", "query", id, "results"] => (with_id(id, Route::AuditResults), Class::GenesysAudit),
        ["api", "v2", "auditlog" | "auditlogs" | "audit", "query"] => (Route::AuditQuery, Class::GenesysAudit),
        ["api", "v1", "threads"] | ["threads"] => (Route::Threads, Class::CrmThreads),
        ["api", "v1", "threads", id] | ["threads", id] => (with_id(id, Route::Thread), Class::CrmThreads),
        _ => match crm_record::route(parts) {
            Some(at) if at.id().is_none_or(is_well_formed) => (Route::Record(at), Class::CrmThreads),
            Some(_) => (Route::BadId, Class::CrmThreads),
            None => (Route::Unknown, Class::Other),
        },
    }
}

fn token_class(parts: &[&str], mount: Option<Provider>) -> Class {
    match mount {
        Some(Provider::Cxone) => Class::CxoneToken,
        Some(Provider::Genesys) => Class::GenesysToken,
        Some(Provider::Crm) => Class::CrmToken,
        // Without a mount the two documented paths are told apart by their form.
        None if parts.first() == Some(&"api") => Class::CxoneToken,
        None => Class::GenesysToken,
    }
}

/// On the path that CXone and Genesys share, only the body says whose webhook is being registered.
pub(crate) fn class_of_webhook_body(target: &Target, body: Option<&Value>) -> Class {
    let genesys_body = body.is_some_and(|body| body.get("address").is_some());
    match target.class {
        Class::CxoneWebhooks if target.mount.is_none() && !target.social_webhooks && genesys_body => {
            Class::GenesysWebhooks
        }
        class => class,
    }
}

fn with_id(id: &str, make: fn(String) -> Route) -> Route {
    if is_well_formed(id) { make(id.to_owned()) } else { Route::BadId }
}

/// `[A-Za-z0-9_-]{1,128}`.
pub(crate) fn is_well_formed(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Percent-decoding of one segment. Invalid sequences stay as they are, so that they fail the id's pattern later.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// `application/x-www-form-urlencoded` decoding of one name or value.
pub(crate) fn form_decode(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// The pairs of a query string or form body, decoded, in order.
pub(crate) fn form_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decode(name), form_decode(value))
        })
        .collect()
}

#[cfg(test)]
mod tests;
