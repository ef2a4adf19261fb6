//! Documents that name the API's host, honest and forged ones.

use std::{io, net::IpAddr, pin::Pin};

use axum::response::IntoResponse;
use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::{
    address::Resolver,
    call::{Call, Reply},
    classify::{Class, RetryRules, classify},
    client::{Client, Settings},
    clock::ManualClock,
    profile::Profile,
    test_server::{Seen, Server, body, client, load, noon, status},
};

const DOCUMENT: &str = "/.well-known/cxone-configuration";
const P1: &str = "/cx/api/v2/profiles/p1";

/// A profile whose document is at `base`, with more lines for `[cxone]`.
fn profile(base: &str, more: &str) -> Arc<Profile> {
    let text = format!(
        "[cxone]\ndiscovery = \"{base}{DOCUMENT}?tenantId=t1\"\ninsecure = true\n{more}\n[cxone.oauth]\n\
         token_url = \"{base}/token\"\nclient_id = \"client-1\"\nclient_secret_env = \"SECRET\"\n"
    );
    load(&text).unwrap().get("acme").unwrap().clone()
}

/// A server that grants tokens and answers profiles, and whose document is what `document` makes.
async fn serving(document: impl Fn(&Seen) -> axum::response::Response + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match seen.path.as_str() {
        DOCUMENT => document(seen),
        "/token" => body(200, &json!({"access_token": "t", "expires_in": 36_000_000})),
        _ => body(200, &json!({})),
    })
    .await
}

fn naming(api_endpoint: &str) -> axum::response::Response {
    body(200, &json!({"api_endpoint": api_endpoint, "area": "na1", "more": [1]}))
}

async fn get(client: &Client, profile: &Profile) -> Result<Reply, CallError> {
    let call = Call::get("profile", "profiles").params(&[("profileId", "p1")]);
    client.send("acme", profile.cxone.as_ref().unwrap(), call).await
}

fn failed(outcome: Result<Reply, CallError>) -> String {
    let failure = outcome.unwrap_err();
    let class = classify(Err(&failure), &RetryRules::default(), noon());
    assert!(matches!(class, Class::Transient { code: "discovery_unavailable", .. }), "{failure}");
    assert!(failure.before_sending());
    failure.to_string()
}

#[tokio::test]
async fn the_document_is_asked_once_a_day() {
    let server = serving(|seen| naming(&format!("http://{}/cx/", seen.header("host")))).await;
    let (client, clock) = client();
    let profile = profile(&server.url, "");
    let cxone = profile.cxone.as_ref().unwrap();
    let call = Call::get("profile", "profiles").params(&[("profileId", "p1")]);
    assert!(client.target("acme", cxone, &call).is_err(), "nobody has asked yet");
    for _ in 0..3 {
        get(&client, &profile).await.unwrap();
        clock.advance(Duration::from_secs(7 * 3600));
    }
    assert_eq!((server.count(DOCUMENT), server.count(P1)), (1, 3));
    assert_eq!(server.seen()[0].query, "tenantId=t1");
    assert_eq!(server.seen()[0].header("authorization"), "", "the document needs no token");
    assert_eq!(client.target("acme", cxone, &call).unwrap().as_str(), format!("{}{P1}", server.url));
    clock.advance(Duration::from_secs(4 * 3600));
    get(&client, &profile).await.unwrap();
    assert_eq!(server.count(DOCUMENT), 2, "a day later it is asked again");
}

/// Whatever a forged document names, no token goes there, and none is even asked for.
#[tokio::test]
async fn a_forged_document_gets_no_token() {
    for endpoint in [
        "https://evil.example",
        "https://api.example.com.evil.example",
        "https://evil-api.example.com.evil.example/?x=.api.example.com",
        "https://api.example.com",
        "http://eu.api.example.com",
        "https://user:pw@eu.api.example.com",
        "https://eu.api.example.com/?next=https://evil.example",
        "https://eu.api.example.com/#x",
        "https://eu.api.example.com\\@evil.example",
        "https://0x7f.1/",
        "//eu.api.example.com",
        "",
    ] {
        let server = serving(move |_| naming(endpoint)).await;
        let (client, _) = client();
        let profile = profile(&server.url, "allow_hosts = [\"*.api.example.com\"]");
        assert!(failed(get(&client, &profile).await).contains("not allowed"), "{endpoint}");
        assert_eq!((server.count(DOCUMENT), server.seen().len()), (1, 1), "{endpoint}");
    }
}

struct Table(IpAddr);

impl Resolver for Table {
    fn resolve(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let address = self.0;
        Box::pin(async move { Ok(vec![address]) })
    }
}

