//! Profiles as people write them, with all their mistakes.

mod limits;
mod records;
mod shipped;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::*;
use crate::{address::HostPattern, test_server::load};

const FULL: &str = r#"
tenant = "acme"
[cxone]
base_url = "https://api-eu.example.com/cx/"
[cxone.oauth]
token_url = "https://login.example.com/oauth/token"
auth = "body"
client_id = "client-1"
client_secret_env = "SECRET"
scopes = ["b", "a", "b"]
send_scope = false
margin_s = 5
encode_basic = false
[cxone.endpoints]
profile = "/dfo/3.0/contacts/{profileId}"
[cxone.buckets]
profiles = 17
[cxone.retry]
statuses = [502, 503]
retry_500 = false
[cxone.occ]
mode = "none"
statuses = [409]
[cxone.ratelimit]
headers = "x-rate-limit"
[genesys]
base_url = "https://api.mypurecloud.example"
[genesys.oauth]
token_url = "https://login.mypurecloud.example/oauth/token"
client_id = "g"
client_secret_env = "SECRET"
[crm]
base_url = "http://127.0.0.1:9000/api/v1"
insecure = true
token_env = "SECRET_CRM"
[crm.occ]
mode = "if_unmodified_since"
[crm.idem]
header = "X-Idem"
on = "create"
[callback]
allow_hosts = ["hooks.example.com", { host = "*.internal.example", private = true }]
secret_env = "SECRET"
previous_secret_env = "SECRET_OLD"
[probe]
allow_hosts = ["chat.example.com"]
timeout_ms = 2500
rollback = true
[webhook]
public_url = "https://in.example.com"
secret_env = "SECRET"
park_invalid = true
[webhook.signature]
header = "X-Nexus-Signature-256"
timestamp_header = "X-Nexus-Timestamp"
encoding = "hex"
prefix = "sha256="
template = "{timestamp}.{body}"
tolerance_s = 60
[kinds.crm-sync]
chunk = 10
"#;

#[test]
fn a_full_profile_is_read() {
    let profiles = load(FULL).unwrap();
    let profile = profiles.get("acme").unwrap();
    let cxone = profile.cxone.as_ref().unwrap();
    let Auth::OAuth(oauth) = &cxone.oauth else { panic!("oauth") };
    assert_eq!(oauth.token_url.url().as_str(), "https://login.example.com/oauth/token");
    assert_eq!((oauth.auth, oauth.scopes.as_slice()), (ClientAuth::Body, ["a".to_owned(), "b".to_owned()].as_slice()));
    assert_eq!((oauth.margin, oauth.send_scope, oauth.encode_basic), (Duration::from_secs(5), false, false));
    assert_eq!(cxone.endpoints["profile"], "/dfo/3.0/contacts/{profileId}");
    assert_eq!(cxone.endpoints["webhooks"], "/api/v2/webhooks");
    assert_eq!((cxone.buckets["profiles"], cxone.buckets["webchat"]), (17, 100));
    assert_eq!((cxone.retry.statuses.as_slice(), cxone.retry.retry_500), ([502, 503].as_slice(), false));
    assert_eq!((cxone.occ.mode, cxone.retry.conflict.as_slice()), (OccMode::None, [409].as_slice()));
    assert_eq!(cxone.bucket("profiles"), "cxone/profiles");
    let crm = profile.crm.as_ref().unwrap();
    assert_eq!(
        (crm.occ.mode, crm.idem.on, crm.idem.header.as_str()),
        (OccMode::IfUnmodifiedSince, IdemOn::Create, "x-idem")
    );
    assert!(crm.insecure && matches!(crm.oauth, Auth::Bearer(_)));
    let genesys = profile.provider("genesys").unwrap();
    assert_eq!(
        (genesys.occ.mode, genesys.retry.retry_500, genesys.buckets["webhooks"]),
        (OccMode::IfMatchVersion, false, 200)
    );
    assert_eq!(profile.callback.allow_hosts[1].host, HostPattern::Below("internal.example".to_owned()));
    assert!(profile.callback.allow_hosts[1].private && !profile.callback.allow_hosts[0].private);
    assert_eq!((profile.callback.secrets.len(), profile.webhook.secrets.len()), (2, 1));
    assert_eq!((profile.probe.timeout, profile.probe.rollback), (Duration::from_millis(2500), true));
    assert_eq!(profile.webhook.signature.header.as_str(), "x-nexus-signature-256");
    assert_eq!(profile.webhook.signature.tolerance, Duration::from_secs(60));
    assert_eq!(profile.kinds["crm-sync"]["chunk"].as_integer(), Some(10));
    assert_eq!(profiles.tenants().collect::<Vec<_>>(), ["acme"]);
    assert_eq!(profile.providers().count(), 3);
}

