//! Finds an installed Postgres server.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Oldest major version that Backhaul runs on.
const MAJOR_MIN: u32 = 15;

/// What to do when nothing is found, in one line.
pub(crate) const INSTALL_HINT: &str = "install Postgres 15 or later (Debian and Ubuntu: apt-get install postgresql; \
     Fedora: dnf install postgresql-server; macOS: brew install postgresql@17), or set DATABASE_URL";

/// Directories below which distributions keep one directory a version, and what follows the version there.
const VERSIONED: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// One installed server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binaries {
    /// Major version, for example 15. First, so that the order is by version.
    pub(super) major: u32,
    /// Holds `initdb`, `pg_ctl` and `postgres`.
    pub(super) dir: PathBuf,
}

impl Binaries {
    /// The server in `bin_dir` if given, else the first usable one in the PATH, else the newest one in the places
    /// where distributions put it. Data of one major version needs a server of the same: `exact_major`.
    pub(super) fn find(bin_dir: Option<&Path>, exact_major: Option<u32>) -> Result<Self> {
        let candidates = match bin_dir {
            Some(dir) => vec![Self::probe(dir).with_context(|| format!("no Postgres server in {}", dir.display()))?],
            None => installed(),
        };
        let usable = |found: &&Self| found.major >= MAJOR_MIN && exact_major.is_none_or(|major| found.major == major);
        if let Some(found) = candidates.iter().find(usable) {
            return Ok(found.clone());
        }
        let found: BTreeSet<String> = candidates.iter().map(|found| found.major.to_string()).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.into_iter().collect::<Vec<_>>().join(", ") };
        match exact_major {
            Some(major) => bail!(
                "the private cluster was made by Postgres {major}, which is not installed (found: {found}): install it, \
                 or stop using the old data by removing its directory"
            ),
            None => bail!("no usable Postgres server (found: {found}): {INSTALL_HINT}"),
        }
    }

    /// The path of one of the server's programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Looks at one directory. Links are resolved, because `initdb` looks for its files beside its real self.
    fn probe(dir: &Path) -> Option<Self> {
        let dir = dir.join("postgres").canonicalize().ok()?.parent()?.to_owned();
        if !dir.join("initdb").exists() || !dir.join("pg_ctl").exists() {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { major, dir })
    }
}

/// All servers on this machine, in the order in which they are preferred.
fn installed() -> Vec<Binaries> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<Binaries> = env::split_paths(&path).filter_map(|dir| Binaries::probe(&dir)).collect();
    let mut elsewhere: Vec<Binaries> = VERSIONED
        .iter()
        .flat_map(|(root, prefix, tail)| versioned_dirs(Path::new(root), prefix, tail))
        .filter_map(|dir| Binaries::probe(&dir))
        .collect();
    elsewhere.sort();
    elsewhere.reverse();
    found.extend(elsewhere);
    found
}

fn versioned_dirs(root: &Path, prefix: &str, tail: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
            version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        })
        .map(|entry| entry.path().join(tail))
        .collect()
}

/// The number in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; also of `17beta1`.
pub(super) fn major_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// `psql` may be packed apart from the server, so it is looked for on its own.
pub(super) fn find_psql(bin_dir: Option<&Path>) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let named = bin_dir.map(Path::to_owned).into_iter();
    let servers = || installed().into_iter().map(|found| found.dir);
    named
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("psql"))
        .find(|psql| psql.is_file())
        .or_else(|| servers().map(|dir| dir.join("psql")).find(|psql| psql.is_file()))
        .context("psql is not installed: install Postgres' client programs (Debian: apt-get install postgresql-client)")
}
