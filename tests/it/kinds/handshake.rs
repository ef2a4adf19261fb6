//! The kind `handshake` over HTTP where channels, webhooks and pages change under its hands. The whole job and the
//! probe's outcomes are in `tests/it/handshake.rs`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{doors::Doors, profile::Setup, stage::Stage};

const KIND: &str = "handshake";
const CLASS: &str = "genesys/channels";
const HOOKS: &str = "genesys/webhooks";
const AUDIT: &str = "genesys/audit";

fn apply(name: &str) -> Value {
    json!({"mode": "apply", "channelId": "ch_1", "channel": {"name": name, "enabled": true,
        "webchatUrl": "https://chat.example.com/new", "corsAllowedOrigins": ["https://allowed.example"],
        "authProviderId": "auth-1", "webchatId": "webchat-1"}})
}

fn with_audit() -> Value {
    let mut payload = apply("Web shop");
    payload["audit"] = json!({});
    payload
}

/// Runs a job; another writer changes the channel between its GET and its PUT.
async fn between_read_and_put(stage: &Stage, change: &Value) -> i64 {
    let jobs = stage.enqueue(KIND, &[apply("Web shop")]).await;
    let mut doors = Doors::close(&stage.database, &[(None, "put", "begun")]).await;
    let worker = stage.worker();
    doors.reached(1).await;
    stage.write(Method::PATCH, "channels", "ch_1", change).await;
    doors.open().await;
    stage.ended().await;
    worker.stop().await;
    jobs[0]
}

/// Covers row 151, row 148, row 149, row 36 for channels: the version moved; the channel is read again and both
/// changes stay. Each write carries the version that was read.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_are_kept() {
    for conflict in [409, 412] {
        let simulator = Some(json!({"channel_conflict_status": conflict}));
        let stage = Stage::with(Setup { simulator, ..Setup::default() }).await;
        between_read_and_put(&stage, &json!({"foo": {"bar": 1}, "description": "theirs"})).await;
        stage.all_done().await;
        let channel = stage.document("channels", "ch_1").await;
        assert_eq!((&channel["name"], &channel["description"]), (&json!("Web shop"), &json!("theirs")));
        assert_eq!(channel["foo"], json!({"bar": 1}));
        let refused = format!("PUT {conflict}");
        assert_eq!(stage.exchanges(CLASS).await, ["GET 200", refused.as_str(), "GET 200", "PUT 200"]);
        let tags: Vec<Value> =
            stage.sent(CLASS, "PUT").await.iter().map(|put| put["headers"]["if-match"].clone()).collect();
        assert_eq!(tags, ["\"1\"", "\"2\""]);
    }
}

/// Covers row 151, row 37 for channels: both changed the name, and nobody's is overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_same_member_are_for_a_person() {
    let stage = Stage::new().await;
    let job = between_read_and_put(&stage, &json!({"name": "Theirs"})).await;
    assert_eq!(stage.dead().await[&job], "conflict");
    assert_eq!(stage.document("channels", "ch_1").await["name"], "Theirs");
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 1);
    let told = &stage.told("handshake.apply_failed").await[0];
    assert_eq!(told["error"]["class"], "conflict");
}

/// Covers row 151, row 37 for channels: the job wants the channel to stay enabled, as it was read. Somebody who disables
/// it meanwhile is not overruled, and the job does not report a success that does not hold.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_member_that_should_stay_are_for_a_person() {
    let stage = Stage::new().await;
    let job = between_read_and_put(&stage, &json!({"enabled": false})).await;
    assert_eq!(stage.dead().await[&job], "conflict");
    assert_eq!(stage.document("channels", "ch_1").await["enabled"], false);
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 1);
    assert_eq!(stage.event_types().await, ["handshake.apply_failed"]);
}

