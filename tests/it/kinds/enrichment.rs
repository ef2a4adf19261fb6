//! The kind `enrichment` over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use super::{profile::Setup, stage::Stage};
use crate::support::eventually;

const KIND: &str = "enrichment";
const CLASS: &str = "profiles";
const PROFILE: &str = "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e";
const OTHER: &str = "1c62a3b7-8d2e-4d60-8e3f-6e2d8a1b0c4f";

fn enrich(profile: &str, strategy: &str, attributes: Value) -> Value {
    json!({"profileId": profile, "attributes": attributes, "mergeStrategy": strategy, "sourceSystem": "crm_main"})
}

fn overwrite(attributes: Value) -> Value {
    enrich(PROFILE, "OVERWRITE", attributes)
}

/// Covers row 33, row 104, row 123: one enrichment with its audit event.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_enriched_and_the_trail_says_how() {
    let stage = Stage::new().await;
    let mut payload = overwrite(json!({"loyalty_tier": "gold", "email": "ann@example.com"}));
    payload["tags"] = json!(["vip"]);
    stage.done(KIND, &[payload]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["PATCH 200"]);
    let profile = stage.document("profiles", PROFILE).await;
    assert_eq!(
        (&profile["attributes"]["loyalty_tier"], &profile["attributes"]["origin"]),
        (&json!("gold"), &json!("simulator"))
    );
    assert_eq!(
        profile["tags"],
        json!(["vip", "enriched_via_rest", "digital_engagement"]),
        "the job's own tags are kept"
    );
    let enriched = &stage.told("profile.enriched").await[0];
    assert_eq!(enriched["status"], "SUCCESS");
    assert_eq!(enriched["pii_labels"], json!({"/attributes/email": ["EMAIL"]}));
    assert!(!enriched.to_string().contains("ann@"));
    let members =
        ["payload_hmac", "payload_hmac_key_id", "compliance", "latency_ms", "request_id", "http_status", "actor"];
    for member in members {
        assert!(!enriched[member].is_null(), "{member}");
    }

    let blocked = stage.run(KIND, &[overwrite(json!({"note": "123-45-6789"}))]).await;
    assert_eq!(stage.dead().await[&blocked[0]], "personal_data_blocked");
    let failed = &stage.told("profile.enrichment_failed").await[0];
    for member in ["payload_hmac", "payload_hmac_key_id", "compliance", "pii_labels", "resource_id", "actor", "error"] {
        assert!(!failed[member].is_null(), "a failed job tells its {member} too");
    }
}

/// Covers row 30: 204 is read back, 202 is looked for until it shows; neither is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_2xx_counts_by_its_meaning() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"empty_204": true})).await;
    stage.done(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["PATCH 204", "GET 200"]);
    assert_eq!(stage.told("profile.enriched").await[0]["status"], "SUCCESS");

    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 202})).await;
    stage.enqueue(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    let worker = stage.worker();
    eventually("the data is looked for", async || {
        stage.spare_pauses().await;
        stage.sent(CLASS, "GET").await.len() >= 3
    })
    .await;
    assert!(stage.told("profile.enrichment_confirmed").await.is_empty());
    let arrived = json!({"attributes": {"tier": "gold"}, "tags": ["enriched_via_rest", "digital_engagement"]});
    stage.write(Method::PATCH, "profiles", PROFILE, &arrived).await;
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1);
    assert_eq!(stage.event_types().await, ["profile.enriched", "profile.enrichment_confirmed"]);
}

