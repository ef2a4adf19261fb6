//! Merge, split and update events of many threads in random order and with duplicates, three workers, and a CRM that
//! answers 409 and 429 while somebody else writes to it.

use backhaul_engine::WorkerOptions;
use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{profile::Setup, stage::Stage};
use crate::support::{PATIENCE, Worker, eventually_within};

/// Events where `BACKHAUL_TEST_STORM_EVENTS` says nothing: few enough for every run. 5000 are 500 threads.
const EVENTS: usize = 400;
/// Events of a thread, of which two are duplicates.
const EVENTS_A_THREAD: usize = 10;
const VERSIONS: u64 = 8;
/// Requests that were on their way when a 429 came back, and the moment that it takes to tell the fleet.
const UNDER_WAY: TimeDelta = TimeDelta::milliseconds(500);

/// A thread at its source, and the events of its history.
struct Source {
    id: String,
    messages: Vec<Value>,
    participants: Vec<Value>,
    parent: Option<String>,
    version: u64,
    events: Vec<Value>,
}

impl Source {
    /// A history in which messages come, are edited and go, and the thread is merged into an earlier one and split off.
    fn of(number: usize, random: &mut StdRng) -> Self {
        let mut source = Self {
            id: format!("thread-{number}"),
            messages: Vec::new(),
            participants: vec![json!({"id": "p1", "role": "CUSTOMER", "name": "Casey"})],
            parent: None,
            version: 0,
            events: Vec::new(),
        };
        for version in 1..=VERSIONS {
            source.version = version;
            let event = source.step(number, random);
            source.events.push(json!({"threadId": source.id, "event": event, "timestamp": "2026-01-02T10:00:00Z",
                "data": source.data()}));
        }
        source
    }

    fn step(&mut self, number: usize, random: &mut StdRng) -> &'static str {
        let version = self.version;
        self.messages.push(json!({"id": format!("m{version}"), "text": format!("text {version}"),
            "timestamp": format!("2026-01-02T09:00:{version:02}Z"), "authorId": "p1", "direction": "INBOUND"}));
        match random.random_range(0..5) {
            0 if number > 0 && self.parent.is_none() => {
                self.parent = Some(format!("thread-{}", random.random_range(0..number)));
                "THREAD_MERGED"
            }
            1 => {
                self.parent = None;
                let half = self.messages.len() / 2;
                self.messages.drain(..half);
                "THREAD_SPLIT"
            }
            2 => {
                let at = random.random_range(0..self.messages.len());
                self.messages[at]["text"] = json!(format!("edited in version {version}"));
                "THREAD_UPDATED"
            }
            3 => {
                self.participants.push(json!({"id": format!("a{version}"), "role": "AGENT"}));
                "THREAD_UPDATED"
            }
            _ => "THREAD_UPDATED",
        }
    }

    fn data(&self) -> Value {
        json!({"threadId": self.id, "version": self.version, "updatedAt": "2026-01-02T10:00:00Z",
            "parentThreadId": self.parent, "participants": self.participants, "messages": self.messages})
    }

    /// Whether the CRM's record says what the source says.
    fn is_mirrored(&self, record: &Value) -> bool {
        let all = |list: &str, wanted: &[Value]| {
            let standing = record[list].as_array().cloned().unwrap_or_default();
            let mut ids: Vec<&Value> =
                standing.iter().map(|item| &item["id"]).filter(|id| **id != "of-the-crm").collect();
            let mut wanted_ids: Vec<&Value> = wanted.iter().map(|item| &item["id"]).collect();
            ids.sort_by_key(|id| id.to_string());
            wanted_ids.sort_by_key(|id| id.to_string());
            ids == wanted_ids
                && wanted.iter().all(|item| {
                    standing.iter().any(|own| {
                        item.as_object()
                            .expect("an object")
                            .iter()
                            .all(|(member, value)| own.get(member) == Some(value))
                    })
                })
        };
        record["sourceVersion"] == self.version
            && record["parentThreadId"] == json!(self.parent)
            && all("messages", &self.messages)
            && all("participants", &self.participants)
    }
}

