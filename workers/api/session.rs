//! One attempt's calls to one provider.

use std::{collections::BTreeMap, time::Instant};

use backhaul_engine::{
    Failure, JobContext, Pacer,
    preview::{PlannedRequest, PreviewContext},
};
use backhaul_outbound::{
    Call, Class, Client, IdemOn, Provider, Reply, classify,
    header::{HeaderName, HeaderValue},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::failure::Trouble;

/// Takes the tenant's tokens of the upstream limits, sends, and classifies. Cheap to clone into a step.
#[derive(Clone)]
pub struct Session<'e> {
    client: &'e Client,
    provider: &'e Provider,
    tenant: String,
    traceparent: Option<String>,
    pacer: Pacer,
    began: DateTime<Utc>,
    began_instant: Instant,
}

impl<'e> Session<'e> {
    /// A session of the attempt `ctx` with `provider`.
    pub fn new(client: &'e Client, provider: &'e Provider, ctx: &JobContext) -> Self {
        let job = ctx.job();
        Self {
            client,
            provider,
            tenant: job.tenant.clone(),
            traceparent: job.traceparent.clone(),
            pacer: ctx.pacer(),
            began: ctx.now(),
            began_instant: Instant::now(),
        }
    }

    /// A session of a preview. Its calls are as real as an attempt's: a preview makes only those that read.
    pub fn preview(client: &'e Client, provider: &'e Provider, ctx: &PreviewContext) -> Self {
        Self {
            client,
            provider,
            tenant: ctx.tenant().to_owned(),
            traceparent: ctx.traceparent().map(str::to_owned),
            pacer: ctx.pacer(),
            began: ctx.now(),
            began_instant: Instant::now(),
        }
    }

    /// How `call` would leave. The credential is not looked up, and the request id would be made when it is sent.
    ///
    /// # Errors
    /// The failure that sending it would end in before anything left.
    pub fn show(&self, call: &Call<'_>) -> Result<PlannedRequest, Failure> {
        let url = self.client.target(&self.tenant, self.provider, call).map_err(|error| {
            let class = classify(Err(&error), &self.provider.retry, self.now());
            Failure::from(Trouble::of_error(class, &error, self.provider.name, call.endpoint))
        })?;
        let mut headers = BTreeMap::from([
            ("accept".to_owned(), "application/json".to_owned()),
            ("authorization".to_owned(), "(not shown)".to_owned()),
        ]);
        if call.json.is_some() {
            headers.insert("content-type".to_owned(), "application/json".to_owned());
        }
        for (name, value) in &call.headers {
            headers.insert(name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
        Ok(PlannedRequest {
            method: call.method.to_string(),
            endpoint: url.into(),
            headers,
            body: call.json.cloned().unwrap_or_default(),
        })
    }

    /// The provider.
    pub fn provider(&self) -> &'e Provider {
        self.provider
    }

    /// The database's clock, carried on by the monotonic one since the session began.
    pub fn now(&self) -> DateTime<Utc> {
        self.began + TimeDelta::from_std(self.began_instant.elapsed()).unwrap_or_default()
    }

    /// The header that names a write, where the provider's profile asks for one; `creates` says that the write makes a
    /// new resource.
    pub fn idempotency(&self, key: &str, creates: bool) -> Result<Option<(HeaderName, HeaderValue)>, Failure> {
        let wanted = match self.provider.idem.on {
            IdemOn::Always => true,
            IdemOn::Create => creates,
            IdemOn::Never => false,
        };
        if !wanted {
            return Ok(None);
        }
        let value = HeaderValue::from_str(key)
            .map_err(|_| Failure::permanent("idempotency_key_unusable", "the step's key is no header value"))?;
        Ok(Some((self.provider.idem.header.clone(), value)))
    }

    /// Makes `call`. `Ok` is a 2xx; what its body says is the caller's to judge.
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        let bucket = self.provider.bucket(call.class);
        let more = self.provider.narrow_limits(call.endpoint, &call.method);
        self.pacer.take_all(&bucket, &more).await?;
        let endpoint = call.endpoint.to_owned();
        let call = call.traceparent(self.traceparent.as_deref());
        // The repetition after a 401 counts at the upstream, so that it takes tokens of its own.
        let leave = self.pacer.take_all(&bucket, &more);
        let outcome = self.client.send_paced(&self.tenant, self.provider, call, leave).await?;
        match (classify(outcome.as_ref(), &self.provider.retry, self.now()), outcome) {
            (Class::Ok, Ok(reply)) => Ok(reply),
            (class, Ok(reply)) => Err(Trouble::of_reply(class, &reply, self.provider.name, &endpoint)),
            (class, Err(error)) => Err(Trouble::of_error(class, &error, self.provider.name, &endpoint)),
        }
    }
}

/// What audit events tell of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Status of the answer.
    pub http_status: u16,
    /// The `X-Request-Id` that was sent.
    pub request_id: String,
    /// From sending to the last byte, in milliseconds of the monotonic clock.
    pub latency_ms: u64,
}

impl Exchange {
    /// What there is to tell of `reply`.
    pub fn of(reply: &Reply) -> Self {
        Self {
            http_status: reply.status,
            request_id: reply.request_id.clone(),
            latency_ms: u64::try_from(reply.latency.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The upstream took the request and has not carried it out: nobody knows yet whether it will.
    pub fn is_for_later(&self) -> bool {
        self.http_status == 202
    }
}

/// The provider section of a tenant's profile, or a permanent failure `unconfigured`.
pub fn configured<'e>(provider: Option<&'e Provider>, section: &str, tenant: &str) -> Result<&'e Provider, Failure> {
    provider.ok_or_else(|| {
        Failure::permanent("unconfigured", format!("the profile of tenant {tenant:?} has no section [{section}]"))
    })
}