/// Covers row 142: the probe fails for good after the channel was applied; the old members come back, once, and what
/// somebody else changed in between stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_keeps_changes_of_others() {
    let probe = "rollback = true".to_owned();
    let stage = Stage::with(Setup { probe, ..Setup::default() }).await;
    let mut payload = apply("Web shop");
    payload["mode"] = json!("apply_and_probe");
    payload["channel"]["webchatUrl"] = json!(format!("{}/refuse-404", stage.tls().await));
    let jobs = stage.enqueue(KIND, &[payload]).await;
    let mut doors = Doors::close(&stage.database, &[(None, "rollback", "begun")]).await;
    let worker = stage.worker();
    doors.reached(1).await;
    assert_eq!(stage.document("channels", "ch_1").await["name"], "Web shop");
    stage.write(Method::PATCH, "channels", "ch_1", &json!({"foo": "theirs"})).await;
    doors.open().await;
    stage.ended().await;
    worker.stop().await;
    assert_eq!(stage.dead().await[&jobs[0]], "probe_not_found", "the job ends as its probe did");
    let channel = stage.document("channels", "ch_1").await;
    assert_eq!((&channel["name"], &channel["foo"]), (&json!("Channel ch_1"), &json!("theirs")));
    assert_eq!(channel["webchatSettings"]["webchatUrl"], "https://chat.example.com");
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 2);
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.rolled_back", "handshake.probe_failed"]);
}

/// Covers row 142: the tries of the write are not the probe's. After three refused writes and a fourth that arrived, one
/// probe that fails for now puts nothing back and is told as no end.
#[tokio::test(flavor = "multi_thread")]
async fn one_failed_probe_after_a_hard_write_puts_nothing_back() {
    let stage = Stage::with(Setup { probe: "rollback = true".to_owned(), ..Setup::default() }).await;
    stage.fault(CLASS, "PUT", json!({"first": 3}), json!({"status": 503})).await;
    // A socket's request carries no token, so its tenant is known by its path alone.
    let rule = json!({"name": stage.tenant, "match": {"class": "socket", "path_contains": stage.tenant},
        "when": {"first": 1}, "then": {"status": 503}});
    stage.control(Method::POST, "faults", &rule).await;
    let mut payload = apply("Web shop");
    payload["mode"] = json!("apply_and_probe");
    payload["channel"]["webchatUrl"] = json!(format!("{}/{}", stage.tls().await, stage.tenant));
    stage.done(KIND, &[payload]).await;
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 4);
    assert_eq!(stage.document("channels", "ch_1").await["name"], "Web shop");
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.probed", "handshake.origin_policy_checked"]);
}

/// Where the platform edits drafts, what is written goes live by a call of its own, before the socket is opened. A refused
/// one leaves the channel written, and the replay publishes it without another PUT.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_published() {
    let kinds = "[kinds.handshake]\npublish = true\n".to_owned();
    let stage = Stage::with(Setup { kinds, ..Setup::default() }).await;
    let publishing = json!({"class": CLASS, "path_contains": "/publish"});
    stage.fault_where(publishing, json!({"first": 1}), json!({"status": 404})).await;
    let mut payload = apply("Web shop");
    payload["mode"] = json!("apply_and_probe");
    payload["channel"]["webchatUrl"] = json!(stage.tls().await);
    let jobs = stage.run(KIND, &[payload.clone()]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "channel_publish_refused");
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.publish_failed"]);
    sqlx::query("select backhaul.dead_replay($1, 'u1', 'again')")
        .bind(jobs[0])
        .execute(stage.database.store.pool())
        .await
        .expect("replays");
    stage.work_at_once().await;
    stage.done(KIND, &[payload]).await;
    assert_eq!(
        stage.exchanges(CLASS).await,
        ["GET 200", "PUT 200", "POST 404", "POST 200", "GET 200", "POST 200"],
        "the second job has nothing to write, and publishes what another may have left a draft"
    );
    assert_eq!(stage.told("handshake.published").await.len(), 2);
}

/// Covers row 142: without the switch the change stays, and the failed probe is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_probe_is_told() {
    let stage = Stage::new().await;
    let mut payload = apply("Web shop");
    payload["mode"] = json!("apply_and_probe");
    payload["channel"]["webchatUrl"] = json!(format!("{}/refuse-403", stage.tls().await));
    let jobs = stage.run(KIND, &[payload]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "probe_forbidden");
    assert_eq!(stage.document("channels", "ch_1").await["name"], "Web shop");
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.probe_failed"]);
}

