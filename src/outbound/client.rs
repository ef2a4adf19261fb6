//! The one HTTP client: every call to an upstream goes through [`Client::send`].

mod deliver;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use reqwest::{
    Request,
    header::{self, HeaderName, HeaderValue},
};
use tracing::{Instrument, field};
use url::Url;
use uuid::Uuid;

pub use self::deliver::Delivery;
use crate::{
    address::{Resolver, SystemResolver},
    call::{Call, CallError, Reply},
    clock::{Clock, SystemClock},
    discovery::{Base, Bases},
    exchange::{Bounds, Exchange, Raw},
    path::Template,
    profile::{Auth, Provider},
    tls::ExtraRoots,
    token::{Token, Tokens},
};

/// Name resolution, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte of name resolution to the last byte of the body.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest body of a reply.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a client is made of. The defaults are the product's; tests turn the clock and the names.
#[derive(Clone)]
pub struct Settings {
    /// Bound of name resolution, TCP and TLS together, default 5 s.
    pub connect_timeout: Duration,
    /// Bound of one request and its reply, default 15 s. A call that renews its token makes up to four requests.
    pub total_timeout: Duration,
    /// Largest body of a reply in bytes, default 1 MiB.
    pub body_bytes_max: usize,
    /// Where the time is read.
    pub clock: Arc<dyn Clock>,
    /// How names from payloads are looked up. Names from profiles go to the system's resolver.
    pub resolver: Arc<dyn Resolver>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: TOTAL_TIMEOUT,
            body_bytes_max: BODY_BYTES_MAX,
            clock: Arc::new(SystemClock::default()),
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// The client could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(String);

/// Sends calls. A clone shares connections, tokens and the clock.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    exchange: Exchange,
    tokens: Tokens,
    bases: Bases,
    clock: Arc<dyn Clock>,
    resolver: Arc<dyn Resolver>,
}

impl Client {
    /// A client with its own connections and tokens.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, BuildError> {
        let bounds = Bounds {
            connect: settings.connect_timeout,
            total: settings.total_timeout,
            body_bytes_max: settings.body_bytes_max,
            user_agent: concat!("backhaul/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let Settings { clock, resolver, .. } = settings;
        let exchange = Exchange::new(bounds, Arc::clone(&clock), Arc::clone(&resolver)).map_err(BuildError)?;
        let (tokens, bases) = (Tokens::new(Arc::clone(&clock)), Bases::new(Arc::clone(&clock)));
        Ok(Self { inner: Arc::new(Inner { exchange, tokens, bases, clock, resolver }) })
    }

    /// The client's clock, for classification and for code beside the client that must agree with it.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// How the client looks up names from payloads, for connections that are no HTTP (the channel probe).
    pub fn resolver(&self) -> &Arc<dyn Resolver> {
        &self.inner.resolver
    }

    /// The TLS configuration that trusts the platform's authorities and `roots`, kept for the life of the client.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn tls_config(&self, roots: &ExtraRoots) -> Result<Arc<rustls::ClientConfig>, CallError> {
        self.inner.exchange.tls(roots)
    }

    /// Sends a call with the provider's bearer token.
    ///
    /// A 401 renews the token and repeats the call once; a second 401 is [`CallError::AuthBlocked`]. Redirects are
    /// errors. Every other status is a [`Reply`]. Nothing is retried: that is the job's affair.
    ///
    /// # Errors
    /// Why there is no reply; [`crate::classify::classify`] says what to do about it.
    pub async fn send(&self, tenant: &str, provider: &Provider, call: Call<'_>) -> Result<Reply, CallError> {
        let leave = std::future::ready(Ok::<(), Infallible>(()));
        let Ok(outcome) = self.send_paced(tenant, provider, call, leave).await;
        outcome
    }

