//! Publishing: where the platform edits drafts, what was written goes live only then.

use backhaul_engine::{Done, Failure, JobContext};

use super::run::Attempt;
use crate::{api::Exchange, trail::Trail};

impl Attempt<'_> {
    /// Publishes the channel as it was written, where the tenant's platform asks for that. What is published already is
    /// published again: an earlier job may have written it and died before this step.
    pub(super) async fn publish(
        &self,
        ctx: &mut JobContext,
        id: &str,
        step: &str,
        told_as: &'static str,
    ) -> Result<(), Failure> {
        if !self.settings.publish {
            return Ok(());
        }
        let job = ctx.job().clone();
        let _: Exchange = ctx
            .step(step, |key| async move {
                let exchange = self.channels.publish(id, &key).await?;
                let status = if exchange.http_status == 202 { "accepted" } else { "published" };
                let trail = Trail::new(told_as, &job, id, step, status).exchange(&exchange);
                Ok(Done::new(exchange).audit(trail.event()))
            })
            .await?;
        Ok(())
    }
}