/// Covers row 30: an attribute that is to be replaced proves nothing while its old value stands, under `KEEP_LATEST` too,
/// and nor do the attributes prove the tags.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_value_confirms_nothing() {
    let stage = Stage::new().await;
    let known = json!({"attributes": {"tier": "silver"}, "tags": ["enriched_via_rest", "digital_engagement"]});
    stage.write(Method::PATCH, "profiles", PROFILE, &known).await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 202})).await;
    let mut payload = enrich(PROFILE, "KEEP_LATEST", json!({"tier": "gold"}));
    payload["tags"] = json!(["vip"]);
    stage.enqueue(KIND, &[payload]).await;
    let worker = stage.worker();
    let arrived =
        [json!({"attributes": {"tier": "gold"}}), json!({"tags": ["enriched_via_rest", "digital_engagement", "vip"]})];
    for part in arrived {
        let looks = stage.sent(CLASS, "GET").await.len();
        eventually("the data is looked for", async || {
            stage.spare_pauses().await;
            stage.sent(CLASS, "GET").await.len() >= looks + 2
        })
        .await;
        assert!(stage.told("profile.enrichment_confirmed").await.is_empty());
        stage.write(Method::PATCH, "profiles", PROFILE, &part).await;
    }
    eventually("the job ends", async || {
        stage.spare_pauses().await;
        stage.database.unfinished().await == 0
    })
    .await;
    worker.stop().await;
    stage.all_done().await;
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1);
}

/// Covers row 128: a write that was accepted for later sets off a de-duplication too; the reading that confirms it shows
/// the survivor, and later jobs go there.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_shows_the_survivor() {
    let stage = Stage::new().await;
    stage.done(KIND, &[enrich(OTHER, "OVERWRITE", json!({"email": "ann@example.com"}))]).await;
    let later = json!({"status": 202, "commit": true, "body": {}});
    stage.fault(CLASS, "PATCH", json!({"first": 1}), later).await;
    stage.done(KIND, &[overwrite(json!({"email": "ann@example.com"}))]).await;
    stage.done(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    let last = stage.sent(CLASS, "PATCH").await.pop().expect("a write");
    assert!(last["path"].as_str().is_some_and(|path| path.ends_with(OTHER)), "{last}");
    let merged = &stage.told("profile.merged").await[0];
    assert_eq!((&merged["resource_id"], &merged["survivor_profile_id"]), (&json!(PROFILE), &json!(OTHER)));
}

/// Covers row 111: what is written cannot become stale. The job waits for the data to show; that much time passes is made
/// of a payload and a step that are older than they are.
#[tokio::test(flavor = "multi_thread")]
async fn data_becomes_stale_until_it_is_written() {
    let stage = Stage::with(Setup { kinds: "time_fields = [\"lastSeen\"]".to_owned(), ..Setup::default() }).await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 202})).await;
    let (now, old): (String, String) = sqlx::query_as(
        "select to_json(clock_timestamp()) #>> '{}', to_json(clock_timestamp() - interval '40 days') #>> '{}'",
    )
    .fetch_one(stage.database.store.pool())
    .await
    .expect("two times");
    let jobs = stage.enqueue(KIND, &[overwrite(json!({"lastSeen": now}))]).await;
    let worker = stage.worker();
    eventually("the data is looked for", async || !stage.sent(CLASS, "GET").await.is_empty()).await;
    worker.stop().await;
    let aged = sqlx::query(
        "with payload as (
             update backhaul.jobs set payload = jsonb_set(payload, '{attributes,lastSeen}', to_jsonb($2::text))
             where id = $1)
         update backhaul.steps set output = jsonb_set(output, '{checked_at}', to_jsonb($2::text))
         where job_id = $1 and name = 'enrich' and state = 'done'",
    );
    let aged = aged.bind(jobs[0]).bind(&old).execute(stage.database.store.pool()).await.expect("aged");
    assert_eq!(aged.rows_affected(), 1);
    let arrived = json!({"attributes": {"lastSeen": old}, "tags": ["enriched_via_rest", "digital_engagement"]});
    stage.write(Method::PATCH, "profiles", PROFILE, &arrived).await;
    stage.work_at_once().await;
    stage.all_done().await;
    assert_eq!(stage.event_types().await, ["profile.enriched", "profile.enrichment_confirmed"]);
}

