//! Signed callbacks to addresses that a payload names.

use backhaul_engine::{Failure, JobInfo};
use backhaul_outbound::{
    CallError, Class, Client, Delivery, Profile, Reply,
    address::{self, Schemes},
    classify,
    classify::RetryRules,
};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{failure::Trouble, session::Exchange};

/// What stands for the provider in messages and in the name of the bucket.
const RECEIVER: &str = "callback";
/// The bucket that a receiver's 429 closes.
const BUCKET: &str = "callback/deliveries";

/// Checks the text of `url` against the tenant's allow list, before anything is changed that it would be told of. What
/// the host's name resolves to is checked when the callback is sent.
pub fn check(profile: &Profile, url: &str) -> Result<(), Failure> {
    address::check(url, &profile.callback.allow_hosts, Schemes::HTTP)
        .map(|_| ())
        .map_err(|refusal| Failure::permanent("address_not_allowed", format!("callbackUrl: {refusal}")))
}

/// Posts `body` to `url`. `id` is the same for every try, and receivers drop repetitions by it. Only a 2xx is a
/// delivery.
pub async fn post(
    client: &Client,
    profile: &Profile,
    url: &str,
    id: &str,
    body: &Value,
    job: &JobInfo,
    now: DateTime<Utc>,
) -> Result<Exchange, Failure> {
    let body = body.to_string();
    let delivery = Delivery { traceparent: job.traceparent.as_deref(), ..Delivery::json(url, id, body.as_bytes()) };
    let outcome = client.post_to_url(&job.tenant, &profile.callback, delivery).await;
    Ok(judge(outcome, now)?)
}

/// What a receiver's answer, or the lack of one, means.
fn judge(outcome: Result<Reply, CallError>, now: DateTime<Utc>) -> Result<Exchange, Trouble> {
    let class = match classify(outcome.as_ref(), &RetryRules::default(), now) {
        Class::Throttled { until, .. } => Class::Throttled { bucket: BUCKET.to_owned(), until },
        Class::Permanent { code: "address_not_allowed" } => Class::Permanent { code: "address_not_allowed" },
        // Whatever else a receiver means by refusing: it will not take this delivery.
        Class::Permanent { .. } | Class::Conflict | Class::AuthBlocked { .. } => {
            Class::Permanent { code: "callback_refused" }
        }
        Class::Transient { not_before, .. } => Class::Transient { code: "callback_failed", not_before },
        Class::Ambiguous { .. } => Class::Transient { code: "callback_failed", not_before: None },
        Class::Ok => Class::Ok,
    };
    match (class, outcome) {
        (Class::Ok, Ok(reply)) => Ok(Exchange::of(&reply)),
        (class, Ok(reply)) => Err(Trouble::of_reply(class, &reply, RECEIVER, "delivery")),
        (class, Err(error)) => Err(Trouble::of_error(class, &error, RECEIVER, "delivery")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backhaul_outbound::{Profiles, header::HeaderMap};

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
        judge(outcome, DateTime::UNIX_EPOCH).map_err(Failure::from).expect_err("not a delivery")
    }

    /// Covers row 57, row 58: only a 2xx is a delivery, and a receiver that is down is tried again.
    #[test]
    fn only_2xx_is_a_delivery() {
        assert!(judge(reply(204), DateTime::UNIX_EPOCH).is_ok());
        for status in [500, 503, 408] {
            assert!(
                matches!(failure(reply(status)), Failure::Transient { cause, .. } if cause.code == "callback_failed")
            );
        }
        for status in [400, 401, 403, 404, 409, 410, 412] {
            assert!(matches!(failure(reply(status)), Failure::Permanent(cause) if cause.code == "callback_refused"));
        }
        assert!(matches!(failure(reply(429)), Failure::Throttled { bucket, .. } if bucket == BUCKET));
        let refused = CallError::Connect { detail: "refused".into() };
        assert!(matches!(failure(Err(refused)), Failure::Transient { .. }));
    }

    /// Covers row 59: hosts that are not listed and texts that programs read in different ways are refused.
    #[test]
    fn only_listed_hosts_are_called() {
        let toml = "[callback]\nallow_hosts = [\"hooks.example.com\"]\nsecret_env = \"S\"\n";
        let loader = backhaul_outbound::profile::Loader::new().env(|_| Some("test-secret-of-some-length".into()));
        let profiles: Profiles = loader.from_toml([("acme.toml".to_owned(), toml.to_owned())]).expect("a profile");
        let profile = profiles.get("acme").expect("the tenant");
        assert_eq!(check(profile, "https://hooks.example.com/x"), Ok(()));
        for url in [
            "http://hooks.example.com/x",
            "https://169.254.169.254/",
            "https://[::ffff:127.0.0.1]/",
            "https://10.0.0.1/",
            "https://0x7f000001/",
            "https://user@hooks.example.com/",
            "https://other.example.com/",
            "not a url",
        ] {
            let refused = check(profile, url).expect_err(url);
            assert_eq!(refused.code(), "address_not_allowed");
        }
    }
}
