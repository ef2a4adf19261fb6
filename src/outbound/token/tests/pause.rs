//! Credentials and token endpoints that are left alone for a while.

use super::*;

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
