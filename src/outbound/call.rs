//! One call to an upstream: what is sent, what comes back, and how it can fail.

mod error;

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{
    Method,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::error::CallError;
use crate::{classify::RateHeaders, retry_after};

/// One call to a provider's endpoint.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Name of the endpoint in `Provider::endpoints`.
    pub endpoint: &'a str,
    /// Values of the template's placeholders. Each must match its id pattern and becomes ONE path segment.
    pub params: &'a [(&'a str, &'a str)],
    /// Query pairs, encoded as a form.
    pub query: &'a [(&'a str, &'a str)],
    /// Further headers. `authorization`, `traceparent`, `x-request-id` and the body's are set by the client.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON body.
    pub json: Option<&'a Value>,
    /// Class of the bucket the call draws on, for example `profiles`.
    pub class: &'a str,
    /// Repeating the call does no harm, so that a lost reply is a transient failure. GET and HEAD always are.
    pub replay_safe: bool,
    /// W3C trace context to send on; an ill-formed one is dropped.
    pub traceparent: Option<&'a str>,
}

impl<'a> Call<'a> {
    /// A call without parameters, query, headers and body.
    pub fn new(method: Method, endpoint: &'a str, class: &'a str) -> Self {
        Self {
            replay_safe: method.is_safe(),
            method,
            endpoint,
            params: &[],
            query: &[],
            headers: Vec::new(),
            json: None,
            class,
            traceparent: None,
        }
    }

    /// A GET.
    pub fn get(endpoint: &'a str, class: &'a str) -> Self {
        Self::new(Method::GET, endpoint, class)
    }

    /// Sets the values of the template's placeholders.
    #[must_use]
    pub fn params(mut self, params: &'a [(&'a str, &'a str)]) -> Self {
        self.params = params;
        self
    }

    /// Sets the query.
    #[must_use]
    pub fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Self {
        self.query = query;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sets the JSON body.
    #[must_use]
    pub fn json(mut self, body: &'a Value) -> Self {
        self.json = Some(body);
        self
    }

    /// Says that repeating the call does no harm.
    #[must_use]
    pub fn replay_safe(mut self) -> Self {
        self.replay_safe = true;
        self
    }

    /// Sets the trace context to send on.
    #[must_use]
    pub fn traceparent(mut self, traceparent: Option<&'a str>) -> Self {
        self.traceparent = traceparent;
        self
    }
}

/// An upstream's answer, of whatever status, except those that the client handles itself (401 and redirects).
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, at most the client's cap. The body of a status from 400 is cut there instead of being refused.
    pub body: Vec<u8>,
    /// The `X-Request-Id` that was sent.
    pub request_id: String,
    /// From sending to the last byte, by the monotonic clock; token requests are not part of it.
    pub latency: Duration,
    /// The bucket the call drew on, as `provider/class`.
    pub bucket: String,
}

impl Reply {
    /// Whether the status is 200-299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The entity-tag as it was sent, weak prefix and quotes included.
    pub fn etag(&self) -> Option<&str> {
        self.headers.get(header::ETAG)?.to_str().ok().map(str::trim).filter(|tag| !tag.is_empty())
    }

    /// The body as `T`.
    ///
    /// # Errors
    /// The body is empty, no JSON or of another shape. The message names the place and quotes no value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BodyError> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Err(BodyError::Empty { status: self.status });
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&self.body);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let at = error.into_inner();
            BodyError::Shape { path, line: at.line(), column: at.column(), kind: category(&at) }
        })?;
        deserializer.end().map_err(|at| BodyError::Shape {
            path: ".".to_owned(),
            line: at.line(),
            column: at.column(),
            kind: category(&at),
        })?;
        Ok(value)
    }

    /// When the upstream wants to be asked again: Retry-After in both forms, clamped to 1 s - 1 h from `now`; one second
    /// where it says nothing that a clock can use (A13.9). `None` where the header is missing: the caller's backoff then
    /// decides alone.
    pub fn retry_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let value = self.headers.get(header::RETRY_AFTER)?;
        Some(retry_after::at_least(retry_after::parse(value.as_bytes(), now), now))
    }

    /// What the upstream said about its rate limit, where the profile names a family of headers.
    pub fn rate_limit(&self, headers: RateHeaders) -> RateLimit {
        let names = headers.names();
        let number = |name: Option<&str>| {
            let text = self.headers.get(name?)?.to_str().ok()?;
            text.trim().parse::<u64>().ok()
        };
        RateLimit { used: number(names.used), allowed: number(names.allowed), reset_s: number(names.reset_s) }
    }
}

/// What an upstream said about its rate limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests used in the window.
    pub used: Option<u64>,
    /// Requests allowed in the window.
    pub allowed: Option<u64>,
    /// Seconds until the window ends.
    pub reset_s: Option<u64>,
}

fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Io => "unreadable",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "JSON of another shape",
        serde_json::error::Category::Eof => "cut off",
    }
}

/// Why a body could not be used. Values are not quoted: they may be personal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No body at all.
    #[error("the reply with status {status} has no body")]
    Empty {
        /// The reply's status.
        status: u16,
    },
    /// Unusable body.
    #[error("the reply's body is {kind} at {path}, line {line} column {column}")]
    Shape {
        /// Where, as a path of members.
        path: String,
        /// Line from 1.
        line: usize,
        /// Column from 1.
        column: usize,
        /// In what way.
        kind: &'static str,
    },
}
