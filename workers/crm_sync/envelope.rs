//! From the JSON of a thread event to a [`Thread`]. Pure, so that the webhook receiver and the job judge alike.
//!
//! Everything wrong is reported at once, each with its JSON pointer, and no report carries a value: texts and names
//! are personal data.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    reader::{Reader, is_uuid},
    refusal::{Place, Refusal},
    settings::{CrmSyncSettings, MESSAGES_MAX, PARTICIPANTS_MAX},
    thread::{Item, Message, Participant, Thread, ThreadEvent, Told},
};

/// Most media references of one message, and their size together in bytes of JSON.
const ATTACHMENTS_MAX: usize = 20;
const ATTACHMENT_BYTES_MAX: usize = 8 * 1024;

/// Reads a thread event `{event, timestamp, data{threadId, ...}}`.
///
/// # Errors
/// Lists everything that is wrong.
pub fn event(envelope: &Value, settings: &CrmSyncSettings) -> Result<Thread, Refusal> {
    let mut reader = Reader::new(settings);
    let Some(envelope) = envelope.as_object() else {
        return Err(reader.fail(&Place::Root, "is not an object; send {event, timestamp, data}"));
    };
    let event = reader.event(envelope.get("event"));
    let sent_at = reader.instant(envelope.get("timestamp"), &Place::Root.member("timestamp"));
    let data_at = Place::Root.member("data");
    let Some(data) = envelope.get("data").and_then(Value::as_object) else {
        return Err(reader.fail(&data_at, "is missing or not an object"));
    };
    let named = envelope.get("threadId");
    if named.is_some_and(|named| !named.is_null() && !same_id(Some(named), data.get("threadId"))) {
        reader.problem(&Place::Root.member("threadId"), "differs from /data/threadId");
    }
    let thread = reader.thread(data, &data_at, event, sent_at);
    reader.finish(thread)
}

/// Reads a thread as the source's API returns it: the members of an event's `data`, bare or below `data`.
///
/// # Errors
/// Lists everything that is wrong.
pub fn fetched(body: &Value, settings: &CrmSyncSettings, fetched_at: DateTime<Utc>) -> Result<Thread, Refusal> {
    let mut reader = Reader::new(settings);
    let (data, at) = match body.get("data").filter(|_| body.get("threadId").is_none()) {
        Some(data) => (data.as_object(), Place::Root.member("data")),
        None => (body.as_object(), Place::Root),
    };
    let Some(data) = data else {
        return Err(reader.fail(&at, "is not an object"));
    };
    let thread = reader.thread(data, &at, None, Some(fetched_at));
    reader.finish(thread)
}

/// Reads a request to reconcile, `{threadId, reconcile: true}`.
///
/// # Errors
/// Lists everything that is wrong.
pub fn reconcile(payload: &Value, settings: &CrmSyncSettings) -> Result<String, Refusal> {
    let mut reader = Reader::new(settings);
    if payload.get("reconcile") != Some(&Value::Bool(true)) {
        reader.problem(&Place::Root.member("reconcile"), "must be true, or be left out for an event");
    }
    if payload.get("data").is_some() {
        reader.problem(&Place::Root.member("data"), "has no meaning beside reconcile");
    }
    let id = reader.thread_id(payload.get("threadId"), &Place::Root.member("threadId"));
    reader.finish(id)
}

/// Checks a thread id by itself, and puts a UUID into lower case.
///
/// # Errors
/// Says what an id may look like.
pub fn thread_id(text: &str, settings: &CrmSyncSettings) -> Result<String, Refusal> {
    let mut reader = Reader::new(settings);
    let id = reader.thread_id(Some(&Value::String(text.to_owned())), &Place::Root.member("threadId"));
    reader.finish(id)
}

/// Two spellings of one id: members of a UUID differ in case only.
fn same_id(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left.and_then(Value::as_str), right.and_then(Value::as_str)) {
        (Some(left), Some(right)) => left == right || (is_uuid(left) && left.eq_ignore_ascii_case(right)),
        _ => false,
    }
}

