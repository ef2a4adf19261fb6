//! The health webhook of a channel: there is one, and it says what it should.

use backhaul_engine::{Done, Failure, JobContext};
use backhaul_outbound::{Profile, address};
use serde_json::Value;

use super::settings::HandshakeSettings;
use crate::{
    api::{
        Exchange,
        channels::{Channels, health_webhook},
    },
    trail::Trail,
};

/// Members of a registration that are compared; platforms rewrite headers and never show secrets.
const COMPARED: [&str; 5] = ["address", "enabled", "event", "method", "filter"];

/// Most readings after a conflict that lead to another write; so there are at most four.
const REREADS_MAX: u32 = 3;

/// The registration that is wanted, checked before anything is sent.
///
/// # Errors
/// The address is not on the tenant's list, or there is no secret to verify deliveries with.
pub(super) fn registration(
    profile: &Profile,
    settings: &HandshakeSettings,
    channel_id: &str,
    address: &str,
) -> Result<Value, Failure> {
    address::check(address, &profile.webhook.allow_hosts, address::Schemes::HTTP)
        .map_err(|refusal| Failure::permanent("address_not_allowed", format!("healthCallbackUrl: {refusal}")))?;
    let mut body = health_webhook(channel_id, &settings.health_event, address);
    if settings.send_secret {
        let Some(secret) = profile.webhook.secrets.first() else {
            return Err(Failure::permanent(
                "health_secret_missing",
                "the profile's [webhook] has no secret, so that nobody could verify deliveries; set one, or \
                 kinds.handshake.send_secret = false",
            ));
        };
        body["secret"] = secret.expose().into();
    }
    Ok(body)
}

/// Registers the webhook, or repairs the one that has its name.
pub(super) async fn ensure(
    ctx: &mut JobContext,
    channels: &Channels<'_>,
    channel_id: &str,
    wanted: &Value,
) -> Result<(), Failure> {
    let job = ctx.job().clone();
    ctx.step("health-webhook", |key| async move {
        let (status, exchange) = settle(channels, wanted, &key).await?;
        let trail = Trail::new("handshake.webhook_ensured", &job, channel_id, "health-webhook", status);
        let trail = match &exchange {
            Some(exchange) => trail.exchange(exchange),
            None => trail,
        };
        Ok(Done::new(()).audit(trail.with("side_effects", serde_json::json!({"webhook": status})).event()))
    })
    .await
}

/// Registers what is missing, repairs what says something else, and leaves the rest. Where somebody was faster, the
/// registration is looked for again, and is a person's to decide where it was given another meaning meanwhile.
async fn settle(
    channels: &Channels<'_>,
    wanted: &Value,
    key: &str,
) -> Result<(&'static str, Option<Exchange>), Failure> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let mut standing = channels.webhook(name).await?;
    let mut base = standing.clone();
    let mut rereads = 0;
    loop {
        let (done, outcome) = match &standing {
            Some(standing) if says(standing, wanted) => return Ok(("unchanged", None)),
            Some(standing) => ("repaired", channels.repair_webhook(standing, wanted, &repair_key(key, standing)).await),
            None => ("registered", channels.register_webhook(wanted, key).await),
        };
        match outcome {
            Ok(exchange) => return Ok((done, Some(exchange))),
            Err(trouble) if trouble.is_conflict() => {}
            Err(trouble) => return Err(trouble.into()),
        }
        rereads += 1;
        let now = channels.webhook(name).await?;
        if standing.is_none() && now.is_none() {
            let message = "the platform says that the webhook exists, but does not list it";
            return Err(Failure::transient("health_webhook_hidden", message).with_status(409));
        }
        if rereads > REREADS_MAX || is_taken(base.as_ref(), now.as_ref(), wanted) {
            return Err(Failure::Conflict { base: shown(base), ours: shown(Some(wanted.clone())), theirs: shown(now) });
        }
        base = base.or_else(|| now.clone());
        standing = now;
    }
}

