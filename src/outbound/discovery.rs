//! The API's host where a document names it: asked for at the first call, believed for a day, and vetted before any
//! token goes there.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use reqwest::{
    Method, Request,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use url::Url;

use crate::{
    address::{self, Schemes},
    call::CallError,
    clock::Clock,
    exchange::{Exchange, Reach},
    profile::{BaseUrl, Discovery, Provider},
    retry_after,
};

/// How long a document is believed.
pub(crate) const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a failure is everybody's: jobs that come one after the other do not each ask again.
const FAILURE_LIFE: Duration = Duration::from_secs(10);
/// An address that cannot be reached is asked for anew, at most this often.
const REACHED_AFTER_MIN: Duration = Duration::from_secs(60);

/// Where a provider's API is, as far as it is known.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) url: Url,
    /// Which addresses its host may have.
    pub(crate) reach: Reach,
}

/// The discovered addresses of all tenants. Bounded by the number of profiles.
pub(crate) struct Bases {
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<(String, Url), Arc<Known>>>,
}

#[derive(Default)]
struct Known {
    /// With the time it was asked for, on the monotonic clock.
    found: RwLock<Option<(Base, Duration)>>,
    /// Held during a request: one at a time for each document. The last failure, and until when it counts.
    flight: tokio::sync::Mutex<Option<(CallError, Duration)>>,
}

#[derive(Deserialize)]
struct Document {
    api_endpoint: String,
}

impl Bases {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// Where the provider's API is, from its profile, from memory or from the document.
    pub(crate) async fn get(&self, exchange: &Exchange, tenant: &str, provider: &Provider) -> Result<Base, CallError> {
        let discovery = match &provider.base_url {
            BaseUrl::Fixed(url) => return Ok(Base { url: url.clone(), reach: Reach::Any }),
            BaseUrl::Discovery(discovery) => discovery,
        };
        let known = self.known(tenant, discovery);
        if let Some(base) = self.believed(&known) {
            return Ok(base);
        }
        let mut failed = known.flight.lock().await;
        if let Some(base) = self.believed(&known) {
            return Ok(base);
        }
        if let Some((failure, until)) = &*failed
            && self.clock.elapsed() < *until
        {
            return Err(failure.clone());
        }
        let asked_at = self.clock.elapsed();
        match ask(exchange, tenant, provider, discovery, self.clock.now()).await {
            Ok(base) => {
                *failed = None;
                *known.found.write().unwrap_or_else(PoisonError::into_inner) = Some((base.clone(), asked_at));
                Ok(base)
            }
            Err(failure) => {
                *failed = Some((failure.clone(), self.clock.elapsed() + FAILURE_LIFE));
                Err(failure)
            }
        }
    }

    /// Where the provider's API is, where that is known without asking.
    pub(crate) fn peek(&self, tenant: &str, provider: &Provider) -> Option<Url> {
        match &provider.base_url {
            BaseUrl::Fixed(url) => Some(url.clone()),
            BaseUrl::Discovery(discovery) => self.believed(&self.known(tenant, discovery)).map(|base| base.url),
        }
    }

    /// The address could not be reached. It may have moved: the next call asks again, unless it was just asked for.
    pub(crate) fn unreachable(&self, tenant: &str, provider: &Provider) {
        let Some(discovery) = provider.base_url.discovery() else { return };
        let known = self.known(tenant, discovery);
        let mut found = known.found.write().unwrap_or_else(PoisonError::into_inner);
        found.take_if(|(_, asked_at)| self.clock.elapsed() >= *asked_at + REACHED_AFTER_MIN);
    }

    fn known(&self, tenant: &str, discovery: &Discovery) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry((tenant.to_owned(), discovery.url.clone())).or_default())
    }

    fn believed(&self, known: &Known) -> Option<Base> {
        let found = known.found.read().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|(_, asked_at)| self.clock.elapsed() < *asked_at + LIFE).map(|(base, _)| base.clone())
    }
}

/// Asks the document.
async fn ask(
    exchange: &Exchange,
    tenant: &str,
    provider: &Provider,
    discovery: &Discovery,
    now: DateTime<Utc>,
) -> Result<Base, CallError> {
    let unavailable =
        |detail: String| CallError::DiscoveryUnavailable { detail: format!("the document {detail}"), not_before: None };
    let mut request = Request::new(Method::GET, discovery.url.clone());
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let http = exchange.http(&provider.extra_roots, Reach::Any)?;
    let raw = match exchange.run(&http, request, true).await {
        Ok(raw) => raw,
        // A certificate is mended by an operator, who is told so.
        Err(error @ CallError::Tls { .. }) => return Err(error),
        Err(error) => return Err(unavailable(format!("was not read: {error}"))),
    };
    if raw.status != 200 {
        let after = raw.headers.get(header::RETRY_AFTER);
        let not_before = after.map(|value| retry_after::at_least(retry_after::parse(value.as_bytes(), now), now));
        let detail = format!("the document answers {}", raw.status);
        return Err(CallError::DiscoveryUnavailable { detail, not_before });
    }
    let document: Document =
        serde_json::from_slice(&raw.body).map_err(|_| unavailable("has no api_endpoint".to_owned()))?;
    vet(&document.api_endpoint, discovery).map_err(|what| {
        tracing::error!(
            alert = "discovery_refused",
            tenant,
            provider = provider.name,
            what,
            "the document names an API that the profile does not allow; no call is made there"
        );
        unavailable(format!("names an api_endpoint that is not allowed: {what}"))
    })
}

/// The base URL that a document names, if the profile lets it.
fn vet(api_endpoint: &str, discovery: &Discovery) -> Result<Base, String> {
    let checked =
        address::check(api_endpoint, &discovery.allow_hosts, Schemes::HTTP).map_err(|refusal| refusal.to_string())?;
    let url = checked.url().clone();
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or fragment".to_owned());
    }
    Ok(Base { url, reach: if checked.may_be_private() { Reach::Private } else { Reach::Public } })
}
