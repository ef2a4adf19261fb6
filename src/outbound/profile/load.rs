//! Loads the profiles of a folder and reports everything that is wrong with them at once.

use std::{any::Any, cell::RefCell, collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use toml::Table;

use super::{Profile, Profiles, defaults, document::Document, document::Section, provider, sections};

/// Largest profile in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Most profiles of a folder.
const FILES_MAX: usize = 10_000;

type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;
type Settings = Arc<dyn Any + Send + Sync>;
type SectionReader = Arc<dyn Fn(&KindSection<'_>) -> Result<Settings, Vec<String>> + Send + Sync>;

/// A section `[kinds.*]` as its reader sees it.
pub struct KindSection<'a> {
    /// Whose profile it is.
    pub tenant: &'a str,
    /// The section.
    pub table: &'a Table,
    /// Where relative paths start; `None` for profiles that are not files.
    pub dir: Option<&'a Path>,
    /// Looks environment variables up. Readers ask nothing else, so that tests need not change the process.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// Loads profiles, with everything that can be set about it.
#[derive(Clone)]
pub struct Loader {
    env: Lookup,
    kinds: BTreeMap<String, SectionReader>,
    pub(super) endpoints: Vec<(String, String, String)>,
    pub(super) buckets: Vec<(String, String)>,
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// A loader that reads secrets from the process environment and accepts any `[kinds.*]` section.
    pub fn new() -> Self {
        Self {
            env: Arc::new(|name| std::env::var(name).ok()),
            kinds: BTreeMap::new(),
            endpoints: Vec::new(),
            buckets: Vec::new(),
        }
    }

    /// Looks variables up in `env` instead of the process environment.
    #[must_use]
    pub fn env(mut self, env: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.env = Arc::new(env);
        self
    }

    /// Declares `[kinds.<name>]`, read as `T`; [`Profile::settings`] gives it back. Once a section is declared,
    /// undeclared ones are errors.
    #[must_use]
    pub fn kind<T: DeserializeOwned + Send + Sync + 'static>(self, name: &str) -> Self {
        self.section(name, |section| {
            read_table::<T>(section.table).map_err(|(key, message)| vec![format!("{key}: {message}")])
        })
    }

    /// Declares `[kinds.<name>]` with a reader that may look up secrets and check what types cannot say. It reports
    /// everything that is wrong, each as `key: message`, and is not called where a profile lacks the section.
    #[must_use]
    pub fn section<T: Send + Sync + 'static>(
        mut self,
        name: &str,
        read: impl Fn(&KindSection<'_>) -> Result<T, Vec<String>> + Send + Sync + 'static,
    ) -> Self {
        let reader: SectionReader = Arc::new(move |section| Ok(Arc::new(read(section)?) as Settings));
        self.kinds.insert(name.to_owned(), reader);
        self
    }

    /// Declares an endpoint that is not built in, with its default template.
    #[must_use]
    pub fn endpoint(mut self, provider: &str, name: &str, template: &str) -> Self {
        self.endpoints.push((provider.to_owned(), name.to_owned(), template.to_owned()));
        self
    }

    /// Declares a bucket class that is not built in; it has no limit where the profile sets none.
    #[must_use]
    pub fn bucket(mut self, provider: &str, class: &str) -> Self {
        self.buckets.push((provider.to_owned(), class.to_owned()));
        self
    }

    /// Loads every `*.toml` of `dir` that is not hidden. An empty folder gives no profiles.
    ///
    /// # Errors
    /// Every error of every file.
    pub fn load_dir(&self, dir: &Path) -> Result<Profiles, ProfileErrors> {
        let mut errors = Vec::new();
        let files = list(dir, &mut errors);
        self.load(files, Some(dir), errors)
    }

    /// Loads profiles from pairs of file name and text.
    ///
    /// # Errors
    /// Every error of every file.
    pub fn from_toml(&self, files: impl IntoIterator<Item = (String, String)>) -> Result<Profiles, ProfileErrors> {
        self.load(files, None, Vec::new())
    }

    fn load(
        &self,
        files: impl IntoIterator<Item = (String, String)>,
        dir: Option<&Path>,
        mut errors: Vec<ProfileError>,
    ) -> Result<Profiles, ProfileErrors> {
        let mut tenants = BTreeMap::new();
        for (file, text) in files {
            let document = Document { file: &file, dir, env: &*self.env, errors: RefCell::default() };
            let profile = self.read(&document, &text);
            errors.append(&mut document.errors.into_inner());
            let Some(profile) = profile else { continue };
            let tenant = profile.tenant.clone();
            if tenants.insert(tenant, Arc::new(profile)).is_some() {
                errors.push(ProfileError { file, key: "tenant".to_owned(), message: "is given twice".to_owned() });
            }
        }
        if errors.is_empty() { Ok(Profiles { tenants: Arc::new(tenants) }) } else { Err(ProfileErrors(errors)) }
    }

    fn read(&self, document: &Document<'_>, text: &str) -> Option<Profile> {
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                // The error's own text quotes the line, which may hold a secret somebody pasted.
                let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
                document.error(format!("line {line}"), format!("is not TOML: {}", error.message()));
                return None;
            }
        };
        let mut root = Section::root(document, &table);
        let tenant = read_tenant(document, &mut root);
        let cxone = root.table("cxone").and_then(|section| provider::read(section, &defaults::CXONE, self));
        let genesys = root.table("genesys").and_then(|section| provider::read(section, &defaults::GENESYS, self));
        let crm = root.table("crm").and_then(|section| provider::read_crm(section, self));
        let callback = sections::callback(root.table("callback"));
        let probe = sections::probe(root.table("probe"));
        let webhook = sections::webhook(root.table("webhook"));
        let name = tenant.as_deref().unwrap_or_default();
        let (kinds, settings) = self.read_kinds(document, name, root.table("kinds"));
        root.finish();
        let dir = document.dir.map(Path::to_path_buf);
        Some(Profile { tenant: tenant?, cxone, genesys, crm, callback, probe, webhook, kinds, dir, settings })
    }

    fn read_kinds(
        &self,
        document: &Document<'_>,
        tenant: &str,
        section: Option<Section<'_>>,
    ) -> (BTreeMap<String, Table>, BTreeMap<String, Settings>) {
        let (mut kinds, mut settings) = (BTreeMap::new(), BTreeMap::new());
        let Some(mut section) = section else { return (kinds, settings) };
        for (name, value) in section.members() {
            let toml::Value::Table(table) = value else {
                section.error(name, "must be a table, [kinds.<name>]");
                continue;
            };
            kinds.insert(name.clone(), table.clone());
            let Some(read) = self.kinds.get(name) else {
                if !self.kinds.is_empty() {
                    let known: Vec<_> = self.kinds.keys().map(String::as_str).collect();
                    section.error(name, format!("is no section of a kind; known are {}", known.join(", ")));
                }
                continue;
            };
            match read(&KindSection { tenant, table, dir: document.dir, env: document.env }) {
                Ok(read) => {
                    settings.insert(name.clone(), read);
                }
                Err(problems) => problems.into_iter().for_each(|problem| {
                    let (key, message) = problem.split_once(": ").unwrap_or(("", &problem));
                    let key = if matches!(key, "" | ".") { name.clone() } else { format!("{name}.{key}") };
                    section.error(&key, message);
                }),
            }
        }
        section.finish();
        (kinds, settings)
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("kinds", &self.kinds.keys()).finish_non_exhaustive()
    }
}

