//! Connection profiles that point at a simulator, with the secrets they need beside them.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, Result};
use backhaul_simulator::{Settings, SimOptions, Simulator};
use uuid::Uuid;

/// Classes of CXone whose limits the profiles take from the simulator, so that nobody is throttled by surprise.
const CXONE_CLASSES: [&str; 4] = ["profiles", "webchat", "webhooks", "interactions"];

/// Where the simulator is, and how much it bears.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// Plain listener, without a slash at the end.
    pub(crate) http: String,
    /// The authority of the TLS listeners, as PEM.
    pub(crate) ca_pem: String,
    /// `cxone.buckets`, as an inline table.
    cxone_buckets: String,
}

impl Addresses {
    /// Reads them off a running simulator that has these settings.
    pub(crate) fn of(simulator: &Simulator, settings: &Settings) -> Self {
        Self {
            http: simulator.base_url(),
            ca_pem: simulator.ca_pem().to_owned(),
            cxone_buckets: cxone_buckets(settings),
        }
    }
}

fn cxone_buckets(settings: &Settings) -> String {
    let limit = |class: &&str| {
        let per_minute = settings.limits.get(&format!("cxone/{class}"))?;
        Some(format!("{class} = {per_minute}"))
    };
    let limits: Vec<String> = CXONE_CLASSES.iter().filter_map(limit).collect();
    format!("{{ {} }}", limits.join(", "))
}

/// Writes `<tenant>.toml` for each tenant, and the secrets and the authority that the profiles name.
pub(crate) fn write(dir: &Path, tenants: &[String], addresses: &Addresses) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))?;
    let dir = dir.as_path();
    put(dir, "simulator-ca.pem", &addresses.ca_pem)?;
    put(dir, "client-secret", &SimOptions::default().client_secret)?;
    put(dir, "callback-secret", &secret())?;
    put(dir, "hash-key", &secret())?;
    for tenant in tenants {
        put(dir, &format!("crm-token-{tenant}"), &format!("sim-crm-{tenant}"))?;
        put(dir, &format!("{tenant}.toml"), &profile(tenant, dir, addresses))?;
    }
    Ok(())
}

fn profile(tenant: &str, dir: &Path, addresses: &Addresses) -> String {
    let Addresses { http, cxone_buckets, .. } = addresses;
    // A TOML string takes the path with its backslashes and quotes escaped.
    let hash_key = toml::Value::String(dir.join("hash-key").to_string_lossy().into_owned());
    format!(
        r#"# Tenant {tenant} at the simulator. Written by `backhaul demo` or `backhaul simulate --profiles`.

[cxone]
base_url = "{http}/cxone"
insecure = true
oauth = {{ auth = "basic", client_id = "sim-{tenant}", client_secret_file = "client-secret" }}
buckets = {cxone_buckets}

[genesys]
base_url = "{http}/genesys"
insecure = true
oauth = {{ token_url = "{http}/genesys/oauth/token", client_id = "sim-{tenant}", client_secret_file = "client-secret" }}

[crm]
base_url = "{http}/crm/api/v1"
insecure = true
token_file = "crm-token-{tenant}"

[callback]
allow_hosts = [{{ host = "127.0.0.1", private = true, insecure = true }}]
secret_file = "callback-secret"

[probe]
allow_hosts = [{{ host = "127.0.0.1", private = true }}]
ca_file = "simulator-ca.pem"

[webhook]
allow_hosts = [{{ host = "127.0.0.1", private = true, insecure = true }}]
secret_file = "callback-secret"

[kinds.deliver.targets]
analytics = {{ url = "{http}/callbacks/{tenant}/analytics" }}
crm-sync = {{ url = "{http}/callbacks/{tenant}/crm-sync" }}
notification = {{ url = "{http}/callbacks/{tenant}/notification" }}

[kinds.enrichment]
legal_basis = "6(1)(f)"
hash_key_file = {hash_key}
"#
    )
}

fn put(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A secret of 64 hexadecimal digits, made at every start.
fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_have_the_simulators_limits() {
        let mut settings = Settings::default();
        assert!(cxone_buckets(&settings).contains("profiles = 200,"), "{}", cxone_buckets(&settings));
        settings.limits.insert("cxone/profiles".to_owned(), 7);
        assert!(cxone_buckets(&settings).starts_with("{ profiles = 7, "));
    }
}