/// Covers row 11: a profile can be printed without its secrets.
#[test]
fn debug_output_has_no_secret() {
    let text = format!("{:?}", load(FULL).unwrap());
    assert!(text.contains("client-1") && !text.contains("test-client-secret"));
}

#[test]
fn defaults_are_the_contract() {
    let text = "[cxone]\nbase_url = \"https://api.example.com\"\n[cxone.oauth]\nclient_id = \"c\"\nclient_secret_env = \"SECRET\"";
    let profiles = load(text).unwrap();
    let profile = profiles.get("acme").unwrap();
    let cxone = profile.cxone.as_ref().unwrap();
    let Auth::OAuth(oauth) = &cxone.oauth else { panic!("oauth") };
    assert_eq!(oauth.token_url.url().as_str(), "https://api.example.com/api/v2/oauth/token");
    assert_eq!((oauth.auth, oauth.margin, oauth.send_scope), (ClientAuth::Basic, Duration::from_secs(60), true));
    assert_eq!(cxone.retry, RetryRules::default());
    assert!(profile.callback.allow_hosts.is_empty() && profile.probe.allow_hosts.is_empty());
    assert_eq!(profile.probe.timeout, Duration::from_secs(5));
    assert_eq!(profile.webhook.signature.tolerance, Duration::from_secs(300));
    assert_eq!(profile.webhook.body_bytes_max, 262_144);
    assert_eq!(profile.webhook.signature.template, "{timestamp}.{body}");
}

