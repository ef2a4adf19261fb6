//! How a simulator is started.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use crate::{
    faults::{FaultRule, faults_from_toml},
    settings::Settings,
};

/// Addresses, secrets, bounds, and the first settings and faults. `..SimOptions::default()` fills the rest.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Where to listen. Default 127.0.0.1; in a container it must be 0.0.0.0.
    pub bind_ip: IpAddr,
    /// Port of the plain listener; 0 takes any.
    pub port: u16,
    /// Whether to open the TLS listeners and the mute one.
    pub tls: bool,
    /// Port of the TLS listener with the good certificate; 0 takes any. The others always take any.
    pub tls_port: u16,
    /// Further names of the good certificate, besides `localhost`, `127.0.0.1` and `::1`.
    pub host_names: Vec<String>,
    /// Where to write the authority's certificate (PEM), if anywhere.
    pub ca_file: Option<PathBuf>,
    /// Secret of every client `sim-<tenant>` that is not registered with another. Default `sim-secret`.
    pub client_secret: String,
    /// Behaviour of the simulated systems.
    pub settings: Settings,
    /// Fault rules in force from the start.
    pub faults: Vec<FaultRule>,
    /// Requests kept in the record.
    pub records_max: usize,
    /// Bytes of request bodies kept in the record; 0 keeps none.
    pub record_bodies_bytes_max: usize,
    /// Rows kept in the ledger of effects.
    pub effects_max: usize,
    /// Documents kept; the oldest go first and start anew.
    pub documents_max: usize,
    /// Idempotency keys remembered.
    pub idempotency_keys_max: usize,
    /// Bytes of answers remembered for idempotency keys.
    pub idempotency_bytes_max: usize,
    /// Tokens remembered, expired and revoked ones included.
    pub tokens_max: usize,
    /// Largest accepted request body in bytes; a larger one is answered 413.
    pub body_bytes_max: usize,
    /// Hosts besides loopback that generated events may be posted to, for example another container.
    pub post_hosts: Vec<String>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            tls: true,
            tls_port: 0,
            host_names: Vec::new(),
            ca_file: None,
            client_secret: "sim-secret".to_owned(),
            settings: Settings::default(),
            faults: Vec::new(),
            records_max: 200_000,
            record_bodies_bytes_max: 32 * 1024 * 1024,
            effects_max: 300_000,
            documents_max: 200_000,
            idempotency_keys_max: 200_000,
            idempotency_bytes_max: 64 * 1024 * 1024,
            tokens_max: 50_000,
            body_bytes_max: 16 * 1024 * 1024,
            post_hosts: Vec::new(),
        }
    }
}

impl SimOptions {
    /// Adds the rules of a TOML script of `[[faults]]` tables.
    ///
    /// # Errors
    /// As [`faults_from_toml`].
    pub fn load_faults(&mut self, toml: &str) -> anyhow::Result<()> {
        self.faults.extend(faults_from_toml(toml)?);
        Ok(())
    }
}
