use serde_json::{Value, json};

use super::receiver::{INTERACTIONS, Letter, Setup, serve, voice};
use crate::support::{binary, run};

/// Covers row 79, row 80: an event that nobody knows what to do with is kept whole, counted and shown, and becomes jobs
/// once when somebody has said what to do with it.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_events_are_parked_and_replayed() {
    let (house, receiver) = serve("parked", Setup::default()).await;
    let on = |id: &str, channel: &str| {
        let mut event = voice(id);
        event["data"]["channelType"] = json!(channel);
        event["data"]["customer"] = json!({"email": "Ann@Example.COM"});
        event
    };
    let first = receiver.interaction(&on("i1", "email")).await;
    assert_eq!((first.status, &first.body["status"], &first.body["parked"]), (200, &json!("accepted"), &json!(true)));
    assert_eq!(receiver.interaction(&on("i1", "email")).await.body["status"], "duplicate");
    for channel in ["constructor", "__proto__"] {
        assert_eq!(receiver.interaction(&on(channel, channel)).await.body["parked"], true);
    }
    let mut unmatched = voice("i2");
    unmatched["eventType"] = json!("agent.created");
    assert_eq!(receiver.interaction(&unmatched).await.body["parked"], true);
    assert_eq!(house.counts().await, (4, 0));
    let metrics = receiver.admin("/api/metrics").await;
    assert_eq!((&metrics["parked"], &metrics["ignored"]), (&json!(4), &json!(1)));
    assert_eq!(metrics["parkedBy"], json!({"unknown_channel": 3, "unmatched_event": 1}));

    let parked = |arguments: &[&str]| {
        let mut command = binary();
        command.current_dir(&house.dir).arg("parked").args(arguments);
        command.env("DATABASE_URL", &house.database.url);
        command.env("BACKHAUL__PROFILES__DIR", house.dir.join("profiles"));
        command.env("BACKHAUL__INGRESS__ROUTES", house.dir.join("routes.toml"));
        command
    };
    let listed: Value = serde_json::from_str(&run(&mut parked(&["list", "--json"]))).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(4));
    assert!(!listed.to_string().contains("Example.COM"), "a list shows no body");
    let id = first.body["eventId"].as_str().expect("an id").to_owned();
    let shown: Value = serde_json::from_str(&run(&mut parked(&["show", &id, "--body"]))).expect("JSON");
    assert_eq!(shown["body"]["data"]["channelType"], "email");
    // Nothing has changed yet, so it stays.
    let output = parked(&["replay", &id]).output().expect("runs");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stdout));

    let routes = std::fs::read_to_string(house.dir.join("routes.toml")).expect("readable");
    let routes = routes.replace("channels = [\"chat\"]", "channels = [\"chat\", \"email\"]");
    std::fs::write(house.dir.join("routes.toml"), routes).expect("writable");
    let replayed: Value = serde_json::from_str(&run(&mut parked(&["replay", &id, "--json"]))).expect("JSON");
    assert_eq!((&replayed[0]["outcome"], replayed[0]["jobs"].as_array().map(Vec::len)), (&json!("replayed"), Some(3)));
    assert_eq!(parked(&["replay", &id]).output().expect("runs").status.code(), Some(5), "it is parked no more");
    let payloads = house.payloads().await;
    assert_eq!(payloads.len(), 3);
    let told = &payloads.iter().find(|(to, _)| to == "interactions-crm").expect("a job").1["event"];
    assert_eq!(
        told["normalizedCustomer"],
        json!({"identifier": "Ann@example.com", "type": "email", "raw": "Ann@Example.COM"})
    );
    assert_eq!(told["eventId"], json!(id));

    let others: Vec<String> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["id"].as_str().expect("an id").to_owned())
        .filter(|other| *other != id)
        .collect();
    run(parked(&["discard", "--why", "not ours"]).args(&others));
    assert_eq!(house.database.one::<i64>("select count(*) from backhaul.parked_events").await, 0);
    let decided: i64 = house
        .database
        .one("select count(*) from backhaul.outbox_events where type in ('dev.backhaul.ingress.replayed', 'dev.backhaul.ingress.discarded') and payload ->> 'actor' is not null")
        .await;
    assert_eq!(decided, 4);
}

