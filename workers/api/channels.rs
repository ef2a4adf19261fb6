//! Genesys webchat channels and the webhooks that watch them.

use backhaul_engine::{Failure, preview::PlannedRequest};
use backhaul_outbound::{
    Call, Method, Reply,
    paging::{self, PAGES_MAX},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    failure::Trouble,
    precondition::{Headers, Standing},
    reply::json,
    session::{Exchange, Session},
};

/// This client's names for general codes of the channel endpoints.
const CHANNEL_NAMES: &[(&str, &str)] =
    &[("not_found", "channel_not_found"), ("gone", "channel_not_found"), ("rejected", "channel_rejected")];
/// This client's names for general codes of the publishing endpoint.
const PUBLISH_NAMES: &[(&str, &str)] = &[
    ("not_found", "channel_publish_refused"),
    ("gone", "channel_publish_refused"),
    ("rejected", "channel_publish_refused"),
    ("unexpected_conflict", "channel_publish_refused"),
];
/// This client's names for general codes of the webhook endpoints.
const WEBHOOK_NAMES: &[(&str, &str)] = &[
    ("not_found", "health_webhook_refused"),
    ("gone", "health_webhook_refused"),
    ("rejected", "health_webhook_refused"),
];

/// A channel as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// The document, without its version: that is no content.
    pub document: Map<String, Value>,
    /// The marks of its state.
    pub standing: Standing,
}

/// The client.
#[derive(Clone)]
pub struct Channels<'e> {
    session: Session<'e>,
}

impl<'e> Channels<'e> {
    /// A client over `session`, whose provider is Genesys.
    pub fn new(session: Session<'e>) -> Self {
        Self { session }
    }

    /// Reads a channel; `None` where there is none.
    pub async fn read(&self, id: &str) -> Result<Option<Channel>, Trouble> {
        self.get("channel", id).await
    }

    /// Reads a channel as it is live, on platforms that edit drafts; `None` where it was never published.
    pub async fn read_live(&self, id: &str) -> Result<Option<Channel>, Trouble> {
        self.get("channel_live", id).await
    }

    async fn get(&self, endpoint: &str, id: &str) -> Result<Option<Channel>, Trouble> {
        match self.session.call(Call::get(endpoint, "channels").params(&[("channelId", id)])).await {
            Ok(reply) => Ok(Some(channel(&reply)?)),
            Err(trouble) if trouble.is_not_found() => Ok(None),
            Err(trouble) => Err(trouble.named(CHANNEL_NAMES)),
        }
    }

