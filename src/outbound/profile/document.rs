//! Reads a TOML table key by key and keeps every error, so that a profile with five mistakes says so once.

mod lists;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use reqwest::header::HeaderName;
use toml::{Table, Value};
use url::Url;

use crate::{
    address::{AllowHost, HostPattern, is_loopback},
    profile::load::ProfileError,
    redact::Secret,
    tls::ExtraRoots,
};

/// Most members of a list.
const LIST_MAX: usize = 200;
/// Longest secret file in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// What reading a file needs beside its text, and the errors found in it.
pub(super) struct Document<'a> {
    pub(super) file: &'a str,
    /// Where relative `*_file` paths start.
    pub(super) dir: Option<&'a Path>,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) errors: RefCell<Vec<ProfileError>>,
}

impl Document<'_> {
    pub(super) fn error(&self, key: impl Into<String>, message: impl Into<String>) {
        self.errors.borrow_mut().push(ProfileError {
            file: self.file.to_owned(),
            key: key.into(),
            message: message.into(),
        });
    }

    fn path(&self, text: &str) -> PathBuf {
        match self.dir {
            Some(dir) => dir.join(text),
            None => PathBuf::from(text),
        }
    }
}

/// A table being read. [`Section::finish`] reports the keys that nobody asked for.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    /// Dotted path of the table, empty for the root.
    path: String,
    table: &'a Table,
    seen: BTreeSet<String>,
}

impl<'a> Section<'a> {
    pub(super) fn root(document: &'a Document<'a>, table: &'a Table) -> Self {
        Self { document, path: String::new(), table, seen: BTreeSet::new() }
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn error(&self, key: &str, message: impl Into<String>) {
        self.document.error(self.key(key), message);
    }

    /// Reports that a key is missing, unless it is there and was already reported as wrong.
    pub(super) fn missing(&self, key: &str, message: &str) {
        if !self.table.contains_key(key) {
            self.error(key, message);
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn value(&mut self, key: &str) -> Option<&'a Value> {
        self.seen.insert(key.to_owned());
        self.table.get(key)
    }

    fn wrong_type(&self, key: &str, want: &str, value: &Value) {
        self.error(key, format!("must be {want}, not {}", article(value.type_str())));
    }

    pub(super) fn table(&mut self, key: &str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let Value::Table(table) = value else {
            self.wrong_type(key, "a table", value);
            return None;
        };
        Some(Section { document: self.document, path: self.key(key), table, seen: BTreeSet::new() })
    }

    /// All members, none of which [`Section::finish`] will report.
    pub(super) fn members(&mut self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.seen.extend(self.table.keys().cloned());
        self.table.iter()
    }

    pub(super) fn text(&mut self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            Value::String(text) if text.is_empty() => {
                self.error(key, "must not be empty");
                None
            }
            Value::String(text) => Some(text),
            other => {
                self.wrong_type(key, "a string", other);
                None
            }
        }
    }

    /// A string that may be empty.
    pub(super) fn any_text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        if value.as_str().is_none() {
            self.wrong_type(key, "a string", value);
        }
        value.as_str()
    }

    /// A string, or an integer as its digits.
    pub(super) fn text_or_number(&mut self, key: &str) -> Option<String> {
        match self.table.get(key) {
            Some(Value::Integer(number)) => {
                self.seen.insert(key.to_owned());
                Some(number.to_string())
            }
            _ => self.text(key).map(str::to_owned),
        }
    }

    /// A table that is sent as JSON.
    pub(super) fn json(&mut self, key: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
        let value = self.value(key)?;
        match serde_json::to_value(value) {
            Ok(serde_json::Value::Object(members)) if value.is_table() => Some(members),
            _ => {
                self.wrong_type(key, "a table", value);
                None
            }
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(Value::Boolean(flag)) => *flag,
            Some(other) => {
                self.wrong_type(key, "true or false", other);
                default
            }
        }
    }

