//! The difference between what was synced and what stands at the source. Pure, and linear in the thread's length.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    record::{Items, Record, covers},
    settings::CrmSyncSettings,
    snapshot::{Snapshot, status_change},
    thread::{Item, Thread, Told},
};

/// One change to one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The CRM does not have it.
    Add(String, Value),
    /// The CRM has it with other content.
    Update(String, Value),
    /// The source no longer has it.
    Remove(String),
}

/// Everything that one sync changes. Changes are in the order in which they are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Adds by (time, id), then updates, then removals.
    pub messages: Vec<Change>,
    /// Likewise, by id.
    pub participants: Vec<Change>,
    /// The link to the parent, where it changes.
    pub parent: Told<String>,
    /// The new status, where it changes.
    pub status: Option<String>,
}

impl Change {
    /// The item's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Add(id, _) | Self::Update(id, _) | Self::Remove(id) => id,
        }
    }
}

impl Delta {
    /// What `thread` changes over the last synced state.
    pub fn since(snapshot: &Snapshot, thread: &Thread, settings: &CrmSyncSettings) -> Self {
        let parent = match &thread.parent {
            Told::Null if snapshot.parent.is_some() => Told::Null,
            Told::Value(parent) if snapshot.parent.as_ref() != Some(parent) => Told::Value(parent.clone()),
            _ => Told::Nothing,
        };
        Self {
            messages: thread
                .messages
                .as_ref()
                .map_or_else(Vec::new, |items| changes(snapshot, &snapshot.messages, items)),
            participants: thread
                .participants
                .as_ref()
                .map_or_else(Vec::new, |items| changes(snapshot, &snapshot.participants, items)),
            parent,
            status: status_change(snapshot, thread, settings),
        }
    }

    /// What has to change for the CRM's actual record to say what `thread` says. Items of the CRM that Backhaul never
    /// brought there are the CRM's own and stay.
    pub fn against(record: &Record, snapshot: &Snapshot, thread: &Thread, settings: &CrmSyncSettings) -> Self {
        let parent = match (&thread.parent, record.parent()) {
            (Told::Null, Some(_)) => Told::Null,
            (Told::Value(wanted), standing) if standing != Some(wanted) => Told::Value(wanted.clone()),
            _ => Told::Nothing,
        };
        Self {
            messages: thread
                .messages
                .as_ref()
                .map_or_else(Vec::new, |items| repairs(record.messages.as_ref(), &snapshot.message_ids(), items)),
            participants: thread.participants.as_ref().map_or_else(Vec::new, |items| {
                repairs(record.participants.as_ref(), &snapshot.participant_ids(), items)
            }),
            parent,
            status: status_repair(record, snapshot, thread, settings),
        }
    }

    /// True where nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.parent == Told::Nothing && self.status.is_none()
    }

    /// Number of changed items.
    pub fn len(&self) -> usize {
        self.messages.len() + self.participants.len()
    }
}

/// The status that the record is to get, where it shows another one. Where it shows none, what was remembered has to do.
fn status_repair(record: &Record, snapshot: &Snapshot, thread: &Thread, settings: &CrmSyncSettings) -> Option<String> {
    let remembered = status_change(snapshot, thread, settings);
    let Some(standing) = record.status() else { return remembered };
    let wanted = match &thread.parent {
        Told::Value(_) => Some(settings.merged_status.clone()),
        Told::Null if *standing == settings.merged_status => Some(settings.reopened_status.clone()),
        _ => remembered,
    };
    wanted.filter(|status| status != standing)
}

fn changes<T: Item>(snapshot: &Snapshot, known: &BTreeMap<String, String>, items: &[T]) -> Vec<Change> {
    let (mut added, mut updated) = (Vec::new(), Vec::new());
    let mut present = HashSet::with_capacity(items.len());
    for item in items {
        present.insert(item.id());
        match known.get(item.id()) {
            None => added.push(Change::Add(item.id().to_owned(), item.wire())),
            Some(hash) if *hash != snapshot.hash(item) => {
                updated.push(Change::Update(item.id().to_owned(), item.wire()));
            }
            Some(_) => {}
        }
    }
    let removed = known.keys().filter(|id| !present.contains(id.as_str()));
    ordered(added, updated, removed.cloned())
}

fn repairs<T: Item>(standing: Option<&Items>, ours: &HashSet<&str>, items: &[T]) -> Vec<Change> {
    let (mut added, mut updated) = (Vec::new(), Vec::new());
    let none = Items::new();
    let standing = standing.unwrap_or(&none);
    let mut wanted = HashSet::with_capacity(items.len());
    for item in items {
        wanted.insert(item.id());
        let wire = item.wire();
        match standing.get(item.id()) {
            None => added.push(Change::Add(item.id().to_owned(), wire)),
            Some(standing) if !covers(standing, &wire) => updated.push(Change::Update(item.id().to_owned(), wire)),
            Some(_) => {}
        }
    }
    let mut removed: Vec<String> =
        standing.keys().filter(|id| ours.contains(id.as_str()) && !wanted.contains(id.as_str())).cloned().collect();
    removed.sort();
    ordered(added, updated, removed)
}

fn ordered(added: Vec<Change>, updated: Vec<Change>, removed: impl IntoIterator<Item = String>) -> Vec<Change> {
    let mut changes = added;
    changes.extend(updated);
    changes.extend(removed.into_iter().map(Change::Remove));
    changes
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
