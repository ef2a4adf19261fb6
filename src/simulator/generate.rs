//! Webhook events as the platforms send them, posted to a receiver under test.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, Uri},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::{app::App, clock::rfc3339, control::Problem, documents::Kind, locked::locked, post::post};

/// Most events of one request.
const COUNT_MAX: u32 = 10_000;
/// Outcomes listed in the answer; the rest are counted.
const LISTED_MAX: usize = 100;

/// What to generate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// Where to post: `http://`, a loopback host (or one that the simulator was started with), port and path.
    #[serde(default = "receiver")]
    url: String,
    #[serde(default)]
    channel: Channel,
    /// `interaction.created` and so on, or `THREAD_UPDATED` and so on.
    #[serde(default)]
    event_type: Option<String>,
    /// Tenant whose social thread is told of, and whose webhook signs.
    #[serde(default)]
    tenant: Option<String>,
    /// Interaction or thread id; a new one for each event where absent.
    #[serde(default)]
    id: Option<String>,
    /// Delivery id; a new one for each event where absent.
    #[serde(default)]
    event_id: Option<String>,
    /// How many events.
    #[serde(default = "one")]
    count: u32,
    /// Signs with HMAC-SHA-256 in hex over `timestamp.rawbody`.
    #[serde(default)]
    secret: Option<String>,
    /// Signs with the secret that the tenant's webhook of this name was registered with.
    #[serde(default)]
    signed_as: Option<String>,
    #[serde(default = "default_signature_header")]
    signature_header: String,
    #[serde(default = "default_timestamp_header")]
    timestamp_header: String,
    /// Text before the hex digits, for example `sha256=`.
    #[serde(default)]
    signature_prefix: String,
    /// Moves the signed time, to try a receiver's window.
    #[serde(default)]
    timestamp_offset_s: i64,
    /// Breaks the signature.
    #[serde(default)]
    bad_signature: bool,
    /// More headers.
    #[serde(default)]
    headers: Map<String, Value>,
    /// Changes the event by a merge patch (RFC 7396).
    #[serde(default)]
    merge: Option<Value>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Channel {
    #[default]
    Voice,
    Chat,
    Sms,
    Social,
    Profile,
}

fn one() -> u32 {
    1
}

/// A receiver of one tenant at its default address.
fn receiver() -> String {
    "http://127.0.0.1:3000/webhooks/cxone".to_owned()
}

fn default_signature_header() -> String {
    "X-CXone-Signature".to_owned()
}

fn default_timestamp_header() -> String {
    "X-CXone-Timestamp".to_owned()
}

/// `POST /_sim/generate`: answers 200 `{delivered, failed, deliveries}`, or 502 where nothing was delivered.
pub(crate) async fn generate(
    State(app): State<Arc<App>>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (delivered, failed, deliveries) = carry_out(&app, serde_json::from_value(body)?).await?;
    let status = if delivered == 0 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
    Ok((status, Json(json!({"delivered": delivered, "failed": failed, "deliveries": deliveries}))))
}

/// `POST /simulator/generate?channel=voice`: one event, with the order's other members as parameters too. Answers 200
/// `{status: delivered, payloadId, ...}`, or 500 `{status: failed, error, ...}`.
pub(crate) async fn generate_one(
    State(app): State<Arc<App>>,
    Query(order): Query<Order>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (delivered, _, mut deliveries) = carry_out(&app, Order { count: 1, ..order }).await?;
    let status = if delivered == 1 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    Ok((status, Json(deliveries.pop().unwrap_or_default())))
}

/// Posts what was ordered: how many were delivered and not, and what became of the first ones.
async fn carry_out(app: &App, mut order: Order) -> Result<(u32, u32, Vec<Value>), Problem> {
    if !(1..=COUNT_MAX).contains(&order.count) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("count is 1 to {COUNT_MAX}")));
    }
    if let Some(name) = &order.signed_as {
        let secret = locked(&app.world).webhooks.secret(order.tenant.as_deref().unwrap_or("demo"), name);
        let missing =
            || Problem::new(StatusCode::NOT_FOUND, format!("no webhook {name:?} was registered with a secret"));
        order.secret = Some(secret.ok_or_else(missing)?);
    }
    let target = target(&order.url, &app.options.post_hosts)?;
    let (mut delivered, mut failed, mut deliveries) = (0_u32, 0_u32, Vec::new());
    for _ in 0..order.count {
        let (payload_id, event) = event(app, &order);
        let raw = event.to_string();
        let headers = headers(app, &order, &raw)?;
        let outcome = match post(&target, &headers, raw.as_bytes()).await {
            Ok((status, answer)) if (200..300).contains(&status) => {
                delivered += 1;
                json!({"status": "delivered", "payloadId": payload_id, "http": status, "answer": answer})
            }
            Ok((status, answer)) => {
                failed += 1;
                json!({"status": "failed", "payloadId": payload_id, "http": status, "error": answer})
            }
            Err(error) => {
                failed += 1;
                json!({"status": "failed", "payloadId": payload_id, "error": format!("{error:#}")})
            }
        };
        if deliveries.len() < LISTED_MAX {
            deliveries.push(outcome);
        }
    }
    Ok((delivered, failed, deliveries))
}