    pub(super) fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        match self.value(key)? {
            Value::Integer(number) if u64::try_from(*number).is_ok_and(|number| range.contains(&number)) => {
                u64::try_from(*number).ok()
            }
            Value::Integer(number) => {
                self.error(key, format!("must lie between {} and {}, not {number}", range.start(), range.end()));
                None
            }
            other => {
                self.wrong_type(key, "an integer", other);
                None
            }
        }
    }

    pub(super) fn list(&mut self, key: &str) -> Option<&'a [Value]> {
        match self.value(key)? {
            Value::Array(list) if list.len() <= LIST_MAX => Some(list),
            Value::Array(list) => {
                self.error(key, format!("has {} members, at most {LIST_MAX} are read", list.len()));
                None
            }
            other => {
                self.wrong_type(key, "a list", other);
                None
            }
        }
    }

    pub(super) fn word<T: Copy>(&mut self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            self.error(key, format!("must be one of {}", known.join(", ")));
        }
        found
    }

    pub(super) fn header(&mut self, key: &str, default: &'static str) -> HeaderName {
        let text = self.text(key).unwrap_or(default);
        HeaderName::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
            self.error(key, "is no header name");
            HeaderName::from_static(default)
        })
    }

    /// A URL that is https, or http to a loopback host where `insecure` is set, without query and fragment.
    pub(super) fn url(&mut self, key: &str, insecure: bool) -> Option<Url> {
        let url = self.url_with_query(key, insecure)?;
        if url.query().is_some() {
            self.error(key, "must have neither query nor fragment");
            return None;
        }
        Some(url)
    }

    /// As [`Section::url`], with a query where the text has one.
    pub(super) fn url_with_query(&mut self, key: &str, insecure: bool) -> Option<Url> {
        let text = self.text(key)?;
        let Ok(url) = Url::parse(text) else {
            self.error(key, "is no URL; write it with its scheme, for example https://api.example.com");
            return None;
        };
        let problem = if !url.username().is_empty() || url.password().is_some() {
            "must not hold a user name or password"
        } else if url.fragment().is_some() {
            "must have no fragment"
        } else {
            match (url.scheme(), url.host()) {
                (_, None) => "has no host",
                ("https", _) => return Some(url),
                ("http", Some(host)) if insecure && is_loopback(&host) => return Some(url),
                ("http", Some(host)) if is_loopback(&host) => {
                    "is plain http; use https, or set insecure = true in this section, which loopback hosts may"
                }
                ("http", _) => {
                    "is plain http to another machine; use https (insecure = true is for loopback hosts only)"
                }
                _ => "must begin with https://",
            }
        };
        self.error(key, problem);
        None
    }

    /// The secret of `<stem>_env` or `<stem>_file`; `None` where neither is set, or it was reported.
    pub(super) fn secret(&mut self, stem: &str) -> Option<Secret> {
        let (env_key, file_key) = (format!("{stem}_env"), format!("{stem}_file"));
        if self.value(stem).is_some() {
            self.error(stem, format!("secrets do not belong in a profile; use {env_key} or {file_key}"));
        }
        match (self.text(&env_key), self.text(&file_key)) {
            (Some(_), Some(_)) => {
                self.error(&env_key, format!("and {file_key} are both set; keep one"));
                None
            }
            (Some(variable), None) => self.secret_from_env(&env_key, variable),
            (None, Some(file)) => self.secret_from_file(&file_key, file),
            (None, None) => None,
        }
    }

    fn secret_from_env(&self, key: &str, variable: &str) -> Option<Secret> {
        match (self.document.env)(variable) {
            Some(text) if !text.trim().is_empty() => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Some(_) => {
                self.error(key, format!("the environment variable {variable} is empty; set it to the secret"));
                None
            }
            None => {
                self.error(key, format!("the environment variable {variable} is not set; set it to the secret"));
                None
            }
        }
    }

    fn secret_from_file(&self, key: &str, file: &str) -> Option<Secret> {
        let path = self.document.path(file);
        let read = std::fs::metadata(&path).and_then(|facts| {
            if facts.len() > SECRET_BYTES_MAX {
                return Err(std::io::Error::other("it is longer than 64 KiB"));
            }
            std::fs::read_to_string(&path)
        });
        match read {
            Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Ok(_) => {
                self.error(key, format!("{} is empty", path.display()));
                None
            }
            Err(error) => {
                self.error(key, format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }

    pub(super) fn ca_file(&mut self) -> ExtraRoots {
        let Some(file) = self.text("ca_file") else {
            return ExtraRoots::default();
        };
        ExtraRoots::from_file(&self.document.path(file)).unwrap_or_else(|what| {
            self.error("ca_file", what);
            ExtraRoots::default()
        })
    }

    /// `allow_hosts`: names, or tables of `host`, `private` and `insecure`.
    pub(super) fn allow_hosts(&mut self) -> Vec<AllowHost> {
        let list = self.list("allow_hosts").unwrap_or_default();
        list.iter().enumerate().filter_map(|(index, value)| self.allow_host(index, value)).collect()
    }

    fn allow_host(&self, index: usize, value: &'a Value) -> Option<AllowHost> {
        let name = format!("allow_hosts[{index}]");
        let (pattern, private, insecure) = match value {
            Value::String(text) => (text.as_str(), false, false),
            Value::Table(table) => {
                let mut entry =
                    Section { document: self.document, path: self.key(&name), table, seen: BTreeSet::new() };
                let (private, insecure) = (entry.flag("private", false), entry.flag("insecure", false));
                let pattern = entry.text("host");
                entry.missing("host", "is needed");
                entry.finish();
                (pattern?, private, insecure)
            }
            other => {
                self.wrong_type(&name, "a host name or a table with `host`", other);
                return None;
            }
        };
        let host = HostPattern::parse(pattern).map_err(|what| self.error(&name, what)).ok()?;
        if insecure && !host.is_loopback() {
            self.error(&name, "insecure = true is for loopback hosts only");
        }
        Some(AllowHost { host, private, insecure })
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys().filter(|key| !self.seen.contains(*key)) {
            let known: Vec<_> = self.seen.iter().map(String::as_str).collect();
            self.error(key, format!("is not a key of this section; known are {}", known.join(", ")));
        }
    }
}

fn article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {type_name}")
}
