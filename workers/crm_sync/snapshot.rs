//! What was last synced of a thread, complete, as ids and content hashes: small enough to keep for every thread, and
//! free of texts and names.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    chunks::Chunk,
    delta::Change,
    life::Life,
    settings::CrmSyncSettings,
    thread::{Item, Thread, Told},
};

/// The state of one thread after its last sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The source's version; absent where it gives none.
    pub version: Option<u64>,
    /// Last change at the source.
    pub updated_at: DateTime<Utc>,
    /// The thread it was merged into.
    pub parent: Option<String>,
    /// The status Backhaul gave it in the CRM, if any.
    pub status: Option<String>,
    /// Random, part of every hash: equal texts of two threads have different hashes, and lists of hashed phrases are
    /// of no use.
    pub salt: String,
    /// Message id -> content hash.
    pub messages: BTreeMap<String, String>,
    /// Participant id -> content hash.
    pub participants: BTreeMap<String, String>,
    /// Whose last step remembered this: a job that is killed behind that step has nothing left to do. Absent in what was
    /// remembered before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_by: Option<Life>,
    /// What jobs set out to add that died before they had synced: it may stand in the CRM, and is not the CRM's own.
    #[serde(default, skip_serializing_if = "Unfinished::is_empty")]
    pub unfinished: Unfinished,
}

/// Ids of items that may have been added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Of messages.
    pub messages: BTreeSet<String>,
    /// Of participants.
    pub participants: BTreeSet<String>,
}

impl Unfinished {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.participants.is_empty()
    }
}

/// What an incoming thread means to a thread that was synced before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Push the difference to the snapshot.
    Difference,
    /// Nothing in it is new.
    Known,
    /// The event alone cannot tell what is right: ask the source and look at the CRM's record.
    Reconcile(&'static str),
}

impl Snapshot {
    /// Before the first sync. `salt` is random text.
    pub fn empty(salt: String) -> Self {
        Self {
            version: None,
            updated_at: DateTime::UNIX_EPOCH,
            parent: None,
            status: None,
            salt,
            messages: BTreeMap::new(),
            participants: BTreeMap::new(),
            synced_by: None,
            unfinished: Unfinished::default(),
        }
    }

    /// Whether anything was ever synced. Before that, a snapshot knows of unfinished items only.
    pub fn is_synced(&self) -> bool {
        self.synced_by.is_some() || self.updated_at > DateTime::UNIX_EPOCH
    }

    /// The state with what `chunks` are going to add noted; `None` where they add nothing.
    pub(crate) fn setting_out(&self, chunks: &[Chunk]) -> Option<Self> {
        let added = |change: &Change| matches!(change, Change::Add(..)).then(|| change.id().to_owned());
        let messages: Vec<String> = chunks.iter().flat_map(|chunk| &chunk.messages).filter_map(added).collect();
        let participants: Vec<String> = chunks.iter().flat_map(|chunk| &chunk.participants).filter_map(added).collect();
        if messages.is_empty() && participants.is_empty() {
            return None;
        }
        let mut next = self.clone();
        next.unfinished.messages.extend(messages);
        next.unfinished.participants.extend(participants);
        Some(next)
    }

    /// Content hash of one item: 128 bits of SHA-256 over the salt and the content.
    pub(crate) fn hash(&self, item: &impl Item) -> String {
        let digest = Sha256::new().chain_update(&self.salt).chain_update([0]).chain_update(item.content()).finalize();
        BASE64_URL_SAFE_NO_PAD.encode(&digest[..16])
    }

    /// The state after `thread` has been synced. What the thread does not mention stays.
    pub fn after(&self, thread: &Thread, settings: &CrmSyncSettings) -> Self {
        let mut next = self.clone();
        next.version = thread.version.or(self.version);
        next.updated_at = thread.updated_at.max(self.updated_at);
        match &thread.parent {
            Told::Nothing => {}
            Told::Null => next.parent = None,
            Told::Value(parent) => next.parent = Some(parent.clone()),
        }
        if let Some(status) = status_change(self, thread, settings) {
            next.status = Some(status);
        }
        if let Some(messages) = &thread.messages {
            next.messages = messages.iter().map(|item| (item.id.clone(), self.hash(item))).collect();
            next.unfinished.messages.retain(|id| !next.messages.contains_key(id));
        }
        if let Some(participants) = &thread.participants {
            next.participants = participants.iter().map(|item| (item.id.clone(), self.hash(item))).collect();
            next.unfinished.participants.retain(|id| !next.participants.contains_key(id));
        }
        next
    }

    /// Whether the snapshot already says everything that `thread` says.
    pub fn covers(&self, thread: &Thread, settings: &CrmSyncSettings) -> bool {
        let same_parent = match &thread.parent {
            Told::Nothing => true,
            Told::Null => self.parent.is_none(),
            Told::Value(parent) => self.parent.as_ref() == Some(parent),
        };
        same_parent
            && status_change(self, thread, settings).is_none()
            && thread.messages.as_ref().is_none_or(|items| self.same(&self.messages, items))
            && thread.participants.as_ref().is_none_or(|items| self.same(&self.participants, items))
    }

    fn same<T: Item>(&self, known: &BTreeMap<String, String>, items: &[T]) -> bool {
        known.len() == items.len() && items.iter().all(|item| known.get(item.id()) == Some(&self.hash(item)))
    }

    /// Whether `thread` is older than what was synced: by its version, or by its time where either has no version.
    pub fn is_ahead_of(&self, thread: &Thread) -> bool {
        match (self.version, thread.version) {
            (Some(known), Some(incoming)) => incoming < known,
            _ => thread.updated_at < self.updated_at,
        }
    }

    /// What to do with an event. Versions are compared as integers; without them, content decides what is new, and the
    /// time whether it may be late.
    pub fn read(&self, thread: &Thread, settings: &CrmSyncSettings) -> Reading {
        let known = self.covers(thread, settings);
        let (Some(version), Some(incoming)) = (self.version, thread.version) else {
            return match known {
                true => Reading::Known,
                // What it lacks may have come since.
                false if self.is_ahead_of(thread) => Reading::Reconcile("late_update"),
                false => Reading::Difference,
            };
        };
        if version.checked_add(1) == Some(incoming) {
            Reading::Difference
        } else if incoming > version {
            Reading::Reconcile("version_gap")
        } else if known {
            Reading::Known
        } else if incoming == version {
            Reading::Reconcile("same_version_other_content")
        } else {
            // It may hold messages that no later event repeated.
            Reading::Reconcile("late_version")
        }
    }

    /// The ids of messages that Backhaul brought to the CRM, or may have, for telling them from the CRM's own.
    pub(crate) fn message_ids(&self) -> HashSet<&str> {
        self.messages.keys().chain(&self.unfinished.messages).map(String::as_str).collect()
    }

    /// As [`Snapshot::message_ids`].
    pub(crate) fn participant_ids(&self) -> HashSet<&str> {
        self.participants.keys().chain(&self.unfinished.participants).map(String::as_str).collect()
    }
}

/// The status that the thread is to get, where it has another one: a child that is merged into a parent is closed, and
/// one that is split off again is open. The link alone tells, whichever event or answer brings it: the event that said
/// so may be lost, and the source's answer names no event.
pub(crate) fn status_change(before: &Snapshot, thread: &Thread, settings: &CrmSyncSettings) -> Option<String> {
    let merged = before.status.as_ref() == Some(&settings.merged_status);
    match &thread.parent {
        Told::Value(_) if !merged => Some(settings.merged_status.clone()),
        Told::Null if merged => Some(settings.reopened_status.clone()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
