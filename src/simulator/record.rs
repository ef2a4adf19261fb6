//! What was received: a bounded ring of the newest requests, and counters that cover all of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{body::Bytes, http::HeaderMap};
use serde::Serialize;
use serde_json::Value;

use crate::{clock::rfc3339, locked::locked, routes::Class};

/// Headers worth keeping. `Authorization` is never among them.
const KEPT_HEADERS: [&str; 14] = [
    "accept",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "origin",
    "traceparent",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-request-id",
    "x-webchat-health",
];
/// Longest kept header value in bytes.
const HEADER_BYTES_MAX: usize = 512;
/// Longest kept path in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// One request, as the control plane shows it.
#[derive(Debug, Clone, Serialize)]
pub struct RecordedRequest {
    /// Number of the request, from 1, in the order in which requests were finished.
    pub seq: u64,
    /// RFC 3339 time of arrival.
    pub at: String,
    /// Tenant, or `-` where the request did not say.
    pub tenant: String,
    /// HTTP method.
    pub method: String,
    /// Raw path and query.
    pub path: String,
    /// Class, for example `cxone/profiles`.
    pub class: &'static str,
    /// Status answered; 0 where the connection was dropped.
    pub status: u16,
    /// Whether this request changed something.
    pub applied: bool,
    /// The `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Whether it got the stored answer of an earlier request with its key.
    pub replayed: bool,
    /// Name of the fault rule that fired.
    pub fault: Option<String>,
    /// Number of the token it was sent with, in order of issue; the token itself is never kept.
    pub token: Option<u64>,
    /// 64-bit fingerprint of the body in hex: equal bodies have equal ones within a run.
    pub body_hash: String,
    /// Length of the body.
    pub body_bytes: usize,
    /// The body, where it is JSON and still kept; members named like secrets are masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Selected headers.
    pub headers: BTreeMap<&'static str, String>,
    /// From arrival to answer, in microseconds, delays by fault rules included.
    pub latency_us: u64,
}

/// A finished request on its way into the ring.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at_ms: i64,
    pub(crate) tenant: Arc<str>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) class: Class,
    pub(crate) status: u16,
    pub(crate) applied: bool,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) replayed: bool,
    pub(crate) fault: Option<Arc<str>>,
    pub(crate) token: Option<u64>,
    pub(crate) fingerprint: u64,
    pub(crate) body_bytes: usize,
    pub(crate) body: Option<Bytes>,
    pub(crate) headers: Vec<(&'static str, Box<str>)>,
    pub(crate) latency_us: u64,
}

/// Totals over every request since start or reset.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RecordTotals {
    /// All requests but those to the control plane.
    pub requests: u64,
    /// By tenant, class and status; status 0 is a dropped connection.
    pub by_tenant: BTreeMap<String, BTreeMap<&'static str, BTreeMap<u16, u64>>>,
    /// Requests that got the stored answer of their idempotency key.
    pub replays: u64,
    /// How often each fault rule fired.
    pub faults: BTreeMap<String, u64>,
    /// Requests that have left the ring.
    pub forgotten: u64,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    // Kept bodies, oldest first: sequence number and size, so that bodies can go before their entries do.
    bodies: VecDeque<(u64, usize)>,
    bodies_bytes: usize,
    first_seq: u64,
    counts: HashMap<(Arc<str>, Class, u16), u64>,
    faults: BTreeMap<Arc<str>, u64>,
    requests: u64,
    replays: u64,
}

/// The record.
#[derive(Debug)]
pub(crate) struct Record {
    ring: Mutex<Ring>,
    entries_max: usize,
    bodies_bytes_max: usize,
}

/// Which entries to list.
#[derive(Debug, Default)]
pub(crate) struct RecordFilter<'a> {
    pub(crate) tenant: Option<&'a str>,
    pub(crate) class: Option<&'a str>,
    pub(crate) method: Option<&'a str>,
    /// A part of the raw path.
    pub(crate) path: Option<&'a str>,
    pub(crate) status: Option<u16>,
    pub(crate) key: Option<&'a str>,
    /// Only entries after this sequence number.
    pub(crate) since: u64,
}

impl Record {
    pub(crate) fn new(entries_max: usize, bodies_bytes_max: usize) -> Self {
        Self { ring: Mutex::new(Ring::default()), entries_max: entries_max.max(1), bodies_bytes_max }
    }

