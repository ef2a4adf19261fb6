//! The Genesys audit trail, page by page.

use backhaul_engine::Failure;
use backhaul_outbound::{Call, Method, Reply};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{
    failure::Trouble,
    session::{Exchange, Session},
};

/// Entries a page.
pub const PAGE_ENTRIES: usize = 100;
/// Longest cursor and entry id, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;
/// This client's names for general codes.
const NAMES: &[(&str, &str)] = &[
    ("not_found", "audit_query_refused"),
    ("gone", "audit_query_refused"),
    ("rejected", "audit_query_refused"),
    ("upstream_error", "audit_unavailable"),
    ("body_too_large", "audit_page_too_large"),
];

/// How the query travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// In the query string.
    #[default]
    Get,
    /// As a JSON body.
    Post,
    /// As a transaction: asked for once, looked at until it is ready, and then read page by page.
    AsyncQuery,
}

/// What is asked for. The same on every page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// The channel; its id was checked against a pattern, so that it means nothing in the filter.
    pub channel_id: &'a str,
    /// Begin of the window.
    pub start: DateTime<Utc>,
    /// End of the window.
    pub end: DateTime<Utc>,
    /// How the query travels.
    pub via: Via,
    /// The service whose audit trail is meant, where queries are transactions.
    pub service: &'a str,
}

/// How a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its pages can be read.
    Ready,
    /// It is being worked on.
    Pending,
    /// It will never be ready.
    Failed,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Ids of its entries.
    pub ids: Vec<String>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<String>,
    /// What audit events tell of the call.
    pub exchange: Exchange,
}

/// The client.
#[derive(Clone)]
pub struct Audit<'e> {
    session: Session<'e>,
}

impl<'e> Audit<'e> {
    /// A client over `session`, whose provider is Genesys.
    pub fn new(session: Session<'e>) -> Self {
        Self { session }
    }

    /// Asks for the query to be worked on. Answers the transaction's id. A second transaction does no harm.
    pub async fn ask(&self, query: &Query<'_>) -> Result<String, Trouble> {
        let body = json!({
            "interval": format!("{}/{}", instant(query.start), instant(query.end)),
            "serviceName": query.service,
            "filters": [{"property": "EntityId", "value": query.channel_id}],
        });
        let call = Call::new(Method::POST, "audit", "audit").json(&body).replay_safe();
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(NAMES))?;
        let body: Value = json_of(&reply)?;
        let id = body.get("id").and_then(Value::as_str).filter(|id| is_transaction_id(id));
        id.map(str::to_owned).ok_or_else(|| {
            let message = "the platform took the query and named no transaction that could be looked at";
            Failure::permanent("audit_reply_invalid", message).with_status(reply.status).into()
        })
    }

    /// Looks at a transaction.
    pub async fn state(&self, transaction: &str) -> Result<State, Trouble> {
        let params = [("transactionId", transaction)];
        let outcome = self.session.call(Call::get("audit_transaction", "audit").params(&params)).await;
        let reply = match outcome {
            Ok(reply) => reply,
            // The platform has forgotten it; another one can be asked for.
            Err(trouble) if trouble.is_not_found() => return Ok(State::Failed),
            Err(trouble) => return Err(trouble.named(NAMES)),
        };
        state(&json_of(&reply)?)
            .map_err(|problem| Failure::permanent("audit_reply_invalid", problem).with_status(reply.status).into())
    }

    /// Reads the page of a transaction's results that begins at `cursor`, the first one without.
    pub async fn results(&self, transaction: &str, cursor: Option<&str>) -> Result<Page, Trouble> {
        let (params, size) = ([("transactionId", transaction)], PAGE_ENTRIES.to_string());
        let mut pairs = vec![("pageSize", size.as_str())];
        pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
        let call = Call::get("audit_results", "audit").params(&params).query(&pairs);
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(NAMES))?;
        page_of(&reply, "cursor")
    }

    /// Reads the page that begins at `cursor`, the first one without.
    pub async fn page(&self, query: &Query<'_>, cursor: Option<&str>) -> Result<Page, Trouble> {
        let filter = format!("entityId:{}", query.channel_id);
        let (start, end) = (instant(query.start), instant(query.end));
        let size = PAGE_ENTRIES.to_string();
        let mut pairs = vec![
            ("filter", filter.as_str()),
            ("startTime", start.as_str()),
            ("endTime", end.as_str()),
            ("pageSize", size.as_str()),
        ];
        pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
        let reply = match query.via {
            Via::Get => self.session.call(Call::get("audit", "audit").query(&pairs)).await,
            Via::Post | Via::AsyncQuery => {
                let mut body: Value = pairs.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
                body["pageSize"] = json!(PAGE_ENTRIES);
                // A query changes nothing.
                let call = Call::new(Method::POST, "audit", "audit").json(&body).replay_safe();
                self.session.call(call).await
            }
        }
        .map_err(|trouble| trouble.named(NAMES))?;
        page_of(&reply, "nextPageCursor")
    }
}

