//! One token request: how the client proves itself, and what the endpoint's answer means.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use reqwest::{
    Method, Request,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::bearer;
use crate::{
    address::is_loopback,
    call::{CallError, Reply},
    classify::{self, Class, RetryRules},
    exchange::{Exchange, Raw, Reach},
    profile::{ClientAuth, Grant, OAuth, Provider, TokenUrl},
    redact,
};

/// Life of a token whose reply names none.
const LIFE_UNNAMED: Duration = Duration::from_secs(300);
/// Longest life that is believed. Genesys goes up to two days.
const LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What came of a token request.
pub(super) enum Outcome {
    Granted {
        header: HeaderValue,
        life: Duration,
        /// When it was asked for, on the monotonic clock: its life began after that.
        asked_at: Duration,
    },
    ScopeMissing(Vec<String>),
    /// The credential or the address is wrong.
    Refused(String),
    Throttled(DateTime<Utc>),
    Unavailable {
        detail: String,
        not_before: Option<DateTime<Utc>>,
    },
    /// A failure with a meaning of its own, such as TLS.
    Failed(CallError),
}

/// A token reply. Unknown members are left alone: vendors add their own.
#[derive(Deserialize)]
struct Grants {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Value>,
    scope: Option<Value>,
}

#[derive(Deserialize)]
struct Configuration {
    token_endpoint: String,
}

/// The token endpoint: the profile's own, or the one its discovery document names.
pub(super) async fn endpoint(exchange: &Exchange, provider: &Provider, url: &TokenUrl) -> Result<Url, Outcome> {
    let discovery = match url {
        TokenUrl::Fixed(url) => return Ok(url.clone()),
        TokenUrl::Discovery(url) => url,
    };
    let raw = run(exchange, provider, Request::new(Method::GET, discovery.clone())).await?;
    if raw.status != 200 {
        let detail = format!("the discovery document answers {}", raw.status);
        return Err(if raw.status >= 500 {
            Outcome::Unavailable { detail, not_before: None }
        } else {
            Outcome::Refused(detail)
        });
    }
    let refused = |what: &str| Outcome::Refused(format!("the discovery document {what}"));
    let configuration: Configuration =
        serde_json::from_slice(&raw.body).map_err(|_| refused("has no token_endpoint"))?;
    let found =
        Url::parse(&configuration.token_endpoint).map_err(|_| refused("names a token_endpoint that is no URL"))?;
    // As strict as the profile: a document over https may not send the secret elsewhere in clear text.
    let plain_ok = discovery.scheme() == "http" && found.host().is_some_and(|host| is_loopback(&host));
    if found.scheme() == "https" || found.scheme() == "http" && plain_ok {
        Ok(found)
    } else {
        Err(refused("names a token_endpoint that is not https"))
    }
}

/// Asks for a token.
pub(super) async fn fetch(
    exchange: &Exchange,
    provider: &Provider,
    oauth: &OAuth,
    url: Url,
    now: DateTime<Utc>,
) -> Outcome {
    let asked_at = exchange.elapsed();
    let raw = match run(exchange, provider, build(oauth, url)).await {
        Ok(raw) => raw,
        Err(outcome) => return outcome,
    };
    if raw.status == 200 || raw.status == 201 {
        return read(&raw, oauth, asked_at);
    }
    let detail = format!("the token endpoint answers {}{}", raw.status, error_code(&raw.body));
    let detail = redact::scrub(&detail, [oauth.client_secret.expose()]);
    let reply = Reply {
        status: raw.status,
        headers: raw.headers,
        body: Vec::new(),
        request_id: String::new(),
        latency: raw.latency,
        bucket: provider.bucket("token"),
    };
    // The switches of the API do not hold here: a 500 of a token endpoint has no side effect.
    let rules = RetryRules { rate_headers: provider.retry.rate_headers, conflict: Vec::new(), ..RetryRules::default() };
    match classify::classify(Ok(&reply), &rules, now) {
        Class::Throttled { until, .. } => Outcome::Throttled(until),
        Class::Transient { not_before, .. } => Outcome::Unavailable { detail, not_before },
        Class::Ok | Class::Permanent { .. } | Class::AuthBlocked { .. } | Class::Conflict | Class::Ambiguous { .. } => {
            Outcome::Refused(detail)
        }
    }
}

