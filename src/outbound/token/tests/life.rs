//! How long tokens are kept.

use super::*;

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
