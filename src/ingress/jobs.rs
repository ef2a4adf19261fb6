//! The jobs of an event, as the front door of the queue takes them.

use uuid::Uuid;

use crate::{
    json::Json,
    routes::{Content, Destination, Route, Routes},
};

/// What the jobs of one event have in common.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// Whose event it is.
    pub tenant: &'a str,
    /// Our id of it.
    pub event: Uuid,
    /// W3C trace context of the sender.
    pub traceparent: Option<&'a str>,
}

/// One job for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Job kind.
    pub kind: String,
    /// Its payload.
    pub payload: Json,
    /// Destination, as `routes.toml` names it.
    pub destination: String,
}

/// The jobs that `route` makes of an event, one a destination.
pub fn of(routes: &Routes, route: &Route, record: &Json, body: &Json) -> Vec<NewJob> {
    route
        .to
        .iter()
        .filter_map(|name| routes.destinations.get(name))
        .map(|destination| NewJob {
            kind: destination.kind.clone(),
            payload: payload(destination, record, body),
            destination: destination.name.clone(),
        })
        .collect()
}

/// What a destination is told: its own constants, and what its policy lets through.
fn payload(destination: &Destination, record: &Json, body: &Json) -> Json {
    let mut payload = destination.with.clone();
    match &destination.content {
        Content::Body { copy } => {
            if let Json::Object(members) = body {
                payload.extend(members.iter().cloned());
            }
            for (name, path) in copy {
                if let Some(value) = path.find(body) {
                    payload.set(name, value.clone());
                }
            }
        }
        Content::Record { fields, under, body: with_body } => {
            let mut chosen = Json::object();
            for path in fields {
                path.copy(record, &mut chosen);
            }
            if *with_body {
                chosen.set("body", body.clone());
            }
            match (under, chosen) {
                (Some(under), chosen) => payload.set(under, chosen),
                (None, Json::Object(members)) => payload.extend(members),
                (None, _) => {}
            }
        }
    }
    payload
}

/// The argument of `backhaul.enqueue_many`. The idempotency key names event and destination, so that a replay of a
/// parked event makes no second job.
pub fn argument(jobs: &[NewJob], common: Common<'_>) -> String {
    let jobs = jobs
        .iter()
        .map(|job| {
            let mut entry = Json::object();
            entry.set("kind", job.kind.as_str().into());
            entry.set("tenant", common.tenant.into());
            entry.set("idempotency_key", format!("ingress/{}/{}", common.event, job.destination).into());
            if let Some(traceparent) = common.traceparent {
                entry.set("traceparent", traceparent.into());
            }
            entry.set("payload", job.payload.clone());
            entry
        })
        .collect();
    Json::List(jobs).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn body_destination(with: &str) -> Destination {
        let with = Json::parse(with.as_bytes()).expect("JSON");
        let content = Content::Body { copy: [].into() };
        Destination { name: "d".to_owned(), kind: "k".to_owned(), with, content }
    }

    /// Constants stand first and the body's own members count more.
    #[test]
    fn a_body_is_laid_over_the_constants() {
        let body = Json::parse(br#"{"b": 1, "a": 2, "c": 3}"#).expect("JSON");
        let payload = payload(&body_destination(r#"{"a": 0, "z": 9}"#), &Json::object(), &body);
        assert_eq!(payload.to_string(), r#"{"a":2,"z":9,"b":1,"c":3}"#);
    }

    /// Far more members than the largest body has room for. Member by member they took minutes of a thread that other
    /// deliveries wait for.
    #[test]
    fn many_members_take_no_square_of_their_number() {
        let members: Vec<String> = (0..100_000).map(|nth| format!("\"{nth:x}\":0")).collect();
        let body = Json::parse(format!("{{{}}}", members.join(",")).as_bytes()).expect("JSON");
        let began = Instant::now();
        let payload = payload(&body_destination("{}"), &Json::object(), &body);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(payload, body);
    }
}
