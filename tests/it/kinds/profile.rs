//! The connection profile of a stage's tenant.

use std::path::Path;

use serde_json::Value;

/// The secret that signs callbacks and webhooks of every stage.
pub(super) const HOOK_SECRET: &str = "test-secret-test-secret-test-secret";

/// The scopes that the kinds need of CXone.
const SCOPES: &str = r#""profile:read", "profile:write", "digitalmessaging:webchat:view", "digitalmessaging:webchat:edit",
    "social:read", "interactions:read""#;

/// What a test wants otherwise than [`Stage::new`] has it. Texts are lines of the tenant's profile.
#[derive(Debug, Default)]
pub(super) struct Setup {
    /// CXone's API and token endpoint are found in documents instead of being named.
    pub(super) discovered: bool,
    pub(super) genesys: String,
    pub(super) crm: String,
    /// What follows the CRM's mount at the simulator; `/api/v1` where absent.
    pub(super) crm_base: Option<&'static str>,
    pub(super) probe: String,
    /// Follows `[kinds.enrichment]` with its legal basis and key, and may open further tables.
    pub(super) kinds: String,
    /// The client id at the simulator; `sim-<tenant>` where empty.
    pub(super) client_id: String,
    /// Settings of the simulator. They concern all of its tenants, so the test gets one of its own.
    pub(super) simulator: Option<Value>,
}

/// The tenant's profile with the secrets that it names.
pub(super) fn write_profile(http: &str, tenant: &str, dir: &Path, setup: &Setup) {
    let files = [
        ("secret".to_owned(), "sim-secret".to_owned()),
        ("hook".to_owned(), HOOK_SECRET.to_owned()),
        ("hash".to_owned(), "test-hash-key-test-hash-key".to_owned()),
        (format!("crm-{tenant}"), format!("sim-crm-{tenant}")),
        (format!("{tenant}.toml"), profile(http, tenant, dir, setup)),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).expect("writable");
    }
}

fn profile(http: &str, tenant: &str, dir: &Path, setup: &Setup) -> String {
    let client_id = match setup.client_id.as_str() {
        "" => format!("sim-{tenant}"),
        own => own.to_owned(),
    };
    let hash = toml::Value::String(dir.join("hash").to_string_lossy().into_owned());
    let Setup { genesys, crm, probe, kinds, .. } = setup;
    let known = format!("{http}/cxone/.well-known");
    let (base, token) = match setup.discovered {
        true => (
            format!("discovery = \"{known}/cxone-configuration?tenantId={tenant}\""),
            format!("discovery = \"{known}/openid-configuration\", "),
        ),
        false => (format!("base_url = \"{http}/cxone\""), String::new()),
    };
    let crm_base = setup.crm_base.unwrap_or("/api/v1");
    format!(
        r#"
[cxone]
{base}
insecure = true
oauth = {{ {token}client_id = "{client_id}", client_secret_file = "secret", scopes = [{SCOPES}] }}
buckets = {{ profiles = 600000, webchat = 600000, webhooks = 600000, interactions = 600000, token = 600000 }}
[genesys]
base_url = "{http}/genesys"
insecure = true
oauth = {{ token_url = "{http}/genesys/oauth/token", client_id = "{client_id}", client_secret_file = "secret" }}
buckets = {{ channels = 600000, webhooks = 600000, audit = 600000, token = 600000 }}
{genesys}
[crm]
base_url = "{http}/crm{crm_base}"
insecure = true
token_file = "crm-{tenant}"
buckets = {{ threads = 600000 }}
{crm}
[callback]
allow_hosts = [{{ host = "127.0.0.1", private = true, insecure = true }}]
secret_file = "hook"
[probe]
allow_hosts = ["chat.example.com", {{ host = "127.0.0.1", private = true }}]
ca_file = "ca.pem"
{probe}
[webhook]
allow_hosts = ["hooks.example.com"]
secret_file = "hook"
[kinds.enrichment]
legal_basis = "6(1)(f)"
hash_key_file = {hash}
{kinds}
"#
    )
}
