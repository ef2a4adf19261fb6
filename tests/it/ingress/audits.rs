//! Genesys's audits by way of AWS EventBridge: its envelope, a bearer token, and one job an event.

use serde_json::{Value, json};

use super::receiver::{Answer, House, Receiver, SECRET, Setup, THREADS, answer};

const AUDITS: &str = "/webhooks/acme/genesys-audits";
const TOKEN: &str = "test-token-of-eventbridge";
const ENTITY: &str = "3f0b7c1e-2f44-4a4b-9d8f-7a5f4b0f6a10";

/// An event as EventBridge sends it.
fn event(id: &str, topic: &str) -> Value {
    json!({
        "version": "0", "id": id, "detail-type": topic, "source": "aws.partner/genesys.com/cloud/x/y",
        "account": "000000000000", "time": "2026-01-31T12:00:00Z", "region": "eu-central-1", "resources": [],
        "detail": {"topicName": topic, "version": "2", "timestamp": "2026-01-31T11:59:58.123Z", "metadata": {},
            "eventBody": {"id": "a1", "serviceName": "WebDeployments", "action": "Update", "entityType": "Configuration",
                "entity": {"id": ENTITY, "name": "Ann's shop"}, "user": {"id": "u1", "name": "Ann Example"},
                "remoteIp": ["192.0.2.1"], "propertyChanges": [{"property": "name", "newValues": ["Ann's shop"]}]}},
    })
}

fn topic() -> String {
    format!("v2.audits.entitytype.WEBDEPLOYMENTS.entityid.{ENTITY}")
}

async fn send(receiver: &Receiver, path: &str, token: &str, event: &Value) -> Answer {
    let url = format!("{}{path}", receiver.public);
    let request = receiver.client.post(url).header("content-type", "application/json; charset=utf-8");
    answer(request.bearer_auth(token).body(event.to_string())).await
}

fn setup() -> Setup {
    // The token stands in a file of its own beside the signing secret; webhooks of the tenant are named.
    Setup { webhook: "bearer_file = \"bearer\"\nwebhook_ids = [\"w1\"]".to_owned(), ..Setup::default() }
}

/// A delivery is one job, a repetition none; what the job tells has the type without the entity's id, the envelope's time,
/// and nobody's name. Nothing else is kept.
#[tokio::test(flavor = "multi_thread")]
async fn an_audit_is_one_job_and_names_nobody() {
    let (house, receiver) = serve_with_token("audit-one").await;
    for want in ["accepted", "duplicate", "duplicate"] {
        let got = send(&receiver, AUDITS, TOKEN, &event("e-1", &topic())).await;
        assert_eq!((got.status, &got.body["status"]), (200, &json!(want)), "{got:?}");
    }
    assert_eq!(house.counts().await, (1, 1));
    let payloads = house.payloads().await;
    assert_eq!(payloads[0].0, "audits");
    let mut told = payloads[0].1["event"].clone();
    for varying in ["eventId", "receivedAt"] {
        assert!(told.as_object_mut().expect("an object").remove(varying).is_some());
    }
    assert_eq!(
        told,
        json!({"source": "audits", "eventType": "v2.audits.entitytype.WEBDEPLOYMENTS.entityid", "action": "Update",
            "entityId": ENTITY, "entityType": "Configuration", "serviceName": "WebDeployments",
            "timestamp": "2026-01-31T12:00:00Z", "occurredAt": "2026-01-31T12:00:00Z"})
    );
    let kept: Vec<(String, Option<Vec<u8>>)> =
        house.database.rows("select event_type, body from backhaul.ingress_events").await;
    assert_eq!(kept, [("v2.audits.entitytype.WEBDEPLOYMENTS.entityid".to_owned(), None)]);
    assert!(!house.logs().contains("Ann"), "nobody is named in the log");
    // Another event is another job.
    assert_eq!(send(&receiver, AUDITS, TOKEN, &event("e-2", &topic())).await.body["status"], "accepted");
    assert_eq!(house.counts().await, (2, 2));
}

/// What is not routed is parked, once, under a type without an id; what has the wrong shape is refused.
#[tokio::test(flavor = "multi_thread")]
async fn other_topics_are_parked_and_other_shapes_refused() {
    let (house, receiver) = serve_with_token("audit-others").await;
    let users = "v2.users.entityid.u1.presence";
    for want in ["accepted", "duplicate"] {
        let got = send(&receiver, AUDITS, TOKEN, &event("e-1", users)).await;
        assert_eq!((&got.body["status"], got.status), (&json!(want), 200));
    }
    let parked: Vec<(String,)> = house.database.rows("select event_type from backhaul.ingress_events").await;
    assert_eq!(parked, [("v2.users.entityid.presence".to_owned(),)]);
    let mut shapeless = event("e-2", &topic());
    shapeless["detail"]["topicName"] = json!(7);
    shapeless["time"] = json!("yesterday");
    shapeless.as_object_mut().expect("an object").remove("id");
    let got = send(&receiver, AUDITS, TOKEN, &shapeless).await;
    assert_eq!(got.status, 422, "{got:?}");
    let told = got.body["error"]["problems"].to_string() + &got.body["problems"].to_string();
    assert!(["/detail/topicName", "/time", "/id"].iter().all(|place| told.contains(place)), "{got:?}");
    assert_eq!(house.counts().await, (1, 0));
}

/// The token opens this door alone, and no signing secret opens it.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_no_other_door() {
    let (house, receiver) = serve_with_token("audit-doors").await;
    for (path, token) in [
        (AUDITS, "test-token"),
        (AUDITS, SECRET),
        (THREADS, TOKEN),
        ("/webhooks/globex/genesys-audits", TOKEN),
        ("/webhooks/nobody/genesys-audits", TOKEN),
    ] {
        let got = send(&receiver, path, token, &event("e-1", &topic())).await;
        assert_eq!(got.status, 401, "{path}: {got:?}");
    }
    assert_eq!(house.counts().await, (0, 0));
}

async fn serve_with_token(name: &str) -> (House, Receiver) {
    let setup = setup();
    let house = House::new(name, &setup).await;
    std::fs::write(house.dir.join("profiles/bearer"), TOKEN).expect("writable");
    let receiver = house.serve(&setup).await;
    (house, receiver)
}
