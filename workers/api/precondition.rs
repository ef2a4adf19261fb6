//! What was read of a resource's state, and how a write says that it builds on exactly that state.

use backhaul_engine::Failure;
use backhaul_outbound::{
    OccMode, Reply,
    header::{DATE, HeaderName, HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED},
};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Headers of a condition; none where the profile carries it in the body.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// Every mark of a resource's state that came with a reply. Which of them counts is the profile's to say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// `ETag`, as it was sent.
    pub etag: Option<String>,
    /// The body's integer `version`.
    pub version: Option<u64>,
    /// `Last-Modified`, as it was sent.
    pub last_modified: Option<String>,
    /// The body's `updatedAt` or `updated_at`, as it was sent.
    pub updated_at: Option<String>,
    /// The answer's `Date`, as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The CRM's own id of a flat record, where changes go by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

impl Standing {
    /// The marks of `reply`, whose body is `document`.
    pub fn of(reply: &Reply, document: &Value) -> Self {
        let text = |member: &str| document.get(member).and_then(Value::as_str).map(str::to_owned);
        let header = |name| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            etag: reply.etag().map(str::to_owned),
            version: document.get("version").and_then(Value::as_u64),
            last_modified: header(LAST_MODIFIED),
            updated_at: text("updatedAt").or_else(|| text("updated_at")),
            date: header(DATE),
            record: None,
        }
    }

    /// Whether the mark that `mode` asks for counts whole seconds and the resource was read in the very second of its
    /// last change. Another change in the rest of that second would leave the mark as it is, so that a write would
    /// overwrite it. False where an answer does not tell its time.
    pub fn is_too_fresh(&self, mode: OccMode) -> bool {
        let http = |text: &Option<String>| DateTime::parse_from_rfc2822(text.as_deref()?).ok();
        let changed = match mode {
            OccMode::IfUnmodifiedSince => http(&self.last_modified),
            OccMode::UpdatedStamp => {
                self.updated_at.as_deref().and_then(|text| DateTime::parse_from_rfc3339(text).ok())
            }
            OccMode::Etag | OccMode::BodyVersion | OccMode::IfMatchVersion | OccMode::None => None,
        };
        let changed = changed.filter(|changed| changed.timestamp_subsec_nanos() == 0);
        matches!((changed, http(&self.date)), (Some(changed), Some(date)) if date <= changed)
    }

    /// Whether the mark that `mode` asks for was read.
    pub fn serves(&self, mode: OccMode) -> bool {
        match mode {
            OccMode::Etag => self.etag.is_some(),
            OccMode::BodyVersion | OccMode::IfMatchVersion => self.version.is_some(),
            OccMode::IfUnmodifiedSince => self.last_modified.is_some(),
            OccMode::UpdatedStamp => self.updated_at.is_some(),
            OccMode::None => true,
        }
    }

    /// The headers that make a write conditional on this state. Where the profile carries the condition in the body,
    /// it is added to `body`. A mark that was not read is never made up.
    ///
    /// # Errors
    /// Permanent `precondition_missing` where the mark that the profile asks for was not read.
    pub fn condition(&self, mode: OccMode, body: &mut Map<String, Value>) -> Result<Headers, Failure> {
        let missing = |mark: &str| {
            Failure::permanent(
                "precondition_missing",
                format!("the read gave no {mark}, which occ.mode = {mode} needs; set the mode the upstream supports"),
            )
        };
        let header = |name: HeaderName, value: &str| {
            HeaderValue::from_str(value).map(|value| vec![(name, value)]).map_err(|_| missing("usable mark"))
        };
        match mode {
            OccMode::Etag => header(IF_MATCH, self.etag.as_deref().ok_or_else(|| missing("ETag"))?),
            OccMode::IfMatchVersion => {
                let version = self.version.ok_or_else(|| missing("version"))?;
                // A bare integer is no entity-tag.
                header(IF_MATCH, &format!("\"{version}\""))
            }
            OccMode::BodyVersion => {
                let version = self.version.ok_or_else(|| missing("version"))?;
                body.insert("version".to_owned(), version.into());
                Ok(Vec::new())
            }
            OccMode::IfUnmodifiedSince => {
                header(IF_UNMODIFIED_SINCE, self.last_modified.as_deref().ok_or_else(|| missing("Last-Modified"))?)
            }
            OccMode::UpdatedStamp => {
                let stamp = self.updated_at.clone().ok_or_else(|| missing("updatedAt"))?;
                body.insert("safe_update".to_owned(), true.into());
                body.insert("updated_stamp".to_owned(), stamp.into());
                Ok(Vec::new())
            }
            OccMode::None => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn standing() -> Standing {
        Standing {
            etag: Some("W/\"41-a\"".to_owned()),
            version: Some(41),
            last_modified: Some("Sun, 01 Mar 2026 10:00:30 GMT".to_owned()),
            updated_at: Some("2026-03-01T10:00:30Z".to_owned()),
            date: Some("Sun, 01 Mar 2026 10:00:31 GMT".to_owned()),
            record: None,
        }
    }

    fn condition(mode: OccMode) -> (Vec<(String, String)>, Value) {
        let mut body = Map::new();
        let headers = standing().condition(mode, &mut body).expect("a condition");
        let shown = |(name, value): (HeaderName, HeaderValue)| {
            (name.as_str().to_owned(), value.to_str().expect("text").to_owned())
        };
        (headers.into_iter().map(shown).collect(), Value::Object(body))
    }

    /// Covers row 150, row 179, row 181: what was read is what is sent, in the form the profile asks for.
    #[test]
    fn conditions_carry_what_was_read() {
        let header = |name: &str, value: &str| (vec![(name.to_owned(), value.to_owned())], json!({}));
        assert_eq!(condition(OccMode::Etag), header("if-match", "W/\"41-a\""));
        assert_eq!(condition(OccMode::IfMatchVersion), header("if-match", "\"41\""));
        assert_eq!(condition(OccMode::BodyVersion), (Vec::new(), json!({"version": 41})));
        let since = header("if-unmodified-since", "Sun, 01 Mar 2026 10:00:30 GMT");
        assert_eq!(condition(OccMode::IfUnmodifiedSince), since);
        let stamp = json!({"safe_update": true, "updated_stamp": "2026-03-01T10:00:30Z"});
        assert_eq!(condition(OccMode::UpdatedStamp), (Vec::new(), stamp));
        assert_eq!(condition(OccMode::None), (Vec::new(), json!({})));
    }

    /// Covers row 149: a missing mark is an error, never a star or the word undefined.
    #[test]
    fn a_missing_mark_is_never_made_up() {
        for mode in [
            OccMode::Etag,
            OccMode::IfMatchVersion,
            OccMode::BodyVersion,
            OccMode::IfUnmodifiedSince,
            OccMode::UpdatedStamp,
        ] {
            assert!(!Standing::default().serves(mode) && standing().serves(mode));
            let failure = Standing::default().condition(mode, &mut Map::new()).expect_err("nothing was read");
            assert_eq!(failure.code(), "precondition_missing");
        }
    }
    /// A mark of whole seconds says nothing of the second that is still going on.
    #[test]
    fn a_mark_of_the_second_that_is_not_over_is_too_fresh() {
        let same = Standing { date: Some("Sun, 01 Mar 2026 10:00:30 GMT".to_owned()), ..standing() };
        for mode in [OccMode::IfUnmodifiedSince, OccMode::UpdatedStamp] {
            assert!(same.is_too_fresh(mode) && !standing().is_too_fresh(mode), "{mode}");
            assert!(!Standing { date: None, ..same.clone() }.is_too_fresh(mode));
        }
        let finer = Standing { updated_at: Some("2026-03-01T10:00:30.120Z".to_owned()), ..same.clone() };
        assert!(!finer.is_too_fresh(OccMode::UpdatedStamp), "this one tells parts of a second");
        assert!(!same.is_too_fresh(OccMode::Etag) && !same.is_too_fresh(OccMode::None));
    }
}
