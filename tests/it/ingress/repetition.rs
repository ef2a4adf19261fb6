use serde_json::{Value, json};

use super::receiver::{House, INTERACTIONS, Letter, Receiver, Setup, THREADS, serve, thread, voice};
use crate::support::eventually;

async fn outcome(receiver: &Receiver, letter: Letter) -> (String, Value) {
    let answer = receiver.send(letter).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.body["status"].as_str().expect("a status").to_owned(), answer.body["eventId"].clone())
}

/// Covers row 67, row 68, row 70: events of one interaction differ by their type, and interactions by their id.
#[tokio::test(flavor = "multi_thread")]
async fn different_events_are_not_confused() {
    let (house, receiver) = serve("different", Setup::default()).await;
    let event = |id: &str, event_type: &str| {
        let mut event = voice(id);
        event["eventType"] = json!(event_type);
        Letter::json(INTERACTIONS, &event)
    };
    let letters = [
        event("i1", "interaction.created"),
        event("i1", "interaction.updated"),
        event("i1", "interaction.completed"),
        event("i2", "interaction.created"),
        event("a:b", "interaction.c"),
        event("a", "interaction.b:c"),
    ];
    for letter in &letters {
        assert_eq!(outcome(&receiver, letter.clone()).await.0, "accepted", "{letter:?}");
    }
    for letter in letters {
        assert_eq!(outcome(&receiver, letter).await.0, "duplicate");
    }
    assert_eq!(house.counts().await, (6, 18));
    // Two changes of a thread at one instant differ in their bodies (row 171).
    let mut other = thread("t1");
    other["data"]["messages"][0]["text"] = json!("edited");
    assert_eq!(outcome(&receiver, Letter::json(THREADS, &thread("t1"))).await.0, "accepted");
    assert_eq!(outcome(&receiver, Letter::json(THREADS, &other)).await.0, "accepted");
    assert_eq!(outcome(&receiver, Letter::json(THREADS, &other)).await.0, "duplicate");
}

/// Covers row 71: the sender's id for a delivery counts more than what the event says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_with_a_new_time_is_known_by_its_id() {
    let (house, receiver) = serve("redelivery", Setup::default()).await;
    let mut event = voice("i1");
    event["eventId"] = json!("d-1");
    let (first, id) = outcome(&receiver, Letter::json(INTERACTIONS, &event)).await;
    event["timestamp"] = json!("2026-01-31T12:00:05Z");
    let (second, again) = outcome(&receiver, Letter::json(INTERACTIONS, &event)).await;
    assert_eq!((first.as_str(), second.as_str()), ("accepted", "duplicate"));
    assert_eq!(id, again, "the answer names the first event");

    // An id in a header that is not signed: a redelivery is known by it.
    let mut event = voice("i2");
    let by_header = |event: &Value, id: &str| Letter::json(INTERACTIONS, event).header("webhook-id", id);
    assert_eq!(outcome(&receiver, by_header(&event, "d-2")).await.0, "accepted");
    event["timestamp"] = json!("2026-01-31T12:00:05Z");
    assert_eq!(outcome(&receiver, by_header(&event, "d-2")).await.0, "duplicate");
    assert_eq!(house.counts().await, (2, 6));
}

/// Who repeats a signed delivery and changes what the signature does not cover makes nothing new of it: another id, none,
/// two, or one that is too long to be read.
#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_id_does_not_make_a_replay_new() {
    let (house, receiver) = serve("replay", Setup::default()).await;
    let (with_id, bare) = (Captured::new(&voice("i1")), Captured::new(&voice("i2")));
    assert_eq!(with_id.send(&receiver, &["d-1"]).await, "accepted");
    assert_eq!(bare.send(&receiver, &[]).await, "accepted");
    for captured in [&with_id, &bare] {
        for ids in [&["d-2"][..], &[], &["d-1", "d-1"], &[&"x".repeat(300)]] {
            assert_eq!(captured.send(&receiver, ids).await, "duplicate", "{ids:?}");
        }
    }
    assert_eq!(house.counts().await, (2, 6));
}

/// A replay under the id of a delivery that is still to come does not use that id up.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_does_not_take_the_id_of_a_later_delivery() {
    let (house, receiver) = serve("foreign-id", Setup::default()).await;
    let (first, later) = (Captured::new(&voice("i1")), Captured::new(&voice("i2")));
    assert_eq!(first.send(&receiver, &["d-1"]).await, "accepted");
    assert_eq!(first.send(&receiver, &["d-2"]).await, "duplicate");
    assert_eq!(later.send(&receiver, &["d-2"]).await, "accepted");
    // What the sender repeats with a new time is known by its id, and its new signature from then on.
    let mut again = voice("i2");
    again["timestamp"] = json!("2026-01-31T12:00:05Z");
    let again = Captured::new(&again);
    assert_eq!(again.send(&receiver, &["d-2"]).await, "duplicate");
    assert_eq!(again.send(&receiver, &[]).await, "duplicate");
    assert_eq!(house.counts().await, (2, 6));
}

/// A signed delivery as somebody on the way sees it: only its id can be changed.
struct Captured {
    body: String,
    stamp: String,
    signature: String,
}