    /// As [`Client::send`]. The repetition after a 401 is a request like any other: `leave` is awaited before it, and
    /// only then, so that it may be kept to the upstream's limit.
    ///
    /// # Errors
    /// `leave` was refused; the repetition was not sent.
    pub async fn send_paced<E>(
        &self,
        tenant: &str,
        provider: &Provider,
        call: Call<'_>,
        leave: impl Future<Output = Result<(), E>>,
    ) -> Result<Result<Reply, CallError>, E> {
        let span = tracing::info_span!(
            "outbound",
            otel.kind = "client",
            otel.name = format!("{} {}", call.method, call.endpoint),
            http.request.method = call.method.as_str(),
            server.address = provider.base_url.fixed_host(),
            backhaul.tenant = tenant,
            backhaul.provider = provider.name,
            backhaul.endpoint = call.endpoint,
            http.response.status_code = field::Empty,
            request_id = field::Empty,
            latency_ms = field::Empty,
        );
        async {
            let outcome = self.authenticated(tenant, provider, &call, leave).await?;
            record(&outcome, tenant, provider.name);
            alert(&outcome, tenant, provider.name, call.endpoint);
            Ok(outcome)
        }
        .instrument(span)
        .await
    }

    async fn authenticated<E>(
        &self,
        tenant: &str,
        provider: &Provider,
        call: &Call<'_>,
        leave: impl Future<Output = Result<(), E>>,
    ) -> Result<Result<Reply, CallError>, E> {
        let token = match self.with_token(tenant, provider, call).await {
            Ok((reply, _)) if reply.status != 401 => return Ok(Ok(reply)),
            Ok((_, token)) => token,
            Err(error) => return Ok(Err(error)),
        };
        if token.renewable() {
            self.inner.tokens.invalidate(tenant, provider, &token);
            leave.await?;
            match self.with_token(tenant, provider, call).await {
                Ok((reply, _)) if reply.status == 401 => {}
                other => return Ok(other.map(|(reply, _)| reply)),
            }
        }
        let detail = "the API answered 401 to a token that is valid".to_owned();
        Ok(Err(CallError::AuthBlocked { until: None, detail }))
    }

    /// One request with the token that is valid now, which is returned with the reply.
    async fn with_token(
        &self,
        tenant: &str,
        provider: &Provider,
        call: &Call<'_>,
    ) -> Result<(Reply, Token), CallError> {
        // Before the token: a call that cannot be made should cost nothing.
        let base = self.inner.bases.get(&self.inner.exchange, tenant, provider).await?;
        tracing::Span::current().record("server.address", base.url.host_str());
        let url = target(&base.url, provider, call)?;
        let token = self.token(tenant, provider).await?;
        let outcome = self.once(provider, call, &base, &url, &token).await;
        if let Err(CallError::Connect { .. } | CallError::Tls { .. }) = &outcome {
            self.inner.bases.unreachable(tenant, provider);
        }
        Ok((outcome?, token))
    }

    /// The URL of a call, without sending it. Where a document names the host, a call must have been made before.
    ///
    /// # Errors
    /// The host is not known yet, the profile has no such endpoint, or a parameter does not fit into its path.
    pub fn target(&self, tenant: &str, provider: &Provider, call: &Call<'_>) -> Result<Url, CallError> {
        let base = self.inner.bases.peek(tenant, provider).ok_or_else(|| {
            let detail = "no call has asked the document yet".to_owned();
            CallError::DiscoveryUnavailable { detail, not_before: None }
        })?;
        target(&base, provider, call)
    }

    async fn token(&self, tenant: &str, provider: &Provider) -> Result<Token, CallError> {
        match &provider.oauth {
            Auth::Bearer(secret) => Token::fixed(secret).ok_or_else(|| {
                CallError::Unconfigured("the bearer token holds characters that a header cannot".to_owned())
            }),
            Auth::OAuth(oauth) => self.inner.tokens.get(&self.inner.exchange, tenant, provider, oauth).await,
        }
    }

