//! Tokens against a real token endpoint, with a clock that tests turn.

use std::{sync::Arc, time::Duration};

use axum::{http::HeaderValue, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::sync::Barrier;

use crate::{
    call::{Call, CallError, Reply},
    classify::{Class, classify},
    client::Client,
    profile::Profile,
    test_server::{P1, Seen, Server, TOKEN, body, client, load, noon, profile, status, token},
};

const MINUTE: Duration = Duration::from_secs(60);

async fn get(client: &Client, profile: &Profile) -> Result<Reply, CallError> {
    let provider = profile.cxone.as_ref().unwrap();
    client.send(&profile.tenant, provider, Call::get("profile", "profiles").params(&[("profileId", "p1")])).await
}

/// A server that gives tokens of the given reply and accepts every call.
async fn granting(reply: serde_json::Value) -> Server {
    Server::start(move |seen| if seen.path == TOKEN { body(200, &reply) } else { status(204) }).await
}

fn token_or(seen: &Seen, other: impl Fn(&Seen) -> Response) -> Response {
    if seen.path == TOKEN { token(seen.nth) } else { other(seen) }
}

/// Covers row 1.
#[tokio::test]
async fn fifty_callers_make_one_token_request() {
    let server = granting(json!({"access_token": "token-1", "expires_in": 3600})).await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (client, profile) = (client.clone(), Arc::clone(&profile));
            tokio::spawn(async move { get(&client, &profile).await.unwrap().status })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 204);
    }
    assert_eq!((server.count(TOKEN), server.count(P1)), (1, 50));
}

/// Covers row 2, row 12: the life of a token is what its reply says.
#[tokio::test]
async fn life_follows_expires_in() {
    for (expires_in, minutes, requests) in [(600, 11, 2), (86_400, 56, 1), (3_600, 61, 2), (3_600, 58, 1)] {
        let server = granting(json!({"access_token": "token-1", "expires_in": expires_in})).await;
        let (client, clock) = client();
        let profile = profile(&server.url, "", "");
        get(&client, &profile).await.unwrap();
        clock.advance(minutes * MINUTE);
        get(&client, &profile).await.unwrap();
        assert_eq!(server.count(TOKEN), requests, "{expires_in} s, {minutes} min");
    }
}

