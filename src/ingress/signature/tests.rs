use std::time::Duration;

use super::*;

const BODY: &[u8] = br#"{ "b" : 1,"a":"\u00e9" }"#;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

fn profile(scheme: SignatureScheme, secrets: &[&str]) -> WebhookProfile {
    WebhookProfile {
        secrets: secrets.iter().map(|secret| Secret::new(*secret)).collect(),
        signature: SignatureRules::of(scheme),
        ..WebhookProfile::default()
    }
}

fn hex(key: &str, text: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key").chain_update(text);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

fn signed_headers(key: &str, stamp: &str, body: &[u8]) -> HeaderMap {
    let signature = hex(key, &[stamp.as_bytes(), b".", body].concat());
    headers(&[("x-cxone-timestamp", stamp), ("x-cxone-signature", &signature)])
}

fn check(profile: &WebhookProfile, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Unverified> {
    verify(profile, Delivery { method: "POST", target: "/webhooks/acme/cxone", headers, body }, now())
}

/// Covers row 64, row 66: raw bytes are verified as they are, and nothing but a secret's own signature is good.
#[test]
fn the_raw_bytes_are_verified() {
    let profile = profile(SignatureScheme::Timestamp, &["test-secret"]);
    // Checked with: printf '1700000000.{}' | openssl dgst -sha256 -hmac test-secret
    let known = headers(&[
        ("x-cxone-timestamp", "1700000000"),
        ("x-cxone-signature", "87d3ed18b9b403e7da0fc3a3ae8b9394303805a049ea06f87c2ef4380b521fa9"),
    ]);
    assert!(check(&profile, &known, b"{}").is_ok());
    assert_eq!(check(&profile, &known, b"{ }"), Err(Unverified::Mismatch));
    assert!(check(&profile, &signed_headers("test-secret", "1700000000", BODY), BODY).is_ok());
    assert_eq!(check(&profile, &signed_headers("test-other", "1700000000", BODY), BODY), Err(Unverified::Mismatch));
    assert_eq!(check(&profile, &HeaderMap::new(), BODY), Err(Unverified::Headers));
    assert_eq!(
        check(&super::tests::profile(SignatureScheme::Timestamp, &[]), &known, b"{}"),
        Err(Unverified::NoSecret)
    );
    // A good signature under another time stamp is none.
    let mut moved = known.clone();
    moved.insert("x-cxone-timestamp", "1700000001".parse().expect("a value"));
    assert_eq!(check(&profile, &moved, b"{}"), Err(Unverified::Mismatch));
    let mut twice = known;
    twice.append("x-cxone-timestamp", "1700000000".parse().expect("a value"));
    assert_eq!(check(&profile, &twice, b"{}"), Err(Unverified::Headers));
}

/// Covers row 64: during a rotation both secrets are live, and a header may carry several signatures.
#[test]
fn two_secrets_are_live_during_a_rotation() {
    let profile = profile(SignatureScheme::Timestamp, &["test-new", "test-old"]);
    for key in ["test-new", "test-old"] {
        assert!(check(&profile, &signed_headers(key, "1700000000", BODY), BODY).is_ok(), "{key}");
    }
    let good = hex("test-old", &[b"1700000000.", BODY].concat());
    let several = format!("{}, {good}", "0".repeat(64));
    let both = headers(&[("x-cxone-timestamp", "1700000000"), ("x-cxone-signature", &several)]);
    assert!(check(&profile, &both, BODY).is_ok());
    let hidden = format!("{}{good}", "00 ".repeat(CANDIDATES_MAX));
    let many = headers(&[("x-cxone-timestamp", "1700000000"), ("x-cxone-signature", &hidden)]);
    assert_eq!(check(&profile, &many, BODY), Err(Unverified::Mismatch));
}

/// Covers row 65: five minutes either way, to the second.
#[test]
fn old_and_future_deliveries_are_refused() {
    let profile = profile(SignatureScheme::Timestamp, &["test-secret"]);
    let outcome = |stamp: &str| check(&profile, &signed_headers("test-secret", stamp, BODY), BODY);
    for good in ["1699999700", "1700000300", "1700000000123", "2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00"] {
        assert!(outcome(good).is_ok(), "{good}");
    }
    for stale in ["1699999699", "1700000301", "1699999640", "0", "2023-11-14T22:00:00Z"] {
        assert_eq!(outcome(stale), Err(Unverified::Stale), "{stale}");
    }
    for unreadable in ["now", "-1", "1e9", "99999999999999999999", "1700000000.5"] {
        assert_eq!(outcome(unreadable), Err(Unverified::Headers), "{unreadable}");
    }
}

#[test]
fn standard_webhooks_are_verified_with_their_id() {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let profile = profile(SignatureScheme::Standard, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
    let signature = sign::signature(&[secret], "msg_1", now(), BODY).expect("signs");
    let good =
        headers(&[("webhook-id", "msg_1"), ("webhook-timestamp", "1700000000"), ("webhook-signature", &signature)]);
    assert_eq!(check(&profile, &good, BODY).expect("verifies").signed_id.as_deref(), Some("msg_1"));
    let mut other = good.clone();
    other.insert("webhook-id", "msg_2".parse().expect("a value"));
    assert_eq!(check(&profile, &other, BODY), Err(Unverified::Mismatch));
    other.remove("webhook-id");
    assert_eq!(check(&profile, &other, BODY), Err(Unverified::Headers));
}

#[test]
fn templates_and_prefixes_come_from_the_profile() {
    let mut profile = profile(SignatureScheme::Timestamp, &["test-secret"]);
    profile.public_url = Some("https://in.example.com/".parse().expect("a URL"));
    profile.signature = SignatureRules {
        template: "{method}{url}{body}{timestamp}{".to_owned(),
        prefix: "sha256=".to_owned(),
        encoding: SignatureEncoding::Base64,
        tolerance: Duration::from_secs(1),
        ..profile.signature
    };
    let text = [b"POSThttps://in.example.com/webhooks/acme/cxone".as_slice(), b"{timestamp}", b"1700000000{"].concat();
    let mac = Hmac::<Sha256>::new_from_slice(b"test-secret").expect("any key").chain_update(&text);
    let signature = format!("sha256={}", STANDARD.encode(mac.finalize().into_bytes()));
    let good = headers(&[("x-cxone-timestamp", "1700000000"), ("x-cxone-signature", &signature)]);
    // A body that looks like a placeholder is not filled in.
    assert!(check(&profile, &good, b"{timestamp}").is_ok());
    let bare = headers(&[("x-cxone-timestamp", "1700000000"), ("x-cxone-signature", &signature[7..])]);
    assert_eq!(check(&profile, &bare, b"{timestamp}"), Err(Unverified::Mismatch));
}

#[test]
fn bearer_tokens_are_for_senders_that_cannot_sign() {
    let profile = profile(SignatureScheme::Bearer, &["test-new", "test-old"]);
    assert!(check(&profile, &headers(&[("authorization", "Bearer test-old")]), BODY).is_ok());
    assert_eq!(check(&profile, &headers(&[("authorization", "Bearer test")]), BODY), Err(Unverified::Mismatch));
    assert_eq!(check(&profile, &headers(&[("authorization", "Basic test-old")]), BODY), Err(Unverified::Headers));
    assert_eq!(check(&profile, &HeaderMap::new(), BODY), Err(Unverified::Headers));
}
