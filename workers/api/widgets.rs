//! CXone webchat configurations: read, patch on condition, purge the gateway's cache.

use backhaul_engine::{Failure, preview::PlannedRequest};
use backhaul_outbound::{
    Call, Method, Reply,
    header::{HeaderValue, IF_MATCH},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    failure::Trouble,
    session::{Exchange, Session},
};

/// Bucket class of the endpoints.
const CLASS: &str = "webchat";
/// This client's names for general codes.
const NAMES: &[(&str, &str)] = &[
    ("not_found", "widget_not_found"),
    ("gone", "widget_not_found"),
    ("rejected", "widget_rejected"),
    ("payload_too_large", "widget_rejected"),
];

/// A configuration as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The document.
    pub document: Value,
    /// Its entity tag as it was sent, weak prefix and quotes included.
    pub etag: String,
}

/// What the gateway said to a write that it did not refuse.
#[derive(Debug, Clone)]
pub enum Patched {
    /// The document that results, as far as the answer shows it, and its entity tag.
    Shown(Value, Option<String>),
    /// The write was accepted and will be done later.
    Accepted,
    /// A success that shows no configuration: read back.
    Silent,
}

/// The client.
#[derive(Clone)]
pub struct Widgets<'e> {
    session: Session<'e>,
}

impl<'e> Widgets<'e> {
    /// A client over `session`, whose provider is CXone.
    pub fn new(session: Session<'e>) -> Self {
        Self { session }
    }

    /// Reads a configuration. Fails as `widget_without_etag` where no entity tag comes with it: without one a write
    /// could not be made conditional.
    pub async fn read(&self, id: &str) -> Result<(Snapshot, Exchange), Trouble> {
        let reply = self.send(Call::get("widget", CLASS).params(&[("configurationId", id)])).await?;
        let document: Value = reply
            .json()
            .map_err(|error| Failure::transient("widget_reply_unusable", error).with_status(reply.status))?;
        if document.get("configurationId").is_some_and(|own| own != id) || !document.is_object() {
            let message = "the reply to a read shows another configuration";
            return Err(Failure::permanent("widget_reply_mismatch", message).with_status(reply.status).into());
        }
        let Some(etag) = reply.etag().map(str::to_owned) else {
            let message = "the configuration was read without an ETag, so that a write could not be made conditional";
            return Err(Failure::permanent("widget_without_etag", message).with_status(reply.status).into());
        };
        Ok((Snapshot { document, etag }, Exchange::of(&reply)))
    }

    /// Sends the sparse `patch` on the condition that the configuration still has `etag`. `key` names this write.
    pub async fn patch(&self, id: &str, etag: &str, key: &str, patch: &Value) -> Result<(Patched, Exchange), Trouble> {
        let params = [("configurationId", id)];
        let reply = self.send(self.patch_call(&params, etag, key, patch)?).await?;
        let patched = match reply.status {
            202 => Patched::Accepted,
            _ => shown(&reply, id),
        };
        Ok((patched, Exchange::of(&reply)))
    }

    /// The request that [`Widgets::patch`] would send.
    pub fn show_patch(&self, id: &str, etag: &str, key: &str, patch: &Value) -> Result<PlannedRequest, Failure> {
        self.session.show(&self.patch_call(&[("configurationId", id)], etag, key, patch)?)
    }

    fn patch_call<'c>(
        &self,
        params: &'c [(&'c str, &'c str)],
        etag: &str,
        key: &str,
        patch: &'c Value,
    ) -> Result<Call<'c>, Failure> {
        let condition = HeaderValue::from_str(etag)
            .map_err(|_| Failure::permanent("widget_etag_unusable", "the ETag that was read is no header value"))?;
        let mut call = Call::new(Method::PATCH, "widget", CLASS).params(params).header(IF_MATCH, condition).json(patch);
        call.headers.extend(self.session.idempotency(key, false)?);
        Ok(call)
    }

    /// Purges the gateway's cache of a configuration. Purging twice does no harm.
    pub async fn purge(&self, id: &str, key: &str) -> Result<Exchange, Trouble> {
        let params = [("configurationId", id)];
        let mut call = Call::new(Method::POST, "widget_purge", CLASS).params(&params).replay_safe();
        call.headers.extend(self.session.idempotency(key, false)?);
        let reply = self.session.call(call).await.map_err(|trouble| {
            trouble.named(&[
                ("not_found", "widget_purge_refused"),
                ("gone", "widget_purge_refused"),
                ("rejected", "widget_purge_refused"),
                ("method_not_allowed", "widget_purge_refused"),
            ])
        })?;
        Ok(Exchange::of(&reply))
    }

    async fn send(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        self.session.call(call).await.map_err(|trouble| trouble.named(NAMES))
    }
}

/// A success is believed as far as it shows the configuration that was meant, with a theme.
fn shown(reply: &Reply, id: &str) -> Patched {
    match reply.json::<Value>() {
        Ok(document)
            if document.get("configurationId").is_some_and(|own| own == id) && document["theme"].is_object() =>
        {
            Patched::Shown(document, reply.etag().map(str::to_owned))
        }
        // An empty or foreign body says nothing about the write, which may well stand.
        Ok(_) | Err(_) => Patched::Silent,
    }
}