/// Covers row 118: the source's name is free text, and what the policy masks is masked in it before it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn the_sources_name_is_masked_too() {
    let kinds = "[kinds.enrichment.personal_data]\nEMAIL = \"mask\"".to_owned();
    let stage = Stage::with(Setup { kinds, ..Setup::default() }).await;
    let mut payload = overwrite(json!({"tier": "gold"}));
    payload["sourceSystem"] = json!("export of ann@example.com");
    stage.done(KIND, &[payload]).await;
    assert_eq!(stage.sent(CLASS, "PATCH").await[0]["body"]["sourceSystem"], "export of [EMAIL]");
}

/// Covers row 31: 200 with another result than SUCCESS is no success.
#[tokio::test(flavor = "multi_thread")]
async fn a_partial_merge_is_no_success() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"merge_body": {"mergeResult": "PARTIAL"}})).await;
    let jobs = stage.run(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "merge_not_successful");
    assert_eq!(stage.event_types().await, ["profile.enrichment_failed"]);
    assert_eq!(stage.sent(CLASS, "PATCH").await.len(), 1);
}

/// Covers row 32, row 126: the server applied the write and the answer was lost. What is read back is not sent again,
/// although this server adds list members blindly and knows no idempotency keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_adds_nothing_twice() {
    let blind = json!({"append_blindly": true, "honour_idempotency_keys": false});
    let stage = Stage::with(Setup { simulator: Some(blind), ..Setup::default() }).await;
    let known = json!({"attributes": {"interests": ["chess"], "tier": "silver"}});
    stage.write(Method::PATCH, "profiles", PROFILE, &known).await;
    stage.fault(CLASS, "PATCH", json!({"first": 2}), json!({"reset": "after_commit"})).await;
    let append = enrich(PROFILE, "APPEND", json!({"interests": ["sailing", "chess"], "tier": "gold"}));
    let set = enrich(OTHER, "OVERWRITE", json!({"tier": "gold"}));
    stage.done(KIND, &[append, set]).await;
    let profile = stage.document("profiles", PROFILE).await;
    assert_eq!(profile["attributes"]["interests"], json!(["chess", "sailing"]), "one copy");
    assert_eq!(profile["attributes"]["tier"], "silver", "appending replaces no value");
    let sent = stage.sent(CLASS, "PATCH").await;
    assert_eq!(sent.len(), 2, "one for each job");
    assert!(stage.effects().await.values().all(|&count| count == 1));
    let events = stage.told("profile.enriched").await;
    assert!(events.iter().all(|event| event["status"] == "SUCCESS"), "{events:?}");
}

/// Covers row 118: what the policy blocks is never sent, whatever it is embedded in; the others flow.
#[tokio::test(flavor = "multi_thread")]
async fn blocked_data_makes_no_call() {
    let stage = Stage::new().await;
    let payloads = [
        overwrite(json!({"ssn": "123-45-6789"})),
        overwrite(json!({"note": "mail a@b.co, ssn 123-45-6789."})),
        overwrite(json!({"nested": {"deep": ["4111111111111111"]}})),
        overwrite(json!({"number": 123_456_789})),
        overwrite(json!({"123-45-6789": true})),
    ];
    let jobs = stage.run(KIND, &payloads).await;
    let dead = stage.dead().await;
    assert!(jobs.iter().all(|job| dead[job] == "personal_data_blocked"), "{dead:?}");
    assert!(stage.exchanges(CLASS).await.is_empty());
    assert!(stage.exchanges("cxone/token").await.is_empty(), "not even a token was asked for");
}

/// Covers row 10: the granted scopes are checked before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_scope_stops_before_the_call() {
    let reader = format!("reader-{}", uuid::Uuid::new_v4().simple());
    let stage = Stage::with(Setup { client_id: reader.clone(), ..Setup::default() }).await;
    let client = json!({"client_id": reader, "tenant": stage.tenant, "scopes": ["profile:read"]});
    stage.control(Method::POST, "clients", &client).await;
    let jobs = stage.run(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "scope_missing");
    assert!(stage.exchanges(CLASS).await.is_empty());
    assert_eq!(stage.exchanges("cxone/token").await.len(), 1);
}