/// Covers row 3: a margin longer than the life does not refetch every call.
#[tokio::test]
async fn the_margin_is_at_most_half_the_life() {
    let server = granting(json!({"access_token": "token-1", "expires_in": 30})).await;
    let (client, clock) = client();
    let profile = profile(&server.url, "margin_s = 60", "");
    for _ in 0..10 {
        get(&client, &profile).await.unwrap();
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(server.count(TOKEN), 1);
    clock.advance(Duration::from_secs(5));
    get(&client, &profile).await.unwrap();
    assert_eq!(server.count(TOKEN), 2);
}

/// Covers row 4: a reply without expires_in, or with a useless one, is kept for 300 s; a text of digits counts.
#[tokio::test]
async fn a_missing_life_is_five_minutes() {
    for (reply, life_s) in [
        (json!({"access_token": "t"}), 300),
        (json!({"access_token": "t", "expires_in": null}), 300),
        (json!({"access_token": "t", "expires_in": "soon"}), 300),
        (json!({"access_token": "t", "expires_in": -5}), 300),
        (json!({"access_token": "t", "expires_in": "600"}), 600),
    ] {
        let server = granting(reply.clone()).await;
        let (client, clock) = client();
        let profile = profile(&server.url, "", "");
        for _ in 0..10 {
            get(&client, &profile).await.unwrap();
        }
        clock.advance(Duration::from_secs(life_s - 61));
        get(&client, &profile).await.unwrap();
        assert_eq!(server.count(TOKEN), 1, "{reply}");
        clock.advance(Duration::from_secs(2));
        get(&client, &profile).await.unwrap();
        assert_eq!(server.count(TOKEN), 2, "{reply}");
    }
}

/// The wall clock may jump; tokens live on the monotonic one.
#[tokio::test]
async fn a_corrected_wall_clock_ends_no_token() {
    let server = granting(json!({"access_token": "token-1", "expires_in": 3600})).await;
    let (client, clock) = client();
    let profile = profile(&server.url, "", "");
    get(&client, &profile).await.unwrap();
    clock.set_wall(noon() + chrono::TimeDelta::days(3));
    get(&client, &profile).await.unwrap();
    assert_eq!(server.count(TOKEN), 1);
}

/// Covers row 5.
#[tokio::test]
async fn a_401_renews_the_token_and_repeats_the_call_once() {
    let server = Server::start(|seen| {
        token_or(seen, |seen| status(if seen.header("authorization") == "Bearer token-1" { 401 } else { 200 }))
    })
    .await;
    let (client, _) = client();
    assert_eq!(get(&client, &profile(&server.url, "", "")).await.unwrap().status, 200);
    assert_eq!((server.count(TOKEN), server.count(P1)), (2, 2));
}

/// Covers row 5: a second 401 is auth_blocked, with one refresh.
#[tokio::test]
async fn a_second_401_is_auth_blocked() {
    let server = Server::start(|seen| token_or(seen, |_| status(401))).await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let outcome = get(&client, &profile).await;
    let rules = &profile.cxone.as_ref().unwrap().retry;
    assert_eq!(classify(outcome.as_ref(), rules, noon()), Class::AuthBlocked { code: "auth_blocked", until: None });
    assert_eq!(outcome.unwrap_err().http_status(), Some(401));
    assert_eq!((server.count(TOKEN), server.count(P1)), (2, 2));
}

/// Covers row 6: the 401s of twenty calls with one token make one refresh.
#[tokio::test]
async fn only_the_token_that_was_sent_is_dropped() {
    let barrier = Arc::new(Barrier::new(20));
    let server = Server::start_async(move |seen| {
        let barrier = Arc::clone(&barrier);
        async move {
            match (seen.path.as_str(), seen.header("authorization")) {
                (TOKEN, _) => token(seen.nth),
                (P1, "Bearer token-1") => {
                    // All twenty are under way before the first learns of the 401.
                    barrier.wait().await;
                    status(401)
                }
                _ => status(200),
            }
        }
    })
    .await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (client, profile) = (client.clone(), Arc::clone(&profile));
            tokio::spawn(async move { get(&client, &profile).await.unwrap().status })
        })
        .collect();
    for call in calls {
        assert_eq!(tokio::time::timeout(MINUTE, call).await.unwrap().unwrap(), 200);
    }
    assert_eq!(server.count(TOKEN), 2);
}

/// Covers row 7: a 401 does not use up what a 429 needs, nor the other way round.
#[tokio::test]
async fn a_401_and_a_429_have_budgets_of_their_own() {
    let server = Server::start(|seen| {
        token_or(seen, |seen| match seen.nth {
            1 => status(401),
            2 => throttled("7"),
            3 => status(401),
            _ => status(200),
        })
    })
    .await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let outcome = get(&client, &profile).await;
    let rules = &profile.cxone.as_ref().unwrap().retry;
    let until = noon() + Duration::from_secs(7);
    assert_eq!(
        classify(outcome.as_ref(), rules, noon()),
        Class::Throttled { bucket: "cxone/profiles".to_owned(), until }
    );
    assert_eq!(get(&client, &profile).await.unwrap().status, 200);
}

fn throttled(retry_after: &'static str) -> Response {
    let mut reply = status(429);
    reply.headers_mut().insert("retry-after", HeaderValue::from_static(retry_after));
    reply
}

