//! Limits beside those of the classes: a call draws on its class's bucket and on every limit that covers it.

use std::collections::BTreeMap;

use reqwest::Method;

use super::{Provider, document::Section};

/// Most limits of one provider: each costs a row of every call that it covers.
const LIMITS_MAX: usize = 16;
/// Longest name; it is the class of a bucket.
const NAME_BYTES_MAX: usize = 40;
/// The methods a limit can name.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// One entry of `[[<provider>.limits]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its bucket is `provider/name`.
    pub name: String,
    /// Requests a minute.
    pub per_minute: u32,
    /// The endpoints whose calls it covers. Empty: all.
    pub endpoints: Vec<String>,
    /// The methods that it covers. Empty: all.
    pub methods: Vec<Method>,
}

impl Limit {
    /// Whether every call of the provider draws on it, so that a claim can take its token in advance.
    fn is_wide(&self) -> bool {
        self.endpoints.is_empty() && self.methods.is_empty()
    }

    fn covers(&self, endpoint: &str, method: &Method) -> bool {
        (self.endpoints.is_empty() || self.endpoints.iter().any(|covered| covered == endpoint))
            && (self.methods.is_empty() || self.methods.contains(method))
    }
}

impl Provider {
    /// The buckets of the limits that every call draws on.
    pub fn wide_limits(&self) -> Vec<String> {
        self.limits.iter().filter(|limit| limit.is_wide()).map(|limit| self.bucket(&limit.name)).collect()
    }

    /// The buckets of the limits that a call draws on besides those which every call does.
    pub fn narrow_limits(&self, endpoint: &str, method: &Method) -> Vec<String> {
        let narrow = self.limits.iter().filter(|limit| !limit.is_wide() && limit.covers(endpoint, method));
        narrow.map(|limit| self.bucket(&limit.name)).collect()
    }
}

/// Reads `[[<provider>.limits]]`; `buckets` and `endpoints` are the provider's.
pub(super) fn read(
    section: &mut Section<'_>,
    buckets: &BTreeMap<String, u32>,
    endpoints: &BTreeMap<String, String>,
) -> Vec<Limit> {
    let mut limits: Vec<Limit> = Vec::new();
    for mut entry in section.tables("limits", LIMITS_MAX) {
        let name = entry.text("name");
        entry.missing("name", "is needed");
        let per_minute = entry.number("per_minute", 1..=1_000_000).and_then(|number| u32::try_from(number).ok());
        entry.missing("per_minute", "is needed: requests a minute");
        let known: Vec<_> = endpoints.keys().map(|name| (name.as_str(), name.clone())).collect();
        let endpoints = entry.words("endpoints", &known);
        let known: Vec<_> = METHODS.iter().map(|method| (method.as_str(), method.clone())).collect();
        let methods = entry.words("methods", &known);
        if let Some(name) = name {
            if let Err(what) = check_name(name) {
                entry.error("name", what);
            } else if buckets.contains_key(name) {
                entry.error("name", format!("`{name}` is a class of this provider; set its limit in buckets"));
            } else if limits.iter().any(|limit| limit.name == name) {
                entry.error("name", format!("`{name}` is given twice"));
            }
        }
        entry.finish();
        if let (Some(name), Some(per_minute)) = (name, per_minute) {
            limits.push(Limit { name: name.to_owned(), per_minute, endpoints, methods });
        }
    }
    limits
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("must be at most {NAME_BYTES_MAX} of a-z, 0-9, `-` and `_`"))
}