fn errors(text: &str) -> Vec<String> {
    match load(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

/// Every mistake of every file is reported at once, with file and key.
#[test]
fn all_errors_are_reported_at_once() {
    let bad = r#"
colour = 1
[cxone]
base_ulr = "https://api.example.com"
[cxone.oauth]
auth = "digest"
client_id = ""
client_secret_env = "MISSING"
scopes = ["a b", 5]
margin_s = -1
[cxone.endpoints]
profle = "/x"
profile = "/contacts/{contactId}"
webhook = "no-slash"
[cxone.buckets]
profiles = 0
[cxone.retry]
statuses = [429, 200]
retry_500 = "yes"
[crm]
base_url = "http://crm.example.com"
insecure = true
[genesys]
base_url = "https://user:pw@api.example.com"
token_env = "MISSING"
[callback]
allow_hosts = ["https://hooks.example.com", { host = "10.0.0.1", privat = true }, { private = true }, 7]
[webhook.signature]
template = "{body}"
"#;
    let files =
        [("acme.toml", bad), ("broken.toml", "[cxone\nclient_secret = \"test-pasted\""), ("two words.toml", "")];
    let loaded = Loader::new().env(|_| None).from_toml(files.map(|(name, text)| (name.to_owned(), text.to_owned())));
    let text = loaded.unwrap_err().to_string();
    for want in [
        "acme.toml: colour is not a key of this section; known are callback, crm, cxone",
        "acme.toml: cxone.base_url is not set",
        "acme.toml: cxone.base_ulr is not a key",
        "acme.toml: cxone.oauth.auth must be one of `basic`, `body`, `json_key`",
        "acme.toml: cxone.oauth.client_id must not be empty",
        "acme.toml: cxone.oauth.client_secret_env the environment variable MISSING is not set",
        "acme.toml: cxone.oauth.scopes must be",
        "acme.toml: cxone.oauth.margin_s must lie between 0 and 86400, not -1",
        "acme.toml: cxone.endpoints.profle is not a key",
        "acme.toml: cxone.endpoints.profile names {contactId}; known here are profileId",
        "acme.toml: cxone.endpoints.webhook must begin with one `/`",
        "acme.toml: cxone.buckets.profiles must lie between 1 and 1000000",
        "acme.toml: cxone.retry.statuses cannot name 401, 403 and 429",
        "acme.toml: cxone.retry.statuses must be a list of statuses between 400 and 599",
        "acme.toml: cxone.retry.retry_500 must be true or false, not a string",
        "acme.toml: crm.base_url is plain http to another machine",
        "acme.toml: crm.oauth is missing",
        "acme.toml: genesys.base_url must not hold a user name or password",
        "acme.toml: genesys.token_env the environment variable MISSING is not set",
        "acme.toml: callback.allow_hosts[0] is no host name or address",
        "acme.toml: callback.allow_hosts[1].privat is not a key",
        "acme.toml: callback.allow_hosts[2].host is needed",
        "acme.toml: callback.allow_hosts[3] must be a host name or a table",
        "acme.toml: callback.secret_env is not set; callbacks are always signed",
        "acme.toml: webhook.signature.template must hold {timestamp} and {body}",
        "broken.toml: line 1 is not TOML",
        "two words.toml: tenant the file's name is the tenant",
    ] {
        assert!(text.contains(want), "missing {want:?} in\n{text}");
    }
    assert!(!text.contains("test-pasted"), "{text}");
}

/// Covers row 130, row 185: what is unset is named, and nothing starts.
#[test]
fn unset_values_are_refused() {
    let base = "[crm]\ntoken_env = \"CRM_API_TOKEN\"";
    assert_eq!(
        errors(base),
        [
            "acme.toml: crm.base_url is not set; no call is made to a guessed host",
            "acme.toml: crm.token_env the environment variable CRM_API_TOKEN is not set; set it to the secret",
        ]
    );
    let empty = Loader::new()
        .env(|_| Some(" \n".to_owned()))
        .from_toml([("acme.toml".to_owned(), format!("{base}\nbase_url = \"https://crm.example.com\""))]);
    assert!(empty.unwrap_err().to_string().contains("CRM_API_TOKEN is empty"));
    let genesys = errors("[genesys]\nbase_url = \"https://api.example.com\"\n[genesys.oauth]\nclient_id = \"c\"");
    assert!(genesys.iter().any(|error| error.contains("genesys.oauth.token_url is not set")), "{genesys:?}");
    assert!(genesys.iter().any(|error| error.contains("genesys.oauth.client_secret_env is not set")), "{genesys:?}");
}

/// Covers row 13: plain http is refused at start, for the API and for the token endpoint.
#[test]
fn plain_http_is_for_loopback_alone() {
    let crm = |base: &str, more: &str| errors(&format!("[crm]\nbase_url = \"{base}\"\ntoken_env = \"SECRET\"\n{more}"));
    assert!(crm("https://crm.example.com", "").is_empty());
    assert!(crm("http://crm.example.com", "")[0].contains("use https"));
    assert!(crm("http://crm.example.com", "insecure = true")[0].contains("use https"));
    assert!(crm("http://127.0.0.1:9", "")[0].contains("insecure = true"));
    assert!(crm("http://10.0.0.1", "insecure = true")[0].contains("use https"));
    assert!(crm("http://localhost.evil.test", "insecure = true")[0].contains("use https"));
    for base in ["http://127.0.0.1:9", "http://localhost:9/api", "http://[::1]:9"] {
        assert!(crm(base, "insecure = true").is_empty(), "{base}");
    }
    for base in ["ftp://127.0.0.1", "crm.example.com", "https://crm.example.com?x=1", "https://crm.example.com/#x"] {
        assert_eq!(crm(base, "").len(), 1, "{base}");
    }
    let oauth = |token_url: &str| {
        errors(&format!(
            "[cxone]\nbase_url = \"https://api.example.com\"\n[cxone.oauth]\ntoken_url = \"{token_url}\"\n\
             client_id = \"c\"\nclient_secret_env = \"SECRET\""
        ))
    };
    assert!(oauth("https://login.example.com/token").is_empty());
    assert!(oauth("http://login.example.com/token")[0].starts_with("acme.toml: cxone.oauth.token_url is plain http"));
    assert_eq!(
        errors("[callback]\nallow_hosts = [{ host = \"a.example.com\", insecure = true }]\nsecret_env = \"SECRET\"")
            .len(),
        1
    );
}

#[test]
fn secrets_do_not_stand_in_profiles() {
    let text = "[crm]\nbase_url = \"https://crm.example.com\"\ntoken = \"test-pasted\"";
    let found = errors(text).join("\n");
    assert!(found.contains("crm.token secrets do not belong in a profile; use token_env or token_file"), "{found}");
    assert!(!found.contains("test-pasted"), "{found}");
    let both = "[crm]\nbase_url = \"https://crm.example.com\"\ntoken_env = \"SECRET\"\ntoken_file = \"x\"";
    assert!(errors(both)[0].contains("both set"));
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Knobs {
    chunk: u8,
    names: BTreeMap<String, u8>,
}

#[test]
fn kinds_read_their_own_sections() {
    let loader = Loader::new()
        .env(|name| (name == "KEY").then(|| "test-key".to_owned()))
        .kind::<Knobs>("crm-sync")
        .section("enrichment", |section| {
            let name = section.table.get("key_env").and_then(|name| name.as_str()).unwrap_or_default();
            (section.env)(name)
                .ok_or_else(|| vec![format!("key_env: {name} is not set"), "days: is missing".to_owned()])
        });
    let load = |text: &str| loader.from_toml([("acme.toml".to_owned(), text.to_owned())]);
    let profiles = load("[kinds.crm-sync]\nchunk = 3\n[kinds.enrichment]\nkey_env = \"KEY\"").unwrap();
    let profile = profiles.get("acme").unwrap();
    assert_eq!(profile.settings::<Knobs>("crm-sync").unwrap().chunk, 3);
    assert_eq!(profile.settings::<String>("enrichment").unwrap(), "test-key");
    assert_eq!(profile.settings::<Knobs>("enrichment"), None);
    assert_eq!(profile.knobs::<Knobs>("crm-sync").unwrap().chunk, 3);
    assert_eq!(profile.knobs::<Knobs>("absent").unwrap(), Knobs::default());

    let bad = "[kinds.crm-sync]\nnames = { a = 300 }\n[kinds.enrichment]\nkey_env = \"NO\"\n[kinds.enrichmnt]\n";
    let text = load(bad).unwrap_err().to_string();
    for want in [
        "acme.toml: kinds.crm-sync.names.a ",
        "acme.toml: kinds.enrichment.key_env NO is not set",
        "acme.toml: kinds.enrichment.days is missing",
        "acme.toml: kinds.enrichmnt is no section of a kind; known are crm-sync, enrichment",
    ] {
        assert!(text.contains(want), "missing {want:?} in\n{text}");
    }
}

#[test]
fn loaders_add_endpoints_and_buckets() {
    let text = "[crm]\nbase_url = \"https://crm.example.com\"\ntoken_env = \"SECRET\"\n[crm.endpoints]\nnote = \"/n/{id}\"\n[crm.buckets]\nnotes = 5";
    assert_eq!(errors(text).len(), 2);
    let loader = Loader::new()
        .env(|_| Some("test-secret".to_owned()))
        .endpoint("crm", "note", "/notes/{id}")
        .bucket("crm", "notes");
    let profiles = loader.from_toml([("acme.toml".to_owned(), text.to_owned())]).unwrap();
    let crm = profiles.get("acme").unwrap().crm.as_ref().unwrap();
    assert_eq!((crm.endpoints["note"].as_str(), crm.buckets["notes"]), ("/n/{id}", 5));
}

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("backhaul-profiles-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_is_read() {
    let folder = Folder::new();
    let crm = "[crm]\nbase_url = \"https://crm.example.com\"\ntoken_file = \"token\"\n";
    folder.write("acme.toml", crm);
    folder.write("globex.toml", crm);
    folder.write("token", "test-file-secret\n");
    for ignored in ["README.md", "cxone-us.toml.example", ".hidden.toml"] {
        folder.write(ignored, "not a profile");
    }
    let profiles = Profiles::load_dir(&folder.0).unwrap();
    assert_eq!(profiles.tenants().collect::<Vec<_>>(), ["acme", "globex"]);
    let Auth::Bearer(token) = &profiles.get("acme").unwrap().crm.as_ref().unwrap().oauth else { panic!("bearer") };
    assert_eq!(token.expose(), "test-file-secret");

    folder.write("zz.toml", "tenant = \"other\"\n[callback]\nca_file = \"token\"\n[probe]\nca_file = \"gone.pem\"");
    let text = Profiles::load_dir(&folder.0).unwrap_err().to_string();
    for want in
        ["tenant must be the file's name", "callback.ca_file", "holds no certificate", "gone.pem cannot be read"]
    {
        assert!(text.contains(want), "missing {want:?} in\n{text}");
    }
    assert!(Profiles::load_dir(&folder.0.join("none")).unwrap_err().to_string().contains("cannot be read"));
}
