//! Previews of `widget-patch`, and what all previews have in common.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_same_request, command, of_job, of_payload, rows};
use crate::support::Upstream;

const KIND: &str = "widget-patch";
const CLASS: &str = "cxone/webchat";

fn payload(primary: &str) -> Value {
    json!({"configurationId": "cfg_1", "theme": {"primary": primary}, "layout": {"zIndex": 7}})
}

/// A job that died between its reading and its write.
async fn dead_before_its_write(upstream: &Upstream, payload: Value) -> i64 {
    upstream.faults(
        "[[faults]]\nname = \"no\"\nmatch = { class = \"cxone/webchat\", method = \"PATCH\" }\nthen = { status = 403 }",
    );
    let jobs = upstream.run(KIND, &[payload]).await;
    assert_eq!(upstream.dead().await[&jobs[0]], "forbidden");
    upstream.simulator.clear_faults();
    jobs[0]
}

async fn replay(upstream: &Upstream, job: i64) {
    sqlx::query("select backhaul.dead_replay($1, 'u1', 'after a preview')")
        .bind(job)
        .execute(upstream.database.store.pool())
        .await
        .expect("replays");
    upstream.work().await;
}

/// The request that is announced is the request that is sent, and until then nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_what_is_sent() {
    let upstream = Upstream::start("preview-widget", "", "").await;
    let unqueued = of_payload(&upstream, KIND, &payload("#abc")).await;
    assert_eq!((unqueued.verdict(), unqueued.code), ("would_change", Some(0)), "{unqueued:?}");
    assert_eq!(
        unqueued.said["difference"],
        json!([
            {"pointer": "/layout/zIndex", "before": 9999, "after": 7},
            {"pointer": "/theme/primaryColor", "before": "#0073e6", "after": "#abc"},
        ])
    );
    assert_eq!(unqueued.said["current"]["theme"]["widgetSize"], "medium");
    assert!(unqueued.note("cache is purged"));
    assert_eq!(rows(&upstream).await, 0, "a preview leaves nothing behind");
    assert_eq!(upstream.exchanges(CLASS).await, ["GET 200"]);

    let jobs = upstream.enqueue(KIND, &[payload("#abc")]).await;
    let before = rows(&upstream).await;
    let queued = of_job(&upstream, jobs[0]).await;
    assert_eq!((queued.verdict(), &queued.said["job"]), ("would_change", &json!(jobs[0])));
    assert_eq!(queued.said["request"]["body"], unqueued.said["request"]["body"]);
    assert_eq!(rows(&upstream).await, before);
    assert_eq!(upstream.exchanges(CLASS).await, ["GET 200"; 2]);

    upstream.work().await;
    assert!(upstream.dead().await.is_empty());
    let requests = upstream.requests(CLASS).await;
    let patch = requests.iter().find(|request| request["method"] == "PATCH").expect("a write");
    assert_same_request(&queued.said["request"], patch);

    let after = of_payload(&upstream, KIND, &payload("#abc")).await;
    assert_eq!((after.verdict(), after.code), ("already_applied", Some(0)));
    assert_eq!((&after.said["request"], &after.said["difference"]), (&Value::Null, &json!([])));
}

/// Covers row 37 before it happens: what somebody else changed since the job read it is shown with all three values,
/// and once the conflict is gone, the job runs as any other.
#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_seen_beforehand() {
    let upstream = Upstream::start("preview-widget-conflict", "", "").await;
    let job = dead_before_its_write(&upstream, payload("#abc")).await;
    let fine = of_job(&upstream, job).await;
    assert_eq!((fine.verdict(), &fine.said["state"]), ("would_change", &json!("dead")));

    let change = |colour: &str| json!({"theme": {"primaryColor": colour}, "layout": {"position": "top-left"}});
    upstream.write(Method::PATCH, "widgets", "cfg_1", &change("#fff")).await;
    let events = rows(&upstream).await;
    let conflict = of_job(&upstream, job).await;
    assert_eq!((conflict.verdict(), conflict.code), ("would_conflict", Some(5)), "{conflict:?}");
    let clash = json!({"pointer": "/theme/primaryColor", "base": "#0073e6", "ours": "#abc", "theirs": "#fff"});
    assert_eq!(conflict.said["conflicts"], json!([clash]));
    assert_eq!(conflict.said["request"], Value::Null);
    assert!(conflict.complaint.contains("would not have its way"), "{}", conflict.complaint);
    assert_eq!(rows(&upstream).await, events);

    upstream.write(Method::PATCH, "widgets", "cfg_1", &change("#0073e6")).await;
    assert_eq!(of_job(&upstream, job).await.pointers("difference"), ["/layout/zIndex", "/theme/primaryColor"]);
    replay(&upstream, job).await;
    assert!(upstream.dead().await.is_empty());
    let document = upstream.document("widgets", "cfg_1").await;
    assert_eq!(
        (&document["theme"]["primaryColor"], &document["layout"]["position"]),
        (&json!("#abc"), &json!("top-left"))
    );
}

