//! A burst of good, bad, repeated and broken deliveries: every acknowledged event has its jobs, and nothing else has any.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;

use crate::ingress::receiver::{INTERACTIONS, Letter, Setup, serve, voice};

/// Distinct good events.
const GOOD: usize = 300;
/// Requests at once.
const AT_ONCE: usize = 32;

/// Covers row 64, row 72, row 73, row 84 and row 88 under load.
#[tokio::test(flavor = "multi_thread")]
async fn every_200_has_its_jobs_and_nothing_else_has() {
    let (house, receiver) = serve("burst", Setup::default()).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut letters = Vec::new();
    for nth in 0..GOOD {
        let mut event = voice(&format!("i{nth}"));
        event["eventId"] = Value::from(format!("d-{nth}"));
        let letter = Letter::json(INTERACTIONS, &event);
        if random.random_range(0..10) == 0 {
            letters.push((409, letter.clone()));
        }
        letters.push((200, letter));
        match random.random_range(0..10) {
            0 => letters.push((
                401,
                Letter::json(INTERACTIONS, &voice(&format!("bad{nth}"))).signed_with("test-secret-of-nobody"),
            )),
            1 => letters.push((400, Letter::new(INTERACTIONS, format!("{{\"id\":{nth}")))),
            2 => letters.push((422, Letter::new(INTERACTIONS, format!("{{\"id\":{nth}}}")))),
            _ => {}
        }
    }
    letters.shuffle(&mut random);
    let sent = letters.len();
    let answers: Vec<(u16, u16, Value)> = stream::iter(letters)
        .map(|(expected, letter)| {
            let receiver = &receiver;
            async move {
                let answer = receiver.send(letter).await;
                (expected, answer.status, answer.body)
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert_eq!(answers.len(), sent);
    let mut acknowledged = BTreeSet::new();
    let mut accepted = 0;
    for (expected, status, body) in answers {
        // Which of two equal deliveries is first is chance.
        let fits = if expected == 409 { status == 200 } else { status == expected };
        assert!(fits, "{expected} became {status}: {body}");
        if status == 200 {
            acknowledged.insert(body["eventId"].as_str().expect("an id").to_owned());
            accepted += usize::from(body["status"] == "accepted");
        }
    }
    assert_eq!((accepted, acknowledged.len()), (GOOD, GOOD));
    let stored: Vec<(String, i64)> =
        sqlx::query_as("select split_part(idempotency_key, '/', 2), count(*) from backhaul.jobs group by 1 order by 1")
            .fetch_all(house.database.store.pool())
            .await
            .expect("reads");
    assert!(stored.iter().all(|(_, jobs)| *jobs == 3), "each event has three jobs");
    assert_eq!(stored.into_iter().map(|(event, _)| event).collect::<BTreeSet<_>>(), acknowledged);
    assert_eq!(house.counts().await.0, i64::try_from(GOOD).expect("small"));
}
