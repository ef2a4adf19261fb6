//! Clients and their tokens. The tenant of every request is the tenant of its token.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::http::{HeaderMap, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    locked::locked,
    reply::Reply,
    routes::{Provider, form_decode, form_pairs, is_well_formed},
    settings::Settings,
};

/// Clients that may be registered besides the rule `sim-<tenant>`.
const CLIENTS_MAX: usize = 10_000;

/// A registered client, or a change to the rule for `sim-<tenant>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientRule {
    /// What the client calls itself.
    pub client_id: String,
    /// Its tenant; for `sim-<tenant>` it may be left out.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Its secret; the simulator's default one where absent.
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
    /// The scopes it can be granted; any where absent.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Life of its tokens in seconds; as in the settings where absent.
    #[serde(default)]
    pub expires_in_s: Option<u32>,
    /// When true its token replies lack `expires_in`.
    #[serde(default)]
    pub omit_expires_in: bool,
    /// When true its token replies lack `scope`.
    #[serde(default)]
    pub omit_scope: bool,
}

#[derive(Debug, Clone)]
struct Token {
    number: u64,
    tenant: Arc<str>,
    client: Arc<str>,
    /// Any scope where absent.
    scopes: Option<Arc<[String]>>,
    expires_ms: i64,
    mount: Option<Provider>,
    revoked: bool,
}

#[derive(Debug, Default)]
struct Registry {
    tokens: HashMap<String, Token>,
    order: VecDeque<String>,
    clients: HashMap<String, ClientRule>,
    issued: u64,
    refused: u64,
}

/// Who sent a request, as far as it can be told.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// `-` where unknown.
    pub(crate) tenant: Arc<str>,
    pub(crate) client: Arc<str>,
    /// Number of the token.
    pub(crate) token: Option<u64>,
    pub(crate) standing: Standing,
}

/// What a token is good for.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    Valid {
        scopes: Option<Arc<[String]>>,
        mount: Option<Provider>,
    },
    /// The CRM's fixed token.
    CrmOnly,
    /// For nothing, and why.
    Refused(&'static str),
}

impl Identity {
    fn nobody(reason: &'static str) -> Self {
        Self { tenant: "-".into(), client: "-".into(), token: None, standing: Standing::Refused(reason) }
    }
}

/// The token endpoint and the check of tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    registry: Mutex<Registry>,
    default_secret: String,
    tokens_max: usize,
}

impl Tokens {
    pub(crate) fn new(default_secret: String, tokens_max: usize) -> Self {
        Self { registry: Mutex::default(), default_secret, tokens_max: tokens_max.max(1) }
    }

    /// Registers a client or changes one.
    pub(crate) fn register(&self, mut rule: ClientRule) -> anyhow::Result<()> {
        let tenant = rule.tenant.take().or_else(|| tenant_of_default(&rule.client_id).map(str::to_owned));
        let tenant = tenant.filter(|tenant| is_well_formed(tenant));
        anyhow::ensure!(
            tenant.is_some(),
            "client {:?} needs a tenant of A-Z, a-z, 0-9, _ and -, or to be named sim-<tenant>",
            rule.client_id
        );
        rule.tenant = tenant;
        let mut registry = locked(&self.registry);
        anyhow::ensure!(
            registry.clients.len() < CLIENTS_MAX || registry.clients.contains_key(&rule.client_id),
            "{CLIENTS_MAX} clients are registered"
        );
        registry.clients.insert(rule.client_id.clone(), rule);
        Ok(())
    }

