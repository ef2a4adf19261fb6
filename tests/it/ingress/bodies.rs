use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use futures::StreamExt;
use serde_json::{Value, json};

use super::receiver::{INTERACTIONS, Letter, Setup, THREADS, serve, thread, voice};

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("packs");
    encoder.finish().expect("packs")
}

/// Covers row 44, row 69, row 77, row 88, row 89, row 90, row 190: each mistake has its status, and none of them
/// stores anything or takes the process down.
#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_has_its_status() {
    let (house, receiver) = serve("mistakes", Setup::default()).await;
    let without = |member: &str| {
        let mut event = voice("i1");
        event.as_object_mut().expect("an object").remove(member);
        event.to_string()
    };
    let with = |pointer: &str, value: Value| {
        let mut event = voice("i1");
        *event.pointer_mut(pointer).expect(pointer) = value;
        event.to_string()
    };
    let cap = 256 * 1024;
    let big = format!("{{\"eventType\":\"{}\"}}", "x".repeat(cap));
    let cases: Vec<(u16, String)> = vec![
        (400, String::new()),
        (400, "{".to_owned()),
        (400, "not json".to_owned()),
        (400, "[".repeat(100_000)),
        (400, voice("i1").to_string().replacen('{', "{\"eventType\":\"interaction.updated\",", 1)),
        (400, format!("{}x", voice("i1"))),
        (413, big),
        (422, "[]".to_owned()),
        (422, "null".to_owned()),
        (422, "5".to_owned()),
        (422, with("/data", json!("x"))),
        (422, without("data")),
        (422, without("eventType")),
        (422, without("timestamp")),
        (422, with("/data/id", Value::Null)),
        (422, with("/data/id", json!({"a": 1}))),
        (422, with("/timestamp", json!("yesterday"))),
        (422, with("/timestamp", json!("2026-01-31T12:00:00"))),
        (422, with("/data/queue/name", json!("nul \u{0} in it"))),
        (422, voice("i1").to_string().replace("\"inbound\"", "1e999999")),
    ];
    for (status, body) in cases {
        let shown: String = body.chars().take(80).collect();
        let answer = receiver.send(Letter::new(INTERACTIONS, body)).await;
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        assert!(answer.body["error"]["code"].is_string() && answer.body["error"]["id"].is_string(), "{answer:?}");
    }
    let typed = receiver.send(Letter::json(INTERACTIONS, &voice("i1")).header("content-type", "text/plain")).await;
    assert_eq!((typed.status, &typed.body["error"]["code"]), (415, &json!("unsupported_media_type")));
    let encoded = receiver.send(Letter::json(INTERACTIONS, &voice("i1")).header("content-encoding", "br")).await;
    assert_eq!(encoded.status, 415);
    let missing = receiver.send(Letter::new(INTERACTIONS, without("data"))).await;
    assert_eq!(missing.body["error"]["problems"][0]["pointer"], "/data/id");
    assert_eq!(house.counts().await, (0, 0));
    // It is still there.
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
}

/// A sender of a body far beyond the bound gets its answer, and not a broken connection, though nobody reads it all.
#[tokio::test(flavor = "multi_thread")]
async fn senders_of_huge_bodies_get_an_answer() {
    let (_house, receiver) = serve("huge", Setup::default()).await;
    for _ in 0..2 {
        let announced = receiver.send(Letter::new(INTERACTIONS, vec![b' '; 8_000_000])).await;
        assert_eq!(announced.status, 413);
        let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65_536])).take(120);
        let request = receiver.client.post(format!("{}{INTERACTIONS}", receiver.public));
        let request = request.header("content-type", "application/json").body(reqwest::Body::wrap_stream(chunks));
        assert_eq!(super::receiver::answer(request).await.status, 413);
    }
}

/// Covers row 90: packed bodies are unpacked within the bound, and only for who has signed them.
#[tokio::test(flavor = "multi_thread")]
async fn packed_bodies_are_bounded() {
    let (house, receiver) = serve("packed", Setup::default()).await;
    let bomb = packed(&vec![b' '; 64 * 1024 * 1024]);
    assert!(bomb.len() < 128 * 1024);
    let letter = |body: Vec<u8>| Letter::new(INTERACTIONS, body).header("content-encoding", "gzip");
    assert_eq!(receiver.send(letter(bomb.clone()).signed_with("test-secret-of-nobody")).await.status, 401);
    assert_eq!(receiver.send(letter(bomb)).await.status, 413);
    assert_eq!(receiver.send(letter(b"{}".to_vec())).await.status, 400);
    assert_eq!(house.counts().await, (0, 0));
    assert_eq!(receiver.send(letter(packed(voice("i1").to_string().as_bytes()))).await.status, 200);
    assert_eq!(house.counts().await, (1, 3));
}

/// Covers row 90: integers beyond 2^53 reach the job, and what it posts, with all of their digits.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_arrive_exactly() {
    let (house, receiver) = serve("numbers", Setup::default()).await;
    let body = voice("i1").to_string().replace("\"General\"", "9007199254740993");
    let body = body.replace("\"inbound\"", "123456789012345678901234567890");
    assert_eq!(receiver.send(Letter::new(INTERACTIONS, body)).await.status, 200);
    let text: String = house.database.one("select payload::text from backhaul.jobs order by id limit 1").await;
    assert!(text.contains("9007199254740993"), "{text}");
    assert!(text.contains("123456789012345678901234567890"), "{text}");
}

/// Covers row 169, row 172, row 188, row 189, row 191: what the sender got wrong is 422, what only this installation
/// cannot use is a job and later a dead letter, and nothing is 500, which would be sent again for ever.
#[tokio::test(flavor = "multi_thread")]
async fn threads_are_judged_before_they_become_jobs() {
    let (house, receiver) = serve("threads", Setup::default()).await;
    let with = |pointer: &str, value: Value| {
        let mut event = thread("t1");
        *event.pointer_mut(pointer).expect(pointer) = value;
        event
    };
    let mut own_parent = thread("t1");
    own_parent["data"]["parentThreadId"] = json!("t1");
    for event in [
        with("/data/threadId", json!("../x")),
        with("/data/version", json!("10")),
        with("/data/messages/0/timestamp", json!("bad")),
        with("/data/messages", json!("x")),
        own_parent,
    ] {
        let answer = receiver.send(Letter::json(THREADS, &event)).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(answer.body["error"]["problems"][0]["pointer"].is_string());
    }
    assert_eq!(house.counts().await, (0, 0));
    for (nth, event) in [
        with("/timestamp", json!("2026-01-31T12:00:00+00:00")),
        with("/data/participants/0/role", json!("BOT")),
        with("/data/messages/0/text", json!("x".repeat(5_001))),
    ]
    .iter()
    .enumerate()
    {
        let answer = receiver.send(Letter::json(THREADS, event)).await;
        assert_eq!((nth, answer.status), (nth, 200), "{answer:?}");
    }
    assert_eq!(house.counts().await, (3, 3));
    let keyed: i64 = house
        .database
        .one("select count(*) from backhaul.jobs where kind = 'crm-sync' and ordering_key = 'crm-sync/t1' and tenant = 'acme'")
        .await;
    assert_eq!(keyed, 3, "jobs of one thread have its key");
}
