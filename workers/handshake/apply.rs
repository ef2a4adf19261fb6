//! Reads the channel, and writes or creates it.

use backhaul_engine::{Begun, Done, Failure, JobContext};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    confirm::{Awaited, Place},
    payload,
    run::{Attempt, told},
    update::{Applied, Goal, Writer, patch},
};
use crate::{
    api::{channels::Channel, precondition::Standing},
    trail::Trail,
};

/// The channel as the job found it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) id: String,
    /// Absent where there is none and the tenant lets jobs create it.
    pub(super) channel: Option<Channel>,
}

impl Attempt<'_> {
    /// Reads the channel and, in a mode that applies, writes it. Answers its id, how it stands now, and the write.
    pub(super) async fn apply(
        &self,
        ctx: &mut JobContext,
    ) -> Result<(String, Map<String, Value>, Option<Applied>), Failure> {
        let channel = match (&self.request.channel, self.request.mode.applies()) {
            (Some(channel), false) => {
                // A probe that says everything itself needs nothing of the platform.
                let Value::Object(document) = patch(channel) else { return Err(no_object()) };
                return Ok((self.request.channel_id.clone(), document, None));
            }
            (channel, _) => channel,
        };
        let found = self.find(ctx).await?;
        let Some(channel) = channel else {
            let document = found.channel.map(|channel| channel.document).unwrap_or_default();
            return Ok((found.id, document, None));
        };
        let applied = match &found.channel {
            Some(base) => self.put(ctx, &found.id, base, channel).await?,
            None => self.create(ctx, channel).await?,
        };
        Ok((applied.id.clone(), applied.after.clone(), Some(applied)))
    }

    async fn find(&self, ctx: &mut JobContext) -> Result<Found, Failure> {
        ctx.step("read", |_| async { Ok(Done::new(self.look().await?)) }).await
    }

    /// The channel as it stands, under its own id or under the payload's as external id.
    pub(super) async fn look(&self) -> Result<Found, Failure> {
        let id = &self.request.channel_id;
        if let Some(channel) = self.channels.read(id).await? {
            return Ok(Found { id: id.clone(), channel: Some(channel) });
        }
        if !(self.settings.create_missing && self.request.mode.applies()) {
            let message = "there is no such channel; create it, or set kinds.handshake.create_missing";
            return Err(Failure::permanent("channel_not_found", message).with_status(404));
        }
        let Some(known) = self.channels.find(id).await? else {
            return Ok(Found { id: id.clone(), channel: None });
        };
        let channel = self.channels.read(&known).await?;
        Ok(Found { id: known, channel })
    }

    async fn put(
        &self,
        ctx: &mut JobContext,
        id: &str,
        base: &Channel,
        channel: &payload::Channel,
    ) -> Result<Applied, Failure> {
        let job = ctx.job().clone();
        let (goal, now) = (Goal::Set(patch(channel)), ctx.now());
        let writing = goal.clone();
        let applied: Applied = ctx
            .write_step("put", |key, begun| async move {
                let writer = Writer { channels: &self.channels, id, base, goal: writing, key: &key };
                let applied = writer.write(begun, now).await?;
                let status = match (applied.accepted_at, applied.changed) {
                    (Some(_), _) => "accepted",
                    (None, true) => "updated",
                    (None, false) => "unchanged",
                };
                let event = told(Trail::new("handshake.applied", &job, id, "put", status), &applied).event();
                Ok(Done::new(applied).audit(event))
            })
            .await?;
        if let Some(since) = applied.accepted_at {
            self.confirm(ctx, &Awaited { step: "put-confirm", since, place: Place::Channel(id), base, goal }).await?;
        }
        Ok(applied)
    }

    /// Creates the channel under the payload's id as external id. After a lost answer the platform is asked first.
    async fn create(&self, ctx: &mut JobContext, channel: &payload::Channel) -> Result<Applied, Failure> {
        let job = ctx.job().clone();
        let external = &self.request.channel_id;
        let (document, now) = (new_channel(channel, external)?, ctx.now());
        let applied: Applied = ctx
            .write_step("create", |key, begun| async move {
                let known = match begun {
                    Begun::Now => None,
                    Begun::OutcomeUnknown => self.channels.find(external).await?,
                };
                let (id, exchange) = match known {
                    Some(id) => (Some(id), None),
                    None => match self.channels.create(&document, &key).await {
                        Ok((id, exchange)) => (id, Some(exchange)),
                        Err(trouble) if trouble.is_conflict() => match self.channels.find(external).await? {
                            Some(id) => (Some(id), None),
                            None => return Err(trouble.into()),
                        },
                        Err(trouble) => return Err(trouble.into()),
                    },
                };
                let accepted_at = exchange.as_ref().filter(|exchange| exchange.is_for_later()).map(|_| now);
                let applied = Applied {
                    // Until the platform has given it one, the id that it will be found by.
                    id: id.unwrap_or_else(|| external.clone()),
                    changed: true,
                    before: None,
                    after: document,
                    standing_before: None,
                    standing_after: None,
                    rereads: 0,
                    exchange,
                    accepted_at,
                };
                let status = if accepted_at.is_some() { "accepted" } else { "created" };
                let trail = Trail::new("handshake.applied", &job, &applied.id, "create", status);
                let event = told(trail, &applied).with("external_id", external.as_str()).event();
                Ok(Done::new(applied).audit(event))
            })
            .await?;
        let Some(since) = applied.accepted_at else { return Ok(applied) };
        let nothing = Channel { document: Map::new(), standing: Standing::default() };
        let (place, goal) = (Place::External(external), Goal::Set(patch(channel)));
        let id = self.confirm(ctx, &Awaited { step: "create-confirm", since, place, base: &nothing, goal }).await?;
        Ok(Applied { id, ..applied })
    }
}

/// The document that creates a channel under the payload's id as external id.
pub(super) fn new_channel(channel: &payload::Channel, external_id: &str) -> Result<Map<String, Value>, Failure> {
    let mut document = patch(channel);
    document["externalId"] = json!(external_id);
    let Value::Object(document) = document else { return Err(no_object()) };
    Ok(document)
}

fn no_object() -> Failure {
    Failure::permanent("invalid_payload", "the channel makes no object")
}
