//! What is tried again, when, and how often: the same for every kind.

use std::time::{Duration, Instant};

use backhaul_engine::WorkerOptions;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::stage::Stage;
use crate::support::{Worker, eventually};

/// A job of each kind with the class and method of its write.
fn writes(stage: &Stage) -> [(&'static str, Value, &'static str, &'static str); 5] {
    let profile = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";
    let enrichment = json!({"profileId": profile, "attributes": {"tier": "gold"}, "mergeStrategy": "OVERWRITE",
        "sourceSystem": "crm_main"});
    let widget = json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}});
    let thread = json!({"threadId": "t1", "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z",
        "data": {"threadId": "t1", "version": 1, "participants": [], "messages": []}});
    let channel = json!({"mode": "apply", "channelId": "ch_1", "channel": {"name": "Web shop", "enabled": true,
        "webchatUrl": "https://chat.example.com/new", "corsAllowedOrigins": ["https://shop.example.com"],
        "authProviderId": "auth-1", "webchatId": "webchat-1"}});
    [
        ("enrichment", enrichment, "cxone/profiles", "PATCH"),
        ("widget-patch", widget, "cxone/webchat", "PATCH"),
        ("crm-sync", thread, "crm/threads", "POST"),
        ("handshake", channel, "genesys/channels", "PUT"),
        ("deliver", json!({"url": stage.callback_url(), "event": {"n": 1}}), "callback", "POST"),
    ]
}

async fn statuses(stage: &Stage, class: &str, method: &str) -> Vec<Value> {
    stage.sent(class, method).await.iter().map(|request| request["status"].clone()).collect()
}

/// Covers row 26: what may pass is tried again, in every kind.
#[tokio::test(flavor = "multi_thread")]
async fn two_503_and_a_success_are_a_success() {
    let stage = Stage::new().await;
    for (kind, payload, class, method) in writes(&stage) {
        stage.fault(class, method, json!({"first": 2}), json!({"status": 503})).await;
        stage.enqueue(kind, &[payload]).await;
    }
    stage.work_at_once().await;
    stage.all_done().await;
    for (kind, _, class, method) in writes(&stage) {
        let statuses = statuses(&stage, class, method).await;
        assert!(statuses.len() == 3 && statuses[..2] == [503, 503], "{kind}: {statuses:?}");
    }
    assert!(stage.effects().await.values().all(|&count| count == 1));
}

/// Covers row 27, row 28, row 24: three tries are three requests in every kind; the dead letter comes with the last of
/// them, without another pause, and shows what each of them met.
#[tokio::test(flavor = "multi_thread")]
async fn max_attempts_is_the_number_of_requests() {
    let stage = Stage::new().await;
    let mut jobs = Vec::new();
    for (kind, payload, class, method) in writes(&stage) {
        stage.fault(class, method, json!({}), json!({"status": 503})).await;
        jobs.push(json!({"kind": kind, "tenant": stage.tenant, "payload": payload, "max_attempts": 3}));
    }
    let jobs = stage.database.enqueue(jobs).await;
    stage.work_at_once().await;
    let dead = stage.dead().await;
    for (job, (kind, _, class, method)) in jobs.into_iter().zip(writes(&stage)) {
        assert_eq!(statuses(&stage, class, method).await, [503, 503, 503], "{kind}");
        let code = if kind == "deliver" { "delivery_failed" } else { "upstream_unavailable" };
        assert_eq!(dead[&job], code, "{kind}");
        let errors = stage.errors(job).await;
        assert_eq!(errors.len(), 3, "{kind}: {errors:?}");
        assert!(errors.iter().all(|error| error["http_status"] == 503 && error["class"] == "transient"), "{errors:?}");
    }
    let late: bool = stage
        .database
        .one(
            "select bool_or(died_at - (errors -> -1 ->> 'at')::timestamptz > interval '400 milliseconds')
              from backhaul.dead_letters",
        )
        .await;
    assert!(!late, "nobody waits after the last try");
}

/// Covers row 20: ten times 429 are no failure, in every kind.
#[tokio::test(flavor = "multi_thread")]
async fn throttling_costs_no_attempt() {
    let stage = Stage::new().await;
    for (kind, payload, class, method) in writes(&stage) {
        stage.fault(class, method, json!({"first": 10}), json!({"status": 429, "retry_after_s": 1})).await;
        stage.enqueue(kind, &[payload]).await;
    }
    stage.work_at_once().await;
    stage.all_done().await;
    let counted: Vec<(String, i64)> = stage
        .database
        .rows(
            "select replace(type, 'dev.backhaul.job.', ''), count(*) from backhaul.events
               where type like 'dev.backhaul.job.%' group by 1 order by 1",
        )
        .await;
    assert_eq!(counted, [("completed".to_owned(), 5), ("throttled".to_owned(), 50)], "no try was counted");
}

/// Covers row 21: a server that says 429 for ever costs no attempts, but the job's deadline ends it.
#[tokio::test(flavor = "multi_thread")]
async fn endless_throttling_ends_at_the_deadline() {
    let stage = Stage::new().await;
    stage.fault("cxone/webchat", "GET", json!({}), json!({"status": 429, "retry_after_s": 1})).await;
    let deadline: DateTime<Utc> = stage.database.one("select now() + interval '2 seconds'").await;
    let payload = json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}});
    let job = json!({"kind": "widget-patch", "tenant": stage.tenant, "payload": payload, "deadline": deadline});
    let jobs = stage.database.enqueue(vec![job]).await;
    stage.work_at_once().await;
    let dead = stage.dead().await;
    assert!(["throttled", "deadline_exceeded", "rate_limited"].contains(&dead[&jobs[0]].as_str()), "{dead:?}");
    assert!(stage.errors(jobs[0]).await.iter().all(|error| error["class"] != "transient"));
}

