//! The kind `crm-sync` with CRMs that keep a thread as one flat record: Zendesk, Salesforce, HubSpot and Dataverse, as the
//! simulator plays them.

mod accepted;
mod others;

use backhaul_engine::WorkerOptions;
use serde_json::{Value, json};

use super::{profile::Setup, stage::Stage};
use crate::support::{FLAVOURS, Flavour, SALESFORCE, Worker, ZENDESK, eventually};

const KIND: &str = "crm-sync";
const CLASS: &str = "crm/threads";

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "text": text, "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1", "direction": "INBOUND"})
}

fn event(version: u64, messages: &[Value]) -> Value {
    let data = json!({"threadId": "t1", "version": version, "updatedAt": "2026-01-02T10:00:00Z", "messages": messages,
        "participants": [{"id": "p1", "role": "CUSTOMER", "name": "Casey"}]});
    json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
}

async fn stage(flavour: &Flavour, record: &str) -> Stage {
    Stage::with(Setup { crm: flavour.profile(record), crm_base: Some(flavour.base), ..Setup::default() }).await
}

impl Stage {
    /// The requests that write, of whatever outcome.
    async fn writes(&self) -> Vec<Value> {
        let mut requests = self.requests(CLASS).await;
        requests.retain(|request| request["method"] != "GET");
        requests
    }

    /// For how many seconds the job was put off when it was first throttled; 0 where it was not.
    async fn put_off_s(&self) -> i64 {
        let first = "select coalesce((select (extract(epoch from j.due_at - e.occurred_at))::bigint
                     from backhaul.jobs j, backhaul.events e where e.type = 'dev.backhaul.job.throttled'
                     order by e.id limit 1), 0)";
        self.database.one(first).await
    }

    async fn written(&self) -> Vec<String> {
        self.writes().await.iter().map(super::stage::exchange).collect()
    }
}

/// A record is made, changed by what is added, updated and removed, and linked; each request has the product's form, and
/// names no field that stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_lives_in_a_record() {
    for flavour in &FLAVOURS {
        let stage = stage(flavour, "").await;
        stage.done(KIND, &[event(1, &[message("m1", "one"), message("m2", "two")])]).await;
        let mut second = event(2, &[message("m1", "edited"), message("m3", "three")]);
        second["data"]["parentThreadId"] = json!("t0");
        stage.done(KIND, &[second]).await;

        let record = stage.document("threads", "t1").await;
        let name = flavour.name;
        assert_eq!(record["messages"], json!([message("m1", "edited"), message("m3", "three")]), "{name}");
        assert_eq!(record["participants"], json!([{"id": "p1", "role": "CUSTOMER", "name": "Casey"}]), "{name}");
        assert_eq!((&record["parentThreadId"], &record["status"]), (&json!("t0"), &json!("MERGED")), "{name}");
        assert_eq!(record["sourceVersion"], 2, "{name}");
        let [made, changed] = flavour.done;
        let wanted = [format!("{} {made}", flavour.creates()), format!("{} {changed}", flavour.changes)];
        assert_eq!(stage.written().await, wanted, "{name}");
        let writes = stage.writes().await;
        assert_form(flavour, &writes[0], &writes[1]);
        assert_eq!(stage.event_types().await, ["thread.synced", "thread.synced"], "{name}");
    }
}

/// Where the condition stands, what carries a key, and what is not sent.
fn assert_form(flavour: &Flavour, creation: &Value, change: &Value) {
    let keyed = |request: &Value| request["idempotency_key"].is_string();
    assert!(!keyed(change), "{}: no product knows keys of changes", flavour.name);
    assert_eq!(keyed(creation), flavour.name == "zendesk", "{}", flavour.name);
    match flavour.name {
        "zendesk" => {
            assert_eq!(creation["body"]["ticket"]["external_id"], "t1");
            let ticket = &change["body"]["ticket"];
            assert_eq!(ticket["safe_update"], true);
            assert!(ticket["updated_stamp"].as_str().is_some_and(|stamp| stamp.ends_with('Z')), "{ticket}");
            let fields: Vec<&Value> =
                ticket["custom_fields"].as_array().expect("fields").iter().map(|f| &f["id"]).collect();
            assert_eq!(fields, [9001, 9002, 9003, 9005], "participants and updatedAt stay as they are");
        }
        "salesforce" => {
            assert!(change["headers"]["if-unmodified-since"].as_str().is_some_and(|since| since.ends_with("GMT")));
            let fields: Vec<&String> = change["body"].as_object().expect("an object").keys().collect();
            assert_eq!(fields, ["Messages__c", "Parent_Thread_Id__c", "Source_Version__c", "Status__c"]);
        }
        "hubspot" => {
            assert!(change["path"].as_str().is_some_and(|path| path.ends_with("/t1?idProperty=thread_id")));
            assert_eq!(change["body"]["properties"]["source_version"], "2");
        }
        _ => {
            assert_eq!(creation["headers"]["if-none-match"], "*");
            assert!(change["headers"]["if-match"].as_str().is_some_and(|tag| tag.starts_with("W/\"")));
            assert!(change["path"].as_str().is_some_and(|path| path.ends_with("(bh_threadid='t1')")), "{change}");
        }
    }
}

