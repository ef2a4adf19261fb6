//! A thread in normal form, whichever way it arrived.

use std::cmp::Ordering;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::Role;

/// What a source says of a member that can be absent: absence changes nothing, null clears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told<T> {
    /// Not mentioned.
    Nothing,
    /// Said to be empty.
    Null,
    /// Given.
    Value(T),
}

/// What happened at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadEvent {
    /// The thread was merged into its parent, or took others in.
    Merged,
    /// Messages moved out of the thread.
    Split,
    /// Anything else changed.
    Updated,
}

/// A thread as its source describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Thread {
    /// Matches the profile's pattern; a UUID is in lower case.
    pub id: String,
    /// Absent for a thread that was fetched.
    pub event: Option<ThreadEvent>,
    /// The source's version; an unversioned source is compared by content.
    pub version: Option<u64>,
    /// Last change at the source.
    pub updated_at: DateTime<Utc>,
    /// The thread it was merged into.
    pub parent: Told<String>,
    /// Every participant, by id; `None` where the source said nothing of them.
    pub participants: Option<Vec<Participant>>,
    /// Every message, by (time, id); `None` where the source said nothing of them.
    pub messages: Option<Vec<Message>>,
}

/// Somebody who takes part.
#[derive(Debug, Clone, PartialEq)]
pub struct Participant {
    /// Unique in its thread.
    pub id: String,
    /// Already the CRM's.
    pub role: Role,
    /// Never invented.
    pub name: Told<String>,
    /// The person's id on the social platform.
    pub platform_id: Told<String>,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Unique in its thread.
    pub id: String,
    /// Null for media without words.
    pub text: Told<String>,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// Who wrote it.
    pub author_id: String,
    /// Never guessed.
    pub direction: Option<&'static str>,
    /// References to media, as the source gave them; empty where there are none.
    pub attachments: Vec<Value>,
}

/// One thing that can be added, changed or removed by its id.
pub trait Item {
    /// Unique among its siblings.
    fn id(&self) -> &str;
    /// The CRM's form. Members the source did not mention are left out.
    fn wire(&self) -> Value;
    /// Bytes that are equal for items with equal content and for no others. Cheaper than [`Item::wire`], because a
    /// thread is compared as a whole and sent in small parts. Stored hashes are made of them: never change their form.
    fn content(&self) -> Vec<u8>;
}

impl Item for Message {
    fn id(&self) -> &str {
        &self.id
    }

    fn wire(&self) -> Value {
        let mut wire = Map::new();
        wire.insert("id".into(), self.id.clone().into());
        tell(&mut wire, "text", &self.text);
        wire.insert("timestamp".into(), instant(self.at).into());
        wire.insert("authorId".into(), self.author_id.clone().into());
        wire.insert("direction".into(), self.direction.into());
        if !self.attachments.is_empty() {
            wire.insert("attachments".into(), Value::Array(self.attachments.clone()));
        }
        Value::Object(wire)
    }

    fn content(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(128);
        push_told(&mut content, &self.text);
        content.extend_from_slice(&self.at.timestamp().to_be_bytes());
        content.extend_from_slice(&self.at.timestamp_subsec_nanos().to_be_bytes());
        push_text(&mut content, &self.author_id);
        push_text(&mut content, self.direction.unwrap_or_default());
        if !self.attachments.is_empty() {
            // The order of an object's members is no content.
            push_text(&mut content, &serde_json_canonicalizer::to_string(&self.attachments).unwrap_or_default());
        }
        content
    }
}

impl Item for Participant {
    fn id(&self) -> &str {
        &self.id
    }

    fn wire(&self) -> Value {
        let mut wire = Map::new();
        wire.insert("id".into(), self.id.clone().into());
        wire.insert("role".into(), self.role.as_str().into());
        tell(&mut wire, "name", &self.name);
        tell(&mut wire, "platformId", &self.platform_id);
        Value::Object(wire)
    }

    fn content(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(64);
        push_text(&mut content, self.role.as_str());
        push_told(&mut content, &self.name);
        push_told(&mut content, &self.platform_id);
        content
    }
}

impl Message {
    /// The order of a conversation: by time, and by id where two messages share an instant.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at).then_with(|| self.id.cmp(&other.id))
    }
}

impl ThreadEvent {
    /// The source's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Merged => "THREAD_MERGED",
            Self::Split => "THREAD_SPLIT",
            Self::Updated => "THREAD_UPDATED",
        }
    }
}

/// Leaves out what the source did not mention: the CRM then keeps what it has.
fn tell(wire: &mut Map<String, Value>, member: &str, told: &Told<String>) {
    match told {
        Told::Nothing => {}
        Told::Null => drop(wire.insert(member.to_owned(), Value::Null)),
        Told::Value(text) => drop(wire.insert(member.to_owned(), text.clone().into())),
    }
}

/// Length first, so that no two rows of parts read alike.
fn push_text(content: &mut Vec<u8>, text: &str) {
    content.extend_from_slice(&(text.len() as u64).to_be_bytes());
    content.extend_from_slice(text.as_bytes());
}

fn push_told(content: &mut Vec<u8>, told: &Told<String>) {
    match told {
        Told::Nothing => content.push(0),
        Told::Null => content.push(1),
        Told::Value(text) => {
            content.push(2);
            push_text(content, text);
        }
    }
}

/// An instant as every system downstream reads it: RFC 3339, UTC, `Z`, with as many decimals as it has.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