/// Whether a member that is compared has got a value that is neither the one first read nor the one wanted.
fn is_taken(base: Option<&Value>, now: Option<&Value>, wanted: &Value) -> bool {
    let (Some(base), Some(now)) = (base, now) else { return false };
    COMPARED.iter().any(|member| now.get(member) != base.get(member) && now.get(member) != wanted.get(member))
}

/// A key for exactly this repair: upstreams refuse a key that comes with another body, and the body has the version.
fn repair_key(key: &str, standing: &Value) -> String {
    standing.get("version").and_then(Value::as_u64).map_or(key.to_owned(), |version| format!("{key}-{version}"))
}

/// A registration as it may be kept: without the secret that it hands over.
fn shown(registration: Option<Value>) -> Value {
    let mut registration = registration.unwrap_or_default();
    if let Some(members) = registration.as_object_mut() {
        members.remove("secret");
    }
    registration
}

fn says(standing: &Value, wanted: &Value) -> bool {
    COMPARED.iter().all(|member| standing.get(member) == wanted.get(member))
}

#[cfg(test)]
mod tests {
    use backhaul_outbound::Profiles;

    use super::*;

    fn profile(webhook: &str) -> Profile {
        let text = format!("[webhook]\n{webhook}");
        let profiles = Profiles::from_toml([("acme.toml".to_owned(), text)]).expect("a profile");
        profiles.get("acme").expect("the tenant").as_ref().clone()
    }

    /// Covers row 154: the name is stable, and the same registration needs no second one.
    #[test]
    fn names_are_stable() {
        let body = health_webhook("ch_1", "routing:conversation:analytic", "https://hooks.example.com/health");
        assert_eq!(body["name"], "Webchat Health Monitor - ch_1");
        assert_eq!(body["filter"], "channelType:webchat");
        let mut shown = body.clone();
        shown["headers"] = serde_json::json!({"content-type": "application/json"});
        shown["id"] = "w1".into();
        assert!(says(&shown, &body));
        shown["address"] = "https://old.example.com".into();
        assert!(!says(&shown, &body));
    }

    /// Somebody who gives the registration another address meanwhile is asked first; who makes it what it should be, or
    /// changes what nobody compares, is in nobody's way.
    #[test]
    fn changes_between_reading_and_repair_are_told_apart() {
        let at = |address: &str| health_webhook("ch_1", "routing:conversation:analytic", address);
        let (base, wanted, theirs) = (at("https://a.example"), at("https://b.example"), at("https://c.example"));
        assert!(is_taken(Some(&base), Some(&theirs), &wanted));
        assert!(!is_taken(Some(&base), Some(&wanted), &wanted));
        let mut renumbered = base.clone();
        renumbered["version"] = 7.into();
        assert!(!is_taken(Some(&base), Some(&renumbered), &wanted));
        assert!(!is_taken(None, Some(&theirs), &wanted), "it was not listed at first");
        assert_eq!((repair_key("k", &base), repair_key("k", &renumbered)), ("k".to_owned(), "k-7".to_owned()));
    }

    /// Covers row 155: the address must be on the tenant's list, and there must be a secret.
    #[test]
    fn registrations_are_checked_first() {
        let settings = HandshakeSettings::default();
        let make = |profile: &Profile, address: &str| registration(profile, &settings, "ch_1", address);
        let bare = profile("allow_hosts = [{ host = \"hooks.example.com\" }]");
        let refused = make(&bare, "https://evil.example/x").expect_err("not listed");
        assert_eq!(refused.code(), "address_not_allowed");
        let refused = make(&bare, "https://hooks.example.com/x").expect_err("no secret");
        assert_eq!(refused.code(), "health_secret_missing");
        let open = HandshakeSettings { send_secret: false, ..HandshakeSettings::default() };
        let body = registration(&bare, &open, "ch_1", "https://hooks.example.com/x").expect("no secret is wanted");
        assert_eq!(body.get("secret"), None);
        let refused = make(&bare, "http://hooks.example.com/x").expect_err("clear text");
        assert_eq!(refused.code(), "address_not_allowed");
    }
}
