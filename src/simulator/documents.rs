//! The resources: JSON documents with a version and an entity tag, by kind, tenant and id.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use axum::http::{HeaderMap, header};
use serde_json::Value;

use crate::{channels, crm, profiles, reply::Reply, social, widgets};

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A CXone webchat configuration.
    Widget,
    /// A CXone profile.
    Profile,
    /// A Genesys webchat channel.
    Channel,
    /// A thread in the CRM.
    Thread,
    /// A social thread at its source, CXone.
    Social,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Widget, Self::Profile, Self::Channel, Self::Thread, Self::Social];

    /// The name in effects and in the control plane.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Widget => "widgets",
            Self::Profile => "profiles",
            Self::Channel => "channels",
            Self::Thread => "threads",
            Self::Social => "social",
        }
    }

    /// What an untouched document of this kind shows.
    pub(crate) fn initial(self, id: &str) -> Value {
        match self {
            Self::Widget => widgets::initial(id),
            Self::Profile => profiles::initial(id),
            Self::Channel => channels::initial(id),
            Self::Thread => crm::initial(id),
            Self::Social => social::initial(id),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A document and what identifies its state.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// What clients see.
    pub(crate) value: Value,
    /// What they don't see, for example the source times of a profile's attributes.
    pub(crate) hidden: Value,
    /// From 1, one more with every write.
    pub(crate) version: u64,
    /// When it was last written, in milliseconds of the simulator's clock.
    pub(crate) modified_ms: i64,
    revision: u64,
}

impl Document {
    /// A weak tag, as in the documents' example. It holds a run-wide revision besides the version, so that a document
    /// that was deleted and made again never shows an old tag.
    pub(crate) fn etag(&self) -> String {
        format!("W/\"{}-{:x}\"", self.version, self.revision)
    }

    /// Judges the preconditions of a write: `If-Match`, and the body's version where that counts.
    pub(crate) fn precondition(&self, headers: &HeaderMap, body_version: Option<&Value>) -> Precondition {
        let mut given = false;
        for value in headers.get_all(header::IF_MATCH) {
            given = true;
            let matches = value.to_str().unwrap_or_default().split(',').any(|tag| self.is_tagged(tag.trim()));
            if !matches {
                return Precondition::Failed;
            }
        }
        if let Some(version) = body_version {
            given = true;
            if version.as_u64() != Some(self.version) {
                return Precondition::Failed;
            }
        }
        if given { Precondition::Held } else { Precondition::Missing }
    }

    /// `*`, the tag (weak or not), or the bare or quoted version.
    fn is_tagged(&self, tag: &str) -> bool {
        let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned();
        tag == "*" || opaque(tag) == opaque(&self.etag()) || opaque(tag) == self.version.to_string()
    }
}

/// Outcome of [`Document::precondition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Every condition that was sent holds.
    Held,
    /// One does not.
    Failed,
    /// None was sent.
    Missing,
}

impl Precondition {
    /// The answer to a write whose precondition does not hold.
    pub(crate) fn refusal(self, document: &Document, required: bool, conflict_status: u16) -> Option<Reply> {
        match self {
            Self::Missing if required => Some(Reply::error(
                428,
                "precondition_required",
                "send If-Match with the entity tag or version that was read",
            )),
            Self::Failed => Some(
                Reply::error(conflict_status, "version_conflict", "the resource has changed: read it and try again")
                    .with_header(header::ETAG, document.etag()),
            ),
            Self::Held | Self::Missing => None,
        }
    }
}

/// The document as an answer, with its entity tag.
pub(crate) fn shown(status: u16, document: &Document) -> Reply {
    Reply::json(status, &document.value).with_header(header::ETAG, document.etag())
}

/// All documents, bounded: the ones made first go first.
#[derive(Debug)]
pub(crate) struct Documents {
    by_key: HashMap<Arc<str>, Document>,
    order: VecDeque<Arc<str>>,
    documents_max: usize,
    revision: u64,
    evicted: u64,
    /// The time of the call that is carried out.
    pub(crate) now_ms: i64,
}

fn key(kind: Kind, tenant: &str, id: &str) -> Arc<str> {
    format!("{}/{tenant}/{id}", kind.as_str()).into()
}

impl Documents {
    pub(crate) fn new(documents_max: usize) -> Self {
        Self {
            by_key: HashMap::new(),
            order: VecDeque::new(),
            documents_max: documents_max.max(1),
            revision: 0,
            evicted: 0,
            now_ms: 0,
        }
    }

    pub(crate) fn get(&self, kind: Kind, tenant: &str, id: &str) -> Option<&Document> {
        self.by_key.get(&key(kind, tenant, id))
    }

    pub(crate) fn get_mut(&mut self, kind: Kind, tenant: &str, id: &str) -> Option<&mut Document> {
        self.by_key.get_mut(&key(kind, tenant, id))
    }

    /// Writes a document: the next version of what stands there, or version 1.
    pub(crate) fn put(&mut self, kind: Kind, tenant: &str, id: &str, value: Value) -> &mut Document {
        let key = key(kind, tenant, id);
        self.revision += 1;
        let revision = self.revision;
        if !self.by_key.contains_key(&key) {
            if self.by_key.len() >= self.documents_max {
                self.evict();
            }
            self.order.push_back(key.clone());
        }
        let document = self.by_key.entry(key).or_insert(Document {
            value: Value::Null,
            hidden: Value::Null,
            version: 0,
            modified_ms: 0,
            revision,
        });
        document.value = value;
        document.version += 1;
        document.modified_ms = self.now_ms;
        document.revision = revision;
        document
    }

    /// Deletes; answers whether it stood there.
    pub(crate) fn remove(&mut self, kind: Kind, tenant: &str, id: &str) -> bool {
        let key = key(kind, tenant, id);
        // Linear, but only deletions and merges of profiles come here.
        self.order.retain(|own| *own != key);
        self.by_key.remove(&key).is_some()
    }

    /// Ids of a tenant's documents of one kind, in the order in which they were made.
    pub(crate) fn ids(&self, kind: Kind, tenant: &str, limit: usize) -> Vec<String> {
        let prefix = key(kind, tenant, "");
        self.order.iter().filter_map(|key| key.strip_prefix(&*prefix)).take(limit).map(str::to_owned).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Documents that went for want of room; they come into being anew when they are next asked for.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(crate) fn reset(&mut self) {
        // The revision stays, so that no tag is ever used twice.
        self.by_key.clear();
        self.order.clear();
        self.evicted = 0;
    }

    fn evict(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.by_key.remove(&oldest);
            self.evicted += 1;
        }
    }
}

/// RFC 7396 merge patch.
pub(crate) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = target else { return };
    for (name, value) in members {
        if value.is_null() {
            object.remove(name);
        } else {
            merge_patch(object.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests;
