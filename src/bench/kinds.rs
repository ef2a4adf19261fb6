//! The job kinds that are measured with.

use std::{sync::Arc, time::Duration};

use backhaul_engine::{Failure, Job, JobContext, KindSpec, Registry};
use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// What the attempts of [`Noop`] share.
pub(crate) struct NoopEnv {
    pub tally: Tally,
    /// How long an attempt takes; zero does nothing at all.
    pub work: Duration,
}

/// A job that does nothing but say that it started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Noop {
    /// Its number, from 0.
    pub n: u64,
    /// Makes the payload as large as a real one.
    #[serde(default)]
    pub pad: String,
}

impl Job for Noop {
    const KIND: &'static str = "bench-noop";
    type Env = NoopEnv;

    async fn run(&self, env: &NoopEnv, _: &mut JobContext) -> Result<(), Failure> {
        env.tally.start(self.n);
        if !env.work.is_zero() {
            tokio::time::sleep(env.work).await;
        }
        Ok(())
    }
}

/// Fills a payload to about 250 bytes, the size of a real one.
pub(crate) const PAD: &str = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789\
    abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789\
    abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789";

/// The constants that a fresh database needs to know.
pub(crate) fn specs() -> Vec<KindSpec> {
    vec![KindSpec::of::<Noop>()]
}

/// A registry of [`Noop`] alone.
pub(crate) fn noop_registry(env: &Arc<NoopEnv>) -> Registry {
    let mut registry = Registry::new();
    registry.add::<Noop>(env.clone());
    registry
}
