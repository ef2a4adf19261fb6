//! Waiting for what the platform accepted for later: a 202 says that a change will come, not that it has.

use backhaul_engine::{Done, Failure, JobContext};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{
    run::Attempt,
    update::{Goal, Next, Writer},
};
use crate::{api::channels::Channel, look_again::look_again, trail::Trail};

/// Longest pause between two looks.
const LOOK_PAUSE_MAX: TimeDelta = TimeDelta::seconds(60);
/// How long a change is waited for. What takes longer was lost, or needs a person at the platform.
const SHOWN_AFTER_MAX: TimeDelta = TimeDelta::hours(1);

/// Where a change will show.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// In the channel of this id.
    Channel(&'a str),
    /// In the channel that is found by this external id.
    External(&'a str),
    /// In what is live of the channel of this id.
    Live(&'a str),
}

/// A change that was accepted for later.
pub(super) struct Awaited<'a> {
    /// The step that waits for it.
    pub step: &'static str,
    /// When it was accepted.
    pub since: DateTime<Utc>,
    pub place: Place<'a>,
    /// What stood there before the change.
    pub base: &'a Channel,
    pub goal: Goal,
}

impl Attempt<'_> {
    /// Looks for the change until it shows; never sends it again. Between two looks the job lets go of its worker. Answers
    /// the channel's id.
    pub(super) async fn confirm(&self, ctx: &mut JobContext, awaited: &Awaited<'_>) -> Result<String, Failure> {
        let (job, now) = (ctx.job().clone(), ctx.now());
        let step = awaited.step;
        ctx.step(step, |_| async move {
            let shown = self.look_for(awaited).await?;
            let Some((id, channel)) = shown else { return Err(not_yet(awaited.since, now)) };
            let trail = Trail::new("handshake.confirmed", &job, &id, step, "confirmed")
                .with("version_after", channel.standing.version)
                .with("etag_after", channel.standing.etag);
            Ok(Done::new(id).audit(trail.event()))
        })
        .await
    }

    /// The channel, where it shows the change.
    async fn look_for(&self, awaited: &Awaited<'_>) -> Result<Option<(String, Channel)>, Failure> {
        let id = match awaited.place {
            Place::Channel(id) | Place::Live(id) => id.to_owned(),
            Place::External(external) => match self.channels.find(external).await? {
                Some(id) => id,
                None => return Ok(None),
            },
        };
        let channel = match awaited.place {
            Place::Live(_) => self.channels.read_live(&id).await?,
            Place::Channel(_) | Place::External(_) => self.channels.read(&id).await?,
        };
        let Some(channel) = channel.filter(|channel| !is_at_work(channel)) else { return Ok(None) };
        let Awaited { base, goal, step, .. } = awaited;
        let writer = Writer { channels: &self.channels, id: &id, base, goal: goal.clone(), key: step };
        match (writer.next(&channel), awaited.place) {
            (Next::Nothing, _) => Ok(Some((id, channel))),
            (Next::Send { .. }, _) | (Next::Conflict(_), Place::Live(_)) => Ok(None),
            // Somebody else wrote before or after the platform did: the change will never show.
            (Next::Conflict(_), Place::Channel(_) | Place::External(_)) => Err(writer.conflict(&channel)),
        }
    }
}

/// Genesys Cloud says in a document's `status` that it is still at work on it.
fn is_at_work(channel: &Channel) -> bool {
    channel.document.get("status").and_then(Value::as_str).is_some_and(|status| status.eq_ignore_ascii_case("pending"))
}

fn not_yet(since: DateTime<Utc>, now: DateTime<Utc>) -> Failure {
    if now - since > SHOWN_AFTER_MAX {
        let message = "the platform accepted the change for later an hour ago, and does not show it";
        return Failure::permanent("channel_update_stuck", message);
    }
    let message = "the platform accepted the change for later and does not show it yet";
    Failure::snoozed(look_again(since, now, LOOK_PAUSE_MAX), "channel_update_pending", message)
}