    /// Who sent a request to an endpoint other than the token's.
    pub(crate) fn identify(&self, headers: &HeaderMap, now_ms: i64) -> Identity {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Identity::nobody("no token was sent") };
        let Some(bearer) = value.to_str().ok().and_then(|value| strip_scheme(value, "bearer")) else {
            return Identity::nobody("the Authorization header is not Bearer");
        };
        if let Some(tenant) = bearer.strip_prefix("sim-crm-").filter(|tenant| is_well_formed(tenant)) {
            return Identity { tenant: tenant.into(), client: bearer.into(), token: None, standing: Standing::CrmOnly };
        }
        let registry = locked(&self.registry);
        let Some(token) = registry.tokens.get(bearer) else { return Identity::nobody("the token is unknown") };
        let standing = if token.revoked {
            Standing::Refused("the token was revoked")
        } else if token.expires_ms <= now_ms {
            Standing::Refused("the token has expired")
        } else {
            Standing::Valid { scopes: token.scopes.clone(), mount: token.mount }
        };
        Identity { tenant: token.tenant.clone(), client: token.client.clone(), token: Some(token.number), standing }
    }

    /// Who asks for a token, before the secret is looked at.
    pub(crate) fn identify_client(&self, headers: &HeaderMap, body: &[u8]) -> Identity {
        let Some((client, _)) = credentials(headers, body).into_iter().next() else {
            return Identity::nobody("no client");
        };
        let registry = locked(&self.registry);
        let registered = registry.clients.get(&client).and_then(|rule| rule.tenant.as_deref());
        let tenant = registered.or_else(|| tenant_of_default(&client)).unwrap_or("-");
        Identity {
            tenant: tenant.into(),
            client: client.into(),
            token: None,
            standing: Standing::Refused("the client has no token yet"),
        }
    }

    /// Answers a token request.
    pub(crate) fn issue(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        mount: Option<Provider>,
        settings: &Settings,
        now_ms: i64,
    ) -> Reply {
        let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !media.starts_with("application/x-www-form-urlencoded") {
            return Reply::error(400, "invalid_request", "send application/x-www-form-urlencoded");
        }
        let form = form_pairs(&String::from_utf8_lossy(body));
        let field = |name: &str| form.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        if field("grant_type") != Some("client_credentials") {
            return Reply::error(400, "unsupported_grant_type", "grant_type must be client_credentials");
        }
        let mut registry = locked(&self.registry);
        let Some(client) = self.authenticate(&registry, headers, body) else {
            registry.refused += 1;
            return Reply::error(401, "invalid_client", "unknown client or wrong secret")
                .with_header(header::WWW_AUTHENTICATE, "Basic");
        };
        let asked: Vec<String> =
            field("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
        let scopes = granted(asked, client.scopes.as_deref());
        if scopes.as_ref().is_some_and(|scopes| scopes.is_empty()) {
            return Reply::error(400, "invalid_scope", "none of the scopes can be granted to this client");
        }
        let expires_in_s = client.expires_in_s.unwrap_or(settings.token_expires_in_s);
        let text = format!("sim.{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        registry.issued += 1;
        let token = Token {
            number: registry.issued,
            tenant: client.tenant.as_deref().unwrap_or("-").into(),
            client: client.client_id.as_str().into(),
            scopes: scopes.clone().map(Into::into),
            expires_ms: now_ms + i64::from(expires_in_s) * 1000,
            mount,
            revoked: false,
        };
        registry.remember(text.clone(), token, self.tokens_max);
        let mut answer = json!({"access_token": text, "token_type": "Bearer"});
        if !client.omit_expires_in {
            answer["expires_in"] = json!(expires_in_s);
        }
        if let (Some(scopes), false) = (&scopes, client.omit_scope) {
            answer["scope"] = json!(scopes.join(" "));
        }
        Reply::json(200, &answer).with_header(header::CACHE_CONTROL, "no-store")
    }

    /// The client whose secret fits, under either reading of a Basic header.
    fn authenticate(&self, registry: &Registry, headers: &HeaderMap, body: &[u8]) -> Option<ClientRule> {
        credentials(headers, body).into_iter().find_map(|(client_id, secret)| {
            let rule = registry.clients.get(&client_id).cloned().or_else(|| {
                let tenant = tenant_of_default(&client_id)?.to_owned();
                Some(ClientRule {
                    client_id,
                    tenant: Some(tenant),
                    secret: None,
                    scopes: None,
                    expires_in_s: None,
                    omit_expires_in: false,
                    omit_scope: false,
                })
            })?;
            (rule.secret.as_deref().unwrap_or(&self.default_secret) == secret).then_some(rule)
        })
    }

    /// Revokes the current tokens of a tenant, or of all; answers how many.
    pub(crate) fn revoke(&self, tenant: Option<&str>) -> usize {
        let mut revoked = 0;
        for token in locked(&self.registry).tokens.values_mut() {
            if !token.revoked && tenant.is_none_or(|tenant| &*token.tenant == tenant) {
                token.revoked = true;
                revoked += 1;
            }
        }
        revoked
    }

    /// Tokens issued, and token requests refused for their client or secret.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let registry = locked(&self.registry);
        (registry.issued, registry.refused)
    }

    /// Forgets tokens and registered clients.
    pub(crate) fn reset(&self) {
        *locked(&self.registry) = Registry::default();
    }
}

impl Registry {
    fn remember(&mut self, text: String, token: Token, tokens_max: usize) {
        if self.tokens.len() >= tokens_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        self.order.push_back(text.clone());
        self.tokens.insert(text, token);
    }
}

/// What is granted of what was asked: everything the client may have where nothing was asked.
fn granted(asked: Vec<String>, allowed: Option<&[String]>) -> Option<Vec<String>> {
    match (asked.is_empty(), allowed) {
        (true, allowed) => allowed.map(<[String]>::to_vec),
        (false, None) => Some(asked),
        (false, Some(allowed)) => Some(asked.into_iter().filter(|scope| allowed.contains(scope)).collect()),
    }
}

fn tenant_of_default(client_id: &str) -> Option<&str> {
    client_id.strip_prefix("sim-").filter(|tenant| is_well_formed(tenant))
}

fn strip_scheme<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (own, rest) = value.split_once(' ')?;
    own.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// The pairs of client id and secret a request may mean: from the Basic header with its parts form-decoded as RFC
/// 6749 says and as they stand, else from the body.
fn credentials(headers: &HeaderMap, body: &[u8]) -> Vec<(String, String)> {
    let basic = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| strip_scheme(value, "basic"))
        .and_then(|encoded| BASE64_STANDARD.decode(encoded).ok())
        .and_then(|pair| String::from_utf8(pair).ok());
    if let Some(pair) = basic {
        let Some((id, secret)) = pair.split_once(':') else { return Vec::new() };
        return vec![(form_decode(id), form_decode(secret)), (id.to_owned(), secret.to_owned())];
    }
    let form = form_pairs(&String::from_utf8_lossy(body));
    let field = |name: &str| form.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    field("client_id").zip(field("client_secret")).into_iter().collect()
}
