//! Reads the section of a provider.

use std::{collections::BTreeMap, time::Duration};

use url::Url;

use super::{
    Auth, BaseUrl, ClientAuth, Grant, IdemOn, Idempotency, OAuth, Occ, OccMode, Provider, TokenUrl, base,
    defaults::{self, Defaults},
    document::Section,
    limits,
    load::Loader,
    record,
};
use crate::{
    classify::{RateHeaders, RetryRules},
    path::Template,
};

/// The section `[crm]`, whose flavour decides what the rest of it is by default.
pub(super) fn read_crm(mut section: Section<'_>, loader: &Loader) -> Option<Provider> {
    let flavour = record::flavour(&mut section);
    let Some(product) = flavour.flatten() else {
        // A word that nobody knows was reported, and says nothing of the rest.
        let unknown = flavour.is_none() && section.has("flavour");
        if section.table("record").is_some() && !unknown {
            section.error("record", "is for the flavours with records; set flavour");
        }
        return read(section, &defaults::CRM, loader);
    };
    let form = record::read(&mut section, product);
    let provider = read(section, product.defaults(), loader)?;
    Some(Provider { record: Some(form?), ..provider })
}

/// Default early refresh; tokens live about an hour, and clocks are a few seconds apart.
const MARGIN_S: u64 = 60;

pub(super) fn read(mut section: Section<'_>, defaults: &Defaults, loader: &Loader) -> Option<Provider> {
    let insecure = section.flag("insecure", false);
    let base_url = base::read(&mut section, insecure);
    let auth = read_auth(&mut section, base_url.as_ref(), defaults, insecure);
    let endpoints = read_endpoints(section.table("endpoints"), defaults, loader);
    let buckets = read_buckets(section.table("buckets"), defaults, loader);
    let limits = limits::read(&mut section, &buckets, &endpoints);
    let mut retry = defaults.retry();
    if let Some(table) = section.table("retry") {
        read_retry(table, &mut retry);
    }
    let mut occ = Occ { mode: defaults.occ };
    if let Some(mut table) = section.table("occ") {
        occ.mode = table.word("mode", OccMode::WORDS).unwrap_or(occ.mode);
        if let Some(statuses) = read_statuses(&mut table, "statuses") {
            retry.conflict = statuses;
        }
        table.finish();
    }
    if let Some(mut table) = section.table("ratelimit") {
        retry.rate_headers = table.word("headers", RateHeaders::WORDS).unwrap_or(retry.rate_headers);
        table.finish();
    }
    for status in retry.statuses.iter().filter(|status| retry.conflict.contains(status)) {
        section.error("retry.statuses", format!("names {status}, which is also a conflict in occ.statuses"));
    }
    let idem = read_idem(section.table("idem"), defaults);
    let extra_roots = section.ca_file();
    section.finish();
    Some(Provider {
        name: defaults.name,
        base_url: base_url?,
        insecure,
        oauth: auth?,
        endpoints,
        buckets,
        limits,
        retry,
        occ,
        idem,
        record: None,
        extra_roots,
    })
}

fn read_auth(section: &mut Section<'_>, base: Option<&BaseUrl>, defaults: &Defaults, insecure: bool) -> Option<Auth> {
    let token = section.secret("token");
    let has_token = ["token", "token_env", "token_file"].iter().any(|key| section.has(key));
    match (section.table("oauth"), has_token) {
        (Some(oauth), false) => read_oauth(oauth, base, defaults, insecure).map(|oauth| Auth::OAuth(Box::new(oauth))),
        (Some(oauth), true) => {
            section.error("oauth", "and a fixed token are both set; keep one");
            read_oauth(oauth, base, defaults, insecure);
            None
        }
        (None, true) => token.map(Auth::Bearer),
        (None, false) => {
            section.missing("oauth", "is missing: set [….oauth], or token_env or token_file for a fixed bearer token");
            None
        }
    }
}

fn read_oauth(mut section: Section<'_>, base: Option<&BaseUrl>, defaults: &Defaults, insecure: bool) -> Option<OAuth> {
    let insecure = section.flag("insecure", insecure);
    let fixed = section.url("token_url", insecure).map(TokenUrl::Fixed);
    let discovery = section.url("discovery", insecure).map(TokenUrl::Discovery);
    if fixed.is_some() && discovery.is_some() {
        section.error("discovery", "and token_url are both set; keep one");
    }
    let derived = || {
        // A key that is there but wrong was reported; deriving another URL would hide it.
        if section.has("token_url") || section.has("discovery") {
            return None;
        }
        let (Some(BaseUrl::Fixed(base)), Some(path)) = (base, defaults.token_path) else { return None };
        let url = format!("{}{path}", base.as_str().trim_end_matches('/'));
        Url::parse(&url).ok().map(TokenUrl::Fixed)
    };
    let token_url = fixed.or(discovery).or_else(derived);
    let underivable = defaults.token_path.is_none() || base.is_some_and(|base| base.discovery().is_some());
    if underivable && !section.has("discovery") {
        section.missing("token_url", "is not set; set it, or discovery");
    }
    let client_id = section.text("client_id").map(str::to_owned);
    section.missing("client_id", "is not set");
    let client_secret = need_secret(&mut section, "client_secret");
    let grant = read_grant(&mut section);
    let scopes = read_scopes(&mut section);
    let auth = section.word("auth", ClientAuth::WORDS).unwrap_or(ClientAuth::Basic);
    let send_scope = section.flag("send_scope", true);
    let margin = Duration::from_secs(section.number("margin_s", 0..=86_400).unwrap_or(MARGIN_S));
    let encode_basic = section.flag("encode_basic", true);
    section.finish();
    Some(OAuth {
        token_url: token_url?,
        auth,
        client_id: client_id?,
        client_secret: client_secret?,
        grant: grant?,
        scopes,
        send_scope,
        margin,
        encode_basic,
    })
}