/// Covers row 139: a foreign origin that is let in is a failure, though the channel works for its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_origin_policy_is_a_failure() {
    let simulator = Some(json!({"socket": {"enforce_origin": false}}));
    let stage = Stage::with(Setup { simulator, ..Setup::default() }).await;
    let mut payload = apply("Web shop");
    payload["mode"] = json!("probe");
    payload["channel"]["webchatUrl"] = json!(stage.tls().await);
    let jobs = stage.run(KIND, &[payload.clone()]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "origin_policy_not_enforced");
    let origins: Vec<Value> = stage.get("record?class=socket&limit=100").await["requests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|request| request["headers"]["origin"].clone())
        .collect();
    assert_eq!(origins, ["https://allowed.example", "https://foreign-origin.invalid"]);

    let probe = "check_foreign_origin = false".to_owned();
    let lenient = Stage::with(Setup { probe, ..Setup::default() }).await;
    payload["channel"]["webchatUrl"] = json!(format!("{}/any-origin", lenient.tls().await));
    lenient.done(KIND, &[payload]).await;
}

/// Covers row 153, row 207: a webhook that cannot be registered leaves the channel applied; a replay registers it and
/// does not PUT again.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_webhook_repeats_no_put() {
    let stage = Stage::new().await;
    stage.fault(HOOKS, "POST", json!({"first": 1}), json!({"status": 500})).await;
    let mut payload = apply("Web shop");
    payload["healthCallbackUrl"] = json!("https://hooks.example.com/health");
    let jobs = stage.run(KIND, &[payload]).await;
    let dead = stage.dead().await;
    assert_eq!(dead[&jobs[0]], "upstream_error", "this platform does not want 500 repeated");
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.webhook_failed"]);
    sqlx::query("select backhaul.dead_replay($1, 'u1', 'again')")
        .bind(jobs[0])
        .execute(stage.database.store.pool())
        .await
        .expect("replays");
    stage.work_at_once().await;
    stage.all_done().await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PUT 200"]);
    assert_eq!(stage.exchanges(HOOKS).await, ["GET 200", "POST 500", "GET 200", "POST 201"]);
    let health = &stage.sent(HOOKS, "POST").await[1];
    assert_eq!(health["body"]["headers"]["X-Webchat-Health"], "true");
}

/// Covers row 154: ten updates make one webhook, and one that says something else is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn ten_updates_make_one_webhook() {
    let simulator = Some(json!({"webhook_duplicates": "allowed"}));
    let stage = Stage::with(Setup { simulator, ..Setup::default() }).await;
    let update = |n: usize, address: &str| {
        let mut payload = apply(&format!("Web shop {n}"));
        payload["healthCallbackUrl"] = json!(address);
        payload
    };
    let updates: Vec<Value> = (0..10).map(|n| update(n, "https://hooks.example.com/health")).collect();
    stage.done(KIND, &updates).await;
    assert_eq!(stage.sent(HOOKS, "POST").await.len(), 1);
    assert_eq!(stage.sent(CLASS, "PUT").await.len(), 10);
    stage.done(KIND, &[update(10, "https://hooks.example.com/moved")]).await;
    let puts = stage.sent(HOOKS, "PUT").await;
    assert_eq!((puts.len(), &puts[0]["body"]["address"]), (1, &json!("https://hooks.example.com/moved")));
    assert_eq!(stage.sent(HOOKS, "POST").await.len(), 1);
}

/// A webhook on a later page of the listing is found, and not made a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_on_a_later_page_is_found() {
    let simulator = Some(json!({"webhook_duplicates": "allowed", "webhook_page_size": 1}));
    let stage = Stage::with(Setup { simulator, ..Setup::default() }).await;
    let update = |channel: &str, n: usize| {
        let mut payload = apply(&format!("Web shop {n}"));
        payload["channelId"] = json!(channel);
        payload["healthCallbackUrl"] = json!("https://hooks.example.com/health");
        payload
    };
    for (channel, n) in [("ch_1", 1), ("ch_2", 1), ("ch_3", 1), ("ch_3", 2)] {
        stage.done(KIND, &[update(channel, n)]).await;
    }
    assert_eq!(stage.sent(HOOKS, "POST").await.len(), 3);
}

