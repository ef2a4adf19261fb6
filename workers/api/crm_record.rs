//! A thread as one flat record of a CRM: what its requests and replies look like, and back again. Pure.
//!
//! The lists of messages and participants are JSON texts in one field each, so that a write carries them whole. It is
//! made from the record as it was read, and sent on condition of that reading.

mod applied;

use backhaul_engine::Failure;
use backhaul_outbound::{
    Method,
    profile::{MEMBERS, Product, RecordForm, THREAD_ID},
};
use serde_json::{Map, Value, json};

use self::applied::applied;
use super::precondition::Standing;

/// Most bytes of a record. The reply that shows it has to stay within what the client reads: a record that cannot be
/// read again can never be changed again.
const RECORD_BYTES_MAX: usize = 896 * 1024;

/// Names and values of a query or a path.
pub(super) type Pairs = Vec<(&'static str, String)>;

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    /// The thread that it holds, in the form of the CRM's own threads.
    pub thread: Value,
    /// The record as the CRM shows it, without its envelope.
    pub raw: Value,
}

/// Reads and writes the records of one installation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codec<'e>(pub &'e RecordForm);

impl Codec<'_> {
    /// What fills the paths of requests about the record with this `id`.
    pub(super) fn params(&self, id: &str, standing: Option<&Standing>) -> Pairs {
        let mut params =
            vec![("object", self.0.object.clone()), ("idField", self.0.id_field.clone()), (THREAD_ID, id.to_owned())];
        if let Some(record) = standing.and_then(|standing| standing.record.clone()) {
            params.push(("recordId", record));
        }
        params
    }

    /// The query that finds the record and asks for no more of it than is needed.
    pub(super) fn query(&self, id: &str) -> Pairs {
        let fields = |more: &[&str]| {
            let all = more.iter().copied().chain([self.0.id_field.as_str()]);
            all.chain(self.0.fields.values().map(String::as_str)).collect::<Vec<_>>().join(",")
        };
        match self.0.product {
            Product::Zendesk => vec![("external_id", id.to_owned())],
            Product::Salesforce => vec![("fields", fields(&["Id", "LastModifiedDate"]))],
            Product::Hubspot => vec![("idProperty", self.0.id_field.clone()), ("properties", fields(&[]))],
            Product::Dataverse => vec![("$select", fields(&[]))],
        }
    }

    /// The method and the query of a change.
    pub(super) fn change(&self) -> (Method, Pairs) {
        match self.0.product {
            Product::Zendesk => (Method::PUT, Vec::new()),
            Product::Hubspot => (Method::PATCH, vec![("idProperty", self.0.id_field.clone())]),
            Product::Salesforce | Product::Dataverse => (Method::PATCH, Vec::new()),
        }
    }

    /// The record in the body of a reading; `None` where the search found none.
    pub(super) fn read(&self, body: Value, id: &str) -> Result<Option<Read>, Failure> {
        let Some(raw) = self.opened(body)? else { return Ok(None) };
        let mut thread = Map::from_iter([(THREAD_ID.to_owned(), id.into())]);
        for member in MEMBERS {
            let value = self.value(&raw, member);
            let value = match member {
                "messages" | "participants" => self.list(member, value)?,
                "sourceVersion" => number(value),
                _ => value.filter(|value| value.as_str().is_none_or(|text| !text.is_empty())).cloned(),
            };
            thread.insert(member.to_owned(), value.unwrap_or_default());
        }
        Ok(Some(Read { thread: Value::Object(thread), raw }))
    }

    /// Adds to the marks of a reply those that stand in the record itself. An answer to a write may show none.
    pub(super) fn mark(&self, standing: &mut Standing, raw: &Value) {
        let text = |member: &str| raw.get(member).and_then(Value::as_str);
        match self.0.product {
            Product::Zendesk => {
                standing.record = raw.get("id").and_then(Value::as_u64).map(|id| id.to_string());
                standing.updated_at = text("updated_at").map(str::to_owned);
            }
            Product::Salesforce => {
                standing.record = text("Id").map(str::to_owned);
                standing.last_modified = standing.last_modified.take().or_else(|| http_date(text("LastModifiedDate")?));
            }
            Product::Hubspot => standing.record = text("id").map(str::to_owned),
            Product::Dataverse => {
                standing.etag = standing.etag.take().or_else(|| text("@odata.etag").map(str::to_owned));
            }
        }
    }

    /// The record of a write's reply, as far as it shows one.
    pub(super) fn written(&self, body: Value) -> Value {
        match (self.0.product, body) {
            (Product::Zendesk, Value::Object(mut members)) => members.remove("ticket").unwrap_or_default(),
            (_, body) => body,
        }
    }

    /// The fields of a new record that holds what `delta` tells.
    ///
    /// # Errors
    /// Permanent `crm_record_too_large`.
    pub(super) fn creation(&self, id: &str, delta: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
        let thread = applied(&Value::Null, delta);
        let mut record = self.fields(&Value::Null, &thread)?;
        // The key in the path of Dataverse sets its own column.
        if self.0.product != Product::Dataverse {
            record.insert(self.0.id_field.clone(), id.into());
        }
        for (field, value) in &self.0.create {
            record.entry(field).or_insert_with(|| value.clone());
        }
        Ok(record)
    }

    /// The fields that `delta` changes in the record that holds `thread`.
    ///
    /// # Errors
    /// Permanent `crm_record_too_large`.
    pub(super) fn difference(&self, thread: &Value, delta: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
        self.fields(thread, &applied(thread, delta))
    }

    /// A record in its envelope.
    pub(super) fn enclosed(&self, record: Map<String, Value>) -> Map<String, Value> {
        match self.0.product {
            Product::Zendesk => Map::from_iter([("ticket".to_owned(), Value::Object(record))]),
            Product::Hubspot => Map::from_iter([("properties".to_owned(), Value::Object(record))]),
            Product::Salesforce | Product::Dataverse => record,
        }
    }

    /// The members of a request's body in which people's words stand.
    pub(super) fn texts(&self) -> Vec<String> {
        match self.0.product {
            Product::Zendesk => vec!["value".to_owned()],
            _ => ["messages", "participants"].map(|member| self.0.field(member).to_owned()).to_vec(),
        }
    }

    fn opened(&self, body: Value) -> Result<Option<Value>, Failure> {
        let Product::Zendesk = self.0.product else { return Ok(Some(body)) };
        let mut tickets = match body {
            Value::Object(mut members) => match members.remove("tickets") {
                Some(Value::Array(tickets)) => tickets,
                _ => return Err(invalid("the CRM's answer has no list of tickets")),
            },
            _ => return Err(invalid("the CRM's answer is not an object")),
        };
        let first = tickets.pop();
        if !tickets.is_empty() {
            let message = "several tickets have the thread's id as their external_id";
            return Err(Failure::permanent("crm_record_ambiguous", message));
        }
        Ok(first)
    }

    /// The value of a member's field; `None` where the record does not show it.
    fn value<'r>(&self, raw: &'r Value, member: &str) -> Option<&'r Value> {
        let field = self.0.field(member);
        match self.0.product {
            Product::Zendesk => {
                let number: u64 = field.parse().ok()?;
                let fields = raw.get("custom_fields")?.as_array()?;
                fields.iter().find(|field| field["id"] == number)?.get("value")
            }
            Product::Hubspot => raw.get("properties")?.get(field),
            Product::Salesforce | Product::Dataverse => raw.get(field),
        }
    }

    fn list(&self, member: &str, value: Option<&Value>) -> Result<Option<Value>, Failure> {
        let field = self.0.field(member);
        let text = match value {
            None => return Err(invalid(&format!("the CRM's record does not show the field {field} ({member})"))),
            Some(Value::Null) => "",
            Some(Value::String(text)) => text.trim(),
            Some(_) => return Err(invalid(&format!("the field {field} ({member}) of the CRM's record is no text"))),
        };
        if text.is_empty() {
            return Ok(Some(json!([])));
        }
        match serde_json::from_str(text) {
            Ok(Value::Array(items)) => Ok(Some(Value::Array(items))),
            _ => Err(invalid(&format!("the field {field} ({member}) of the CRM's record holds no JSON list"))),
        }
    }

    /// The fields in which `after` differs from `before`, in the product's form.
    fn fields(&self, before: &Value, after: &Value) -> Result<Map<String, Value>, Failure> {
        let (mut record, mut custom, mut bytes) = (Map::new(), Vec::new(), 0);
        for member in MEMBERS {
            let wanted = after.get(member).cloned().unwrap_or_default();
            let (value, length) = self.written_value(member, &wanted)?;
            bytes += length;
            if *before.get(member).unwrap_or(&Value::Null) == wanted {
                continue;
            }
            let field = self.0.field(member).to_owned();
            match (self.0.product, field.parse::<u64>()) {
                (Product::Zendesk, Ok(number)) => custom.push(json!({"id": number, "value": value})),
                _ => drop(record.insert(field, value)),
            }
        }
        // Zendesk shows its custom fields twice.
        let bytes_max = if self.0.product == Product::Zendesk { RECORD_BYTES_MAX / 2 } else { RECORD_BYTES_MAX };
        if bytes > bytes_max {
            return Err(too_large(format!("the thread takes {bytes} bytes; a record takes {bytes_max}")));
        }
        if !custom.is_empty() {
            record.insert("custom_fields".to_owned(), Value::Array(custom));
        }
        Ok(record)
    }

    /// A member's value as its field takes it, and its bytes in the body.
    fn written_value(&self, member: &str, value: &Value) -> Result<(Value, usize), Failure> {
        let max = self.0.text_units_max;
        let texts = matches!(self.0.product, Product::Zendesk | Product::Hubspot);
        let value = match value {
            Value::Array(_) => {
                let text = value.to_string();
                let units = text.encode_utf16().count();
                if units > max {
                    return Err(too_large(format!("{member} take {units} UTF-16 units; their field takes {max}")));
                }
                Value::String(text)
            }
            Value::Number(number) if texts => Value::String(number.to_string()),
            // HubSpot clears a property by an empty text.
            Value::Null if self.0.product == Product::Hubspot => Value::String(String::new()),
            other => other.clone(),
        };
        let bytes = value.to_string().len();
        Ok((value, bytes))
    }
}

fn invalid(message: &str) -> Failure {
    Failure::permanent("crm_reply_invalid", message)
}

fn too_large(message: String) -> Failure {
    Failure::permanent("crm_record_too_large", message)
}

/// A whole number, which a CRM may show as text or with decimals.
fn number(value: Option<&Value>) -> Option<Value> {
    let text = match value? {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    let number: u64 = whole.parse().ok().filter(|_| decimals.bytes().all(|digit| digit == b'0'))?;
    Some(number.into())
}

/// `2026-03-01T10:00:30.000+0000`, as Salesforce writes it, in the form of HTTP.
fn http_date(text: &str) -> Option<String> {
    let read = chrono::DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z").ok()?;
    Some(read.with_timezone(&chrono::Utc).format("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
#[path = "crm_record_tests.rs"]
mod tests;
