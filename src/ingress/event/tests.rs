use super::*;
use crate::jobs;

const ROUTES: &str = include_str!("../../../config/routes.toml");

fn routes() -> Routes {
    Routes::from_toml(ROUTES).expect("the shipped routes are valid")
}

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).expect(text)
}

fn arrival() -> Arrival {
    Arrival { id: Uuid::nil(), received_at: DateTime::UNIX_EPOCH }
}

const VOICE: &str = r#"{"webhookId":"w","eventType":"interaction.created","timestamp":"2026-01-31T12:00:00+01:00",
    "data":{"id":"i1","channelType":"voice","direction":"inbound","customer":{"phoneNumber":"+1 (555) 000-1001"},
    "queue":{"name":"General"},"size":9007199254740993}}"#;

/// Covers row 76, row 78, row 98: the id is the interaction's, both times are kept, and so is the number as it came.
#[test]
fn an_event_becomes_a_record() {
    let (routes, body) = (routes(), json(VOICE));
    let source = routes.source("interactions").expect("a source");
    let reading = read(source, &body).expect("valid");
    let route = source.route(&reading.event_type, reading.channel.as_deref()).expect("a route");
    let (record, drifts) = record(&routes, source, route, &reading, arrival(), &body);
    assert_eq!(drifts, []);
    let expected = r#"{"eventId":"00000000-0000-0000-0000-000000000000","source":"interactions",
        "eventType":"interaction.created","channelType":"voice","interactionId":"i1",
        "timestamp":"2026-01-31T12:00:00+01:00","occurredAt":"2026-01-31T11:00:00Z","receivedAt":"1970-01-01T00:00:00Z",
        "normalizedCustomer":{"identifier":"+15550001001","type":"phone","raw":"+1 (555) 000-1001"},
        "normalizedContext":{"direction":"inbound","queue":"General"}}"#;
    assert_eq!(record, json(expected));
}

/// Covers row 97: analytics is told neither the body of a message nor who wrote it.
#[test]
fn each_destination_has_its_own_policy() {
    let routes = routes();
    let source = routes.source("interactions").expect("a source");
    let body = json(
        r#"{"eventType":"interaction.created","timestamp":"2026-01-31T12:00:00Z","data":{"id":"i1","channelType":"sms",
            "direction":"inbound","customer":{"phoneNumber":"+15550002002"},"message":{"body":"my pin is 1234"}}}"#,
    );
    let reading = read(source, &body).expect("valid");
    let route = source.route(&reading.event_type, reading.channel.as_deref()).expect("a route");
    let (record, _) = record(&routes, source, route, &reading, arrival(), &body);
    let jobs = jobs::of(&routes, route, &record, &body);
    let told = |name: &str| jobs.iter().find(|job| job.destination == name).expect(name).payload.to_string();
    assert_eq!(jobs.len(), 3);
    assert!(!told("analytics").contains("1234") && !told("analytics").contains("5550002002"));
    assert!(told("analytics").contains(r#""type":"phone""#));
    assert!(!told("notification").contains("1234") && told("notification").contains("+15550002002"));
    assert!(told("interactions-crm").contains("my pin is 1234"));
    assert!(told("analytics").starts_with(r#"{"target":"analytics","event":{"#));
}

/// Covers row 69, row 77, row 88, row 190: whatever is missing or of the wrong form is listed, and nothing is invented.
#[test]
fn everything_that_is_missing_is_told() {
    let routes = routes();
    let source = routes.source("interactions").expect("a source");
    let problems = |text: &str| -> Vec<String> {
        let problems = read(source, &json(text)).expect_err(text);
        problems.into_iter().map(|problem| format!("{} {}", problem.pointer, problem.message)).collect()
    };
    assert_eq!(
        problems("{}"),
        ["/data/id is required", "/data/channelType is required", "/eventType is required", "/timestamp is required"]
    );
    assert_eq!(problems("[]"), [" must be an object"]);
    assert_eq!(problems(r#"{"eventType":"x","timestamp":"2026-01-31T12:00:00Z","data":"x"}"#).len(), 2);
    let bad = problems(r#"{"eventType":5,"timestamp":"bad","data":{"id":{},"channelType":null}}"#);
    assert!(bad.iter().any(|problem| problem.starts_with("/eventType must be text")), "{bad:?}");
    assert!(bad.iter().any(|problem| problem.starts_with("/timestamp must be an RFC 3339")), "{bad:?}");
    assert!(bad.iter().any(|problem| problem.starts_with("/data/id must be text")), "{bad:?}");
    assert!(bad.iter().any(|problem| problem == "/data/channelType is required"), "{bad:?}");
    let long = format!(
        r#"{{"eventType":"{}","timestamp":"2026-01-31T12:00:00Z","data":{{"id":1,"channelType":"sms"}}}}"#,
        "e".repeat(257)
    );
    assert_eq!(problems(&long), ["/eventType must be text of 1 to 256 bytes"]);
}

/// Covers row 81: a field that moved is found at its second place, and one that is gone is null; both are counted.
#[test]
fn drift_is_seen() {
    let routes = routes();
    let source = routes.source("interactions").expect("a source");
    let of = |data: &str| {
        let text = format!(r#"{{"eventType":"interaction.x","timestamp":"2026-01-31T12:00:00Z","data":{data}}}"#);
        let body = json(&text);
        let reading = read(source, &body).expect("valid");
        let route = source.route(&reading.event_type, reading.channel.as_deref()).expect("a route");
        let (record, drifts) = record(&routes, source, route, &reading, arrival(), &body);
        let identifier = Path::parse("normalizedCustomer.identifier").expect("a path");
        let told: Vec<(String, DriftSort)> = drifts.into_iter().map(|drift| (drift.field, drift.sort)).collect();
        (identifier.find(&record).cloned(), told)
    };
    let (found, drifts) = of(
        r#"{"id":"i","channelType":"voice","direction":"in","queue":{"name":"q"},"participants":[{"phoneNumber":"+15550001001"}]}"#,
    );
    assert_eq!(found, Some("+15550001001".into()));
    assert_eq!(drifts, [("customer".to_owned(), DriftSort::Fallback)]);
    let (found, drifts) =
        of(r#"{"id":"i","channelType":"voice","direction":"in","customer":{"phoneNumber":"anonymous"}}"#);
    assert_eq!(found, Some(Json::Null));
    assert_eq!(drifts, [("customer".to_owned(), DriftSort::Unreadable), ("queue".to_owned(), DriftSort::Missing)]);
}