/// Covers row 7: 401 and 429 have budgets of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_401_and_a_429_do_not_share_their_budget() {
    let stage = Stage::new().await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"status": 401})).await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"status": 429, "retry_after_s": 1})).await;
    stage.done(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    let patches: Vec<Value> = stage.sent(CLASS, "PATCH").await.iter().map(|patch| patch["status"].clone()).collect();
    assert_eq!(patches, [401, 429, 200]);
}

/// Covers row 125: jobs of one profile are serial, and conditional where the server offers a tag; what somebody else
/// changes meanwhile costs another reading and is kept.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_profile_are_serial_and_conditional() {
    let stage = Stage::with(Setup { simulator: Some(json!({"profile_etags": true})), ..Setup::default() }).await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"delay_ms": 30})).await;
    let upper = PROFILE.to_uppercase();
    let payloads: Vec<Value> =
        (0..4).map(|n| enrich(if n % 2 == 0 { PROFILE } else { &upper }, "APPEND", json!({"orders": [n]}))).collect();
    stage.done(KIND, &payloads).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 200"].repeat(4), "no overlap in either spelling");
    let patches = stage.sent(CLASS, "PATCH").await;
    assert!(patches.iter().all(|patch| patch["headers"]["if-match"].is_string()), "{patches:?}");
    let profile = stage.document("profiles", PROFILE).await;
    assert_eq!(profile["attributes"]["orders"], json!([0, 1, 2, 3]), "in the order of the queue");
}

/// Covers row 125: a refused precondition is read again, and nothing of the other writer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_precondition_is_read_again() {
    let stage = Stage::with(Setup { simulator: Some(json!({"profile_etags": true})), ..Setup::default() }).await;
    stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"status": 412})).await;
    stage.done(KIND, &[enrich(PROFILE, "APPEND", json!({"orders": [1]}))]).await;
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 412", "GET 200", "PATCH 200"]);
}

/// Covers row 125: where others are faster four times, the job is a person's to decide. Its dead letter shows what the job
/// names, and nothing else of the profile.
#[tokio::test(flavor = "multi_thread")]
async fn four_refused_writes_are_a_conflict() {
    let stage = Stage::with(Setup { simulator: Some(json!({"profile_etags": true})), ..Setup::default() }).await;
    let known = json!({"attributes": {"orders": [0], "phone": "+15550001001"}, "tags": []});
    stage.write(Method::PATCH, "profiles", PROFILE, &known).await;
    stage.fault(CLASS, "PATCH", json!({}), json!({"status": 412})).await;
    let jobs = stage.run(KIND, &[enrich(PROFILE, "APPEND", json!({"orders": [1]}))]).await;
    assert_eq!(stage.dead().await[&jobs[0]], "conflict");
    assert_eq!(stage.exchanges(CLASS).await, ["GET 200", "PATCH 412"].repeat(4));
    let conflict: Vec<(Value,)> = stage.database.rows("select conflict from backhaul.dead_letters").await;
    let standing = json!({"attributes": {"orders": [0]}, "tags": []});
    let ours = json!({"attributes": {"orders": [1]}, "tags": ["enriched_via_rest", "digital_engagement"]});
    assert_eq!(conflict[0].0, json!({"base": standing, "ours": ours, "theirs": standing}));
    assert_eq!(stage.event_types().await, ["profile.enrichment_failed"]);
}

