//! The kind `deliver`: posts a normalised event or a callback to an address that the tenant's profile allows, signed.
//!
//! Each destination of an event is a job of its own, so that one that is down has its own tries and its own dead letter,
//! and keeps nobody else waiting.

pub mod settings;

use backhaul_engine::{Done, Failure, Job, JobContext};
use backhaul_outbound::{CallError, Class, Delivery, Profile, Reply, classify, classify::RetryRules};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use self::settings::DeliverSettings;
use crate::{
    Env,
    api::{Exchange, Trouble, callback},
    payload_check::{Checked, Demands, Unfit},
    trail::{Trail, ends_job},
};

/// What is wrong with a payload that names no address, or two.
const NO_ADDRESS: &str = "name either a target or a url";

/// The payload: `{target, event}` with a target of the profile, or `{url, event}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deliver {
    /// Name of an address in the tenant's profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// An address; its host must be on the tenant's allow list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// What receivers know repetitions by; the job's own id where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The body, posted as it is stored: its numbers keep all of their digits.
    event: Box<RawValue>,
}

/// Where to, and under which name it is spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    url: String,
    /// The target's name, or the URL's host.
    name: String,
}

impl Job for Deliver {
    const KIND: &'static str = "deliver";
    // A webhook's body cap, and room for what ingress adds.
    const PAYLOAD_BYTES_MAX: u32 = 320 * 1024;
    type Env = Env;

    async fn run(&self, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
        let outcome = self.attempt(env, ctx).await;
        if let Err(failure) = &outcome
            && ends_job(failure, ctx.job())
        {
            let subject = self.target.as_deref().and_then(settings::plain).unwrap_or("address");
            let (job, error) = (ctx.job(), failure.code());
            tracing::warn!(
                event = "dead-letter",
                job_id = job.id,
                tenant = job.tenant,
                queue = subject,
                error,
                "delivery given up"
            );
            ctx.audit(Trail::new("delivery.failed", ctx.job(), subject, "deliver", "failed").failure(failure).event());
        }
        outcome
    }
}

impl Checked for Deliver {
    fn check_payload(payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit> {
        // Read from text, as a worker does: the event's own text is kept and not its value.
        let job: Self = serde_json::from_str(&payload.to_string())
            .map_err(|error| Unfit::one("payload_invalid", "", error.to_string()))?;
        match demands.profile {
            Some(profile) => job.address(profile).map(|_| ()).map_err(|failure| Unfit::at("/target", &failure)),
            None if job.target.is_some() == job.url.is_some() => {
                Err(Unfit::one("invalid_payload", "", NO_ADDRESS.to_owned()))
            }
            None => Ok(()),
        }
    }
}

impl Deliver {
    async fn attempt(&self, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
        let profile = env.profile(&ctx.job().tenant)?;
        let address = self.address(profile)?;
        let bucket = callback::bucket(Self::KIND, &address.name);
        // A receiver that asked for peace is left alone by the whole fleet; other receivers go on.
        ctx.pacer().take(&bucket).await?;
        let (job, now) = (ctx.job().clone(), ctx.now());
        ctx.step("deliver", |key| async move {
            let id = self.id.as_deref().unwrap_or(&key);
            let delivery = Delivery {
                traceparent: job.traceparent.as_deref(),
                ..Delivery::json(&address.url, id, self.event.get().as_bytes())
            };
            let outcome = env.client.post_to_url(&job.tenant, &profile.callback, delivery).await;
            let exchange = judge(outcome, &bucket, now)?;
            let trail = Trail::new("delivery.delivered", &job, &address.name, "deliver", "delivered");
            Ok(Done::new(()).audit(trail.exchange(&exchange).event()))
        })
        .await
    }