async fn run(exchange: &Exchange, provider: &Provider, mut request: Request) -> Result<Raw, Outcome> {
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        headers.insert("x-request-id", id);
    }
    let http = exchange.http(&provider.extra_roots, Reach::Any).map_err(Outcome::Failed)?;
    exchange.run(&http, request, true).await.map_err(|error| match error {
        // A lost token is no harm: the next request gets another.
        CallError::Connect { .. } | CallError::Ambiguous { .. } | CallError::BodyTooLarge { .. } => {
            Outcome::Unavailable { detail: error.to_string(), not_before: None }
        }
        other => Outcome::Failed(other),
    })
}

fn build(oauth: &OAuth, url: Url) -> Request {
    let mut request = Request::new(Method::POST, url);
    let secret = oauth.client_secret.expose();
    if oauth.auth == ClientAuth::JsonKey {
        let body = json!({"accessKeyId": oauth.client_id, "accessKeySecret": secret});
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.to_string().into());
        return request;
    }
    let mut form = form_urlencoded::Serializer::new(String::new());
    match &oauth.grant {
        Grant::ClientCredentials => {
            form.append_pair("grant_type", "client_credentials");
        }
        Grant::Password { username, password } => {
            form.append_pair("grant_type", "password");
            form.append_pair("username", username);
            form.append_pair("password", password.expose());
        }
    }
    if oauth.send_scope && !oauth.scopes.is_empty() {
        form.append_pair("scope", &oauth.scopes.join(" "));
    }
    if oauth.auth == ClientAuth::Body {
        form.append_pair("client_id", &oauth.client_id);
        form.append_pair("client_secret", secret);
    } else if let Some(basic) = basic(oauth, secret) {
        request.headers_mut().insert(header::AUTHORIZATION, basic);
    }
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(header::CONTENT_TYPE, form_type);
    *request.body_mut() = Some(form.finish().into());
    request
}

/// RFC 6749 2.3.1 form-encodes both parts, or a colon in the id would shift the border between them (row 13). Some
/// servers compare the raw text; `encode_basic = false` serves them.
fn basic(oauth: &OAuth, secret: &str) -> Option<HeaderValue> {
    let encode = |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let pair = if oauth.encode_basic {
        format!("{}:{}", encode(&oauth.client_id), encode(secret))
    } else {
        format!("{}:{secret}", oauth.client_id)
    };
    let mut header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn read(raw: &Raw, oauth: &OAuth, asked_at: Duration) -> Outcome {
    let unusable = |what: &str| Outcome::Unavailable { detail: format!("the token reply {what}"), not_before: None };
    let Ok(grants) = serde_json::from_slice::<Grants>(&raw.body) else {
        return unusable("is no JSON object with an access_token");
    };
    if grants.token_type.as_ref().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return unusable("has a token_type other than Bearer");
    }
    let missing = missing_scopes(&oauth.scopes, grants.scope.as_ref());
    if !missing.is_empty() {
        return Outcome::ScopeMissing(missing);
    }
    let token = grants.access_token.trim();
    match bearer(token) {
        Some(header) if !token.is_empty() => {
            Outcome::Granted { header, life: life(grants.expires_in.as_ref()), asked_at }
        }
        _ => unusable("has an access_token that cannot stand in a header"),
    }
}

/// The required scopes that a reply which lists scopes does not list. A reply without a list grants what was asked.
fn missing_scopes(required: &[String], granted: Option<&Value>) -> Vec<String> {
    let granted: Vec<&str> = match granted {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if granted.is_empty() {
        return Vec::new();
    }
    required.iter().filter(|scope| !granted.contains(&scope.as_str())).cloned().collect()
}

/// `expires_in`, a number or a text of one; anything else counts as missing.
fn life(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    seconds
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or(LIFE_UNNAMED, |life| life.min(LIFE_MAX))
}

/// The `error` member of an OAuth error, if it is a plain word: descriptions may quote what was sent.
fn error_code(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let code = value.as_ref().and_then(|value| value.get("error")).and_then(Value::as_str);
    match code {
        Some(code) if code.len() <= 64 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
            format!(" ({code})")
        }
        _ => String::new(),
    }
}