/// A conflict in one listener is told under its name, and an outdated entity tag is one too.
#[tokio::test(flavor = "multi_thread")]
async fn listeners_and_entity_tags_conflict_too() {
    let upstream = Upstream::start("preview-widget-listener", "", "").await;
    let listener = |n: u8| json!({"event": "widget_open", "action": "log_to_external", "payload": {"n": n}});
    let job =
        dead_before_its_write(&upstream, json!({"configurationId": "cfg_1", "eventListeners": [listener(1)]})).await;
    let theirs = json!({"eventType": "widget_open", "action": "log_to_external", "payload": {"n": 2}});
    upstream.write(Method::PATCH, "widgets", "cfg_1", &json!({"eventListeners": [theirs]})).await;
    let conflict = of_job(&upstream, job).await;
    assert_eq!(conflict.pointers("conflicts"), ["/eventListeners/widget_open+log_to_external"]);
    assert_eq!(conflict.said["conflicts"][0]["ours"]["payload"], json!({"n": 1}));
    assert_eq!(conflict.said["conflicts"][0]["theirs"], theirs);

    let mut outdated = payload("#abc");
    outdated["expectedEtag"] = json!("W/\"of-another-time\"");
    let conflict = of_payload(&upstream, KIND, &outdated).await;
    assert_eq!(conflict.verdict(), "would_conflict");
    assert_eq!(conflict.pointers("conflicts"), ["/layout/zIndex", "/theme/primaryColor"]);
}

/// A replay behind the write would not write again, and a preview says so, also where the change is gone meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_has_written_is_not_announced_again() {
    let upstream = Upstream::start("preview-widget-written", "", "").await;
    upstream.faults(
        "[[faults]]\nname = \"no\"\nmatch = { class = \"cxone/webchat\", method = \"POST\" }\nthen = { status = 403 }",
    );
    let jobs = upstream.run(KIND, &[payload("#abc")]).await;
    assert_eq!(upstream.dead().await.len(), 1, "the purge was refused");
    let written = of_job(&upstream, jobs[0]).await;
    assert_eq!(written.verdict(), "already_applied");
    assert!(written.note("an earlier attempt has written it") && !written.note("any more"));
    upstream.write(Method::PATCH, "widgets", "cfg_1", &json!({"theme": {"primaryColor": "#fff"}})).await;
    assert!(of_job(&upstream, jobs[0]).await.note("would not write it again"));
}

/// A payload that would be refused is refused here, with everything that is wrong, and without a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_payload_is_told_all_of_its_mistakes() {
    let upstream = Upstream::start("preview-widget-invalid", "", "").await;
    let wrong = json!({"configurationId": "a/b", "theme": {"primary": "red;", "size": "vast"}, "extra": 1});
    let invalid = of_payload(&upstream, KIND, &wrong).await;
    assert_eq!((invalid.verdict(), invalid.code), ("invalid", Some(5)));
    assert_eq!(invalid.pointers("problems"), ["/configurationId", "/theme/primary", "/theme/size", "/extra"]);
    assert!(invalid.note("invalid_payload"));

    let mut forbidden = payload("#abc");
    forbidden["callbackUrl"] = json!("https://169.254.169.254/");
    let invalid = of_payload(&upstream, KIND, &forbidden).await;
    assert_eq!(invalid.pointers("problems"), ["/callbackUrl"]);
    assert!(invalid.note("address_not_allowed"));
    assert_eq!(upstream.exchanges(CLASS).await, [""; 0]);

    let jobs = upstream.enqueue(KIND, &[wrong]).await;
    assert_eq!(of_job(&upstream, jobs[0]).await.pointers("problems").len(), 4);
}

/// What cannot be answered is said in one line, with an exit code of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_said_plainly() {
    let upstream = Upstream::start("preview-widget-errors", "", "").await;
    let url = upstream.database.url.as_str();
    let body = payload("#abc");
    for (args, code, parts) in [
        (
            &["--kind", KIND, "--tenant", "nobody", "-"][..],
            2,
            &["profile_missing", "\"nobody\"", "the profiles are in"][..],
        ),
        (&["--kind", "widgets", "--tenant", "acme", "-"], 2, &["kind_unknown", "\"widgets\""]),
        (&["--kind", "deliver", "--tenant", "acme", "-"], 2, &["preview_unsupported", "deliver"]),
        (&["4711"], 3, &["no unfinished or dead job 4711"]),
        (&["patch.json"], 2, &["say its --kind"]),
    ] {
        let payload = match args.contains(&"deliver") {
            true => json!({"url": "https://hooks.example.com/", "event": {}}),
            false => body.clone(),
        };
        let args = [&["jobs", "preview"][..], args].concat();
        let input = args.contains(&"-").then_some(&payload);
        let refused = command(&upstream, url, &args, input).await;
        assert_eq!(refused.code, Some(code), "{args:?}: {refused:?}");
        assert!(parts.iter().all(|part| refused.complaint.contains(part)), "{args:?}: {}", refused.complaint);
        assert_eq!(refused.text, "");
    }
    upstream.faults("[[faults]]\nname = \"gone\"\nmatch = { class = \"cxone/webchat\" }\nthen = { status = 404 }");
    let gone = of_payload(&upstream, KIND, &body).await;
    assert_eq!(gone.code, Some(1));
    assert!(gone.complaint.contains("widget_not_found"), "{}", gone.complaint);
}

/// `enqueue --preview` shows and does not enqueue; for a person it reads as a page.
#[tokio::test(flavor = "multi_thread")]
async fn enqueue_can_be_asked_first() {
    let upstream = Upstream::start("preview-widget-enqueue", "", "").await;
    let args = ["enqueue", KIND, "--tenant", "acme", "--file", "-", "--preview"];
    let shown = command(&upstream, &upstream.database.url, &args, Some(&payload("#abc"))).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in [
        "would change: a job, not enqueued, of kind widget-patch for tenant acme",
        "\nPATCH http://127.0.0.1:",
        "/webchat/configurations/cfg_1\n",
        "\nauthorization: (not shown)\n",
        "\nif-match: W/\"",
        "\"zIndex\": 7",
        "/theme/primaryColor  #0073e6  #abc",
        "- nothing was changed\n",
    ] {
        assert!(shown.text.contains(part), "{part:?} is not in:\n{}", shown.text);
    }
    assert_eq!((upstream.database.unfinished().await, rows(&upstream).await), (0, 0));
}
