//! One attempt's calls to one provider.

use std::time::Instant;

use backhaul_engine::{Failure, JobContext, Pacer};
use backhaul_outbound::{
    Call, Class, Client, IdemOn, Provider, Reply, classify,
    header::{HeaderName, HeaderValue},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::failure::Trouble;

/// Takes the tenant's token of the upstream limit, sends, and classifies. Cheap to clone into a step.
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
        self.pacer.take(&self.provider.bucket(call.class)).await?;
        let endpoint = call.endpoint.to_owned();
        let call = call.traceparent(self.traceparent.as_deref());
        let outcome = self.client.send(&self.tenant, self.provider, call).await;
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
}

/// The provider section of a tenant's profile, or a permanent failure `unconfigured`.
pub fn configured<'e>(provider: Option<&'e Provider>, section: &str, tenant: &str) -> Result<&'e Provider, Failure> {
    provider.ok_or_else(|| {
        Failure::permanent("unconfigured", format!("the profile of tenant {tenant:?} has no section [{section}]"))
    })
}