/// A name of the list that leads into the private network, or to the cloud's metadata, is not connected to.
#[tokio::test]
async fn a_listed_name_with_a_private_address_is_refused() {
    for (address, entry, refused) in [
        ("10.0.0.1", "\"*.api.invalid\"", true),
        ("169.254.169.254", "{ host = \"*.api.invalid\", private = true }", true),
        ("127.0.0.1", "{ host = \"*.api.invalid\", private = true }", false),
    ] {
        let server = serving(|_| naming("https://eu.api.invalid:1")).await;
        let clock = ManualClock::new(noon());
        let resolver = Arc::new(Table(address.parse().unwrap()));
        let client = Client::new(Settings { clock: Arc::new(clock), resolver, ..Settings::default() }).unwrap();
        let profile = profile(&server.url, &format!("allow_hosts = [{entry}]"));
        let failure = get(&client, &profile).await.unwrap_err();
        assert!(matches!(failure, CallError::Connect { .. }), "{failure}");
        assert_eq!(failure.to_string().contains("which is not allowed"), refused, "{failure}");
    }
}

/// A document that cannot be had fails for everybody for ten seconds, and is asked for again after that.
#[tokio::test]
async fn a_failure_is_shared_for_a_moment() {
    let server = serving(|seen| match seen.nth {
        1 => (axum::http::StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "30")]).into_response(),
        2 => status(404),
        3 => body(200, &json!({"area": "na1"})),
        4 => (axum::http::StatusCode::OK, "<html>").into_response(),
        _ => naming(&format!("http://{}/cx", seen.header("host"))),
    })
    .await;
    let (client, clock) = client();
    let profile = profile(&server.url, "");
    let first = get(&client, &profile).await.unwrap_err();
    let half_a_minute_later = noon() + TimeDelta::seconds(30);
    assert!(
        matches!(first, CallError::DiscoveryUnavailable { not_before: Some(at), .. } if at == half_a_minute_later),
        "{first}"
    );
    assert_eq!(failed(get(&client, &profile).await), first.to_string());
    assert_eq!(server.count(DOCUMENT), 1);
    for want in ["answers 404", "has no api_endpoint", "has no api_endpoint"] {
        clock.advance(Duration::from_secs(10));
        let what = failed(get(&client, &profile).await);
        assert!(what.contains(want), "{what}");
    }
    clock.advance(Duration::from_secs(10));
    get(&client, &profile).await.unwrap();
    assert_eq!((server.count(DOCUMENT), server.count("/token")), (5, 1), "and no token was asked for in vain");
}

/// An API that moved is found before the day is over.
#[tokio::test]
async fn an_address_that_is_not_reached_is_asked_for_anew() {
    let server = serving(|seen| match seen.nth {
        1 => naming("http://127.0.0.1:1/cx"),
        _ => naming(&format!("http://{}/cx", seen.header("host"))),
    })
    .await;
    let (client, clock) = client();
    let profile = profile(&server.url, "");
    for _ in 0..3 {
        assert!(matches!(get(&client, &profile).await, Err(CallError::Connect { .. })));
    }
    assert_eq!(server.count(DOCUMENT), 1, "not at every call");
    clock.advance(Duration::from_secs(60));
    assert!(matches!(get(&client, &profile).await, Err(CallError::Connect { .. })));
    get(&client, &profile).await.unwrap();
    assert_eq!((server.count(DOCUMENT), server.count(P1)), (2, 1));
}

#[test]
fn a_profile_names_an_address_or_a_document() {
    let errors = |cxone: &str, oauth: &str| -> Vec<String> {
        let text =
            format!("[cxone]\n{cxone}\n[cxone.oauth]\nclient_id = \"c\"\nclient_secret_env = \"SECRET\"\n{oauth}");
        load(&text).err().map(|errors| errors.0.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    let document = "discovery = \"https://cxone.example.com/.well-known/cxone-configuration?tenantId=1\"";
    let token = "token_url = \"https://cxone.example.com/token\"";
    assert_eq!(errors(document, token), Vec::<String>::new());
    assert_eq!(errors(document, "discovery = \"https://cxone.example.com/openid\""), Vec::<String>::new());
    assert_eq!(errors(document, ""), ["acme.toml: cxone.oauth.token_url is not set; set it, or discovery"]);
    let both = format!("{document}\nbase_url = \"https://api.example.com\"");
    assert_eq!(errors(&both, token), ["acme.toml: cxone.discovery and base_url are both set; keep one"]);
    assert_eq!(
        errors("base_url = \"https://api.example.com\"\nallow_hosts = [\"*.example.com\"]", ""),
        ["acme.toml: cxone.allow_hosts is used with discovery only"]
    );
    let plain = errors("discovery = \"http://cxone.example.com/d\"", token);
    assert!(plain[0].contains("cxone.discovery is plain http to another machine"), "{plain:?}");
    assert_eq!(errors("", token), ["acme.toml: cxone.base_url is not set; no call is made to a guessed host"]);
}
