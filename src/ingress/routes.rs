//! What becomes of events: `routes.toml`, read once at the start and checked whole.

mod document;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{json::Json, normalise::Dialling, path::Path};

pub use self::document::RouteErrors;

/// Everything `routes.toml` says.
#[derive(Debug, Clone)]
pub struct Routes {
    /// Webhook senders by their path, in the order of the file.
    pub sources: Vec<Source>,
    /// Where events go, by name.
    pub destinations: BTreeMap<String, Destination>,
    /// How phone numbers without a country are read.
    pub dialling: Option<Dialling>,
}

/// One sort of webhook.
#[derive(Debug, Clone)]
pub struct Source {
    /// Stable name: keys of deliveries and metrics carry it.
    pub name: String,
    /// Path of the listener with `{tenant}` as one segment.
    pub path: String,
    /// Its deliveries carry the tenant's bearer token instead of a signature.
    pub bearer: bool,
    /// Where the event's type stands.
    pub event: Path,
    /// Words of a dotted type that an id follows, which is left out of the type.
    pub event_ids: Vec<String>,
    /// Where its channel stands; without it, events are matched by their type alone.
    pub channel: Option<Path>,
    /// Where the time of the event stands.
    pub occurred_at: Path,
    /// Where the registered webhook's id stands.
    pub webhook_id: Option<Path>,
    /// Where the sender's id for the delivery may stand.
    pub delivery_id: Vec<Path>,
    /// What tells one event from another where the sender names no delivery.
    pub identity: Vec<Path>,
    /// Whether the whole body tells events apart as well, for senders whose time stamps and versions do not.
    pub identity_body: bool,
    /// What must be there, besides the above.
    pub required: Vec<Path>,
    /// Whether the body is kept beside the jobs.
    pub keep_body: bool,
    /// Members of every record, each with the places it may stand at.
    pub record: BTreeMap<String, Vec<Path>>,
    /// The first that matches counts.
    pub routes: Vec<Route>,
    /// How upstreams learn our address; `None` where they are told by hand.
    pub registration: Option<Registration>,
}

/// What becomes of the events of some types and channels.
#[derive(Debug, Clone)]
pub struct Route {
    /// Types; a star at the end stands for anything.
    pub events: Vec<String>,
    /// Channels; empty: any, or none.
    pub channels: Vec<String>,
    /// Who the event is about.
    pub customer: Option<Customer>,
    /// Members of `normalizedContext`.
    pub context: BTreeMap<String, Vec<Path>>,
    /// Names of destinations.
    pub to: Vec<String>,
}

/// Where the customer's identifier stands and what it is.
#[derive(Debug, Clone)]
pub struct Customer {
    /// What it is.
    pub sort: Identifier,
    /// Where it may stand.
    pub from: Vec<Path>,
}

/// Sorts of identifiers; each has a normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identifier {
    /// E.164.
    Phone,
    /// Domain in lower case.
    Email,
}

impl Identifier {
    /// The record's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Email => "email",
        }
    }
}

/// A job that an event becomes.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Name in the file.
    pub name: String,
    /// Job kind.
    pub kind: String,
    /// Constant members of the payload.
    pub with: Json,
    /// What of the event goes into the payload.
    pub content: Content,
}

/// What of an event goes into a job.
#[derive(Debug, Clone)]
pub enum Content {
    /// Chosen members of the normalised record, and nothing that is not chosen.
    Record {
        /// Places in the record.
        fields: Vec<Path>,
        /// Member of the payload that takes the record; `None`: the payload itself.
        under: Option<String>,
        /// Whether the body goes along as the record's member `body`.
        body: bool,
    },
    /// The body as it arrived, with members copied to its top.
    Body {
        /// New member and where its value stands.
        copy: BTreeMap<String, Path>,
    },
}

/// How a webhook is registered with the upstream.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Section of the profile: `cxone`, `genesys` or `crm`.
    pub provider: String,
    /// Endpoint that lists and creates.
    pub list: String,
    /// Endpoint of one webhook; its template has one placeholder.
    pub item: String,
    /// Bucket class of both.
    pub class: String,
    /// Register only for tenants whose profile has a section for this job kind; `None`: for all.
    pub only_with: Option<String>,
    /// Members that may hold the webhook's id.
    pub id: Vec<String>,
    /// Whether a repair replaces the webhook (PUT) or changes it (PATCH).
    pub replace: bool,
    /// The registration; the texts `{url}` and `{secret}` are filled in.
    pub body: serde_json::Map<String, Value>,
}

impl Routes {
    /// Reads the text of `routes.toml`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_toml(text: &str) -> Result<Self, RouteErrors> {
        document::read(text)
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// The job kinds that destinations name.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.destinations.values().map(|destination| destination.kind.as_str())
    }
}

impl Source {
    /// The path of a tenant.
    pub fn path_of(&self, tenant: &str) -> String {
        self.path.replace(document::TENANT, tenant)
    }

    /// The path that serves while there is exactly one tenant.
    pub fn bare_path(&self) -> String {
        self.path.replace(&format!("/{}", document::TENANT), "")
    }

    /// The route of an event, or why there is none.
    pub fn route(&self, event: &str, channel: Option<&str>) -> Result<&Route, &'static str> {
        let on_channel = |route: &&Route| {
            route.channels.is_empty() || channel.is_some_and(|own| route.channels.iter().any(|known| known == own))
        };
        let mut candidates = self.routes.iter().filter(on_channel).peekable();
        if candidates.peek().is_none() {
            return Err("unknown_channel");
        }
        candidates.find(|route| route.events.iter().any(|pattern| fits(pattern, event))).ok_or("unmatched_event")
    }
}

fn fits(pattern: &str, event: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => event.starts_with(start),
        None => pattern == event,
    }
}
