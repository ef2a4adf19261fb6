//! Social threads at their source, CXone: what a reconciliation reads.

use serde_json::{Value, json};

use crate::{
    documents::{self, Kind},
    world::{Call, Outcome, World, not_found},
};

/// Two participants and three messages, the same for the same id every time.
pub(crate) fn initial(id: &str) -> Value {
    let message = |number: u32, author: &str, direction: &str| {
        json!({
            "id": format!("{id}-m{number}"),
            "text": format!("Message {number} of the conversation"),
            "timestamp": format!("2024-01-01T00:0{number}:00.000Z"),
            "authorId": format!("{id}-{author}"),
            "direction": direction,
        })
    };
    json!({
        "threadId": id,
        "parentThreadId": null,
        "version": 1,
        "updatedAt": "2024-01-01T00:03:00.000Z",
        "participants": [
            {"id": format!("{id}-customer"), "role": "CUSTOMER", "name": "Casey Customer", "platformId": "social-1"},
            {"id": format!("{id}-agent"), "role": "AGENT", "name": "Alex Agent", "platformId": "social-2"},
        ],
        "messages": [
            message(1, "customer", "INBOUND"),
            message(2, "agent", "OUTBOUND"),
            message(3, "customer", "INBOUND"),
        ],
    })
}

pub(crate) fn get(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    match world.load(Kind::Social, call, id) {
        Some(document) => documents::shown(200, document).into(),
        None => not_found("thread", id),
    }
}
