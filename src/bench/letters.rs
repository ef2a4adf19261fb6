//! Webhook deliveries, signed before the clock starts: good ones, repetitions, and those that must be refused.

use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sha2::Sha256;

/// The tenant of all deliveries.
pub(crate) const TENANT: &str = "t0";
/// What its senders sign with.
pub(crate) const SECRET: &str = "bench-webhook-secret";
/// What somebody else signs with.
const STRANGER: &str = "bench-secret-of-nobody";
/// A repetition comes at most so many deliveries after the first, so that some meet it under way.
const REPEATED_WITHIN: usize = 500;

/// One delivery, and how it must be answered.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub path: &'static str,
    pub body: String,
    pub stamp: String,
    pub signature: String,
    pub expected: Expected,
}

/// The right answer to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// 200, with one id for all deliveries of the event with this number, which becomes so many jobs.
    Taken { event: usize, jobs: i64 },
    /// This status.
    Refused(u16),
}

/// `count` deliveries to both endpoints in turns. Of a hundred, some ten each are badly signed, repeated and malformed
/// (half of those no JSON, half JSON of the wrong shape).
pub(crate) fn letters(count: usize, seed: u64) -> Vec<Letter> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut letters: Vec<Letter> = Vec::with_capacity(count);
    for nth in 0..count {
        let fine = good(nth);
        let letter = match random.random_range(0..100) {
            0..10 => Letter { signature: sign(STRANGER, &fine.stamp, &fine.body), ..fine }.refused(401),
            10..15 => signed(fine.path, fine.body[..fine.body.len() / 2].to_owned(), Expected::Refused(400)),
            15..20 => signed(fine.path, json!({ "id": nth }).to_string(), Expected::Refused(422)),
            20..30 if nth > 0 => {
                let first = &letters[nth - 1 - random.random_range(0..nth.min(REPEATED_WITHIN))];
                // Where that one is to be refused, this one is new.
                if matches!(first.expected, Expected::Taken { .. }) { first.clone() } else { fine }
            }
            _ => fine,
        };
        letters.push(letter);
    }
    letters
}

impl Letter {
    fn refused(self, status: u16) -> Self {
        Self { expected: Expected::Refused(status), ..self }
    }
}

/// Interactions become three jobs and threads one, as `config/routes.toml` has it.
fn good(nth: usize) -> Letter {
    let at = Utc::now().to_rfc3339();
    if nth.is_multiple_of(2) {
        let event: Value = json!({
            "eventId": format!("d-{nth}"), "webhookId": "w1", "eventType": "interaction.created", "timestamp": at,
            "data": {
                "id": format!("interaction-{nth}"), "channelType": "voice", "direction": "inbound",
                "customer": { "phoneNumber": "+1 (555) 000-1001", "name": "Alex Example" },
                "queue": { "id": "q-17", "name": "General" },
                "participants": [{ "id": "agent-1", "role": "AGENT" }, { "id": "customer-1", "role": "CUSTOMER" }],
            },
        });
        signed("/webhooks/t0/cxone", event.to_string(), Expected::Taken { event: nth, jobs: 3 })
    } else {
        let event: Value = json!({
            "event": "THREAD_UPDATED", "timestamp": at,
            "data": {
                "threadId": format!("thread-{nth}"), "version": 1, "participants": [{ "id": "p1", "role": "CUSTOMER" }],
                "messages": [{ "id": "m1", "text": "hello, is anybody there?", "timestamp": at, "authorId": "p1" }],
            },
        });
        signed("/api/webhooks/t0/cxone-threads", event.to_string(), Expected::Taken { event: nth, jobs: 1 })
    }
}

fn signed(path: &'static str, body: String, expected: Expected) -> Letter {
    let stamp = Utc::now().timestamp().to_string();
    let signature = sign(SECRET, &stamp, &body);
    Letter { path, body, stamp, signature, expected }
}

/// HMAC-SHA-256 in hex over `stamp.body`.
fn sign(secret: &str, stamp: &str, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    let mac = mac.chain_update(stamp).chain_update(".").chain_update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn some_of_each_sort_are_sent_to_both_endpoints() {
        let letters = letters(2_000, 7);
        let refused = |status| letters.iter().filter(|letter| letter.expected == Expected::Refused(status)).count();
        assert!((150..250).contains(&refused(401)), "{}", refused(401));
        assert!((60..140).contains(&refused(400)) && (60..140).contains(&refused(422)));
        let taken: Vec<usize> = letters
            .iter()
            .filter_map(|letter| match letter.expected {
                Expected::Taken { event, .. } => Some(event),
                Expected::Refused(_) => None,
            })
            .collect();
        let repeated = taken.len() - taken.iter().collect::<BTreeSet<_>>().len();
        assert!((100..220).contains(&repeated), "{repeated}");
        assert_eq!(letters.iter().map(|letter| letter.path).collect::<BTreeSet<_>>().len(), 2);
    }
}