/// Covers row 127: what is older at its source changes nothing, whenever it arrives.
#[tokio::test(flavor = "multi_thread")]
async fn older_data_does_not_replace_newer() {
    let stage = Stage::new().await;
    let at = |time: &str, attributes: Value| {
        let mut payload = enrich(PROFILE, "KEEP_LATEST", attributes);
        payload["sourceUpdatedAt"] = json!(time);
        payload
    };
    let jobs = [
        at("2026-02-01T00:00:00Z", json!({"tier": "gold"})),
        at("2026-01-01T00:00:00Z", json!({"tier": "silver"})),
        at("2026-01-15T00:00:00+01:00", json!({"tier": "bronze", "city": "Bern"})),
    ];
    stage.done(KIND, &jobs).await;
    let attributes = stage.document("profiles", PROFILE).await["attributes"].clone();
    assert_eq!((&attributes["tier"], &attributes["city"]), (&json!("gold"), &json!("Bern")));
    let sent = stage.sent(CLASS, "PATCH").await;
    assert_eq!(sent.len(), 2, "the wholly outdated job sent nothing");
    assert_eq!(sent[1]["body"]["attributes"], json!({"city": "Bern"}));
    let statuses: Vec<Value> =
        stage.told("profile.enriched").await.iter().map(|event| event["status"].clone()).collect();
    assert_eq!(statuses, ["SUCCESS", "OUTDATED", "SUCCESS"]);
}

/// Covers row 128: after a de-duplication later jobs for the old id go to the profile that is left, also where the
/// answer that said so was lost.
#[tokio::test(flavor = "multi_thread")]
async fn later_jobs_go_to_the_survivor() {
    for lost in [false, true] {
        let stage = Stage::new().await;
        stage.done(KIND, &[enrich(OTHER, "OVERWRITE", json!({"email": "ann@example.com"}))]).await;
        if lost {
            stage.fault(CLASS, "PATCH", json!({"first": 1}), json!({"reset": "after_commit"})).await;
        }
        stage.done(KIND, &[overwrite(json!({"email": "ann@example.com"}))]).await;
        stage.done(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
        let last = stage.sent(CLASS, "PATCH").await.pop().expect("a write");
        assert!(last["path"].as_str().is_some_and(|path| path.ends_with(OTHER)), "{lost}: {last}");
        assert_eq!(stage.document("profiles", OTHER).await["attributes"]["tier"], "gold");
        let merged = &stage.told("profile.merged").await[0];
        assert_eq!((&merged["resource_id"], &merged["survivor_profile_id"]), (&json!(PROFILE), &json!(OTHER)));
    }
}

/// Covers row 131: that webhooks cannot be registered is no affair of enrichment.
#[tokio::test(flavor = "multi_thread")]
async fn enrichment_needs_no_webhook() {
    let stage = Stage::new().await;
    stage.fault_where(json!({"class": "cxone/webhooks"}), json!({}), json!({"status": 500})).await;
    stage.done(KIND, &[overwrite(json!({"tier": "gold"}))]).await;
    assert!(stage.exchanges("cxone/webhooks").await.is_empty());
}

/// Covers row 132: each item is a job of its own, so that one that fails takes no other with it.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_item_stops_no_other() {
    let stage = Stage::new().await;
    let payloads: Vec<Value> = (0..25)
        .map(|n| {
            let profile = format!("00000000-0000-4000-8000-{n:012}");
            enrich(&profile, "OVERWRITE", if n == 2 { json!({"ssn": "123-45-6789"}) } else { json!({"orders": n}) })
        })
        .collect();
    let jobs = stage.run(KIND, &payloads).await;
    let dead = stage.dead().await;
    assert_eq!(dead.keys().copied().collect::<Vec<_>>(), [jobs[2]]);
    assert_eq!(stage.effects().await.len(), 24);
}

/// Covers row 105, row 106, row 108, row 110: declared times are checked before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn stale_data_makes_no_call() {
    let kinds = "time_fields = [\"lastPurchaseDate\"]".to_owned();
    let stage = Stage::with(Setup { kinds, ..Setup::default() }).await;
    let times = ["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "not-a-date"];
    let payloads = times.map(|time| overwrite(json!({"lastPurchaseDate": time})));
    let jobs = stage.run(KIND, &payloads).await;
    let dead = stage.dead().await;
    assert_eq!(dead[&jobs[0]], "stale_data");
    assert!(jobs[1..].iter().all(|job| ["stale_data", "invalid_payload"].contains(&dead[job].as_str())), "{dead:?}");
    assert!(stage.exchanges(CLASS).await.is_empty());
}
