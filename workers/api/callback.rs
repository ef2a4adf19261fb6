//! Signed callbacks to addresses that a payload names.

use backhaul_engine::{Failure, JobInfo, Pacer};
use backhaul_outbound::{
    CallError, Class, Client, Delivery, Profile, Reply,
    address::{self, Schemes},
    classify,
    classify::RetryRules,
};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::{failure::Trouble, session::Exchange};

/// What stands for the provider in messages and in the name of the bucket.
const RECEIVER: &str = "callback";
/// Longest part of a bucket's name.
const BUCKET_PART_MAX: usize = 40;
/// Bytes of a name's hash that tell it apart from others that would look alike in a bucket's name.
const MARK_BYTES: usize = 4;

/// The bucket that a receiver's 429 closes: `sort/name`, its own, so that one busy receiver does not stop the others.
/// Dots become `_`; of a name that is too long or has other signs, the end is a part of its hash.
pub fn bucket(sort: &str, name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let whole = name.len() <= BUCKET_PART_MAX && name.bytes().all(|byte| letters(byte) || byte == b'.');
    let shown = if whole { BUCKET_PART_MAX } else { BUCKET_PART_MAX - 2 * MARK_BYTES - 1 };
    let plain = name.bytes().take(shown).map(|byte| if letters(byte) { char::from(byte) } else { '_' });
    let mut bucket = format!("{sort}/");
    bucket.extend(plain);
    if !whole {
        bucket.push('-');
        bucket.extend(Sha256::digest(&name).iter().take(MARK_BYTES).map(|byte| format!("{byte:02x}")));
    }
    bucket
}

/// The name of the receiver at `url`: its host.
pub fn host(url: &str) -> String {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_else(|| "invalid".to_owned())
}

/// Checks the text of `url` against the tenant's allow list, before anything is changed that it would be told of. What
/// the host's name resolves to is checked when the callback is sent.
pub fn check(profile: &Profile, url: &str) -> Result<(), Failure> {
    address::check(url, &profile.callback.allow_hosts, Schemes::HTTP)
        .map(|_| ())
        .map_err(|refusal| Failure::permanent("address_not_allowed", format!("callbackUrl: {refusal}")))
}

/// A callback before it is sent.
#[derive(Debug)]
pub struct Callback<'a> {
    /// Where to, as the payload has it.
    pub url: &'a str,
    /// The same for every try: receivers drop repetitions by it.
    pub id: &'a str,
    /// What is told.
    pub body: &'a Value,
}

/// Posts a callback. Only a 2xx is a delivery. A receiver that asked for peace is left alone by the whole fleet until it
/// is over; other receivers go on.
pub async fn post(
    client: &Client,
    pacer: &Pacer,
    profile: &Profile,
    Callback { url, id, body }: Callback<'_>,
    job: &JobInfo,
    now: DateTime<Utc>,
) -> Result<Exchange, Failure> {
    let bucket = bucket(RECEIVER, &host(url));
    pacer.take(&bucket).await?;
    let body = body.to_string();
    let delivery = Delivery { traceparent: job.traceparent.as_deref(), ..Delivery::json(url, id, body.as_bytes()) };
    let outcome = client.post_to_url(&job.tenant, &profile.callback, delivery).await;
    Ok(judge(outcome, &bucket, now)?)
}

/// What a receiver's answer, or the lack of one, means.
fn judge(outcome: Result<Reply, CallError>, bucket: &str, now: DateTime<Utc>) -> Result<Exchange, Trouble> {
    let class = match classify(outcome.as_ref(), &RetryRules::default(), now) {
        Class::Throttled { until, .. } => Class::Throttled { bucket: bucket.to_owned(), until },
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
        judge(outcome, "callback/x", DateTime::UNIX_EPOCH).map_err(Failure::from).expect_err("not a delivery")
    }

    /// Covers row 57, row 58: only a 2xx is a delivery, and a receiver that is down is tried again.
    #[test]
    fn only_2xx_is_a_delivery() {
        assert!(judge(reply(204), "callback/x", DateTime::UNIX_EPOCH).is_ok());
        for status in [500, 503, 408] {
            assert!(
                matches!(failure(reply(status)), Failure::Transient { cause, .. } if cause.code == "callback_failed")
            );
        }
        for status in [400, 401, 403, 404, 409, 410, 412] {
            assert!(matches!(failure(reply(status)), Failure::Permanent(cause) if cause.code == "callback_refused"));
        }
        assert!(
            matches!(failure(reply(429)), Failure::Throttled { bucket: Some(bucket), .. } if bucket == "callback/x")
        );
        assert_eq!(bucket("callback", &host("https://Hooks.example.com:8443/a")), "callback/hooks_example_com");
        let refused = CallError::Connect { detail: "refused".into() };
        assert!(matches!(failure(Err(refused)), Failure::Transient { .. }));
    }

    /// Long names of one customer, and names that differ in other signs, are told apart, within a bucket's 40 letters.
    #[test]
    fn receivers_do_not_share_a_bucket() {
        let long = |tail: &str| format!("https://a-customer-with-a-rather-long-name.hooks.{tail}.example.com/");
        let (first, second) = (bucket(RECEIVER, &host(&long("eu"))), bucket(RECEIVER, &host(&long("us"))));
        assert_ne!(first, second);
        assert!(first.starts_with("callback/a-customer-with-a-rather-long-n-"), "{first}");
        assert_eq!(first.len(), "callback/".len() + BUCKET_PART_MAX);
        assert_ne!(bucket(RECEIVER, "a_b.example"), bucket(RECEIVER, "a.b.example"));
        assert_ne!(bucket(RECEIVER, "[::1]"), bucket(RECEIVER, "[1::]"));
        assert_eq!(bucket(RECEIVER, "A.example"), bucket(RECEIVER, "a.example"));
        let exact = "x".repeat(BUCKET_PART_MAX);
        assert_eq!(bucket(RECEIVER, &exact), format!("callback/{exact}"));
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
