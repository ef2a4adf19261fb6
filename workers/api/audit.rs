//! The Genesys audit trail, page by page.

use backhaul_engine::Failure;
use backhaul_outbound::{Call, Method};
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
            Via::Post => {
                let mut body: Value = pairs.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
                body["pageSize"] = json!(PAGE_ENTRIES);
                // A query changes nothing.
                let call = Call::new(Method::POST, "audit", "audit").json(&body).replay_safe();
                self.session.call(call).await
            }
        }
        .map_err(|trouble| trouble.named(NAMES))?;
        let body: Value = reply
            .json()
            .map_err(|error| Failure::transient("audit_reply_unusable", error).with_status(reply.status))?;
        let (ids, next) = read(&body)
            .map_err(|problem| Failure::permanent("audit_reply_invalid", problem).with_status(reply.status))?;
        Ok(Page { ids, next, exchange: Exchange::of(&reply) })
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The ids and the next cursor of a page.
fn read(body: &Value) -> Result<(Vec<String>, Option<String>), &'static str> {
    let entities = body.get("entities").and_then(Value::as_array).ok_or("the page has no list of entities")?;
    let short = |text: &&str| (1..=TEXT_BYTES_MAX).contains(&text.len());
    let ids = entities
        .iter()
        .map(|entity| entity.get("id").and_then(Value::as_str).filter(short).map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or("an entity of the page has no usable id")?;
    let next = match body.get("nextPageCursor") {
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
        assert_eq!(read(&page), Ok((vec!["a".to_owned(), "b".to_owned()], Some("c2".to_owned()))));
        assert_eq!(read(&json!({"entities": []})), Ok((Vec::new(), None)));
        assert_eq!(read(&json!({"entities": [], "nextPageCursor": ""})), Ok((Vec::new(), None)));
        for broken in [
            json!({}),
            json!([]),
            json!({"entities": null}),
            json!({"entities": [{}]}),
            json!({"entities": [{"id": 1}]}),
            json!({"entities": [], "nextPageCursor": 7}),
            json!({"entities": [], "nextPageCursor": "x".repeat(5_000)}),
        ] {
            assert!(read(&broken).is_err(), "{broken}");
        }
    }
}
