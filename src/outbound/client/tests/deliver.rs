//! Signed deliveries to addresses from payloads.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::http::HeaderValue as AxumValue;

use super::{tls, *};
use crate::{
    address::{AllowHost, Refusal, Resolver},
    clock::ManualClock,
    profile::CallbackProfile,
    redact::Secret,
    sign,
};

fn target(entries: &[(&str, bool)]) -> CallbackProfile {
    let entry =
        |&(host, insecure): &(&str, bool)| AllowHost { private: true, insecure, ..AllowHost::new(host).unwrap() };
    CallbackProfile {
        allow_hosts: entries.iter().map(entry).collect(),
        secrets: vec![Secret::new("test-new-secret"), Secret::new("test-old-secret")],
        ..CallbackProfile::default()
    }
}

/// Covers row 60: three deliveries of one event carry one id and three signatures that both live secrets verify.
#[tokio::test]
async fn deliveries_are_signed_and_keep_their_id() {
    let server = Server::start(|seen| status(if seen.nth < 3 { 500 } else { 200 })).await;
    let (client, clock) = client();
    let target = target(&[("127.0.0.1", true)]);
    let url = format!("{}/callbacks?a=1", server.url);
    let body = br#"{"event":"widget_customization_applied"}"#;
    for want in [500, 500, 200] {
        let reply = client.post_to_url("acme", &target, Delivery::json(&url, "evt_42", body)).await.unwrap();
        assert_eq!(reply.status, want);
        clock.advance(Duration::from_secs(30));
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for (nth, seen) in seen.iter().enumerate() {
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.query.as_str()), ("POST", "/callbacks", "a=1"));
        assert_eq!((seen.header("webhook-id"), seen.header("content-type")), ("evt_42", "application/json"));
        let timestamp: i64 = seen.header("webhook-timestamp").parse().unwrap();
        assert_eq!(timestamp, noon().timestamp() + 30 * i64::try_from(nth).unwrap());
        for secret in ["test-new-secret", "test-old-secret"] {
            let secrets = [Secret::new(secret)];
            assert!(sign::verify(&secrets, "evt_42", timestamp, &seen.body, seen.header("webhook-signature")));
        }
        assert_eq!(&seen.body[..], body);
        assert_eq!(seen.header("authorization"), "");
    }
}

/// Covers row 59: what the guard refuses is never connected to, and the refusal is permanent.
#[tokio::test]
async fn refused_addresses_get_nothing() {
    let server = Server::start(|_| status(200)).await;
    let (client, _) = client();
    let port = server.url.rsplit(':').next().unwrap();
    let target = target(&[("127.0.0.1", false), ("hooks.example.com", false)]);
    for url in [
        server.url.clone(),
        format!("https://localhost:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        format!("https://0x7f000001:{port}/"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://10.0.0.1/".to_owned(),
        "http://hooks.example.com/".to_owned(),
    ] {
        let outcome = client.post_to_url("acme", &target, Delivery::json(&url, "evt_1", b"{}")).await;
        assert!(matches!(outcome, Err(CallError::AddressNotAllowed(_))), "{url}: {outcome:?}");
        let class = classify(outcome.as_ref(), &crate::classify::RetryRules::default(), noon());
        assert_eq!(class, Class::Permanent { code: "address_not_allowed" });
    }
    let nobody = CallbackProfile::default();
    let outcome = client.post_to_url("acme", &nobody, Delivery::json("https://a.example.com/", "evt_1", b"{}")).await;
    assert!(matches!(outcome, Err(CallError::AddressNotAllowed(Refusal::NotListed(_)))));
    assert!(server.seen().is_empty());
}

/// Answers the first lookup with loopback and later ones with a metadata address.
#[derive(Default)]
struct Rebinding(AtomicUsize);

impl Resolver for Rebinding {
    fn resolve(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let nth = self.0.fetch_add(1, Ordering::Relaxed);
        let address = if nth == 0 { [127, 0, 0, 1] } else { [169, 254, 169, 254] };
        Box::pin(async move { Ok(vec![IpAddr::from(address)]) })
    }
}

/// Covers row 59: the connection goes to the vetted address, with the name in its certificate, and the name is looked
/// up once. It is a name that no real resolver knows.
#[tokio::test]
async fn a_rebinding_name_wins_nothing() {
    let authority = tls::Authority::new();
    let port = tls::serve(authority.acceptor("rebind.invalid")).await;
    let resolver = Arc::new(Rebinding::default());
    let settings = Settings {
        clock: Arc::new(ManualClock::new(noon())),
        resolver: Arc::clone(&resolver) as Arc<dyn Resolver>,
        ..Settings::default()
    };
    let client = Client::new(settings).unwrap();
    let mut target = target(&[("rebind.invalid", false)]);
    target.extra_roots = authority.roots();
    let url = format!("https://rebind.invalid:{port}/");
    let post = || client.post_to_url("acme", &target, Delivery::json(&url, "evt_1", b"{}"));
    assert_eq!(post().await.unwrap().status, 200);
    assert_eq!(resolver.0.load(Ordering::Relaxed), 1);
    let refusal = post().await.unwrap_err();
    assert!(matches!(refusal, CallError::AddressNotAllowed(Refusal::Address { .. })), "{refusal}");
}

/// Covers row 59: a redirect is not a way around the guard.
#[tokio::test]
async fn a_callback_redirect_is_not_followed() {
    let inside = Server::start(|_| status(200)).await;
    let location = AxumValue::from_str(&inside.url).unwrap();
    let server = Server::start(move |_| {
        let mut reply = status(307);
        reply.headers_mut().insert("location", location.clone());
        reply
    })
    .await;
    let (client, _) = client();
    let target = target(&[("127.0.0.1", true)]);
    let failure = client.post_to_url("acme", &target, Delivery::json(&server.url, "evt_1", b"{}")).await.unwrap_err();
    assert_eq!(failure, CallError::Redirect { status: 307 });
    assert!(inside.seen().is_empty());
}

/// Covers row 60: nothing goes out unsigned.
#[tokio::test]
async fn nothing_goes_out_unsigned() {
    let server = Server::start(|_| status(200)).await;
    let (client, _) = client();
    let mut target = target(&[("127.0.0.1", true)]);
    target.secrets.clear();
    let failure = client.post_to_url("acme", &target, Delivery::json(&server.url, "evt_1", b"{}")).await.unwrap_err();
    assert!(matches!(failure, CallError::Unconfigured(_)), "{failure}");
    assert!(server.seen().is_empty());
}

/// A name that does not resolve is a failure that may pass.
#[tokio::test]
async fn an_unknown_name_is_transient() {
    struct Unknown;
    impl Resolver for Unknown {
        fn resolve(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
            Box::pin(async { Err(io::Error::other("no such name")) })
        }
    }
    let client = Client::new(Settings { resolver: Arc::new(Unknown), ..Settings::default() }).unwrap();
    let target = target(&[("gone.example.com", false)]);
    let delivery = Delivery::json("https://gone.example.com/", "evt_1", b"{}");
    let failure = client.post_to_url("acme", &target, delivery).await.unwrap_err();
    assert!(matches!(failure, CallError::Connect { .. }), "{failure}");
}
