//! Whether a delivery comes from who it says: the signature over the raw bytes, and its age.

use axum::http::HeaderMap;
use backhaul_outbound::{
    Secret, WebhookProfile,
    profile::{SignatureEncoding, SignatureRules, SignatureScheme},
    sign,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

#[cfg(test)]
mod tests;

/// Signatures of one header that are looked at: bounds the work that a hostile header can cause.
const CANDIDATES_MAX: usize = 8;
/// Longest id or time stamp.
const FIELD_BYTES_MAX: usize = 256;
/// From here on a number of seconds is one of milliseconds: as seconds it would name the year 5138.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// What a signature is made over.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// `POST`.
    pub method: &'a str,
    /// Path and query, as they arrived.
    pub target: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, as it arrived.
    pub body: &'a [u8],
}

/// What a good signature proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signature, or nothing where the scheme has none. The same bytes again are the same delivery.
    pub signature: Option<Vec<u8>>,
    /// The delivery's id, where the signature covers it.
    pub signed_id: Option<String>,
}

/// Why a delivery is refused. All of them are one answer to the sender; the difference is for our log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The tenant has no secret.
    #[error("no_secret")]
    NoSecret,
    /// A header is missing or cannot be read.
    #[error("headers_missing")]
    Headers,
    /// The time stamp is too far from now, either way.
    #[error("stale")]
    Stale,
    /// No signature of the header fits any secret.
    #[error("mismatch")]
    Mismatch,
}

/// Verifies `delivery` with the live secrets of the tenant.
///
/// # Errors
/// Why it is refused.
pub fn verify(profile: &WebhookProfile, delivery: Delivery<'_>, now: DateTime<Utc>) -> Result<Verified, Unverified> {
    if profile.secrets.is_empty() {
        return Err(Unverified::NoSecret);
    }
    match profile.signature.scheme {
        SignatureScheme::Bearer => bearer(&profile.secrets, delivery.headers),
        SignatureScheme::Timestamp | SignatureScheme::Standard => signed(profile, delivery, now),
    }
}

/// Verifies a delivery of a source whose sender cannot sign, with the live tokens of the tenant.
///
/// # Errors
/// Why it is refused.
pub fn verify_bearer(profile: &WebhookProfile, headers: &HeaderMap) -> Result<Verified, Unverified> {
    if profile.bearer_secrets.is_empty() {
        return Err(Unverified::NoSecret);
    }
    bearer(&profile.bearer_secrets, headers)
}

fn signed(profile: &WebhookProfile, delivery: Delivery<'_>, now: DateTime<Utc>) -> Result<Verified, Unverified> {
    let rules = &profile.signature;
    let stamp = header(delivery.headers, rules.timestamp_header.as_str()).ok_or(Unverified::Headers)?;
    let at = instant(stamp).ok_or(Unverified::Headers)?;
    let covers_id = rules.template.contains("{id}");
    let id = header(delivery.headers, profile.delivery_id_header.as_str());
    if covers_id && id.is_none() {
        return Err(Unverified::Headers);
    }
    let tolerance = TimeDelta::from_std(rules.tolerance).unwrap_or(TimeDelta::MAX);
    if (now - at).abs() > tolerance {
        return Err(Unverified::Stale);
    }
    let offered = candidates(rules, delivery.headers).ok_or(Unverified::Headers)?;
    let url =
        profile.public_url.as_ref().map(|url| format!("{}{}", url.as_str().trim_end_matches('/'), delivery.target));
    let fields = Fields { id: id.unwrap_or_default(), stamp, url: url.as_deref().unwrap_or(delivery.target), delivery };
    let good = profile.secrets.iter().find_map(|secret| {
        let mac = mac(secret, &rules.template, &fields)?;
        offered.iter().find(|offered| mac.clone().verify_slice(offered).is_ok())
    });
    let signature = good.ok_or(Unverified::Mismatch)?.clone();
    Ok(Verified { signature: Some(signature), signed_id: id.filter(|_| covers_id).map(str::to_owned) })
}