fn json_of(reply: &Reply) -> Result<Value, Failure> {
    reply.json().map_err(|error| Failure::transient("audit_reply_unusable", error).with_status(reply.status))
}

fn page_of(reply: &Reply, cursor: &str) -> Result<Page, Trouble> {
    let (ids, next) = read(&json_of(reply)?, cursor)
        .map_err(|problem| Failure::permanent("audit_reply_invalid", problem).with_status(reply.status))?;
    Ok(Page { ids, next, exchange: Exchange::of(reply) })
}

/// Ids become path segments, and steps keep them.
fn is_transaction_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn state(body: &Value) -> Result<State, &'static str> {
    match body.get("state").and_then(Value::as_str).map(str::to_ascii_lowercase).as_deref() {
        Some("succeeded") => Ok(State::Ready),
        Some("queued" | "running" | "pending") => Ok(State::Pending),
        Some("failed" | "cancelled") => Ok(State::Failed),
        _ => Err("the transaction is in no state that is known"),
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The ids and the next cursor of a page, which stands in the member `cursor`.
fn read(body: &Value, cursor: &str) -> Result<(Vec<String>, Option<String>), &'static str> {
    let entities = body.get("entities").and_then(Value::as_array).ok_or("the page has no list of entities")?;
    let short = |text: &&str| (1..=TEXT_BYTES_MAX).contains(&text.len());
    let ids = entities
        .iter()
        .map(|entity| entity.get("id").and_then(Value::as_str).filter(short).map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or("an entity of the page has no usable id")?;
    let next = match body.get(cursor) {
        None | Some(Value::Null) => None,
        Some(Value::String(cursor)) if cursor.is_empty() => None,
        Some(cursor) => {
            Some(cursor.as_str().filter(short).ok_or("the page's cursor is no text of at most 4096 bytes")?.to_owned())
        }
    };
    Ok((ids, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 157: a page without entities is an error, not an empty page.
    #[test]
    fn pages_have_entities_with_ids() {
        let page = json!({"entities": [{"id": "a"}, {"id": "b"}], "nextPageCursor": "c2"});
        assert_eq!(read(&page, "nextPageCursor"), Ok((vec!["a".to_owned(), "b".to_owned()], Some("c2".to_owned()))));
        assert_eq!(read(&json!({"entities": []}), "nextPageCursor"), Ok((Vec::new(), None)));
        assert_eq!(read(&json!({"entities": [], "nextPageCursor": ""}), "nextPageCursor"), Ok((Vec::new(), None)));
        for broken in [
            json!({}),
            json!([]),
            json!({"entities": null}),
            json!({"entities": [{}]}),
            json!({"entities": [{"id": 1}]}),
            json!({"entities": [], "nextPageCursor": 7}),
            json!({"entities": [], "nextPageCursor": "x".repeat(5_000)}),
        ] {
            assert!(read(&broken, "nextPageCursor").is_err(), "{broken}");
        }
    }

    #[test]
    fn transactions_are_told_apart_by_their_state() {
        for (word, expected) in [
            ("Queued", State::Pending),
            ("Running", State::Pending),
            ("Succeeded", State::Ready),
            ("SUCCEEDED", State::Ready),
            ("Failed", State::Failed),
            ("Cancelled", State::Failed),
        ] {
            assert_eq!(state(&json!({ "state": word })), Ok(expected), "{word}");
        }
        assert!(state(&json!({"state": "Exploded"})).is_err() && state(&json!({})).is_err());
        assert!(is_transaction_id("6f1c0f8e-7a34") && !is_transaction_id("../x") && !is_transaction_id(""));
    }
}
