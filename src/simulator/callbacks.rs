//! The receiver of callbacks and deliveries: any POST under `/callbacks/`.

use std::collections::VecDeque;

use axum::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    clock::rfc3339,
    record::kept_headers,
    reply::Reply,
    world::{Call, Outcome},
};

/// Callbacks kept, with their bodies.
const KEPT_MAX: usize = 10_000;
/// Bytes of bodies kept.
const BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug)]
struct Kept {
    path: String,
    at_ms: i64,
    headers: Vec<(&'static str, Box<str>)>,
    body: Bytes,
}

/// One received callback, as the control plane shows it.
#[derive(Debug, Serialize)]
pub(crate) struct ShownCallback {
    path: String,
    at: String,
    headers: Value,
    /// The raw text, which is what a signature covers.
    body: String,
}

/// The newest callbacks.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    kept: VecDeque<Kept>,
    bytes: usize,
    received: u64,
}

impl Callbacks {
    pub(crate) fn keep(&mut self, call: &Call<'_>) {
        self.received += 1;
        self.bytes += call.body.len();
        self.kept.push_back(Kept {
            path: call.path.to_owned(),
            at_ms: call.now_ms,
            headers: kept_headers(call.headers),
            body: call.body.clone(),
        });
        while self.kept.len() > KEPT_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.body.len();
        }
    }

    /// The newest `limit`, oldest first.
    pub(crate) fn list(&self, path: Option<&str>, limit: usize) -> Vec<ShownCallback> {
        let fits = |kept: &&Kept| path.is_none_or(|path| kept.path.contains(path));
        let mut shown: Vec<ShownCallback> = self.kept.iter().rev().filter(fits).take(limit).map(Kept::show).collect();
        shown.reverse();
        shown
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }
}

/// The answer to a delivery, and its effect.
pub(crate) fn received(call: &Call<'_>) -> Outcome {
    let resource = call.path.trim_start_matches('/').to_owned();
    Outcome::applied(Reply::json(200, &json!({"status": "received"})), resource, "callback", None)
}

impl Kept {
    fn show(&self) -> ShownCallback {
        ShownCallback {
            path: self.path.clone(),
            at: rfc3339(self.at_ms),
            headers: self.headers.iter().map(|(name, value)| ((*name).to_owned(), Value::from(&**value))).collect(),
            body: String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}
