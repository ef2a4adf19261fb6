//! The health webhook of a channel: there is one, and it says what it should.

use backhaul_engine::{Done, Failure, JobContext};
use backhaul_outbound::{Profile, address};
use serde_json::Value;

use super::settings::HandshakeSettings;
use crate::{
    api::channels::{Channels, health_webhook},
    trail::Trail,
};

/// Members of a registration that are compared; platforms rewrite headers and never show secrets.
const COMPARED: [&str; 5] = ["address", "enabled", "event", "method", "filter"];

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
        let name = wanted["name"].as_str().unwrap_or_default();
        let (status, exchange) = match channels.webhook(name).await? {
            Some(standing) => repair(channels, &standing, wanted, &key).await?,
            None => match channels.register_webhook(wanted, &key).await {
                Ok(exchange) => ("registered", Some(exchange)),
                // Somebody was faster, or the listing did not show it yet.
                Err(trouble) if trouble.is_conflict() => match channels.webhook(name).await? {
                    Some(standing) => repair(channels, &standing, wanted, &key).await?,
                    None => {
                        let message = "the platform says that the webhook exists, but does not list it";
                        return Err(Failure::transient("health_webhook_hidden", message).with_status(409));
                    }
                },
                Err(trouble) => return Err(trouble.into()),
            },
        };
        let trail = Trail::new("handshake.webhook_ensured", &job, channel_id, "health-webhook", status);
        let trail = match &exchange {
            Some(exchange) => trail.exchange(exchange),
            None => trail,
        };
        Ok(Done::new(()).audit(trail.with("side_effects", serde_json::json!({"webhook": status})).event()))
    })
    .await
}

async fn repair(
    channels: &Channels<'_>,
    standing: &Value,
    wanted: &Value,
    key: &str,
) -> Result<(&'static str, Option<crate::api::Exchange>), Failure> {
    if says(standing, wanted) {
        return Ok(("unchanged", None));
    }
    Ok(("repaired", Some(channels.repair_webhook(standing, wanted, key).await?)))
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