/// Only loopback and named hosts: the control plane must not become a way to post to just any address.
fn target(url: &str, hosts: &[String]) -> Result<Uri, Problem> {
    let refused = |message: &str| Problem::new(StatusCode::BAD_REQUEST, message);
    let uri: Uri = url.parse().map_err(|_| refused("url is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(refused("url must begin with http://"));
    }
    let host = uri.host().ok_or_else(|| refused("url has no host"))?;
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let allowed = host.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|address| address.is_loopback())
        || hosts.iter().any(|own| own.eq_ignore_ascii_case(host));
    if allowed {
        Ok(uri)
    } else {
        Err(refused("url must be on a loopback host, or one the simulator was started with"))
    }
}

fn headers(app: &App, order: &Order, raw: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    if let Some(secret) = &order.secret {
        let timestamp = (app.clock.now_ms() / 1000).saturating_add(order.timestamp_offset_s).to_string();
        let mut signature = sign(secret, &timestamp, raw);
        if order.bad_signature {
            signature = sign("another-secret", &timestamp, raw);
        }
        headers.push((order.timestamp_header.clone(), timestamp));
        headers.push((order.signature_header.clone(), format!("{}{signature}", order.signature_prefix)));
    }
    for (name, value) in &order.headers {
        headers.push((name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    for (name, value) in &headers {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(Problem::new(StatusCode::BAD_REQUEST, format!("{name:?} is not a header name")));
        }
        if value.chars().any(char::is_control) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the value of {name} holds a control character"),
            ));
        }
    }
    Ok(headers)
}

/// HMAC-SHA-256 over `timestamp.body`, in lower-case hex.
fn sign(secret: &str, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One event and the id of what it tells of.
fn event(app: &App, order: &Order) -> (String, Value) {
    let now = rfc3339(app.clock.now_ms());
    let (id, mut event) = match order.channel {
        Channel::Social => social(app, order, &now),
        Channel::Profile => profile(order, &now),
        channel => interaction(channel, order, &now),
    };
    if let Some(patch) = &order.merge {
        crate::documents::merge_patch(&mut event, patch);
    }
    (id, event)
}

fn interaction(channel: Channel, order: &Order, now: &str) -> (String, Value) {
    let id = order.id.clone().unwrap_or_else(|| format!("sim-{}", Uuid::new_v4()));
    let mut data = json!({"id": id, "direction": "inbound"});
    let (name, own) = match channel {
        Channel::Chat => ("chat", json!({"customer": {"email": "test@example.com"}, "skill": {"name": "Support"}})),
        Channel::Sms => {
            ("sms", json!({"customer": {"phoneNumber": "+15550002002"}, "message": {"body": "Simulated text message"}}))
        }
        Channel::Voice | Channel::Social | Channel::Profile => {
            ("voice", json!({"customer": {"phoneNumber": "+15550001001"}, "queue": {"name": "General"}}))
        }
    };
    crate::documents::merge_patch(&mut data, &own);
    data["channelType"] = Value::from(name);
    let event = json!({
        "eventId": order.event_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        "webhookId": "sim-webhook",
        "eventType": order.event_type.as_deref().unwrap_or("interaction.created"),
        "timestamp": now,
        "data": data,
    });
    (id, event)
}

fn profile(order: &Order, now: &str) -> (String, Value) {
    let id = order.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let event = json!({
        "eventId": order.event_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        "webhookId": "sim-webhook",
        "eventType": order.event_type.as_deref().unwrap_or("PROFILE_UPDATED"),
        "timestamp": now,
        "data": {"profileId": id},
    });
    (id, event)
}

/// Tells of the social thread as the simulator's source document has it, so that a reconciliation finds the same.
fn social(app: &App, order: &Order, now: &str) -> (String, Value) {
    let id = order.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let tenant = order.tenant.as_deref().unwrap_or("demo");
    let source = locked(&app.world).documents.get(Kind::Social, tenant, &id).map(|document| document.value.clone());
    let data = source.unwrap_or_else(|| Kind::Social.initial(&id));
    let mut event = json!({
        "event": order.event_type.as_deref().unwrap_or("THREAD_UPDATED"),
        "timestamp": now,
        "data": data,
    });
    if let Some(event_id) = &order.event_id {
        event["eventId"] = Value::from(event_id.as_str());
    }
    (id, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hex_hmacs_of_timestamp_and_body() {
        // Checked with: printf '1700000000.{}' | openssl dgst -sha256 -hmac test-secret
        assert_eq!(
            sign("test-secret", "1700000000", "{}"),
            "87d3ed18b9b403e7da0fc3a3ae8b9394303805a049ea06f87c2ef4380b521fa9"
        );
    }

    #[test]
    fn only_loopback_and_named_hosts_are_posted_to() {
        for url in ["http://127.0.0.1:1/x", "http://localhost:1/", "http://[::1]:1/", "http://ingress:80/"] {
            assert!(target(url, &["ingress".to_owned()]).is_ok(), "{url}");
        }
        for url in ["http://example.com/", "https://127.0.0.1/", "http://169.254.169.254/", "nonsense"] {
            assert!(target(url, &[]).is_err(), "{url}");
        }
    }
}
