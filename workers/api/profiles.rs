//! CXone customer profiles: read and enrich.

use backhaul_engine::{Failure, preview::PlannedRequest};
use backhaul_outbound::{
    Call, Method, Reply,
    header::{HeaderValue, IF_MATCH},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    failure::Trouble,
    session::{Exchange, Session},
};

/// Bucket class of the endpoints.
const CLASS: &str = "profiles";
/// This client's names for general codes.
const NAMES: &[(&str, &str)] = &[
    ("not_found", "profile_not_found"),
    ("gone", "profile_not_found"),
    ("rejected", "profile_rejected"),
    ("payload_too_large", "profile_rejected"),
];

/// A profile as it was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Profile {
    /// Its attributes.
    pub attributes: Map<String, Value>,
    /// Its tags.
    pub tags: Vec<String>,
    /// The profile it was merged into, where the answer says so.
    pub survivor: Option<String>,
    /// Its entity tag, where the server offers one.
    pub etag: Option<String>,
}

/// The wire form of a read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileBody {
    profile_id: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default)]
    tags: Vec<String>,
    survivor_profile_id: Option<String>,
}

/// What the server says about an enrichment, as far as it can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enriched {
    /// The merge succeeded.
    Success {
        /// How many attributes the server says it changed.
        updated_attributes: Option<u64>,
        /// Whether a de-duplication was set off.
        deduplicated: bool,
        /// The profile that remains of a de-duplication.
        survivor: Option<String>,
    },
    /// The merge did not succeed, or not wholly. The word is the server's.
    Incomplete(String),
    /// The write was accepted and will be done later.
    Accepted,
    /// A success that says nothing: read back.
    Silent,
}

/// The wire form of an enrichment's answer. Members of a wrong type make the answer a silent one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnrichedBody {
    profile_id: Option<String>,
    updated_attributes: Option<Value>,
    merge_result: Option<String>,
    #[serde(default)]
    deduplication_trigger: bool,
    survivor_profile_id: Option<String>,
}

/// The client.
#[derive(Clone)]
pub struct Profiles<'e> {
    session: Session<'e>,
}

impl<'e> Profiles<'e> {
    /// A client over `session`, whose provider is CXone.
    pub fn new(session: Session<'e>) -> Self {
        Self { session }
    }

    /// Reads a profile.
    pub async fn read(&self, id: &str) -> Result<Profile, Trouble> {
        let reply = self.send(Call::get("profile", CLASS).params(&[("profileId", id)])).await?;
        let body: ProfileBody = reply
            .json()
            .map_err(|error| Failure::transient("profile_reply_unusable", error).with_status(reply.status))?;
        let own = |other: &String| other.eq_ignore_ascii_case(id);
        // A server may show the survivor's own id instead of naming it beside the one that was asked for.
        let shown = body.profile_id.filter(|shown| !own(shown));
        Ok(Profile {
            attributes: body.attributes,
            tags: body.tags,
            survivor: body.survivor_profile_id.filter(|survivor| !own(survivor)).or(shown),
            etag: reply.etag().map(str::to_owned),
        })
    }

    /// Sends the enrichment `body`, on the condition that the profile still has `etag` where one is given. `key` names
    /// this write.
    pub async fn enrich(
        &self,
        id: &str,
        etag: Option<&str>,
        key: &str,
        body: &Value,
    ) -> Result<(Enriched, Exchange), Trouble> {
        let params = [("profileId", id)];
        let reply = self.send(self.enrich_call(&params, etag, key, body)?).await?;
        let enriched = match reply.status {
            202 => Enriched::Accepted,
            _ => said(&reply, id),
        };
        Ok((enriched, Exchange::of(&reply)))
    }

    /// The request that [`Profiles::enrich`] would send.
    pub fn show_enrich(
        &self,
        id: &str,
        etag: Option<&str>,
        key: &str,
        body: &Value,
    ) -> Result<PlannedRequest, Failure> {
        self.session.show(&self.enrich_call(&[("profileId", id)], etag, key, body)?)
    }

