//! Who shares a token, and what a 401 does to it.

use super::*;

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

/// The repetition after a 401 needs leave, and nothing else does.
#[tokio::test]
async fn the_repetition_needs_leave() {
    let server = Server::start(|seen| {
        token_or(seen, |seen| status(if seen.header("authorization") == "Bearer token-1" { 401 } else { 200 }))
    })
    .await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let call = || Call::get("profile", "profiles").params(&[("profileId", "p1")]);
    let provider = profile.cxone.as_ref().unwrap();
    let refused = client.send_paced("acme", provider, call(), std::future::ready(Err("the limit"))).await;
    assert_eq!(refused.unwrap_err(), "the limit");
    assert_eq!(server.count(P1), 1);
    // The token that was refused is not sent again, and a call that succeeds at once asks for nothing.
    let sent = client.send_paced("acme", provider, call(), std::future::ready(Err("the limit"))).await;
    assert_eq!(sent.unwrap().unwrap().status, 200);
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
