//! Jobs that make one HTTP request, and the simulator that answers it.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use backhaul_engine::{Failure, Job, JobContext};
use backhaul_outbound::{
    Auth, Call, Client, IdemOn, OccMode, Provider, Secret,
    client::Settings as ClientSettings,
    header::HeaderName,
    profile::{BaseUrl, Idempotency, Occ},
};
use backhaul_simulator::{Settings, SimOptions, Simulator};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// The tenant of all requests.
pub(crate) const TENANT: &str = "t0";
/// The bucket that requests draw on, as the engine and the simulator name it.
pub(crate) const BUCKET: &str = "crm/threads";
/// Different documents that are asked for.
const DOCUMENTS: u64 = 100;

/// What the attempts share.
pub(crate) struct HttpEnv {
    pub tally: Tally,
    client: Client,
    provider: Provider,
}

impl HttpEnv {
    /// For jobs numbered below `jobs`, against the simulator at `base_url`.
    pub(crate) fn new(base_url: &str, jobs: usize) -> Result<Self> {
        let provider = Provider {
            name: "crm",
            base_url: BaseUrl::Fixed(format!("{base_url}/crm/api/v1").parse()?),
            insecure: true,
            // The fixed token that the simulator's CRM takes for this tenant; it is no secret.
            oauth: Auth::Bearer(Secret::new(token())),
            endpoints: [("thread".to_owned(), "/threads/{threadId}".to_owned())].into(),
            buckets: [("threads".to_owned(), 0)].into(),
            limits: Vec::new(),
            retry: backhaul_outbound::classify::RetryRules::default(),
            occ: Occ { mode: OccMode::None },
            idem: Idempotency { header: HeaderName::from_static("idempotency-key"), on: IdemOn::Never },
            record: None,
            extra_roots: backhaul_outbound::tls::ExtraRoots::default(),
        };
        Ok(Self { tally: Tally::new(jobs), client: Client::new(ClientSettings::default())?, provider })
    }

    async fn get(&self, number: u64) -> Result<(), Failure> {
        let document = document(number);
        let call = Call::get("thread", "threads");
        let params = [("threadId", document.as_str())];
        let reply = self.client.send(TENANT, &self.provider, call.params(&params)).await;
        match reply {
            Ok(reply) if reply.is_success() => Ok(()),
            Ok(reply) if reply.status == 429 => {
                let now = self.client.clock().now();
                let until = reply.retry_after(now).unwrap_or(now + TimeDelta::seconds(1));
                Err(Failure::throttled(BUCKET, until, "rate_limited", "429 from the simulator"))
            }
            Ok(reply) => Err(Failure::permanent("unexpected_status", reply.status)),
            Err(error) => Err(Failure::transient("no_answer", error)),
        }
    }
}

/// The bearer token of [`TENANT`] at the simulator's CRM.
pub(crate) fn token() -> String {
    format!("sim-crm-{TENANT}")
}

/// Id of the document that job `number` asks for.
pub(crate) fn document(number: u64) -> String {
    format!("thread-{}", number % DOCUMENTS)
}

/// One request, with no limit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Get {
    pub n: u64,
}

impl Job for Get {
    const KIND: &'static str = "bench-get";
    const TIMEOUT: Duration = Duration::from_secs(30);
    type Env = HttpEnv;

    async fn run(&self, env: &HttpEnv, _: &mut JobContext) -> Result<(), Failure> {
        env.tally.start(self.n);
        env.get(self.n).await
    }
}

/// One request, paced by the fleet's bucket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PacedGet {
    pub n: u64,
}

impl Job for PacedGet {
    const KIND: &'static str = "bench-paced-get";
    const TIMEOUT: Duration = Duration::from_secs(30);
    const PACING: &'static [&'static str] = &[BUCKET];
    type Env = HttpEnv;

    async fn run(&self, env: &HttpEnv, ctx: &mut JobContext) -> Result<(), Failure> {
        env.tally.start(self.n);
        ctx.pacer().take(BUCKET).await?;
        env.get(self.n).await
    }
}

/// A simulator without TLS whose CRM knows every thread, and answers 429 beyond `per_minute` where that is given.
pub(crate) async fn simulator(per_minute: Option<u32>) -> Result<Simulator> {
    let mut settings = Settings { create_threads_on_access: true, ..Settings::default() }.unlimited();
    settings.limits.extend(per_minute.map(|limit| (BUCKET.to_owned(), limit)));
    Simulator::start(SimOptions { tls: false, settings, ..SimOptions::default() }).await
}

/// A registry for the kinds of this file.
pub(crate) fn registry(env: &Arc<HttpEnv>) -> backhaul_engine::Registry {
    let mut registry = backhaul_engine::Registry::new();
    registry.add::<Get>(env.clone()).add::<PacedGet>(env.clone());
    registry
}