    pub(crate) fn add(&self, mut entry: Entry) {
        cut(&mut entry.path, PATH_BYTES_MAX);
        let mut ring = locked(&self.ring);
        let ring = &mut *ring;
        ring.requests += 1;
        ring.replays += u64::from(entry.replayed);
        *ring.counts.entry((entry.tenant.clone(), entry.class, entry.status)).or_default() += 1;
        if let Some(fault) = &entry.fault {
            *ring.faults.entry(fault.clone()).or_default() += 1;
        }
        if ring.entries.len() >= self.entries_max {
            ring.entries.pop_front();
            ring.first_seq += 1;
        }
        if let Some(body) = &entry.body {
            let seq = ring.first_seq + ring.entries.len() as u64;
            ring.bodies.push_back((seq, body.len()));
            ring.bodies_bytes += body.len();
        }
        ring.entries.push_back(entry);
        while ring.bodies_bytes > self.bodies_bytes_max {
            let Some((seq, bytes)) = ring.bodies.pop_front() else { break };
            ring.bodies_bytes -= bytes;
            // An entry that has left the ring took its body along.
            if let Some(holder) = seq.checked_sub(ring.first_seq).and_then(|at| ring.entries.get_mut(at as usize)) {
                holder.body = None;
            }
        }
    }

    /// The newest `limit` entries that agree, oldest first.
    pub(crate) fn list(&self, filter: &RecordFilter<'_>, limit: usize) -> Vec<RecordedRequest> {
        let ring = locked(&self.ring);
        let agrees = |entry: &Entry| {
            filter.tenant.is_none_or(|tenant| &*entry.tenant == tenant)
                && filter.class.is_none_or(|class| entry.class.is_named(class))
                && filter.method.is_none_or(|method| entry.method.eq_ignore_ascii_case(method))
                && filter.path.is_none_or(|path| entry.path.contains(path))
                && filter.status.is_none_or(|status| entry.status == status)
                && filter.key.is_none_or(|key| entry.idempotency_key.as_deref() == Some(key))
        };
        let mut found: Vec<RecordedRequest> = ring
            .entries
            .iter()
            .enumerate()
            .rev()
            .map(|(at, entry)| (ring.first_seq + at as u64 + 1, entry))
            .take_while(|(seq, _)| *seq > filter.since)
            .filter(|(_, entry)| agrees(entry))
            .take(limit)
            .map(|(seq, entry)| entry.show(seq))
            .collect();
        found.reverse();
        found
    }

    pub(crate) fn totals(&self) -> RecordTotals {
        let ring = locked(&self.ring);
        let mut totals = RecordTotals {
            requests: ring.requests,
            replays: ring.replays,
            faults: ring.faults.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
            forgotten: ring.first_seq,
            ..RecordTotals::default()
        };
        for ((tenant, class, status), count) in &ring.counts {
            *totals
                .by_tenant
                .entry(tenant.to_string())
                .or_default()
                .entry(class.as_str())
                .or_default()
                .entry(*status)
                .or_default() += count;
        }
        totals
    }

    pub(crate) fn reset(&self) {
        *locked(&self.ring) = Ring::default();
    }
}

impl Entry {
    fn show(&self, seq: u64) -> RecordedRequest {
        RecordedRequest {
            seq,
            at: rfc3339(self.at_ms),
            tenant: self.tenant.to_string(),
            method: self.method.clone(),
            path: self.path.clone(),
            class: self.class.as_str(),
            status: self.status,
            applied: self.applied,
            idempotency_key: self.idempotency_key.clone(),
            replayed: self.replayed,
            fault: self.fault.as_deref().map(str::to_owned),
            token: self.token,
            body_hash: format!("{:016x}", self.fingerprint),
            body_bytes: self.body_bytes,
            body: self.body.as_ref().and_then(|body| serde_json::from_slice(body).ok()).map(masked),
            headers: self.headers.iter().map(|(name, value)| (*name, value.to_string())).collect(),
            latency_us: self.latency_us,
        }
    }
}

/// The headers worth keeping.
pub(crate) fn kept_headers(headers: &HeaderMap) -> Vec<(&'static str, Box<str>)> {
    KEPT_HEADERS
        .iter()
        .filter_map(|name| {
            let mut value = String::from_utf8_lossy(headers.get(*name)?.as_bytes()).into_owned();
            cut(&mut value, HEADER_BYTES_MAX);
            Some((*name, value.into_boxed_str()))
        })
        .collect()
}

/// Masks members that hold secrets; a webhook's registration carries one.
fn masked(mut body: Value) -> Value {
    match &mut body {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                let secret = name.to_ascii_lowercase();
                *value = if secret.contains("secret") || secret.contains("password") {
                    Value::from("***")
                } else {
                    masked(value.take())
                };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = masked(item.take())),
        _ => {}
    }
    body
}

fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}

#[cfg(test)]
mod tests;
