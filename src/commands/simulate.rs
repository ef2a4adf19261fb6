//! `backhaul simulate`: the simulated upstreams, on their own.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use backhaul_simulator::{CertificateKind, Settings, SimOptions, Simulator};
use clap::Args;
use serde_json::json;

use super::{simulated_profiles, stop::Stop, table};

/// Run simulated upstreams: CXone, Genesys Cloud and a CRM, as a real HTTP server with scripted faults.
///
/// It stays until Ctrl-C. GET /_sim/summary tells what it received, and src/simulator/README.md everything else.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul simulate --port 4010
  backhaul simulate --port 4010 --faults faults.toml --profiles .backhaul/profiles --tenant acme --tenant globex
  curl -s http://127.0.0.1:4010/_sim/summary")]
pub(crate) struct Simulate {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 4010)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    bind: IpAddr,
    /// TOML file of [[faults]]
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Write connection profiles that point here into this directory, one for each --tenant
    #[arg(long, value_name = "DIR", requires = "tenant")]
    profiles: Option<PathBuf>,
    /// A tenant for --profiles. May be repeated
    #[arg(long, value_name = "TENANT")]
    tenant: Vec<String>,
    /// The address that --profiles names, where it differs from the one listened on
    #[arg(long, value_name = "URL", requires = "profiles")]
    public_url: Option<String>,
    /// Print the addresses as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the simulator until it is told to stop.
pub(crate) async fn run(command: Simulate) -> Result<()> {
    let mut options = SimOptions { port: command.port, bind_ip: command.bind, ..SimOptions::default() };
    if let Some(path) = &command.faults {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        options.load_faults(&text).with_context(|| path.display().to_string())?;
    }
    let stop = Stop::listen()?;
    let settings = options.settings.clone();
    let simulator = Simulator::start(options).await.context("the simulator cannot start")?;
    let tls = simulator.tls_url(CertificateKind::Good);
    if let Some(dir) = &command.profiles {
        write_profiles(dir, &command, &simulator, &settings)?;
    }
    if command.json {
        table::print_json(&json!({ "http": simulator.base_url(), "tls": tls }))?;
    } else {
        table::write_out(&format!(
            "simulated upstreams at {0} and {1}; what they received: {0}/_sim/summary; Ctrl-C ends it\n",
            simulator.base_url(),
            tls.as_deref().unwrap_or("no TLS address"),
        ))?;
    }
    stop.requested().await;
    simulator.stop().await;
    Ok(())
}

fn write_profiles(dir: &Path, command: &Simulate, simulator: &Simulator, settings: &Settings) -> Result<()> {
    let mut addresses = simulated_profiles::Addresses::of(simulator, settings);
    if let Some(url) = &command.public_url {
        addresses.http.clone_from(url);
    }
    simulated_profiles::write(dir, &command.tenant, &addresses)
}