/// The same event again says nothing new, and a write whose answer was lost is found done.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_twice() {
    for flavour in &FLAVOURS {
        let stage = stage(flavour, "").await;
        for method in [flavour.creates(), flavour.changes] {
            stage.fault(CLASS, method, json!({"first": 1}), json!({"reset": "after_commit"})).await;
        }
        let first = event(1, &[message("m1", "one")]);
        stage.done(KIND, std::slice::from_ref(&first)).await;
        stage.done(KIND, &[first]).await;
        stage.done(KIND, &[event(2, &[message("m1", "one"), message("m2", "two")])]).await;
        assert_eq!(stage.writes().await.len(), 2, "{}: {:?}", flavour.name, stage.written().await);
        assert_eq!(stage.event_types().await, ["thread.synced", "thread.ignored", "thread.synced"], "{}", flavour.name);
        assert_eq!(stage.messages().await, ["m1", "m2"], "{}", flavour.name);
    }
}

/// A thread that no field can hold is a dead letter before anything is sent, whether it is new or grows.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_does_not_fit_is_not_sent() {
    for flavour in &FLAVOURS {
        let stage = stage(flavour, "text_units_max = 300").await;
        let long = message("m2", &"x".repeat(300));
        let jobs = stage.run(KIND, &[event(1, std::slice::from_ref(&long))]).await;
        assert_eq!(stage.dead().await[&jobs[0]], "crm_record_too_large", "{}", flavour.name);
        assert!(stage.writes().await.is_empty(), "{}", flavour.name);

        stage.run(KIND, &[event(1, &[message("m1", "one")])]).await;
        let jobs = stage.run(KIND, &[event(2, &[message("m1", "one"), long])]).await;
        assert_eq!(stage.dead().await[&jobs[0]], "crm_record_too_large", "{}", flavour.name);
        assert_eq!(
            (stage.writes().await.len(), stage.messages().await),
            (1, vec!["m1".to_owned()]),
            "{}",
            flavour.name
        );
    }
}

/// A mark of whole seconds says nothing of the second that is going on: nothing is written before it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_just_changed_is_left_to_settle() {
    for flavour in [ZENDESK, SALESFORCE] {
        let stage = stage(&flavour, "").await;
        let events: Vec<Value> =
            (1..=3).map(|version| event(version, &[message("m1", &version.to_string())])).collect();
        stage.done(KIND, &events).await;
        let writes = stage.writes().await;
        let seconds: Vec<&str> = writes.iter().map(|write| &write["at"].as_str().expect("a time")[..19]).collect();
        assert!(
            seconds.len() == 3 && seconds.windows(2).all(|pair| pair[0] < pair[1]),
            "{}: {seconds:?}",
            flavour.name
        );
        assert_eq!(stage.document("threads", "t1").await["messages"][0]["text"], "3");
    }
}

/// A record whose lists somebody has edited by hand is a person's to mend; nothing is written over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_none_is_not_overwritten() {
    for flavour in &FLAVOURS {
        let stage = stage(flavour, "").await;
        stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
        stage.write(reqwest::Method::PATCH, "threads", "t1", &json!({"messages": "see attachment"})).await;
        let jobs = stage.run(KIND, &[event(2, &[message("m1", "two")])]).await;
        assert_eq!(stage.dead().await[&jobs[0]], "crm_reply_invalid", "{}", flavour.name);
        assert_eq!(stage.writes().await.len(), 1, "{}", flavour.name);
    }
}

/// Zendesk's own headers tell when its limit ends, where a 429 has no Retry-After.
#[tokio::test(flavor = "multi_thread")]
async fn zendesk_tells_when_its_window_ends() {
    let setup = Setup {
        crm: ZENDESK.profile(""),
        crm_base: Some(ZENDESK.base),
        simulator: Some(json!({"limits": {"crm/threads": 3}, "retry_after": false})),
        ..Setup::default()
    };
    let stage = Stage::with(setup).await;
    stage.done(KIND, &[event(1, &[message("m1", "one")])]).await;
    stage.enqueue(KIND, &[event(2, &[message("m1", "two")])]).await;
    let worker = stage.worker_with(WorkerOptions { concurrency: 1, ..Worker::options() });
    eventually("the job is put off to the end of the window", async || stage.put_off_s().await > 20).await;
    worker.stop().await;
    assert!(stage.exchanges(CLASS).await.contains(&"GET 429".to_owned()));
}

/// Salesforce answers 403 when the calls of a day are spent; that is a limit, and costs nobody a job.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_s_calls_that_are_spent_are_a_limit() {
    let stage = stage(&SALESFORCE, "").await;
    let body = json!([{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]);
    stage.fault(CLASS, "GET", json!({"first": 1}), json!({"status": 403, "body": body})).await;
    stage.enqueue(KIND, &[event(1, &[message("m1", "one")])]).await;
    let worker = stage.worker();
    eventually("the job is put off", async || stage.put_off_s().await > 600).await;
    worker.stop().await;
    stage.work_at_once().await;
    stage.all_done().await;
    assert_eq!(stage.messages().await, ["m1"]);
}
