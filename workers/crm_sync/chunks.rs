//! One delta as a row of bounded requests, each with a key that names exactly its body.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    delta::{Change, Delta},
    life::Life,
    record::{Items, Record, covers},
    thread::{Thread, Told, instant},
};

/// One request's share of a delta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// At most the profile's `chunk` changes.
    pub messages: Vec<Change>,
    /// Likewise.
    pub participants: Vec<Change>,
    /// Set in the last chunk only.
    pub parent: Told<String>,
    /// Set in the last chunk only: a closed thread may refuse the messages of the chunks before.
    pub status: Option<String>,
}

/// Splits a delta. Even an empty delta is one chunk: the first event of an empty thread still creates it.
pub fn split(delta: Delta, size: usize) -> Vec<Chunk> {
    let count = delta.messages.len().max(delta.participants.len()).div_ceil(size).max(1);
    let (mut messages, mut participants) = (delta.messages.into_iter(), delta.participants.into_iter());
    let mut chunks: Vec<Chunk> = (0..count)
        .map(|_| Chunk {
            messages: messages.by_ref().take(size).collect(),
            participants: participants.by_ref().take(size).collect(),
            parent: Told::Nothing,
            status: None,
        })
        .collect();
    if let Some(last) = chunks.last_mut() {
        last.parent = delta.parent;
        last.status = delta.status;
    }
    chunks
}

impl Chunk {
    /// The body of the request, without its precondition.
    pub fn body(&self, thread: &Thread) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("threadId".into(), thread.id.clone().into());
        if let Some(version) = thread.version {
            body.insert("sourceVersion".into(), version.into());
        }
        body.insert("updatedAt".into(), instant(thread.updated_at).into());
        insert_changes(&mut body, "Messages", &self.messages);
        insert_changes(&mut body, "Participants", &self.participants);
        match &self.parent {
            Told::Nothing => {}
            Told::Null => drop(body.insert("parentThreadId".into(), Value::Null)),
            Told::Value(parent) => drop(body.insert("parentThreadId".into(), parent.clone().into())),
        }
        if let Some(status) = &self.status {
            body.insert("status".into(), status.clone().into());
        }
        body
    }

    /// Whether `record` already says everything that this chunk says.
    pub fn is_done(&self, record: &Record, thread: &Thread) -> bool {
        let parent = match &self.parent {
            Told::Nothing => true,
            Told::Null => record.parent().is_none(),
            Told::Value(parent) => record.parent() == Some(parent),
        };
        let version = match (thread.version, record.source_version()) {
            (Some(ours), Some(theirs)) => theirs >= ours,
            _ => true,
        };
        all_done(&self.messages, record.messages.as_ref())
            && all_done(&self.participants, record.participants.as_ref())
            && parent
            && version
            && self.status.as_ref().is_none_or(|status| record.status() == Some(status))
    }
}

/// Items that the CRM does not show cannot be known to be done.
fn all_done(changes: &[Change], standing: Option<&Items>) -> bool {
    let Some(standing) = standing else { return changes.is_empty() };
    changes.iter().all(|change| match change {
        Change::Add(id, wire) | Change::Update(id, wire) => standing.get(id).is_some_and(|item| covers(item, wire)),
        Change::Remove(id) => !standing.contains_key(id),
    })
}

fn insert_changes(body: &mut Map<String, Value>, what: &str, changes: &[Change]) {
    let (mut added, mut updated, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::Add(_, wire) => added.push(wire.clone()),
            Change::Update(_, wire) => updated.push(wire.clone()),
            Change::Remove(id) => removed.push(Value::String(id.clone())),
        }
    }
    body.insert(format!("added{what}"), Value::Array(added));
    body.insert(format!("updated{what}"), Value::Array(updated));
    body.insert(format!("removed{what}"), Value::Array(removed));
}

/// The Idempotency-Key of a body: equal for equal bodies of one thread and source version, and different for all
/// others. What repairs the CRM's record says which life of which job does: the record may need the same repair once more,
/// and a CRM that honours keys would answer for the first one and change nothing. Its parts are length-prefixed, so that no
/// two lists of parts read alike.
pub fn idempotency_key(tenant: &str, thread: &Thread, body: &Value, repair: Option<Life>) -> String {
    // A `Value` with string keys always has a canonical form; its plain text would serve as well.
    let body = serde_json_canonicalizer::to_string(body).unwrap_or_else(|_| body.to_string());
    let version = thread.version.map(|version| version.to_string()).unwrap_or_default();
    let mut hash = Sha256::new();
    let repair = repair.map(|life| format!("{}/{}", life.job, life.replays));
    for part in [tenant, &thread.id, &version, &body].into_iter().chain(repair.as_deref()) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
