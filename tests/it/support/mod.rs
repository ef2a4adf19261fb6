//! What tests share: a private Postgres for the whole run, a fresh database for each test, and a toy kind.

mod cluster;
mod flavours;
mod kept;
mod login;
mod processes;
mod queries;
mod refusal;
mod server;
mod toy;
mod toy_process;
mod upstream;
mod worker;

use std::{future::Future, time::Duration};

pub(crate) use cluster::{Database, binary, database, empty_database, run, target_dir};
pub(crate) use flavours::{DATAVERSE, FLAVOURS, Flavour, HUBSPOT, SALESFORCE, ZENDESK};
pub(crate) use kept::Kept;
pub(crate) use login::Login;
pub(crate) use processes::{Process, SimulatorProcess, scratch, worker_command, worker_process};
pub(crate) use queries::TERMINAL;
pub(crate) use refusal::refusal;
pub(crate) use server::Server;
pub(crate) use toy::{Toy, ToyEnv};
pub(crate) use toy_process::{Ledger, ToyProcess};
pub(crate) use upstream::Upstream;
pub(crate) use worker::Worker;

/// Longest wait for anything. Generous, because the machines are slow; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds` says so, for things that happen in another process or behind SQL.
pub(crate) async fn eventually<F, Fut>(what: &str, holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    eventually_within(PATIENCE, what, holds).await;
}

/// As [`eventually`], for work that may take longer than one thing does.
pub(crate) async fn eventually_within<F, Fut>(patience: Duration, what: &str, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let until = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < until {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited {patience:?} in vain: {what}");
}
