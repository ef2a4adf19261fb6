//! Publishing: where the platform edits drafts, what was written goes live only then.

use backhaul_engine::{Done, Failure, JobContext};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    confirm::{Awaited, Place},
    run::Attempt,
    update::{Goal, as_written, patch},
};
use crate::{
    api::{channels::Channel, precondition::Standing},
    trail::Trail,
};

/// What is published: its steps and the event that tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Publishing {
    step: &'static str,
    confirmed: &'static str,
    told_as: &'static str,
}

impl Publishing {
    /// What the job wrote.
    pub(super) const NEW: Self = Self { step: "publish", confirmed: "publish-confirm", told_as: "handshake.published" };
    /// What a roll-back put back.
    pub(super) const OLD: Self = Self {
        step: "rollback-publish",
        confirmed: "rollback-publish-confirm",
        told_as: "handshake.rollback_published",
    };
}

/// What came of the call.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Published {
    /// When the platform accepted it for later; absent where it has carried it out.
    accepted_at: Option<DateTime<Utc>>,
}

impl Attempt<'_> {
    /// Publishes the channel as it was `written`, where the tenant's platform asks for that. What is published already is
    /// published again: an earlier job may have written it and died before this step.
    pub(super) async fn publish(
        &self,
        ctx: &mut JobContext,
        id: &str,
        written: &Map<String, Value>,
        Publishing { step, confirmed, told_as }: Publishing,
    ) -> Result<(), Failure> {
        if !self.settings.publish {
            return Ok(());
        }
        let (job, now) = (ctx.job().clone(), ctx.now());
        let published: Published = ctx
            .step(step, |key| async move {
                let exchange = self.channels.publish(id, &key).await?;
                let accepted_at = exchange.is_for_later().then_some(now);
                let status = if accepted_at.is_some() { "accepted" } else { "published" };
                let trail = Trail::new(told_as, &job, id, step, status).exchange(&exchange);
                Ok(Done::new(Published { accepted_at }).audit(trail.event()))
            })
            .await?;
        let (Some(since), Some(channel)) = (published.accepted_at, &self.request.channel) else { return Ok(()) };
        // Whatever is live besides is nobody's business here, so that nothing that stands there is a conflict.
        let nothing = Channel { document: Map::new(), standing: Standing::default() };
        let (place, goal) = (Place::Live(id), Goal::Set(as_written(&patch(channel), written)));
        self.confirm(ctx, &Awaited { step: confirmed, since, place, base: &nothing, goal }).await?;
        Ok(())
    }
}