fn bearer(secrets: &[Secret], headers: &HeaderMap) -> Result<Verified, Unverified> {
    let value = header(headers, "authorization").ok_or(Unverified::Headers)?;
    let (scheme, token) = value.split_once(' ').ok_or(Unverified::Headers)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Unverified::Headers);
    }
    let good = secrets.iter().any(|secret| same(secret.expose().as_bytes(), token.trim().as_bytes()));
    if good { Ok(Verified { signature: None, signed_id: None }) } else { Err(Unverified::Mismatch) }
}

/// Whether two secrets are equal, in a time that tells nothing of where they differ: their hashes are compared.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    let key = b"compared by digest";
    let digest = |text: &[u8]| Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(text));
    match (digest(left), digest(right)) {
        (Ok(left), Ok(right)) => left.verify(&right.finalize().into_bytes()).is_ok(),
        _ => false,
    }
}

struct Fields<'a> {
    id: &'a str,
    stamp: &'a str,
    url: &'a str,
    delivery: Delivery<'a>,
}

/// Feeds the template to the MAC piece by piece: the body is not copied, and a value that looks like a placeholder
/// stays what it is.
fn mac(secret: &Secret, template: &str, fields: &Fields<'_>) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&sign::key(secret).ok()?).ok()?;
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        mac.update(before.as_bytes());
        let known: [(&str, &[u8]); 5] = [
            ("{id}", fields.id.as_bytes()),
            ("{timestamp}", fields.stamp.as_bytes()),
            ("{body}", fields.delivery.body),
            ("{method}", fields.delivery.method.as_bytes()),
            ("{url}", fields.url.as_bytes()),
        ];
        rest = match known.iter().find(|(name, _)| from.starts_with(name)) {
            Some((name, value)) => {
                mac.update(value);
                &from[name.len()..]
            }
            None => {
                mac.update(b"{");
                &from[1..]
            }
        };
    }
    mac.update(rest.as_bytes());
    Some(mac)
}

/// The signatures that the header offers, decoded. Senders put several into one header while they rotate secrets.
fn candidates(rules: &SignatureRules, headers: &HeaderMap) -> Option<Vec<Vec<u8>>> {
    let value = headers.get(&rules.header)?.to_str().ok()?;
    let commas = !rules.prefix.contains(',');
    let offered = value
        .split(|char: char| char == ' ' || (commas && char == ','))
        .filter(|part| !part.is_empty())
        .take(CANDIDATES_MAX)
        .filter_map(|part| part.strip_prefix(rules.prefix.as_str()))
        .filter_map(|text| match rules.encoding {
            SignatureEncoding::Hex => from_hex(text),
            SignatureEncoding::Base64 => STANDARD.decode(text).ok(),
        })
        .collect();
    Some(offered)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits.chunks_exact(2).map(|pair| u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()).collect()
}

/// A header that stands once, is text and is not too long.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    // Two values could be read as one by us and as the other by somebody before us.
    (values.next().is_none() && !value.is_empty() && value.len() <= FIELD_BYTES_MAX).then_some(value)
}

/// The delivery's id as the sender names it in a header that the signature does not cover.
pub fn unsigned_id<'a>(profile: &WebhookProfile, headers: &'a HeaderMap) -> Option<&'a str> {
    header(headers, profile.delivery_id_header.as_str())
}

/// Seconds or milliseconds since 1970, or RFC 3339.
fn instant(stamp: &str) -> Option<DateTime<Utc>> {
    if stamp.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = stamp.parse().ok()?;
        return match number {
            MILLISECONDS_FROM.. => DateTime::from_timestamp_millis(number),
            _ => DateTime::from_timestamp(number, 0),
        };
    }
    DateTime::parse_from_rfc3339(stamp).ok().map(|at| at.to_utc())
}