/// Covers row 154: a repair that somebody else's write refuses looks again and repairs what stands there now, four times
/// in all.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_repair_looks_again() {
    let stage = Stage::new().await;
    let update = |address: &str| {
        let mut payload = apply("Web shop");
        payload["healthCallbackUrl"] = json!(address);
        payload
    };
    stage.done(KIND, &[update("https://hooks.example.com/health")]).await;
    stage.fault(HOOKS, "PUT", json!({"first": 1}), json!({"status": 409})).await;
    stage.done(KIND, &[update("https://hooks.example.com/moved")]).await;
    let exchanges = stage.exchanges(HOOKS).await;
    assert_eq!(exchanges[2..], ["GET 200", "PUT 409", "GET 200", "PUT 200"]);
    stage.fault(HOOKS, "PUT", json!({}), json!({"status": 409})).await;
    let jobs = stage.run(KIND, &[update("https://hooks.example.com/elsewhere")]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "conflict");
    assert_eq!(stage.sent(HOOKS, "PUT").await.len(), 2 + 4);
    let conflict: Vec<(Value,)> = stage.database.rows("select conflict from backhaul.dead_letters").await;
    assert_eq!(conflict[0].0["theirs"]["address"], "https://hooks.example.com/moved");
    assert_eq!(conflict[0].0["ours"].get("secret"), None, "no dead letter holds a secret");
}

/// Covers row 156: 429 on the webhook call is waited for; nothing before it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn throttled_webhooks_are_waited_for() {
    let stage = Stage::new().await;
    stage.fault(HOOKS, "POST", json!({"first": 1}), json!({"status": 429, "retry_after_s": 1})).await;
    stage.fault(HOOKS, "GET", json!({"first": 1}), json!({"status": 429, "retry_after_s": 1})).await;
    let mut payload = apply("Web shop");
    payload["healthCallbackUrl"] = json!("https://hooks.example.com/health");
    stage.done(KIND, &[payload]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PUT 200"]);
    assert_eq!(stage.exchanges(HOOKS).await, ["GET 429", "GET 200", "POST 429", "GET 200", "POST 201"]);
}

/// Covers row 157: a page without entities is an error of the audit query, and of nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_entities_is_an_error() {
    let stage = Stage::new().await;
    stage.fault_where(json!({"class": AUDIT}), json!({"nth": [2]}), json!({"body": {"total": 3}})).await;
    let jobs = stage.run(KIND, &[with_audit()]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "audit_reply_invalid");
    assert_eq!(stage.event_types().await, ["handshake.applied", "handshake.audit_failed"]);
}

/// Covers row 158: a token that is refused at page three costs one refresh, and no page is read twice; entries that two
/// pages show count once.
#[tokio::test(flavor = "multi_thread")]
async fn paging_goes_on_where_it_stopped() {
    let stage = Stage::new().await;
    stage.fault_where(json!({"class": AUDIT}), json!({"nth": [3]}), json!({"status": 401})).await;
    stage.done(KIND, &[with_audit()]).await;
    assert_eq!(stage.exchanges(AUDIT).await, ["GET 200", "GET 200", "GET 401", "GET 200"]);
    assert_eq!(stage.exchanges("genesys/token").await.len(), 2);
    let audited = &stage.told("handshake.audited").await[0];
    assert_eq!(audited["pages"], 3);
    assert_eq!(audited["entries"], 251, "250 views and the job's own change: {audited}");

    // The second page shows entries of the first one again.
    let overlapping = Stage::new().await;
    let first = json!({"entities": [{"id": "a"}, {"id": "b"}], "nextPageCursor": "c.1.0.1"});
    let second = json!({"entities": [{"id": "b"}, {"id": "c"}]});
    overlapping.fault_where(json!({"class": AUDIT}), json!({"nth": [1]}), json!({"body": first})).await;
    overlapping.fault_where(json!({"class": AUDIT}), json!({"nth": [1]}), json!({"body": second})).await;
    overlapping.done(KIND, &[with_audit()]).await;
    assert_eq!(overlapping.told("handshake.audited").await[0]["entries"], 3);
}