    fn address(&self, profile: &Profile) -> Result<Address, Failure> {
        match (&self.target, &self.url) {
            (Some(target), None) => {
                let settings = DeliverSettings::of(profile)
                    .map_err(|problems| Failure::permanent("unconfigured", problems.join("; ")))?;
                let Some(known) = settings.targets.get(target) else {
                    // What a payload holds is not repeated unless it is a name.
                    let name = settings::plain(target).unwrap_or("…");
                    let message = format!("the profile has no entry {name} in [kinds.deliver.targets]");
                    return Err(Failure::permanent("target_unknown", message));
                };
                Ok(Address { url: known.url.clone(), name: target.clone() })
            }
            (None, Some(url)) => Ok(Address { url: url.clone(), name: callback::host(url) }),
            _ => Err(Failure::permanent("invalid_payload", NO_ADDRESS)),
        }
    }
}

/// What a receiver's answer, or the lack of one, means. Only a 2xx is a delivery.
fn judge(outcome: Result<Reply, CallError>, bucket: &str, now: DateTime<Utc>) -> Result<Exchange, Trouble> {
    let class = match classify(outcome.as_ref(), &RetryRules::default(), now) {
        Class::Throttled { until, .. } => Class::Throttled { bucket: bucket.to_owned(), until },
        Class::Permanent { code: "address_not_allowed" } => Class::Permanent { code: "address_not_allowed" },
        Class::Permanent { code: "unconfigured" } => Class::Permanent { code: "unconfigured" },
        // Whatever else a receiver means by refusing: it will not take this delivery.
        Class::Permanent { .. } | Class::Conflict | Class::AuthBlocked { .. } => {
            Class::Permanent { code: "delivery_refused" }
        }
        Class::Transient { not_before, .. } => Class::Transient { code: "delivery_failed", not_before },
        // Receivers drop repetitions by the id, so that one too many does no harm.
        Class::Ambiguous { .. } => Class::Transient { code: "delivery_failed", not_before: None },
        Class::Ok => Class::Ok,
    };
    match (class, outcome) {
        (Class::Ok, Ok(reply)) => Ok(Exchange::of(&reply)),
        (class, Ok(reply)) => Err(Trouble::of_reply(class, &reply, "receiver", "delivery")),
        (class, Err(error)) => Err(Trouble::of_error(class, &error, "receiver", "delivery")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backhaul_outbound::{header::HeaderMap, profile::Loader};

    use super::*;

    fn reply(status: u16) -> Result<Reply, CallError> {
        Ok(Reply {
            status,
            headers: HeaderMap::new(),
            body: Vec::new(),
            request_id: "r".into(),
            latency: Duration::ZERO,
            bucket: "callback".into(),
        })
    }

    fn failure(outcome: Result<Reply, CallError>) -> Failure {
        judge(outcome, "deliver/analytics", DateTime::UNIX_EPOCH).map_err(Failure::from).expect_err("not a delivery")
    }

    fn job(text: &str) -> Deliver {
        serde_json::from_str(text).expect(text)
    }

    /// Covers row 26, row 83: a receiver that refuses is not asked again, and one that is busy keeps nobody else waiting.
    #[test]
    fn only_2xx_is_a_delivery() {
        assert!(judge(reply(204), "deliver/x", DateTime::UNIX_EPOCH).is_ok());
        for status in [500, 502, 503, 408] {
            assert!(
                matches!(failure(reply(status)), Failure::Transient { cause, .. } if cause.code == "delivery_failed")
            );
        }
        for status in [400, 401, 403, 404, 409, 410, 412, 422] {
            assert!(matches!(failure(reply(status)), Failure::Permanent(cause) if cause.code == "delivery_refused"));
        }
        assert!(
            matches!(failure(reply(429)), Failure::Throttled { bucket: Some(bucket), .. } if bucket == "deliver/analytics")
        );
        let lost = CallError::Ambiguous { detail: "reset".into(), timed_out: false, replay_safe: true };
        assert!(matches!(failure(Err(lost)), Failure::Transient { .. }));
    }

    #[test]
    fn addresses_come_from_the_profile_or_the_payload() {
        let toml = "[callback]\nallow_hosts = [\"a.example.com\"]\nsecret_env = \"S\"\n\
            [kinds.deliver.targets.analytics]\nurl = \"https://a.example.com/in\"\n";
        let loader = Loader::new().env(|_| Some("test-secret-of-some-length".into()));
        let profiles = loader.from_toml([("acme.toml".to_owned(), toml.to_owned())]).expect("a profile");
        let profile = profiles.get("acme").expect("the tenant");
        let address = job(r#"{"target":"analytics","event":{}}"#).address(profile).expect("an address");
        assert_eq!((address.url.as_str(), address.name.as_str()), ("https://a.example.com/in", "analytics"));
        let code = |text: &str| job(text).address(profile).expect_err(text).code();
        assert_eq!(code(r#"{"target":"other","event":{}}"#), "target_unknown");
        assert_eq!(code(r#"{"event":{}}"#), "invalid_payload");
        assert_eq!(code(r#"{"target":"analytics","url":"https://a.example.com","event":{}}"#), "invalid_payload");
        let by_url = job(r#"{"url":"https://b.example.com/x?y=1","event":{}}"#).address(profile).expect("an address");
        assert_eq!(callback::bucket(Deliver::KIND, &by_url.name), "deliver/b_example_com");
        assert!(serde_json::from_str::<Deliver>(r#"{"target":"analytics","event":{},"x":1}"#).is_err());
        assert!(serde_json::from_str::<Deliver>(r#"{"target":"analytics"}"#).is_err());
    }

    /// Covers row 90: what is posted has the digits that arrived.
    #[test]
    fn numbers_keep_their_digits() {
        let text = r#"{"target":"t","event":{"n": 123456789012345678901234567890, "d": 1.10}}"#;
        assert_eq!(job(text).event.get(), r#"{"n": 123456789012345678901234567890, "d": 1.10}"#);
    }
}
