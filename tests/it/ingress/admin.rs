use serde_json::json;

use super::receiver::{ADMIN_TOKEN, Answer, Letter, Setup, THREADS, answer, serve, thread};

/// Covers row 195: reconciliation changes things, so it is a POST, for who has the token, on the admin address alone.
#[tokio::test(flavor = "multi_thread")]
async fn reconciliation_needs_post_and_the_token() {
    let (house, receiver) = serve("reconcile", Setup::default()).await;
    let url = |path: &str| format!("{}{path}", receiver.admin);
    let post =
        async |path: &str, token: &str| -> Answer { answer(receiver.client.post(url(path)).bearer_auth(token)).await };
    let got = answer(receiver.client.get(url("/api/reconcile/t1?tenant=acme")).bearer_auth(ADMIN_TOKEN)).await;
    assert_eq!(got.status, 405);
    assert_eq!(answer(receiver.client.post(url("/api/reconcile/t1?tenant=acme"))).await.status, 401);
    assert_eq!(post("/api/reconcile/t1?tenant=acme", "test-admin-token-2").await.status, 401);
    assert_eq!(post("/api/reconcile/t1", ADMIN_TOKEN).await.status, 400, "two tenants: whose thread is it?");
    assert_eq!(post("/api/reconcile/t1?tenant=nobody", ADMIN_TOKEN).await.status, 404);
    assert_eq!(post("/api/reconcile/..%2Fx?tenant=acme", ADMIN_TOKEN).await.status, 422);
    let outside = receiver.client.post(format!("{}/api/reconcile/t1?tenant=acme", receiver.public));
    assert_eq!(answer(outside.bearer_auth(ADMIN_TOKEN)).await.status, 404);
    assert_eq!(house.counts().await, (0, 0));

    let taken = post("/api/reconcile/t1?tenant=acme", ADMIN_TOKEN).await;
    assert_eq!((taken.status, &taken.body["status"]), (202, &json!("accepted")));
    let (kind, tenant, payload): (String, String, serde_json::Value) =
        sqlx::query_as("select kind, tenant, payload from backhaul.jobs")
            .fetch_one(house.database.store.pool())
            .await
            .expect("one job");
    assert_eq!((kind.as_str(), tenant.as_str()), ("crm-sync", "acme"));
    assert_eq!(payload, json!({"threadId": "t1", "reconcile": true}));
}

/// Covers row 195, row 198, row 199: metrics are for who has the token, and what was received adds up.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_add_up() {
    let (_house, receiver) = serve("metrics", Setup::default()).await;
    let bare = answer(receiver.client.get(format!("{}/api/metrics", receiver.admin))).await;
    assert_eq!(bare.status, 401);
    assert!(receiver.admin("/api/metrics").await["errorRate"].is_null(), "there is no rate of nothing");
    for letter in [
        Letter::json(THREADS, &thread("t1")),
        Letter::json(THREADS, &thread("t1")),
        Letter::json(THREADS, &thread("t2")).signed_with("test-secret-of-nobody"),
        Letter::new(THREADS, "{"),
    ] {
        receiver.send(letter).await;
    }
    let metrics = receiver.admin("/api/metrics").await;
    let threads = &metrics["sources"]["threads"];
    for counts in [&metrics, threads] {
        assert_eq!((&counts["received"], &counts["accepted"]), (&json!(4), &json!(1)), "{metrics}");
        assert_eq!((&counts["ignored"], &counts["refused"], &counts["failed"]), (&json!(1), &json!(2), &json!(0)));
        assert_eq!(counts["errorRate"], 0.5);
    }
    let ready = answer(receiver.client.get(format!("{}/readyz", receiver.admin))).await;
    assert_eq!((ready.status, &ready.body["status"]), (200, &json!("ready")));
}
