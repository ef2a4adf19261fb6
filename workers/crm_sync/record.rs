//! The CRM's record of a thread, as it was read.

use std::collections::HashMap;

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Items of a record by id.
pub type Items = HashMap<String, Value>;

/// A thread in the CRM.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Messages by id, as the CRM shows them; `None` where it does not show them.
    pub messages: Option<Items>,
    /// Participants by id, likewise.
    pub participants: Option<Items>,
    /// The other members: `version`, `sourceVersion`, `parentThreadId`, `status` and what else there is.
    pub rest: Map<String, Value>,
}

impl Record {
    /// What stands where there is no thread.
    pub fn absent() -> Self {
        Self { messages: Some(Items::new()), participants: Some(Items::new()), rest: Map::new() }
    }

    /// Reads the body of a GET.
    ///
    /// # Errors
    /// Says what is not as the contract has it; messages and participants may be left out.
    pub fn parse(body: Value) -> Result<Self, String> {
        let Value::Object(mut rest) = body else {
            return Err("the CRM's thread is not an object".to_owned());
        };
        let messages = by_id(rest.remove("messages"), "messages")?;
        let participants = by_id(rest.remove("participants"), "participants")?;
        Ok(Self { messages, participants, rest })
    }

    /// The CRM's own version, where its body carries one.
    pub fn version(&self) -> Option<u64> {
        self.rest.get("version").and_then(Value::as_u64)
    }

    /// The version of the source that the record says it holds.
    pub fn source_version(&self) -> Option<u64> {
        self.rest.get("sourceVersion").and_then(Value::as_u64)
    }

    /// The linked parent.
    pub fn parent(&self) -> Option<&String> {
        text(self.rest.get("parentThreadId"))
    }

    /// The CRM's status.
    pub fn status(&self) -> Option<&String> {
        text(self.rest.get("status"))
    }
}

fn text(value: Option<&Value>) -> Option<&String> {
    match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn by_id(list: Option<Value>, member: &str) -> Result<Option<Items>, String> {
    let list = match list {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(format!("{member} of the CRM's thread is not an array")),
    };
    list.into_iter()
        .map(|item| match item.get("id").and_then(Value::as_str) {
            Some(id) => Ok((id.to_owned(), item)),
            None => Err(format!("a member of {member} of the CRM's thread has no id")),
        })
        .collect::<Result<Items, String>>()
        .map(Some)
}

/// Whether `standing` already says everything that `wanted` says. Members that only the CRM has do not matter, an
/// absent member equals null, and times are compared as instants.
pub fn covers(standing: &Value, wanted: &Value) -> bool {
    let (Value::Object(standing), Value::Object(wanted)) = (standing, wanted) else {
        return standing == wanted;
    };
    wanted.iter().all(|(member, wanted)| {
        let standing = standing.get(member).unwrap_or(&Value::Null);
        standing == wanted || (member == "timestamp" && same_instant(standing, wanted))
    })
}

fn same_instant(left: &Value, right: &Value) -> bool {
    let read = |value: &Value| value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    matches!((read(left), read(right)), (Some(left), Some(right)) if left == right)
}
