//! One attempt's calls to one provider.

use std::time::Instant;

use backhaul_engine::{Failure, JobContext, Pacer};
use backhaul_outbound::{Call, Client, Class, Provider, Reply, classify};
use chrono::{DateTime, TimeDelta, Utc};

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

    /// Makes `call`. `Ok` is a 2xx; what its body says is the caller's to judge.
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        self.pacer.take(&self.provider.bucket(call.class)).await?;
        let endpoint = call.endpoint.to_owned();
        let call = call.traceparent(self.traceparent.as_deref());
        let outcome = self.client.send(&self.tenant, self.provider, call).await;
        match (classify(outcome.as_ref(), &self.provider.retry, self.now()), outcome) {
            (Class::Ok, Ok(reply)) => Ok(reply),
            (class, Ok(reply)) => Err(Trouble::of_reply(class, &reply, self.provider, &endpoint)),
            (class, Err(error)) => Err(Trouble::of_error(class, &error, self.provider, &endpoint)),
        }
    }
}

/// The provider section of a tenant's profile, or a permanent failure `unconfigured`.
pub fn configured<'e>(provider: Option<&'e Provider>, section: &str, tenant: &str) -> Result<&'e Provider, Failure> {
    provider.ok_or_else(|| {
        Failure::permanent("unconfigured", format!("the profile of tenant {tenant:?} has no section [{section}]"))
    })
}