    /// The id of the channel that was created under `external_id`, if any.
    pub async fn find(&self, external_id: &str) -> Result<Option<String>, Trouble> {
        let query = [("externalId", external_id)];
        let call = Call::get("channels", "channels").query(&query);
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(CHANNEL_NAMES))?;
        let listing: Value = json(&reply, "channel_reply_unusable")?;
        let channels = listing.get("entities").or(Some(&listing)).and_then(Value::as_array);
        let found = channels.into_iter().flatten().find(|channel| {
            // A listing that ignores the filter shows other channels too.
            channel.get("externalId").and_then(Value::as_str) == Some(external_id)
        });
        Ok(found.and_then(id_of))
    }

    /// Creates a channel; answers its id. `None`: the platform makes it later, and has not said under which id.
    pub async fn create(
        &self,
        document: &Map<String, Value>,
        key: &str,
    ) -> Result<(Option<String>, Exchange), Trouble> {
        let body = Value::Object(document.clone());
        let call = self.create_call(&body, key)?;
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(CHANNEL_NAMES))?;
        let exchange = Exchange::of(&reply);
        if exchange.is_for_later() {
            return Ok((reply.json().ok().as_ref().and_then(id_of), exchange));
        }
        let created: Value = json(&reply, "channel_reply_unusable")?;
        match id_of(&created) {
            Some(id) => Ok((Some(id), exchange)),
            None => Err(Failure::transient("channel_reply_unusable", "the created channel has no id").into()),
        }
    }

    /// The request that [`Channels::create`] would send.
    pub fn show_create(&self, document: &Map<String, Value>, key: &str) -> Result<PlannedRequest, Failure> {
        self.session.show(&self.create_call(&Value::Object(document.clone()), key)?)
    }

    fn create_call<'c>(&self, body: &'c Value, key: &str) -> Result<Call<'c>, Failure> {
        let mut call = Call::new(Method::POST, "channels", "channels").json(body);
        call.headers.extend(self.session.idempotency(key, true)?);
        Ok(call)
    }

    /// Replaces a channel on the condition that it still stands as it was read.
    pub async fn put(
        &self,
        id: &str,
        standing: &Standing,
        document: &Map<String, Value>,
        key: &str,
    ) -> Result<(Standing, Exchange), Trouble> {
        let (condition, body) = self.conditional(standing, document)?;
        let params = [("channelId", id)];
        let call = self.put_call(&params, condition, &body, key)?;
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(CHANNEL_NAMES))?;
        let document: Value = reply.json().unwrap_or_default();
        Ok((Standing::of(&reply, &document), Exchange::of(&reply)))
    }

    /// The request that [`Channels::put`] would send.
    pub fn show_put(
        &self,
        id: &str,
        standing: &Standing,
        document: &Map<String, Value>,
        key: &str,
    ) -> Result<PlannedRequest, Failure> {
        let (condition, body) = self.conditional(standing, document)?;
        self.session.show(&self.put_call(&[("channelId", id)], condition, &body, key)?)
    }

    fn conditional(&self, standing: &Standing, document: &Map<String, Value>) -> Result<(Headers, Value), Failure> {
        let mut body = document.clone();
        let condition = standing.condition(self.session.provider().occ.mode, &mut body)?;
        Ok((condition, Value::Object(body)))
    }

    fn put_call<'c>(
        &self,
        params: &'c [(&'c str, &'c str)],
        condition: Headers,
        body: &'c Value,
        key: &str,
    ) -> Result<Call<'c>, Failure> {
        let mut call = Call::new(Method::PUT, "channel", "channels").params(params).json(body);
        call.headers.extend(condition);
        call.headers.extend(self.session.idempotency(key, false)?);
        Ok(call)
    }

    /// Makes what was written live, where the platform edits drafts.
    pub async fn publish(&self, id: &str, key: &str) -> Result<Exchange, Trouble> {
        let params = [("channelId", id)];
        // Publishing the same draft twice leaves it published.
        let mut call = Call::new(Method::POST, "channel_publish", "channels").params(&params).replay_safe();
        call.headers.extend(self.session.idempotency(key, false)?);
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(PUBLISH_NAMES))?;
        Ok(Exchange::of(&reply))
    }

    /// The webhook of that name, as the upstream shows it, on whichever page of the listing.
    pub async fn webhook(&self, name: &str) -> Result<Option<Value>, Trouble> {
        let mut query = paging::Query::new();
        for _ in 0..PAGES_MAX {
            let pairs: Vec<_> = query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let call = Call::get("webhooks", "webhooks").query(&pairs);
            let reply = self.session.call(call).await.map_err(|trouble| trouble.named(WEBHOOK_NAMES))?;
            let listing: Value = json(&reply, "health_webhook_reply_unusable")?;
            let webhooks = listing.get("entities").or(Some(&listing)).and_then(Value::as_array);
            if let Some(found) = webhooks.into_iter().flatten().find(|webhook| webhook["name"] == name) {
                return Ok(Some(found.clone()));
            }
            match paging::next(&listing, &query) {
                Some(next) => query = next,
                None => return Ok(None),
            }
        }
        let message = format!("the listing of webhooks has more than {PAGES_MAX} pages");
        Err(Failure::transient("health_webhook_reply_unusable", message).into())
    }

    /// Registers a webhook; a name that is taken is a conflict.
    pub async fn register_webhook(&self, body: &Value, key: &str) -> Result<Exchange, Trouble> {
        let mut call = Call::new(Method::POST, "webhooks", "webhooks").json(body);
        call.headers.extend(self.session.idempotency(key, true)?);
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(WEBHOOK_NAMES))?;
        Ok(Exchange::of(&reply))
    }

    /// Makes a webhook say what `body` says.
    pub async fn repair_webhook(&self, standing: &Value, body: &Value, key: &str) -> Result<Exchange, Trouble> {
        let Some(id) = id_of(standing) else {
            return Err(Failure::permanent("health_webhook_refused", "the webhook in the listing has no id").into());
        };
        let mut body = body.clone();
        if let Some(version) = standing.get("version") {
            body["version"] = version.clone();
        }
        // Putting the same registration twice leaves one registration.
        let params = [("webhookId", id.as_str())];
        let mut call = Call::new(Method::PUT, "webhook", "webhooks").params(&params).json(&body).replay_safe();
        call.headers.extend(self.session.idempotency(key, false)?);
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(WEBHOOK_NAMES))?;
        Ok(Exchange::of(&reply))
    }
}

fn channel(reply: &Reply) -> Result<Channel, Trouble> {
    let document: Value = json(reply, "channel_reply_unusable")?;
    let standing = Standing::of(reply, &document);
    let Value::Object(mut document) = document else {
        let failure = Failure::transient("channel_reply_unusable", "the reply to a read is no object");
        return Err(failure.with_status(reply.status).into());
    };
    document.remove("version");
    Ok(Channel { document, standing })
}

fn id_of(value: &Value) -> Option<String> {
    value.get("id").and_then(Value::as_str).map(str::to_owned)
}

/// The registration that has a channel's health reported to `address`. Its name is stable: a date in it would make a
/// new webhook of every update.
pub fn health_webhook(channel_id: &str, event: &str, address: &str) -> Value {
    serde_json::json!({
        "name": format!("Webchat Health Monitor - {channel_id}"),
        "enabled": true,
        "event": event,
        "address": address,
        "method": "POST",
        "filter": "channelType:webchat",
        "headers": {"Content-Type": "application/json", "X-Webchat-Health": "true"},
    })
}