/// Covers row 160: a good probe stays a good probe when the audit query fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_query_is_no_failed_probe() {
    let stage = Stage::new().await;
    stage.fault_where(json!({"class": AUDIT}), json!({}), json!({"status": 500})).await;
    let mut payload = with_audit();
    payload["mode"] = json!("apply_and_probe");
    payload["channel"]["webchatUrl"] = json!(stage.tls().await);
    let jobs = stage.run(KIND, &[payload]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "audit_unavailable");
    let types = stage.event_types().await;
    assert_eq!(
        types,
        ["handshake.applied", "handshake.probed", "handshake.origin_policy_checked", "handshake.audit_failed"]
    );
    assert!(stage.told("handshake.probed").await[0]["latency_ms"].is_u64());
}

/// A stage whose audit queries are transactions.
async fn asynchronous() -> Stage {
    Stage::with(Setup { kinds: "[kinds.handshake]\naudit_via = \"async_query\"\n".to_owned(), ..Setup::default() })
        .await
}

/// Covers row 157, row 158 for queries that the platform works on in the background: asked for once, looked at without
/// costing a try, and read page by page, each page once, though one of them is refused with 401 and one with 429.
#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_query_is_looked_at_until_it_is_ready() {
    let stage = asynchronous().await;
    let results = json!({"class": AUDIT, "path_contains": "/results"});
    stage.fault_where(results.clone(), json!({"nth": [2]}), json!({"status": 401})).await;
    stage.fault_where(results, json!({"nth": [3]}), json!({"status": 429, "retry_after_s": 1})).await;
    stage.done(KIND, &[with_audit()]).await;
    let requests = stage.requests(AUDIT).await;
    let told: Vec<String> = requests.iter().map(super::stage::exchange).collect();
    let looks = ["POST 202", "GET 200", "GET 200", "GET 200"];
    assert_eq!(told, [&looks[..], &["GET 200", "GET 401", "GET 200", "GET 429", "GET 200"]].concat());
    let asked = &requests[0]["body"];
    assert_eq!(asked["filters"], json!([{"property": "EntityId", "value": "ch_1"}]));
    assert_eq!(asked["serviceName"], "WebDeployments");
    let paths: Vec<&str> = requests[4..].iter().map(|request| request["path"].as_str().expect("a path")).collect();
    assert!(paths.iter().all(|path| path.contains("/results?pageSize=100")), "{paths:?}");
    let audited = &stage.told("handshake.audited").await[0];
    assert_eq!((&audited["pages"], &audited["entries"]), (&json!(3), &json!(251)));
    let waits: Vec<(Value,)> = stage
        .database
        .rows("select payload -> 'attempt' from backhaul.outbox_events where type = 'dev.backhaul.job.snoozed'")
        .await;
    assert_eq!(waits, [(json!(0),), (json!(0),)], "two looks too early, and no try lost");
}

/// A transaction that fails, or that the platform has forgotten, is asked for anew, and not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn failed_transactions_are_asked_for_anew() {
    let stage = asynchronous().await;
    let looks = json!({"class": AUDIT, "method": "GET"});
    stage.fault_where(looks.clone(), json!({"nth": [1]}), json!({"body": {"state": "Failed"}})).await;
    stage.fault_where(looks, json!({"nth": [1]}), json!({"status": 404})).await;
    stage.done(KIND, &[with_audit()]).await;
    let asked = stage.sent(AUDIT, "POST").await.len();
    assert_eq!((asked, stage.told("handshake.audited").await[0]["entries"].clone()), (3, json!(251)));

    let never = asynchronous().await;
    let looks = json!({"class": AUDIT, "method": "GET"});
    never.fault_where(looks, json!({}), json!({"body": {"state": "Cancelled"}})).await;
    let jobs = never.run(KIND, &[with_audit()]).await;
    assert_eq!(never.dead().await[&jobs[0]], "audit_query_failed");
    assert_eq!(never.exchanges(AUDIT).await, ["POST 202", "GET 200"].repeat(3));
    assert_eq!(never.event_types().await, ["handshake.applied", "handshake.audit_failed"]);
}