impl Captured {
    fn new(event: &Value) -> Self {
        let (body, stamp) = (event.to_string(), chrono::Utc::now().timestamp().to_string());
        let signature = super::receiver::signature(super::receiver::SECRET, &stamp, body.as_bytes());
        Self { body, stamp, signature }
    }

    async fn send(&self, receiver: &Receiver, ids: &[&str]) -> Value {
        let mut request = receiver.client.post(format!("{}{INTERACTIONS}", receiver.public)).body(self.body.clone());
        request = request.header("content-type", "application/json");
        request = request.header("x-cxone-timestamp", &self.stamp).header("x-cxone-signature", &self.signature);
        for id in ids {
            request = request.header("webhook-id", *id);
        }
        super::receiver::answer(request).await.body["status"].clone()
    }
}

/// Covers row 73: two replicas that get the same delivery at the same moment, and one that was started since, make one
/// set of jobs.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_restarts_share_what_they_have_seen() {
    let setup = Setup::default();
    let house = House::new("replicas", &setup).await;
    let (one, two) = (house.serve(&setup).await, house.serve(&setup).await);
    let letters: Vec<Letter> = (0..20).map(|nth| Letter::json(INTERACTIONS, &voice(&format!("i{nth}")))).collect();
    let mut accepted = 0;
    for letter in &letters {
        let answers = futures::future::join_all([
            outcome(&one, letter.clone()),
            outcome(&two, letter.clone()),
            outcome(&one, letter.clone()),
            outcome(&two, letter.clone()),
        ])
        .await;
        accepted += answers.iter().filter(|(status, _)| status == "accepted").count();
        assert!(answers.iter().all(|(_, id)| *id == answers[0].1), "all answers name one event");
    }
    assert_eq!(accepted, letters.len());
    one.kill();
    let three = house.serve(&setup).await;
    assert_eq!(outcome(&three, letters[0].clone()).await.0, "duplicate");
    assert_eq!(house.counts().await, (20, 60));
}

/// Covers row 72: a delivery that could not be stored leaves no key behind, and its repetition is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_not_known() {
    let (house, receiver) = serve("failed", Setup::default()).await;
    house
        .database
        .run(
            "create function public.fail() returns trigger language plpgsql as $$ begin raise exception 'disk full'; end $$;
             create trigger fail before insert on backhaul.jobs for each statement execute function public.fail()",
        )
        .await;
    let answer = receiver.interaction(&voice("i1")).await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (503, &json!("store_unavailable")));
    assert!(answer.headers.contains_key("retry-after"));
    // Covers row 194: what went wrong is in the log, under the id, and not in the answer.
    assert!(!answer.body.to_string().contains("disk full"));
    assert_eq!(house.counts().await, (0, 0));
    house.database.run("drop trigger fail on backhaul.jobs").await;
    assert_eq!(receiver.interaction(&voice("i1")).await.body["status"], "accepted");
    assert_eq!(house.counts().await, (1, 3));
    assert!(house.logs().contains("disk full"));
}

/// Covers row 74, row 75: a delivery is known for 72 hours and not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_known_for_three_days() {
    let setup = Setup { settings: vec![("BACKHAUL__INGRESS__SWEEP_S", "1".to_owned())], ..Setup::default() };
    let (house, receiver) = serve("window", setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.body["status"], "accepted");
    let hours: f64 = house
        .database
        .one("select (extract(epoch from expires_at - clock_timestamp()) / 3600)::float8 from backhaul.ingress_keys")
        .await;
    assert!((71.9..=72.0).contains(&hours), "{hours}");
    // Two hours later it is still known.
    house.database.run("update backhaul.ingress_keys set expires_at = expires_at - interval '2 hours'").await;
    assert_eq!(receiver.interaction(&voice("i1")).await.body["status"], "duplicate");
    // Past the window, and before anybody swept, it is new.
    house.database.run("update backhaul.ingress_keys set expires_at = clock_timestamp() - interval '1 second'").await;
    house
        .database
        .run(
            "insert into backhaul.ingress_keys (tenant, source, key, event_id, expires_at)
             select 'acme', 'interactions', sha256(convert_to(n::text, 'UTF8')), gen_random_uuid(),
                    clock_timestamp() - interval '1 hour' from generate_series(1, 20000) n;
             insert into backhaul.ingress_events (id, tenant, source, received_at, expires_at)
             select event_id, tenant, source, now(), expires_at from backhaul.ingress_keys where expires_at < now() on conflict do nothing",
        )
        .await;
    eventually("what has expired is deleted", async || {
        house
            .database
            .one::<i64>("select count(*) from backhaul.ingress_keys where expires_at < clock_timestamp()")
            .await
            == 0
            && house
                .database
                .one::<i64>("select count(*) from backhaul.ingress_events where expires_at < clock_timestamp()")
                .await
                == 0
    })
    .await;
    let mut letter = Letter::json(INTERACTIONS, &voice("i1"));
    letter.age_s = 1;
    assert_eq!(outcome(&receiver, letter).await.0, "accepted");
}