/// Covers row 166, row 174, row 175, row 180, row 183: in the end every thread of the CRM equals its source and
/// keeps what the CRM had of its own, and nothing was sent before a Retry-After had passed.
#[tokio::test(flavor = "multi_thread")]
async fn every_thread_equals_its_source_in_the_end() {
    let wanted = std::env::var("BACKHAUL_TEST_STORM_EVENTS").ok().map(|text| text.parse().expect("a number of events"));
    let threads = wanted.unwrap_or(EVENTS).div_ceil(EVENTS_A_THREAD);
    let began = tokio::time::Instant::now();
    let stage = Stage::with(Setup::default()).await;
    let mut random = StdRng::seed_from_u64(20_260_102);
    let sources: Vec<Source> = (0..threads).map(|number| Source::of(number, &mut random)).collect();
    for source in &sources {
        stage.write(Method::PUT, "social", &source.id, &source.data()).await;
    }
    let mut events: Vec<Value> = sources.iter().flat_map(|source| source.events.clone()).collect();
    for _ in 0..2 * threads {
        events.push(events[random.random_range(0..events.len())].clone());
    }
    events.shuffle(&mut random);
    script_faults(&stage, threads.div_ceil(40)).await;

    let options = || WorkerOptions { concurrency: 8, prefetch: 8, ..Worker::options() };
    let workers: Vec<Worker> = (0..3).map(|_| stage.worker_with(options())).collect();
    let calm = CancellationToken::new();
    let ((), edits) = tokio::join!(
        async {
            for batch in events.chunks(40) {
                stage.enqueue("crm-sync", batch).await;
            }
            all_end(&stage, threads.div_ceil(40)).await;
            calm.cancel();
        },
        meddle(&stage, &sources, &calm),
    );
    for worker in workers {
        worker.stop().await;
    }

    stage.all_done().await;
    for source in &sources {
        let record = stage.document("threads", &source.id).await;
        assert!(source.is_mirrored(&record), "{record:#}\nshould be {:#}", source.data());
    }
    for id in &edits {
        let record = stage.document("threads", id).await;
        let own = record["messages"].as_array().expect("a list").iter().any(|message| message["id"] == "of-the-crm");
        assert!(own && record["assignee"] == "somebody of the CRM", "what the CRM had of its own is kept: {record:#}");
    }
    let told = stage.event_types().await;
    assert_eq!(told.len(), events.len(), "every job ends in one event of its own");
    check_requests(&stage).await;
    println!("{} events of {threads} threads in {:?}", events.len(), began.elapsed());
}

/// Waits until every job has ended, with the patience for one round as many times as there are rounds.
async fn all_end(stage: &Stage, rounds: usize) {
    let patience = PATIENCE * u32::try_from(rounds).expect("few rounds");
    eventually_within(patience, "all jobs end", async || stage.database.unfinished().await == 0).await;
}

/// 429 in both forms on single requests, and 409 on single writes, `rounds` times.
async fn script_faults(stage: &Stage, rounds: usize) {
    let threads = json!({"class": "crm/threads"});
    let each = |apart: usize, places: &[usize]| -> Value {
        (0..rounds).flat_map(|round| places.iter().map(move |place| place + round * apart)).collect()
    };
    stage
        .fault_where(threads.clone(), json!({"nth": each(90, &[15])}), json!({"status": 429, "retry_after_s": 1}))
        .await;
    stage.fault_where(threads, json!({"nth": each(90, &[60])}), json!({"status": 429, "retry_after_date_s": 2})).await;
    // Far enough apart that no job can meet four of them, which would be one conflict too many.
    let conflicts = json!({"nth": each(80, &[3, 19, 40, 66])});
    stage.fault("crm/threads", "PATCH", conflicts, json!({"status": 409})).await;
    stage.fault("crm/threads", "PATCH", json!({"nth": each(80, &[10, 31])}), json!({"reset": "after_commit"})).await;
}

/// Somebody else writes to the CRM's records while they are synced. Answers whose.
async fn meddle(stage: &Stage, sources: &[Source], calm: &CancellationToken) -> Vec<String> {
    let mut edited = Vec::new();
    for source in sources.iter().step_by(4) {
        let patience = PATIENCE * u32::try_from(sources.len()).expect("few threads");
        eventually_within(patience, "there is a record to edit, or the storm is over", async || {
            calm.is_cancelled() || !stage.document("threads", &source.id).await.is_null()
        })
        .await;
        let record = stage.document("threads", &source.id).await;
        let Some(mut messages) = record["messages"].as_array().cloned() else { continue };
        messages.push(json!({"id": "of-the-crm", "text": "call back", "timestamp": "2026-01-02T09:30:00Z",
            "authorId": "p1"}));
        // A whole list is written: another writer may lose what came between, and a later event repairs it.
        let edit = json!({"assignee": "somebody of the CRM", "messages": messages});
        stage.write(Method::PATCH, "threads", &source.id, &edit).await;
        edited.push(source.id.clone());
    }
    edited
}

/// No request arrived between a 429 and the time that it named, but those that were on their way.
async fn check_requests(stage: &Stage) {
    let requests = stage.requests("crm/threads").await;
    let arrived =
        |request: &Value| -> DateTime<Utc> { request["at"].as_str().expect("a time").parse().expect("RFC 3339") };
    let refusals: Vec<&Value> = requests.iter().filter(|request| request["status"] == 429).collect();
    assert!(!refusals.is_empty(), "the CRM was not busy");
    let conflicts = requests.iter().filter(|request| request["status"] == 409).count();
    assert!(conflicts >= 3, "{conflicts} conflicts");
    for refusal in refusals {
        let from = arrived(refusal) + UNDER_WAY;
        // Named were one second, or a date that is cut to whole seconds.
        let until = arrived(refusal) + TimeDelta::seconds(1);
        let early: Vec<&Value> = requests.iter().filter(|request| (from..until).contains(&arrived(request))).collect();
        assert!(early.is_empty(), "sent before {until}: {early:#?}");
    }
}