fn need_secret(section: &mut Section<'_>, stem: &str) -> Option<crate::redact::Secret> {
    let secret = section.secret(stem);
    let (env, file) = (format!("{stem}_env"), format!("{stem}_file"));
    if ![stem, &env, &file].iter().any(|key| section.has(key)) {
        section.error(&env, format!("is not set; name an environment variable, or a file with {file}"));
    }
    secret
}

fn read_grant(section: &mut Section<'_>) -> Option<Grant> {
    let password = section.word("grant", &[("client_credentials", false), ("password", true)]).unwrap_or(false);
    if !password {
        for key in ["username", "password_env", "password_file"] {
            if section.has(key) {
                section.error(key, "is used with grant = \"password\" only");
            }
            // Marks the key as seen; its value does not matter.
            let _ = section.text(key);
        }
        return Some(Grant::ClientCredentials);
    }
    let username = section.text("username").map(str::to_owned);
    section.missing("username", "is needed with grant = \"password\"");
    let password = need_secret(section, "password");
    Some(Grant::Password { username: username?, password: password? })
}

fn read_scopes(section: &mut Section<'_>) -> Vec<String> {
    let mut scopes = Vec::new();
    for value in section.list("scopes").unwrap_or_default() {
        match value.as_str() {
            // The characters of RFC 6749 3.3.
            Some(scope)
                if !scope.is_empty() && scope.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) =>
            {
                scopes.push(scope.to_owned());
            }
            _ => section.error("scopes", "must be a list of scopes, each without spaces and quotes"),
        }
    }
    scopes.sort();
    scopes.dedup();
    scopes
}

fn read_endpoints(section: Option<Section<'_>>, defaults: &Defaults, loader: &Loader) -> BTreeMap<String, String> {
    let mut endpoints: BTreeMap<String, String> =
        defaults.endpoints.iter().map(|(name, template)| ((*name).to_owned(), (*template).to_owned())).collect();
    for (_, name, template) in loader.endpoints.iter().filter(|(provider, ..)| provider == defaults.name) {
        endpoints.insert(name.clone(), template.clone());
    }
    let Some(mut section) = section else { return endpoints };
    for (name, built_in) in &mut endpoints {
        let Some(text) = section.text(name) else { continue };
        match Template::parse(text) {
            Ok(template) => {
                let known = Template::parse(built_in).map(|t| t.names().map(str::to_owned).collect::<Vec<_>>());
                let known = known.unwrap_or_default();
                if let Some(other) = template.names().find(|name| !known.iter().any(|known| known == name)) {
                    let message = format!("names {{{other}}}; known here are {}", known.join(", "));
                    section.error(name, message);
                }
                *built_in = text.to_owned();
            }
            Err(what) => section.error(name, what),
        }
    }
    section.finish();
    endpoints
}

fn read_buckets(section: Option<Section<'_>>, defaults: &Defaults, loader: &Loader) -> BTreeMap<String, u32> {
    let mut buckets: BTreeMap<String, u32> =
        defaults.buckets.iter().map(|(class, limit)| ((*class).to_owned(), *limit)).collect();
    let Some(mut section) = section else { return buckets };
    let declared = loader.buckets.iter().filter(|(provider, _)| provider == defaults.name).map(|(_, class)| class);
    let classes: Vec<String> = buckets.keys().chain(declared).cloned().collect();
    for class in classes {
        if let Some(limit) = section.number(&class, 1..=1_000_000).and_then(|limit| u32::try_from(limit).ok()) {
            buckets.insert(class, limit);
        }
    }
    section.finish();
    buckets
}

fn read_retry(mut section: Section<'_>, retry: &mut RetryRules) {
    if let Some(statuses) = read_statuses(&mut section, "statuses") {
        retry.statuses = statuses;
    }
    retry.retry_500 = section.flag("retry_500", retry.retry_500);
    section.finish();
}

fn read_statuses(section: &mut Section<'_>, key: &str) -> Option<Vec<u16>> {
    let mut statuses = Vec::new();
    for value in section.list(key)? {
        match value.as_integer().and_then(|status| u16::try_from(status).ok()) {
            Some(401 | 403 | 429) => {
                section.error(key, "cannot name 401, 403 and 429: they have a meaning of their own")
            }
            Some(status @ 400..=599) => statuses.push(status),
            _ => section.error(key, "must be a list of statuses between 400 and 599"),
        }
    }
    Some(statuses)
}

fn read_idem(section: Option<Section<'_>>, defaults: &Defaults) -> Idempotency {
    let mut idem =
        Idempotency { header: reqwest::header::HeaderName::from_static("idempotency-key"), on: defaults.idem };
    let Some(mut section) = section else { return idem };
    idem.header = section.header("header", "idempotency-key");
    idem.on = section.word("on", IdemOn::WORDS).unwrap_or(idem.on);
    section.finish();
    idem
}