impl Reader<'_> {
    fn event(&mut self, value: Option<&Value>) -> Option<ThreadEvent> {
        let event = match value.and_then(Value::as_str) {
            Some("THREAD_MERGED") => Some(ThreadEvent::Merged),
            Some("THREAD_SPLIT") => Some(ThreadEvent::Split),
            Some("THREAD_UPDATED") => Some(ThreadEvent::Updated),
            _ => None,
        };
        if event.is_none() {
            let why = "must be THREAD_MERGED, THREAD_SPLIT or THREAD_UPDATED";
            self.refusal.add("thread_event_unknown", &Place::Root.member("event"), why);
        }
        event
    }

    fn thread(
        &mut self,
        data: &Map<String, Value>,
        at: &Place<'_>,
        event: Option<ThreadEvent>,
        sent_at: Option<DateTime<Utc>>,
    ) -> Option<Thread> {
        let id = self.thread_id(data.get("threadId"), &at.member("threadId"));
        let version = self.version(data.get("version"), &at.member("version"));
        let updated_at = match data.get("updatedAt") {
            None | Some(Value::Null) => sent_at,
            given => self.instant(given, &at.member("updatedAt")),
        };
        let parent_at = at.member("parentThreadId");
        let parent = match data.get("parentThreadId") {
            None => Told::Nothing,
            Some(Value::Null) => Told::Null,
            given => self.thread_id(given, &parent_at).map_or(Told::Nothing, Told::Value),
        };
        if let (Some(id), Told::Value(parent)) = (&id, &parent)
            && id == parent
        {
            self.problem(&parent_at, "names the thread itself");
        }
        let participants = self.list(data, at, "participants", PARTICIPANTS_MAX, Self::participant);
        let messages = self.list(data, at, "messages", MESSAGES_MAX, Self::message);
        Some(Thread {
            id: id?,
            event,
            version,
            updated_at: updated_at?,
            parent,
            participants: participants.map(|mut list| {
                list.sort_by(|a, b| a.id.cmp(&b.id));
                list
            }),
            messages: messages.map(|mut list| {
                list.sort_by(Message::order);
                list
            }),
        })
    }

    /// Reads an array, keeping the last of several members with one id. An absent array says nothing of its members.
    fn list<T: Item>(
        &mut self,
        data: &Map<String, Value>,
        at: &Place<'_>,
        member: &'static str,
        max: usize,
        read: fn(&mut Self, &Map<String, Value>, &Place<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let at = at.member(member);
        let items = match data.get(member)? {
            Value::Array(items) if items.len() <= max => items,
            Value::Array(_) => {
                self.problem(&at, format!("has more than {max} members"));
                return None;
            }
            _ => {
                self.problem(&at, "is not an array; leave it out where nothing is known of it");
                return None;
            }
        };
        let mut kept: Vec<T> = Vec::with_capacity(items.len());
        let mut places: HashMap<String, usize> = HashMap::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let at = at.item(index);
            let Some(item) = item.as_object() else {
                self.problem(&at, "is not an object");
                continue;
            };
            let Some(item) = read(self, item, &at) else { continue };
            match places.get(item.id()) {
                Some(&place) => kept[place] = item,
                None => {
                    places.insert(item.id().to_owned(), kept.len());
                    kept.push(item);
                }
            }
        }
        Some(kept)
    }

    fn participant(&mut self, item: &Map<String, Value>, at: &Place<'_>) -> Option<Participant> {
        let id = self.id(item.get("id"), &at.member("id"));
        let role = item.get("role").and_then(Value::as_str).and_then(|role| self.settings.role(role));
        if role.is_none() {
            let why = "is not CUSTOMER, AGENT, SYSTEM or a role that the profile maps ([kinds.crm-sync.roles])";
            self.refusal.add("thread_role_unmapped", &at.member("role"), why);
        }
        // The CRM holds names as text: a name that the source took back is no name, and is not sent.
        let name = match self.short(item, "name", at) {
            Told::Null => Told::Nothing,
            told => told,
        };
        let platform_id = self.short(item, "platformId", at);
        Some(Participant { id: id?, role: role?, name, platform_id })
    }

    fn message(&mut self, item: &Map<String, Value>, at: &Place<'_>) -> Option<Message> {
        let id = self.id(item.get("id"), &at.member("id"));
        let sent_at = self.instant(item.get("timestamp"), &at.member("timestamp"));
        let author_id = self.id(item.get("authorId"), &at.member("authorId"));
        let text = match item.get("text") {
            None => Told::Nothing,
            Some(Value::Null) => Told::Null,
            Some(Value::String(text)) => self.text(text, &at.member("text")).map_or(Told::Nothing, Told::Value),
            Some(_) => {
                self.problem(&at.member("text"), "is neither text nor null");
                Told::Nothing
            }
        };
        let direction = match item.get("direction") {
            None | Some(Value::Null) => None,
            Some(Value::String(direction)) if direction == "INBOUND" => Some("INBOUND"),
            Some(Value::String(direction)) if direction == "OUTBOUND" => Some("OUTBOUND"),
            Some(_) => {
                self.problem(&at.member("direction"), "must be INBOUND, OUTBOUND or null");
                None
            }
        };
        let attachments = self.attachments(item.get("attachments"), &at.member("attachments"));
        Some(Message { id: id?, text, at: sent_at?, author_id: author_id?, direction, attachments })
    }

    fn attachments(&mut self, value: Option<&Value>, at: &Place<'_>) -> Vec<Value> {
        match value {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.len() <= ATTACHMENTS_MAX => {
                let bytes: usize = list.iter().map(|item| item.to_string().len()).sum();
                if bytes <= ATTACHMENT_BYTES_MAX {
                    return list.clone();
                }
                self.problem(at, format!("has more than {ATTACHMENT_BYTES_MAX} bytes; send references, not media"));
                Vec::new()
            }
            Some(_) => {
                self.problem(at, format!("must be an array of at most {ATTACHMENTS_MAX} references"));
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