/// Runs one job against a scripted 429 on its first reading; answers for how long the job is put off, in milliseconds.
async fn put_off(retry_after: Value) -> i64 {
    let stage = Stage::new().await;
    let mut then = json!({"status": 429});
    then.as_object_mut().expect("an object").extend(retry_after.as_object().expect("an object").clone());
    stage.fault("cxone/webchat", "GET", json!({"first": 1}), then).await;
    stage.enqueue("widget-patch", &[json!({"configurationId": "cfg_1", "theme": {"primary": "#abc"}})]).await;
    let worker = stage.worker();
    eventually("the job is put off", async || {
        stage.told_throttled().await
            && stage
                .database
                .one::<bool>("select coalesce(bool_and(due_at is not null), true) from backhaul.jobs")
                .await
    })
    .await;
    let wait = "select coalesce((select (extract(epoch from j.due_at - e.occurred_at) * 1000)::bigint
                from backhaul.jobs j, backhaul.events e where e.type = 'dev.backhaul.job.throttled'), 0)";
    let wait = stage.database.one::<i64>(wait).await;
    worker.stop().await;
    assert_eq!(stage.exchanges("cxone/webchat").await[0], "GET 429");
    wait
}

impl Stage {
    async fn told_throttled(&self) -> bool {
        self.database.one("select exists (select from backhaul.events where type = 'dev.backhaul.job.throttled')").await
    }
}

/// Covers row 16, row 17: a date is a date, and an hour is the most that anybody waits.
#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_read_in_both_forms_and_clamped() {
    let date = put_off(json!({"retry_after_date_s": 30})).await;
    // An HTTP date has whole seconds; the return is spread over a tenth of the pause.
    assert!((28_500..=33_500).contains(&date), "{date} ms");
    let endless = put_off(json!({"retry_after_s": 3_000_000})).await;
    assert!((3_599_000..=3_606_000).contains(&endless), "{endless} ms");
}

/// Covers row 18: a useless Retry-After is at least a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_useless_retry_after_is_a_second() {
    for text in ["0", "-5", "abc"] {
        let wait = put_off(json!({"retry_after": text})).await;
        assert!((950..=60_000).contains(&wait), "{text:?}: {wait} ms");
    }
}

/// The repetition after a 401 is a request as the upstream counts: where its limit is used up, it waits for its turn.
#[tokio::test(flavor = "multi_thread")]
async fn the_repetition_after_a_401_keeps_to_the_limit() {
    let stage = Stage::new().await;
    let limit = format!("select backhaul.bucket_limit('{}', 'cxone/webchat', 1)", stage.tenant);
    sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(stage.database.store.pool()).await.expect("limits");
    stage.fault("cxone/webchat", "GET", json!({"first": 1}), json!({"status": 401})).await;
    let (kind, payload, ..) = writes(&stage)[1].clone();
    stage.enqueue(kind, &[payload]).await;
    let worker = stage.worker();
    eventually("the job waits for the limit", async || stage.told_throttled().await).await;
    worker.stop().await;
    assert_eq!(stage.exchanges("cxone/webchat").await, ["GET 401"]);
}

/// Covers row 183: the CRM names a date; until then nobody sends it anything.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_a_named_date() {
    let stage = Stage::new().await;
    stage.fault("crm/threads", "POST", json!({"first": 1}), json!({"status": 429, "retry_after_date_s": 3})).await;
    let (kind, payload, ..) = writes(&stage)[2].clone();
    stage.enqueue(kind, &[payload]).await;
    stage.work().await;
    stage.all_done().await;
    let requests = stage.requests("crm/threads").await;
    let at = |request: &Value| -> DateTime<Utc> { request["at"].as_str().expect("a time").parse().expect("RFC 3339") };
    let refused = requests.iter().position(|request| request["status"] == 429).expect("a refusal");
    let next = requests.get(refused + 1).expect("it was tried again");
    let waited = (at(next) - at(&requests[refused])).num_milliseconds();
    // The date is cut to whole seconds.
    assert!(waited >= 2_000, "{waited} ms");
}

/// Covers row 19: jobs that wait for an upstream hold no slot, so another tenant's job runs at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_tenant_delays_nobody_else() {
    let mut throttled = Stage::new().await;
    let other = throttled.neighbour().await;
    throttled.fault("cxone/webchat", "GET", json!({}), json!({"status": 429, "retry_after_s": 60})).await;
    let widget = |n: usize| json!({"configurationId": format!("cfg_{n}"), "theme": {"primary": "#abc"}});
    throttled.enqueue("widget-patch", &(0..100).map(widget).collect::<Vec<_>>()).await;
    let options = WorkerOptions { concurrency: 4, prefetch: 0, ..Worker::options() };
    let worker = throttled.worker_with(options);
    eventually("the tenant is throttled", async || throttled.told_throttled().await).await;
    let began = Instant::now();
    other.enqueue("widget-patch", &[widget(0)]).await;
    eventually("the other tenant's job is done", async || !other.effects().await.is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    worker.stop().await;
    assert!(throttled.requests("cxone/webchat").await.len() <= 8, "the bucket is closed for all of them");
    assert_eq!(throttled.database.unfinished().await, 100);
}