    async fn once(
        &self,
        provider: &Provider,
        call: &Call<'_>,
        base: &Base,
        url: &Url,
        token: &Token,
    ) -> Result<Reply, CallError> {
        let request_id = Uuid::new_v4().to_string();
        let mut request = Request::new(call.method.clone(), url.clone());
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        add_headers(headers, &call.headers)?;
        headers.insert(header::AUTHORIZATION, token.header());
        trace(headers, &request_id, call.traceparent);
        if let Some(json) = call.json {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(json.to_string().into());
        }
        let http = self.inner.exchange.http(&provider.extra_roots, base.reach)?;
        let replay_safe = call.replay_safe || call.method.is_safe();
        let raw = self.inner.exchange.run(&http, request, replay_safe).await?;
        reply(raw, request_id, provider.bucket(call.class))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// The URL of a call to the API at `base`.
fn target(base: &Url, provider: &Provider, call: &Call<'_>) -> Result<Url, CallError> {
    let text = provider
        .endpoints
        .get(call.endpoint)
        .ok_or_else(|| CallError::Unconfigured(format!("{} has no endpoint `{}`", provider.name, call.endpoint)))?;
    let template = Template::parse(text)
        .map_err(|what| CallError::Unconfigured(format!("{}.endpoints.{} {what}", provider.name, call.endpoint)))?;
    let mut url =
        template.fill(base, call.params).map_err(|(name, reason)| CallError::BadParameter { name, reason })?;
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(call.query);
    }
    Ok(url)
}

/// Adds the caller's headers, except those that say who we are and what is sent.
fn add_headers(headers: &mut header::HeaderMap, more: &[(HeaderName, HeaderValue)]) -> Result<(), CallError> {
    const OURS: [HeaderName; 8] = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::ACCEPT_ENCODING,
        REQUEST_ID,
        TRACEPARENT,
    ];
    for (name, value) in more {
        if OURS.contains(name) {
            return Err(CallError::Unconfigured(format!("the header {name} is set by the client")));
        }
        headers.insert(name.clone(), value.clone());
    }
    Ok(())
}

fn trace(headers: &mut header::HeaderMap, request_id: &str, traceparent: Option<&str>) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(value) = traceparent.filter(|text| is_traceparent(text)).and_then(|t| HeaderValue::from_str(t).ok()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Version 00 of W3C Trace Context: `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zeroes.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    matches!(parts[..], ["00", trace, span, flags]
        if hex(trace, 32) && hex(span, 16) && hex(flags, 2)
            && trace.bytes().any(|byte| byte != b'0') && span.bytes().any(|byte| byte != b'0'))
}

fn reply(raw: Raw, request_id: String, bucket: String) -> Result<Reply, CallError> {
    let Raw { status, headers, body, latency } = raw;
    if (300..400).contains(&status) {
        return Err(CallError::Redirect { status });
    }
    Ok(Reply { status, headers, body, request_id, latency, bucket })
}

/// Writes the outcome to the span. A certificate failure is an alert: nobody but an operator can mend it.
fn record(outcome: &Result<Reply, CallError>, tenant: &str, target: &str) {
    let span = tracing::Span::current();
    match outcome {
        Ok(reply) => {
            span.record("http.response.status_code", reply.status);
            span.record("request_id", reply.request_id.as_str());
            span.record("latency_ms", u64::try_from(reply.latency.as_millis()).unwrap_or(u64::MAX));
        }
        Err(error) => {
            if let Some(status) = error.http_status() {
                span.record("http.response.status_code", status);
            }
            if let CallError::Tls { class, .. } = error {
                tracing::error!(alert = "tls_failed", tenant, target, class = class.word(), "{error}");
            }
        }
    }
}

/// What a person must mend at the upstream, and nobody notices by the job's dead letter alone.
fn alert(outcome: &Result<Reply, CallError>, tenant: &str, provider: &str, endpoint: &str) {
    match outcome {
        Ok(reply) if reply.status == 403 => tracing::error!(
            alert = "forbidden",
            tenant,
            provider,
            endpoint,
            "the API refuses the credential: check its scopes and role, the list of IP addresses and the organisation"
        ),
        // With a time, the token endpoint has refused the credential, and has said so itself.
        Err(CallError::AuthBlocked { until: None, .. }) => tracing::error!(
            alert = "auth_blocked",
            tenant,
            provider,
            endpoint,
            "the API refuses a token that was just issued, or a fixed one"
        ),
        _ => {}
    }
}