    fn enrich_call<'c>(
        &self,
        params: &'c [(&'c str, &'c str)],
        etag: Option<&str>,
        key: &str,
        body: &'c Value,
    ) -> Result<Call<'c>, Failure> {
        let mut call = Call::new(Method::PATCH, "profile", CLASS).params(params).json(body);
        if let Some(etag) = etag {
            let condition = HeaderValue::from_str(etag).map_err(|_| {
                Failure::permanent("profile_etag_unusable", "the ETag that was read is no header value")
            })?;
            call = call.header(IF_MATCH, condition);
        }
        call.headers.extend(self.session.idempotency(key, false)?);
        Ok(call)
    }

    async fn send(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        self.session.call(call).await.map_err(|trouble| trouble.named(NAMES))
    }
}

fn said(reply: &Reply, id: &str) -> Enriched {
    let Ok(body) = reply.json::<EnrichedBody>() else { return Enriched::Silent };
    let survivor = body.survivor_profile_id.filter(|survivor| !survivor.eq_ignore_ascii_case(id));
    let foreign = body.profile_id.as_ref().is_some_and(|own| {
        !own.eq_ignore_ascii_case(id) && !survivor.as_ref().is_some_and(|survivor| survivor.eq_ignore_ascii_case(own))
    });
    match body.merge_result.as_deref() {
        // An answer about another profile says nothing about this one.
        _ if foreign => Enriched::Silent,
        None => Enriched::Silent,
        Some("SUCCESS") => Enriched::Success {
            updated_attributes: body.updated_attributes.as_ref().and_then(count),
            deduplicated: body.deduplication_trigger,
            survivor: survivor.filter(|_| body.deduplication_trigger),
        },
        Some(other) => Enriched::Incomplete(word(other)),
    }
}

/// The server counts the attributes or lists them.
fn count(updated: &Value) -> Option<u64> {
    updated.as_u64().or_else(|| updated.as_array().and_then(|names| u64::try_from(names.len()).ok()))
}

/// A result as it may stand in a message: words of capitals only.
fn word(result: &str) -> String {
    let plain =
        (1..=32).contains(&result.len()) && result.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    if plain { result.to_owned() } else { "an unknown result".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backhaul_outbound::header::HeaderMap;
    use serde_json::json;

    use super::*;

    const ID: &str = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";

    fn reply(status: u16, body: &[u8]) -> Reply {
        Reply {
            status,
            headers: HeaderMap::new(),
            body: body.to_vec(),
            request_id: "r".into(),
            latency: Duration::ZERO,
            bucket: "cxone/profiles".into(),
        }
    }

    fn answer(body: Value) -> Enriched {
        said(&reply(200, body.to_string().as_bytes()), ID)
    }

    /// Covers row 31, row 30: the body's meaning decides, and a body without one is none.
    #[test]
    fn only_success_is_a_success() {
        let success = answer(json!({"profileId": ID, "mergeResult": "SUCCESS", "updatedAttributes": 3}));
        assert_eq!(success, Enriched::Success { updated_attributes: Some(3), deduplicated: false, survivor: None });
        assert_eq!(answer(json!({"mergeResult": "PARTIAL"})), Enriched::Incomplete("PARTIAL".into()));
        assert_eq!(answer(json!({"mergeResult": "ann@example.com"})), Enriched::Incomplete("an unknown result".into()));
        assert_eq!(answer(json!({})), Enriched::Silent);
        assert_eq!(answer(json!({"mergeResult": 5})), Enriched::Silent);
        assert_eq!(said(&reply(204, b""), ID), Enriched::Silent);
        assert_eq!(answer(json!({"profileId": "other", "mergeResult": "SUCCESS"})), Enriched::Silent);
    }

    /// Covers row 128: the survivor counts where the server says that it de-duplicated.
    #[test]
    fn survivors_are_taken_from_the_answer() {
        let survivor = |deduplicated: bool| {
            let body = json!({"profileId": ID, "mergeResult": "SUCCESS", "deduplicationTrigger": deduplicated,
                "updatedAttributes": ["a"], "survivorProfileId": "s"});
            match answer(body) {
                Enriched::Success { survivor, updated_attributes: Some(1), .. } => survivor,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(survivor(true).as_deref(), Some("s"));
        assert_eq!(survivor(false), None);
    }
}
