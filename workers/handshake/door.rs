//! The two probes: the allowed origin must be let in, the foreign one must not.

use backhaul_engine::{Done, Failure, JobContext};
use backhaul_outbound::{Client, ProbeProfile};
use serde_json::json;

use crate::{
    probe::{self, Knock, Opened, ProbeError},
    trail::Trail,
};

/// What is probed.
pub(super) struct Door<'a> {
    pub client: &'a Client,
    pub profile: &'a ProbeProfile,
    /// For audit events.
    pub channel_id: &'a str,
    pub webchat_url: &'a str,
    pub allowed_origin: &'a str,
    /// `None` where the second probe is switched off.
    pub foreign_origin: Option<&'a str>,
}

impl Door<'_> {
    /// Probes with both origins, each once in the life of the job.
    pub(super) async fn probe(&self, ctx: &mut JobContext) -> Result<(), Failure> {
        let (job, now) = (ctx.job().clone(), ctx.now());
        let latency_ms: u64 = ctx
            .step("probe-allowed", |_| async {
                let opened = self.knock(self.allowed_origin, now).await?;
                let latency_ms = healthy(opened)?;
                let trail = Trail::new("handshake.probed", &job, self.channel_id, "probe-allowed", "success")
                    .with("latency_ms", latency_ms)
                    .with("first_message_answered", opened.answered);
                Ok(Done::new(latency_ms).audit(trail.event()))
            })
            .await?;
        tracing::debug!(latency_ms, "the socket opened for the allowed origin");
        let Some(foreign) = self.foreign_origin else { return Ok(()) };
        ctx.step("probe-foreign", |_| async {
            let refused_as = kept_out(self.knock(foreign, now).await)?;
            let trail =
                Trail::new("handshake.origin_policy_checked", &job, self.channel_id, "probe-foreign", "enforced")
                    .with("refused_as", refused_as);
            Ok(Done::new(()).audit(trail.event()))
        })
        .await
    }

    async fn knock(&self, origin: &str, now: chrono::DateTime<chrono::Utc>) -> Result<Opened, ProbeError> {
        let target = probe::socket(self.webchat_url, self.profile).map_err(ProbeError::AddressNotAllowed)?;
        let tls = self.client.tls_config(&self.profile.extra_roots).map_err(|error| ProbeError::Tls {
            class: backhaul_outbound::tls::TlsClass::Handshake,
            detail: error.to_string(),
        })?;
        let knock = Knock {
            origin,
            user_agent: &self.profile.user_agent,
            first_message: self.profile.first_message.as_deref(),
            tls: &tls,
            deadline: self.profile.timeout,
            now,
        };
        probe::knock(target, &knock, self.client.resolver().as_ref()).await
    }
}

/// The latency of a socket that is open and, where it was asked something, talks.
fn healthy(opened: Opened) -> Result<u64, Failure> {
    if opened.answered == Some(false) {
        return Err(Failure::transient(
            "probe_degraded",
            "the socket opened, but the first message was not answered in time",
        ));
    }
    Ok(u64::try_from(opened.latency.as_millis()).unwrap_or(u64::MAX))
}

/// How the server kept a foreign origin out.
fn kept_out(ended: Result<Opened, ProbeError>) -> Result<serde_json::Value, Failure> {
    match ended {
        Ok(_) => Err(Failure::permanent(
            "origin_policy_not_enforced",
            "the socket opened for a foreign origin; the channel's allowed origins do not protect it",
        )),
        Err(ProbeError::Answered { status, .. }) if (400..500).contains(&status) && status != 429 && status != 408 => {
            Ok(json!(status))
        }
        Err(error) if error.is_refusal() => Ok(json!(error.code())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn opened(answered: Option<bool>) -> Opened {
        Opened { latency: Duration::from_millis(12), answered }
    }

    /// Covers row 139: an upgrade for a foreign origin is a failure, a refusal is what is wanted, and trouble on the
    /// way proves neither.
    #[test]
    fn foreign_origins_must_be_refused() {
        let failure = kept_out(Ok(opened(None))).expect_err("it was let in");
        assert_eq!(failure.code(), "origin_policy_not_enforced");
        assert!(matches!(failure, Failure::Permanent(_)));
        let answered = |status| Err(ProbeError::Answered { status, not_before: None });
        assert_eq!(kept_out(answered(403)), Ok(json!(403)));
        assert_eq!(kept_out(Err(ProbeError::ClosedEarly { doing: "x" })), Ok(json!("probe_closed_early")));
        for trouble in [answered(503), answered(429), answered(301), answered(200)] {
            assert!(kept_out(trouble).is_err());
        }
        let timeout = ProbeError::Timeout { doing: "x", limit: Duration::from_secs(5) };
        assert!(matches!(kept_out(Err(timeout)), Err(Failure::Transient { .. })));
    }

    /// Covers row 140.
    #[test]
    fn a_silent_socket_is_degraded() {
        assert_eq!(healthy(opened(None)), Ok(12));
        assert_eq!(healthy(opened(Some(true))), Ok(12));
        assert_eq!(healthy(opened(Some(false))).expect_err("silent").code(), "probe_degraded");
    }
}
