//! Signs callbacks and deliveries as Standard Webhooks does (A13.11, row 60).
//!
//! `webhook-signature` holds one `v1,<base64>` for each live secret: the HMAC-SHA-256 over
//! `<webhook-id>.<webhook-timestamp>.<body>`. A receiver that knows any of the secrets accepts the delivery.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::redact::Secret;

/// Header of the delivery's stable id.
pub const ID_HEADER: &str = "webhook-id";
/// Header of the time of this try, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header of the signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// What the signature stands in.
const VERSION: &str = "v1";
/// Marks a secret whose rest is base64, as the standard's own tools write it.
const ENCODED_PREFIX: &str = "whsec_";

/// The bytes of a signing secret: base64 after `whsec_`, else the text itself.
///
/// # Errors
/// What is wrong with the secret; the secret is not quoted.
pub fn key(secret: &Secret) -> Result<Vec<u8>, &'static str> {
    let key = match secret.expose().strip_prefix(ENCODED_PREFIX) {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| "begins with whsec_ but the rest is no base64")?,
        None => secret.expose().as_bytes().to_vec(),
    };
    if key.is_empty() { Err("is empty") } else { Ok(key) }
}

/// The value of `webhook-signature`.
///
/// # Errors
/// A secret is unusable, or there is none.
pub fn signature(secrets: &[Secret], id: &str, at: DateTime<Utc>, body: &[u8]) -> Result<String, &'static str> {
    if secrets.is_empty() {
        return Err("there is no signing secret");
    }
    // A dot in the id would let a receiver split the signed text in two ways.
    if id.is_empty() || id.len() > 256 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte))
    {
        return Err("the delivery's id must be 1 to 256 letters, digits, `_`, `-` and `:`");
    }
    let mut signatures = Vec::with_capacity(secrets.len());
    for secret in secrets {
        let mac = mac(&key(secret)?, id, at.timestamp(), body)?;
        signatures.push(format!("{VERSION},{}", STANDARD.encode(mac.finalize().into_bytes())));
    }
    Ok(signatures.join(" "))
}

/// Whether any signature of the header was made with any of the secrets. The comparison takes constant time. The
/// caller checks the time stamp's distance from now.
pub fn verify(secrets: &[Secret], id: &str, timestamp_s: i64, body: &[u8], header: &str) -> bool {
    // Bounds the work that a hostile header can cause.
    let offered: Vec<Vec<u8>> = header
        .split(' ')
        .take(8)
        .filter_map(|one| STANDARD.decode(one.strip_prefix(VERSION)?.strip_prefix(',')?).ok())
        .collect();
    let good = |secret: &Secret, offered: &[u8]| {
        let made = key(secret).and_then(|key| mac(&key, id, timestamp_s, body));
        made.is_ok_and(|mac| mac.verify_slice(offered).is_ok())
    };
    secrets.iter().any(|secret| offered.iter().any(|offered| good(secret, offered)))
}

fn mac(key: &[u8], id: &str, timestamp_s: i64, body: &[u8]) -> Result<Hmac<Sha256>, &'static str> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| "the signing secret has an unusable length")?;
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(body);
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_614_265_330, 0).unwrap()
    }

    /// Covers row 60: the standard's published example.
    #[test]
    fn signs_as_the_standard_does() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signature = signature(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", at(), br#"{"test": 2432232314}"#).unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// Covers row 60: during a rotation either secret verifies, and nothing else does.
    #[test]
    fn both_secrets_of_a_rotation_verify() {
        let (new, old, other) = (Secret::new("test-new"), Secret::new("test-old"), Secret::new("test-other"));
        let header = signature(&[new.clone(), old.clone()], "evt_1", at(), b"{}").unwrap();
        let verifies = |secret: &Secret, id: &str, seconds: i64, body: &[u8]| {
            verify(std::slice::from_ref(secret), id, seconds, body, &header)
        };
        let now = at().timestamp();
        assert!(verifies(&new, "evt_1", now, b"{}") && verifies(&old, "evt_1", now, b"{}"));
        assert!(!verifies(&other, "evt_1", now, b"{}"));
        assert!(!verifies(&new, "evt_2", now, b"{}"));
        assert!(!verifies(&new, "evt_1", now + 1, b"{}"));
        assert!(!verifies(&new, "evt_1", now, b"{ }"));
        assert!(!verify(&[new], "evt_1", now, b"{}", "v1, v1,%%% garbage"));
    }

    #[test]
    fn unusable_secrets_and_ids_are_errors() {
        assert!(key(&Secret::new("whsec_%%")).is_err());
        assert!(key(&Secret::new("whsec_")).is_err());
        assert!(signature(&[], "evt_1", at(), b"").is_err());
        for id in ["", "a.b", "a b"] {
            assert!(signature(&[Secret::new("test-secret")], id, at(), b"").is_err(), "{id:?}");
        }
    }
}