/// Covers row 8: hosts, scopes and tenants each have their own token, and none is sent to another's host.
#[tokio::test]
async fn tokens_are_never_swapped() {
    let (one, two) = (
        granting(json!({"access_token": "token-one", "expires_in": 3600})).await,
        granting(json!({"access_token": "token-two", "expires_in": 3600})).await,
    );
    let (client, _) = client();
    for _ in 0..2 {
        get(&client, &profile(&one.url, "", "")).await.unwrap();
        get(&client, &profile(&two.url, "", "")).await.unwrap();
    }
    let sent = |server: &Server| -> Vec<String> {
        server
            .seen()
            .iter()
            .filter(|seen| seen.path == P1)
            .map(|seen| seen.header("authorization").to_owned())
            .collect()
    };
    assert_eq!(
        (sent(&one), sent(&two)),
        (vec!["Bearer token-one".to_owned(); 2], vec!["Bearer token-two".to_owned(); 2])
    );
    assert_eq!((one.count(TOKEN), two.count(TOKEN)), (1, 1));

    for scopes in ["scopes = [\"a\"]", "scopes = [\"a\", \"b\"]", "scopes = [\"b\", \"a\"]"] {
        get(&client, &profile(&one.url, scopes, "")).await.unwrap();
    }
    assert_eq!(one.count(TOKEN), 3, "[a, b] and [b, a] are one set");
    let other = profile(&one.url, "", "");
    let provider = other.cxone.as_ref().unwrap();
    let call = Call::get("profile", "profiles").params(&[("profileId", "p1")]);
    client.send("other-tenant", provider, call).await.unwrap();
    assert_eq!(one.count(TOKEN), 4);
}

/// Covers row 9: one profile drives the token and the calls; the other region hears nothing.
#[tokio::test]
async fn a_profile_of_one_region_never_calls_another() {
    let (eu, us) = (granting(json!({"access_token": "eu"})).await, granting(json!({"access_token": "us"})).await);
    let (client, _) = client();
    get(&client, &profile(&eu.url, "", "")).await.unwrap();
    assert_eq!((eu.seen().len(), us.seen().len()), (2, 0));
}

/// Covers row 10: no business call with a token that lacks a scope, and no flood of token requests.
#[tokio::test]
async fn a_missing_scope_stops_before_the_call() {
    let server = granting(json!({"access_token": "t", "expires_in": 60, "scope": "profile:read other"})).await;
    let (client, clock) = client();
    let profile = profile(&server.url, "scopes = [\"profile:read\", \"profile:write\"]", "");
    for _ in 0..3 {
        let outcome = get(&client, &profile).await;
        assert_eq!(outcome.clone().unwrap_err(), CallError::ScopeMissing { missing: vec!["profile:write".to_owned()] });
        let rules = &profile.cxone.as_ref().unwrap().retry;
        assert_eq!(
            classify(outcome.as_ref(), rules, noon()),
            Class::AuthBlocked { code: "scope_missing", until: None }
        );
    }
    assert_eq!((server.count(TOKEN), server.count(P1)), (1, 0));
    clock.advance(MINUTE);
    get(&client, &profile).await.unwrap_err();
    assert_eq!(server.count(TOKEN), 2);
}

/// Covers row 10: a reply without a list grants what was asked; a list in any order satisfies.
#[tokio::test]
async fn scopes_that_are_granted_or_not_listed_pass() {
    for scope in [json!("b a"), json!(["a", "b"]), json!(""), json!(null)] {
        let server = granting(json!({"access_token": "t", "scope": scope})).await;
        let (client, _) = client();
        get(&client, &profile(&server.url, "scopes = [\"a\", \"b\"]", "")).await.unwrap();
        assert_eq!(server.seen()[0].form()["scope"], "a b");
    }
}

/// Covers row 13: form encoding before base64, so that the other side decodes the same id and secret.
#[tokio::test]
async fn a_basic_pair_is_form_encoded() {
    for (encode, want) in [(true, "client%3A1:a%3Ab%25%2B%C3%A9"), (false, "client:1:a:b%+é")] {
        let server = granting(json!({"access_token": "t"})).await;
        let (client, _) = client();
        let text = format!(
            "[cxone]\nbase_url = \"{}\"\ninsecure = true\n[cxone.oauth]\nclient_id = \"client:1\"\n\
             client_secret_env = \"S\"\nencode_basic = {encode}",
            server.url
        );
        let profiles = crate::profile::Loader::new()
            .env(|_| Some("a:b%+é".to_owned()))
            .from_toml([("acme.toml".to_owned(), text)])
            .unwrap();
        get(&client, profiles.get("acme").unwrap()).await.unwrap();
        let seen = &server.seen()[0];
        let pair = STANDARD.decode(seen.header("authorization").strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), want);
        assert_eq!(seen.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!(seen.form()["grant_type"], "client_credentials");
    }
}

