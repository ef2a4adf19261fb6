use serde_json::json;

use super::receiver::{Answer, INTERACTIONS, Letter, OLD_SECRET, OTHER_SECRET, SECRET, Setup, answer, serve, voice};

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.body["error"]["code"], "unauthenticated");
    assert!(answer.body["error"]["id"].is_string());
}

/// Covers row 64, row 65, row 91: only who knows the tenant's secret, and only now. Nothing of the rest is stored.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_leave_no_trace() {
    let (house, receiver) = serve("strangers", Setup::default()).await;
    let letter = |id: &str| Letter::json(INTERACTIONS, &voice(id));
    refused(&receiver.send(letter("i1").signed_with("test-secret-of-nobody")).await);
    refused(&receiver.send(letter("i2").old(360)).await);
    refused(&receiver.send(letter("i3").old(-360)).await);
    let bare = receiver.client.post(format!("{}{INTERACTIONS}", receiver.public)).json(&voice("i4"));
    refused(&answer(bare).await);
    // One tenant's secret opens no other tenant's door, and a tenant nobody knows looks like a closed one.
    refused(&receiver.send(Letter::json("/webhooks/globex/cxone", &voice("i5"))).await);
    refused(&receiver.send(letter("i6").signed_with(OTHER_SECRET)).await);
    refused(&receiver.send(Letter::json("/webhooks/nobody/cxone", &voice("i7"))).await);
    assert_eq!(house.counts().await, (0, 0));
    assert_eq!(house.database.one::<i64>("select count(*) from backhaul.ingress_keys").await, 0);

    for (id, letter) in
        [("i8", letter("i8")), ("i9", letter("i9").signed_with(OLD_SECRET)), ("i10", letter("i10").old(290))]
    {
        let answer = receiver.send(letter).await;
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!("accepted")), "{id}");
    }
    let other = Letter::json("/webhooks/globex/cxone", &voice("i11")).signed_with(OTHER_SECRET);
    assert_eq!(receiver.send(other).await.status, 200);
    assert_eq!(house.counts().await, (4, 12));
    let tenants: Vec<(String, i64)> =
        sqlx::query_as("select tenant, count(*) from backhaul.jobs group by 1 order by 1")
            .fetch_all(house.database.store.pool())
            .await
            .expect("reads");
    assert_eq!(tenants, [("acme".to_owned(), 9), ("globex".to_owned(), 3)]);
    let logs = house.logs();
    // No bare 555: an id or a time may hold it.
    for secret in [SECRET, OLD_SECRET, OTHER_SECRET, "(555)", "000-1001", "5550001001"] {
        assert!(!logs.contains(secret), "{secret} is in the log");
    }
}

/// Covers row 66: the bytes are verified as they came, whatever they would look like after reading.
#[tokio::test(flavor = "multi_thread")]
async fn odd_but_signed_bytes_are_taken() {
    let (house, receiver) = serve("odd-bytes", Setup::default()).await;
    let body = "\r\n { \"timestamp\":\t\"2026-01-31T12:00:00Z\",\"data\":{\"queue\":{\"name\":\"\\u00e9\\u0022\"},\
                \"id\":\"\\u0069 1\",\"channelType\":\"voice\",\"direction\":null}, \"eventType\" : \"interaction.updated\" }\n";
    let answer = receiver.send(Letter::new(INTERACTIONS, body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let payloads = house.payloads().await;
    assert_eq!(payloads[0].1["event"]["interactionId"], "i 1");
    assert_eq!(payloads[0].1["event"]["normalizedContext"]["queue"], "é\"");
}

/// Covers row 91: where the profile names the tenant's webhooks, an event of another one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_other_webhooks_are_refused() {
    let setup = Setup { webhook: "webhook_ids = [\"w1\", \"w2\"]".to_owned(), ..Setup::default() };
    let (house, receiver) = serve("webhook-ids", setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    let mut other = voice("i2");
    other["webhookId"] = json!("w3");
    refused(&receiver.interaction(&other).await);
    other.as_object_mut().expect("an object").remove("webhookId");
    refused(&receiver.interaction(&other).await);
    assert_eq!(house.counts().await, (1, 3));
}

/// The bare paths serve one tenant alone; with two nobody could say whose event it is. Covers row 95: there is no way
/// to have events made up.
#[tokio::test(flavor = "multi_thread")]
async fn the_bare_paths_serve_a_single_tenant() {
    let (_house, receiver) = serve("two-tenants", Setup::default()).await;
    assert_eq!(receiver.send(Letter::json("/webhooks/cxone", &voice("i1"))).await.status, 404);
    for path in ["/simulator/generate", "/simulator/simulator/generate", "/_sim/generate", "/", "/webhooks/acme"] {
        assert_eq!(receiver.send(Letter::json(path, &voice("i1"))).await.status, 404, "{path}");
    }
    let got = answer(receiver.client.get(format!("{}{INTERACTIONS}", receiver.public))).await;
    assert_eq!((got.status, &got.body["error"]["code"]), (405, &json!("method_not_allowed")));

    let (house, receiver) = serve("one-tenant", Setup { alone: true, ..Setup::default() }).await;
    let bare = receiver.send(Letter::json("/webhooks/cxone", &voice("i1"))).await;
    assert_eq!((bare.status, &bare.body["status"]), (200, &json!("accepted")));
    let named = receiver.interaction(&voice("i1")).await;
    assert_eq!(named.body["status"], "duplicate");
    assert_eq!(house.counts().await, (1, 3));
}
