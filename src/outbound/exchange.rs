//! One request and its reply: deadlines, the body's cap, and whether bytes were sent when it failed.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Request, Response, header::HeaderMap, redirect::Policy};
use rustls::ClientConfig;

use crate::{
    address::Pinned,
    call::CallError,
    clock::Clock,
    tls::{self, ExtraRoots, TlsClass},
};

/// Longest text of an error's causes.
const DETAIL_BYTES_MAX: usize = 300;
/// Idle connections kept per host; a tenant's concurrency is single digits.
const IDLE_PER_HOST_MAX: usize = 128;
/// Shorter than the usual keep-alive of servers, so that a write seldom meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The bounds of every request.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) connect: Duration,
    pub(crate) total: Duration,
    pub(crate) body_bytes_max: usize,
    pub(crate) user_agent: String,
}

/// A reply before anybody looked at what it means.
pub(crate) struct Raw {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) latency: Duration,
}

/// Sends requests. Holds one connection pool for each set of trusted authorities.
pub(crate) struct Exchange {
    pub(crate) bounds: Bounds,
    clock: Arc<dyn Clock>,
    pools: Mutex<HashMap<ExtraRoots, Pool>>,
}

#[derive(Clone)]
struct Pool {
    http: reqwest::Client,
    tls: Arc<ClientConfig>,
}

impl Exchange {
    pub(crate) fn new(bounds: Bounds, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let exchange = Self { bounds, clock, pools: Mutex::default() };
        // Fails at start rather than at the first job.
        exchange.pool(&ExtraRoots::default())?;
        Ok(exchange)
    }

    /// The monotonic clock.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(crate) fn tls(&self, roots: &ExtraRoots) -> Result<Arc<ClientConfig>, CallError> {
        Ok(self.pool(roots).map_err(CallError::Unconfigured)?.tls)
    }

    /// The pooled client for trusted hosts: those of profiles.
    pub(crate) fn http(&self, roots: &ExtraRoots) -> Result<reqwest::Client, CallError> {
        Ok(self.pool(roots).map_err(CallError::Unconfigured)?.http)
    }

    /// A client for one request to a pinned target. It shares no connection with anybody: a pooled one might lead to
    /// an address that was vetted for another tenant.
    pub(crate) fn http_pinned(&self, roots: &ExtraRoots, target: &Pinned) -> Result<reqwest::Client, CallError> {
        let tls = self.tls(roots)?;
        let mut builder = self.builder(&tls).pool_max_idle_per_host(0);
        if let Some(name) = target.url.domain() {
            builder = builder.resolve_to_addrs(name, &target.addresses);
        }
        builder.build().map_err(|error| CallError::Unconfigured(causes(&error)))
    }

    fn pool(&self, roots: &ExtraRoots) -> Result<Pool, String> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(roots) {
            return Ok(pool.clone());
        }
        let tls = tls::client_config(roots).map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let builder = self.builder(&tls).pool_max_idle_per_host(IDLE_PER_HOST_MAX).pool_idle_timeout(IDLE_MAX);
        let http = builder.build().map_err(|error| format!("the HTTP client cannot be built: {}", causes(&error)))?;
        let pool = Pool { http, tls };
        pools.insert(roots.clone(), pool.clone());
        Ok(pool)
    }

    fn builder(&self, tls: &Arc<ClientConfig>) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured((**tls).clone())
            .redirect(Policy::none())
            // A proxy would resolve names itself, behind the address guard's back.
            .no_proxy()
            // Retries belong to the job: here they would hide attempts from its history.
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(self.bounds.connect)
            .user_agent(self.bounds.user_agent.clone())
    }

    /// Sends a request and reads the reply's body up to the cap.
    pub(crate) async fn run(
        &self,
        http: &reqwest::Client,
        mut request: Request,
        replay_safe: bool,
    ) -> Result<Raw, CallError> {
        *request.timeout_mut() = Some(self.bounds.total);
        let started = self.clock.elapsed();
        let response = http.execute(request).await.map_err(|error| failure(error, replay_safe))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.read_body(response, status, replay_safe).await?;
        Ok(Raw { status, headers, body, latency: self.clock.elapsed().saturating_sub(started) })
    }

    async fn read_body(&self, mut response: Response, status: u16, replay_safe: bool) -> Result<Vec<u8>, CallError> {
        let limit_bytes = self.bounds.body_bytes_max;
        let success = (200..300).contains(&status);
        let mut body = Vec::new();
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(body),
                // The status has said what there was to say.
                Err(_) if !success => return Ok(body),
                Err(error) => return Err(failure(error, replay_safe)),
            };
            let room = limit_bytes - body.len();
            if chunk.len() > room {
                if success {
                    return Err(CallError::BodyTooLarge { status, limit_bytes, replay_safe });
                }
                body.extend_from_slice(&chunk[..room]);
                return Ok(body);
            }
            body.extend_from_slice(&chunk);
        }
    }
}

/// Sorts a failure by whether bytes were sent.
fn failure(error: reqwest::Error, replay_safe: bool) -> CallError {
    // The URL may hold ids; the span names the endpoint.
    let error = error.without_url();
    let detail = causes(&error);
    if error.is_connect() {
        return match TlsClass::find(&error) {
            Some(class) => CallError::Tls { class, detail },
            None => CallError::Connect { detail },
        };
    }
    if error.is_builder() {
        return CallError::Unconfigured(detail);
    }
    CallError::Ambiguous { detail, timed_out: error.is_timeout(), replay_safe }
}

/// An error and its causes in one bounded line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    let cut = (0..=DETAIL_BYTES_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.truncate(cut);
    text
}