/// What no route wants yet does not stand before what can be routed by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_past_events_that_stay() {
    let (house, receiver) = serve("parked-past", Setup::default()).await;
    for (id, channel) in [("i1", "constructor"), ("i2", "email"), ("i3", "email")] {
        let mut event = voice(id);
        event["data"]["channelType"] = json!(channel);
        event["data"]["customer"] = json!({"email": "ann@example.com"});
        assert_eq!(receiver.interaction(&event).await.body["parked"], true);
    }
    let routes = std::fs::read_to_string(house.dir.join("routes.toml")).expect("readable");
    let routes = routes.replace("channels = [\"chat\"]", "channels = [\"chat\", \"email\"]");
    std::fs::write(house.dir.join("routes.toml"), routes).expect("writable");
    let parked = |arguments: &[&str]| {
        let mut command = binary();
        command.current_dir(&house.dir).arg("parked").args(arguments).arg("--json");
        command.env("DATABASE_URL", &house.database.url);
        command.env("BACKHAUL__PROFILES__DIR", house.dir.join("profiles"));
        command.env("BACKHAUL__INGRESS__ROUTES", house.dir.join("routes.toml"));
        let output = command.output().expect("runs");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), said)
    };
    let replay = ["replay", "--reason", "unknown_channel", "--limit", "1"];
    let (code, would) = parked(&replay);
    assert_eq!((code, &would["count"], &would["of"]), (Some(0), &json!(1), &json!(3)), "without --yes it counts");
    assert_eq!(house.counts().await, (3, 0));
    let (code, outcomes) = parked(&["replay", "--reason", "unknown_channel", "--limit", "1", "--yes"]);
    let told: Vec<&Value> = outcomes.as_array().expect("a list").iter().map(|one| &one["outcome"]).collect();
    assert_eq!((code, told), (Some(5), vec![&json!("parked"), &json!("replayed")]));
    assert_eq!(parked(&["replay"]).0, Some(2), "neither ids nor a filter");

    let discard = ["discard", "--tenant", "acme", "--why", "not ours"];
    assert_eq!(parked(&discard).1["count"], 2);
    let (code, outcomes) = parked(&["discard", "--tenant", "acme", "--why", "not ours", "--yes"]);
    assert_eq!((code, outcomes.as_array().map(Vec::len)), (Some(0), Some(2)));
    assert_eq!(house.database.one::<i64>("select count(*) from backhaul.parked_events").await, 0);
}

/// For senders that repeat for ever, the profile turns 422 into 200 and keeps the body.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_events_are_parked_where_the_profile_says_so() {
    let setup = Setup { webhook: "park_invalid = true".to_owned(), ..Setup::default() };
    let (house, receiver) = serve("park-invalid", setup).await;
    let mut event = voice("i1");
    event["data"] = json!("x");
    for status in ["accepted", "duplicate"] {
        let answer = receiver.interaction(&event).await;
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!(status)), "{answer:?}");
    }
    assert_eq!(receiver.send(Letter::new(INTERACTIONS, "{")).await.status, 400, "what is no JSON has no shape");
    let (reason, detail): (String, String) = sqlx::query_as("select reason, detail from backhaul.parked_events")
        .fetch_one(house.database.store.pool())
        .await
        .expect("one row");
    assert_eq!(reason, "invalid");
    assert!(detail.contains("/data/id is required"), "{detail}");
}

/// A job that the queue refuses is nothing the sender can mend: the event is kept, whole, and no destination gets a job
/// while another has none.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_job_is_refused_is_parked_whole() {
    let (house, receiver) = serve("refused", Setup::default()).await;
    house.database.run("update backhaul.kinds set payload_bytes_max = 450 where kind = 'deliver'").await;
    let answer = receiver.interaction(&voice("i1")).await;
    assert_eq!((answer.status, &answer.body["parked"]), (200, &json!(true)), "{answer:?}");
    assert_eq!(house.counts().await, (1, 0));
    let (reason, detail): (String, String) = sqlx::query_as("select reason, detail from backhaul.parked_events")
        .fetch_one(house.database.store.pool())
        .await
        .expect("one row");
    assert_eq!(reason, "job_refused");
    assert!(detail.contains("payload_too_large"), "{detail}");
}