#[tokio::test]
async fn the_other_ways_to_prove_oneself() {
    let server = granting(json!({"access_token": "t"})).await;
    let (client, _) = client();
    let password = "grant = \"password\"\nusername = \"key-1\"\npassword_env = \"SECRET_2\"";
    let quiet = "auth = \"body\"\nscopes = [\"a\"]\nsend_scope = false";
    for oauth in [quiet, "auth = \"json_key\"", password] {
        get(&client, &profile(&server.url, oauth, "")).await.unwrap();
    }
    let asked: Vec<Seen> = server.seen().into_iter().filter(|seen| seen.path == TOKEN).collect();
    let form = asked[0].form();
    assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("client-1", "test-client-secret"));
    assert!(!form.contains_key("scope") && asked[0].header("authorization").is_empty());
    let key: serde_json::Value = serde_json::from_slice(&asked[1].body).unwrap();
    assert_eq!(key, json!({"accessKeyId": "client-1", "accessKeySecret": "test-client-secret"}));
    let form = asked[2].form();
    assert_eq!((form["grant_type"].as_str(), form["username"].as_str()), ("password", "key-1"));
    assert!(asked[2].header("authorization").starts_with("Basic "));
}

/// A refused credential is paused: 60 s, doubling to 15 min, without a request; it recovers by itself.
#[tokio::test]
async fn a_refused_credential_is_paused() {
    let server = Server::start(|seen| match (seen.path.as_str(), seen.nth) {
        (TOKEN, 7) => token(7),
        (TOKEN, _) => body(401, &json!({"error": "invalid_client", "error_description": "test-client-secret"})),
        _ => status(200),
    })
    .await;
    let (client, clock) = client();
    let profile = profile(&server.url, "", "");
    for (strike, pause_s) in [60, 120, 240, 480, 900, 900].into_iter().enumerate() {
        let until = clock_now(&client) + Duration::from_secs(pause_s);
        for _ in 0..3 {
            let outcome = get(&client, &profile).await;
            let rules = &profile.cxone.as_ref().unwrap().retry;
            assert_eq!(
                classify(outcome.as_ref(), rules, clock_now(&client)),
                Class::AuthBlocked { code: "auth_blocked", until: Some(until) }
            );
            let text = outcome.unwrap_err().to_string();
            assert!(text.contains("401 (invalid_client)") && !text.contains("test-client-secret"), "{text}");
        }
        assert_eq!((server.count(TOKEN), server.count(P1)), (strike + 1, 0));
        clock.advance(Duration::from_secs(pause_s));
    }
    assert_eq!(get(&client, &profile).await.unwrap().status, 200);
}

fn clock_now(client: &Client) -> chrono::DateTime<chrono::Utc> {
    client.clock().now()
}

/// Covers row 183 for tokens: a 429 of the token endpoint closes its own bucket, and nothing is sent before its time.
#[tokio::test]
async fn a_throttled_token_endpoint_is_left_alone() {
    let server = Server::start(|seen| match (seen.path.as_str(), seen.nth) {
        (TOKEN, 1) => throttled("Sun, 01 Mar 2026 12:00:10 GMT"),
        (TOKEN, n) => token(n),
        _ => status(200),
    })
    .await;
    let (client, clock) = client();
    let profile = profile(&server.url, "", "");
    let until = noon() + Duration::from_secs(10);
    for _ in 0..3 {
        let failure = get(&client, &profile).await.unwrap_err();
        assert_eq!(failure, CallError::TokenThrottled { bucket: "cxone/token".to_owned(), until });
    }
    assert_eq!(server.count(TOKEN), 1);
    clock.advance(Duration::from_secs(10));
    get(&client, &profile).await.unwrap();
}

