//! The end of a delivery: its lines in the log, one count, one answer.

use std::time::Duration;

use axum::{http::StatusCode, response::Response};
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::App,
    intake::{Outcome, Taken},
    metrics::Ended,
    reply::{self, Refusal},
};

/// What a delivery was about, for the log.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    /// The interaction, where the source's record has one.
    pub(crate) interaction_id: Option<String>,
    /// The channel, where the source has channels.
    pub(crate) channel_type: Option<String>,
    /// The destinations of its jobs.
    pub(crate) queues: Vec<String>,
}

/// What the log, the metrics and the sender are told in the end.
pub(crate) struct Told<'a> {
    /// The source's name.
    pub(crate) source: &'a str,
    /// The tenant, where it is one that we know.
    pub(crate) tenant: Option<&'a str>,
    /// From the first byte to the decision.
    pub(crate) took: Duration,
}

impl Told<'_> {
    /// The delivery was taken.
    pub(crate) fn taken(&self, app: &App, taken: &Taken, subject: &Subject) -> Response {
        let (ended, status, event) = match taken.outcome {
            Outcome::Accepted => (Ended::Accepted, "accepted", "webhook.success"),
            Outcome::Duplicate => (Ended::Duplicate, "duplicate", "idempotency.duplicate"),
            Outcome::Parked => (Ended::Parked, "accepted", "webhook.parked"),
        };
        app.metrics.ended(self.source, ended, self.took);
        let (source, tenant, latency_ms) = (self.source, self.tenant, self.latency_ms());
        let (interaction_id, channel_type) = (subject.interaction_id.as_deref(), subject.channel_type.as_deref());
        let id = taken.id;
        tracing::info!(
            event, event_id = %id, source, tenant, interaction_id, channel_type, status, jobs = taken.jobs, latency_ms,
            "delivery taken"
        );
        if taken.outcome == Outcome::Accepted {
            for queue in &subject.queues {
                tracing::info!(
                    event = "queue.publish", event_id = %id, source, tenant, interaction_id, channel_type, queue,
                    "job enqueued"
                );
            }
        }
        let mut answer = json!({"status": status, "eventId": taken.id});
        if taken.outcome == Outcome::Parked {
            answer["parked"] = json!(true);
        }
        reply::respond(StatusCode::OK, &answer)
    }

    /// It was not; `why` is for the log alone.
    pub(crate) fn refused(&self, app: &App, id: Uuid, refusal: &Refusal, why: &str) -> Response {
        let (source, tenant, latency_ms) = (self.source, self.tenant, self.latency_ms());
        let (status, code) = (refusal.status().as_u16(), refusal.code());
        if refusal.status().is_server_error() {
            app.metrics.ended(source, Ended::Failed, self.took);
            tracing::warn!(event = "webhook.error", %id, source, tenant, status, code, why, latency_ms, "delivery refused");
        } else {
            app.metrics.ended(source, Ended::Refused, self.took);
            tracing::info!(event = "webhook.error", %id, source, tenant, status, code, why, latency_ms, "delivery refused");
        }
        refusal.respond(id)
    }

    fn latency_ms(&self) -> u64 {
        u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX)
    }
}
