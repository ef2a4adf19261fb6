//! One request and its reply: deadlines, the body's cap, and whether bytes were sent when it failed.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Request, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::HeaderMap,
    redirect::Policy,
};
use rustls::ClientConfig;

use crate::{
    address::{Checked, Pinned, Resolver},
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

/// Sends requests. Holds a connection pool for each set of trusted authorities and each reach.
pub(crate) struct Exchange {
    pub(crate) bounds: Bounds,
    clock: Arc<dyn Clock>,
    resolver: Arc<dyn Resolver>,
    pools: Mutex<HashMap<(ExtraRoots, Reach), Pool>>,
}

/// Which addresses the connections of a pool may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Any: the name stands in a profile.
    Any,
    /// Public and private ones: an upstream named it, and the profile lets it name such hosts.
    Private,
    /// Public ones: an upstream named it.
    Public,
}

/// Resolves names that upstreams have named. Every connection is vetted, so that a name which resolves differently later
/// wins nothing.
struct Vetting {
    resolver: Arc<dyn Resolver>,
    private: bool,
}

impl Resolve for Vetting {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, private) = (Arc::clone(&self.resolver), self.private);
        Box::pin(async move {
            let pinned = Checked::name(name.as_str(), private)?.pin(&*resolver).await?;
            Ok(Box::new(pinned.addresses.into_iter()) as Addrs)
        })
    }
}

#[derive(Clone)]
struct Pool {
    http: reqwest::Client,
    tls: Arc<ClientConfig>,
}

impl Exchange {
    pub(crate) fn new(bounds: Bounds, clock: Arc<dyn Clock>, resolver: Arc<dyn Resolver>) -> Result<Self, String> {
        let exchange = Self { bounds, clock, resolver, pools: Mutex::default() };
        // Fails at start rather than at the first job.
        exchange.pool(&ExtraRoots::default(), Reach::Any)?;
        Ok(exchange)
    }

    /// The monotonic clock.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(crate) fn tls(&self, roots: &ExtraRoots) -> Result<Arc<ClientConfig>, CallError> {
        Ok(self.pool(roots, Reach::Any).map_err(CallError::Unconfigured)?.tls)
    }

    /// The pooled client for hosts of profiles, and for those that an upstream may name.
    pub(crate) fn http(&self, roots: &ExtraRoots, reach: Reach) -> Result<reqwest::Client, CallError> {
        Ok(self.pool(roots, reach).map_err(CallError::Unconfigured)?.http)
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

    fn pool(&self, roots: &ExtraRoots, reach: Reach) -> Result<Pool, String> {
        let key = (roots.clone(), reach);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key) {
            return Ok(pool.clone());
        }
        let tls = tls::client_config(roots).map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let builder = self.builder(&tls).pool_max_idle_per_host(IDLE_PER_HOST_MAX).pool_idle_timeout(IDLE_MAX);
        let builder = match reach {
            Reach::Any => builder,
            Reach::Private | Reach::Public => {
                let resolver = Arc::clone(&self.resolver);
                builder.dns_resolver(Arc::new(Vetting { resolver, private: reach == Reach::Private }))
            }
        };
        let http = builder.build().map_err(|error| format!("the HTTP client cannot be built: {}", causes(&error)))?;
        let pool = Pool { http, tls };
        pools.insert(key, pool.clone());
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