/// The token endpoint has a limiter of its own, over every window of 60 s.
#[tokio::test]
async fn token_requests_are_limited() {
    let server = Server::start(|seen| token_or(seen, |_| status(401))).await;
    let (client, clock) = client();
    let profile = profile(&server.url, "", "[cxone.buckets]\ntoken = 4");
    for _ in 0..3 {
        get(&client, &profile).await.unwrap_err();
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(server.count(TOKEN), 4);
    let until = noon() + MINUTE;
    let failure = get(&client, &profile).await.unwrap_err();
    assert_eq!(failure, CallError::TokenThrottled { bucket: "cxone/token".to_owned(), until });
    clock.advance(Duration::from_secs(57));
    get(&client, &profile).await.unwrap_err();
    assert!(server.count(TOKEN) > 4);
}

/// Whoever waited through a failed refresh shares its failure instead of making the next one.
#[tokio::test]
async fn waiters_share_a_failure() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    let server = Server::start_async(move |_| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            status(503)
        }
    })
    .await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let mut calls: Vec<_> = (0..20).map(|_| Box::pin(get(&client, &profile))).collect();
    // Polls every call once: one sends the request, the others wait for it.
    for call in &mut calls {
        assert!(futures_poll(call.as_mut()).await.is_none());
    }
    gate.add_permits(1);
    for call in calls {
        let failure = tokio::time::timeout(MINUTE, call).await.unwrap().unwrap_err();
        assert!(matches!(&failure, CallError::TokenUnavailable { detail, .. } if detail.contains("503")), "{failure}");
    }
    assert_eq!(server.count(TOKEN), 1);
}

async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn useless_token_replies_are_transient() {
    for reply in [
        json!({}),
        json!({"access_token": ""}),
        json!({"access_token": "a\nb"}),
        json!([]),
        json!({"access_token": "t", "token_type": "mac"}),
    ] {
        let server = granting(reply.clone()).await;
        let (client, _) = client();
        let failure = get(&client, &profile(&server.url, "", "")).await.unwrap_err();
        assert!(matches!(failure, CallError::TokenUnavailable { .. }), "{reply}: {failure}");
        assert_eq!(server.count(P1), 0);
    }
}

#[tokio::test]
async fn the_endpoint_is_discovered_once() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/.well-known/openid-configuration" => {
            let host = seen.header("host");
            body(200, &json!({"issuer": "x", "token_endpoint": format!("http://{host}/auth/token")}))
        }
        "/auth/token" => body(200, &json!({"access_token": "t", "expires_in": 120})),
        _ => status(200),
    })
    .await;
    let (client, clock) = client();
    let oauth = format!("discovery = \"{}/.well-known/openid-configuration\"", server.url);
    let profile = profile(&server.url, &oauth, "");
    for _ in 0..3 {
        get(&client, &profile).await.unwrap();
        clock.advance(3 * MINUTE);
    }
    assert_eq!(server.count("/.well-known/openid-configuration"), 1);
    assert_eq!((server.count("/auth/token"), server.count(TOKEN)), (3, 0));
}

/// A discovery document cannot send the secret to another machine in clear text.
#[tokio::test]
async fn a_discovered_endpoint_must_be_https() {
    let server = Server::start(|_| body(200, &json!({"token_endpoint": "http://login.example.com/token"}))).await;
    let (client, _) = client();
    let profile = profile(&server.url, &format!("discovery = \"{}/d\"", server.url), "");
    let failure = get(&client, &profile).await.unwrap_err();
    assert!(matches!(&failure, CallError::AuthBlocked { until: Some(_), detail } if detail.contains("not https")));
}

/// Covers row 185: a fixed token is sent as it is; a 401 to it cannot be mended by a refresh.
#[tokio::test]
async fn a_fixed_token_is_sent_and_not_renewed() {
    let server = Server::start(|seen| status(if seen.nth == 1 { 200 } else { 401 })).await;
    let text = format!("[crm]\nbase_url = \"{}/api/v1\"\ninsecure = true\ntoken_env = \"SECRET\"", server.url);
    let profiles = load(&text).unwrap();
    let (client, _) = client();
    let crm = profiles.get("acme").unwrap().crm.as_ref().unwrap();
    let send = || client.send("acme", crm, Call::get("thread", "threads").params(&[("threadId", "t1")]));
    assert_eq!(send().await.unwrap().status, 200);
    assert!(matches!(send().await.unwrap_err(), CallError::AuthBlocked { until: None, .. }));
    assert_eq!(server.count("/api/v1/threads/t1"), 2);
    assert_eq!(server.seen()[0].header("authorization"), "Bearer test-client-secret");
}