/// Reads a kind's section as `T`; the error names the member.
pub(super) fn read_section<T: DeserializeOwned>(file: &str, section: &str, table: &Table) -> Result<T, ProfileError> {
    read_table(table).map_err(|(key, message)| {
        let key = if key == "." { format!("kinds.{section}") } else { format!("kinds.{section}.{key}") };
        ProfileError { file: file.to_owned(), key, message }
    })
}

fn read_table<T: DeserializeOwned>(table: &Table) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(table.clone())
        .map_err(|error| (error.path().to_string(), error.into_inner().message().to_owned()))
}

fn read_tenant(document: &Document<'_>, root: &mut Section<'_>) -> Option<String> {
    let stem = document.file.strip_suffix(".toml").unwrap_or(document.file);
    if let Some(tenant) = root.text("tenant")
        && tenant != stem
    {
        root.error("tenant", format!("must be the file's name, `{stem}`, or be left out"));
    }
    // As jobs name their tenants (backhaul.job_problem), or some could be enqueued that no profile can be made for.
    let first = stem.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !first || stem.len() > 64 || !stem.bytes().all(rest) {
        document.error(
            "tenant",
            "the file's name is the tenant: at most 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
        );
        return None;
    }
    Some(stem.to_owned())
}

fn list(dir: &Path, errors: &mut Vec<ProfileError>) -> Vec<(String, String)> {
    let mut error = |file: String, message: String| errors.push(ProfileError { file, key: String::new(), message });
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(what) => {
            error(dir.display().to_string(), format!("the folder of connection profiles cannot be read: {what}"));
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            Err(what) => {
                error(dir.display().to_string(), format!("the folder cannot be read to its end: {what}"));
                break;
            }
        };
        let Some(name) = name.to_str().filter(|name| name.ends_with(".toml") && !name.starts_with('.')) else {
            continue;
        };
        let path = dir.join(name);
        match std::fs::metadata(&path) {
            Ok(facts) if !facts.is_file() => continue,
            Ok(facts) if facts.len() > FILE_BYTES_MAX => {
                error(name.to_owned(), "is longer than 256 KiB".to_owned());
                continue;
            }
            _ => {}
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push((name.to_owned(), text)),
            Err(what) => error(name.to_owned(), format!("cannot be read: {what}")),
        }
        if files.len() > FILES_MAX {
            error(dir.display().to_string(), format!("holds more than {FILES_MAX} profiles"));
            break;
        }
    }
    files.sort();
    files
}

/// One thing that is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError {
    /// File name, or the folder.
    pub file: String,
    /// Dotted key; empty where the file itself is meant.
    pub key: String,
    /// What is wrong and what to do, to be read after the key.
    pub message: String,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, key, message } = self;
        if key.is_empty() { write!(f, "{file}: {message}") } else { write!(f, "{file}: {key} {message}") }
    }
}

impl std::error::Error for ProfileError {}

/// Everything that is wrong with the profiles, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileErrors(pub Vec<ProfileError>);

impl fmt::Display for ProfileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} errors in the connection profiles", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ProfileErrors {}
