//! The private Postgres: started from the binaries that are installed on the machine, one per directory.
//!
//! Everything here is blocking: it runs before any work, and mostly waits for other processes.
//!
//! A cluster's home (`.backhaul/postgres` by default) holds `cluster.json`, the record of where the data lies and
//! which port and password it has. The record is the commit point of the set-up: without it the set-up is repeated.

mod binaries;
mod lock;
mod place;
mod record;
mod server;

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use secrecy::SecretString;

use self::{binaries::Binaries, lock::HomeLock, place::Place, record::Record};

/// Superuser of a private cluster.
const SUPERUSER: &str = "postgres";
/// Database that a private cluster is made for.
const DATABASE: &str = "backhaul";

/// A private cluster, running or not.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    home: PathBuf,
    bin_dir: Option<PathBuf>,
}

/// How durable a cluster shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives a power cut.
    Sync,
    /// For tests: faster, and lost when the machine stops.
    NoSync,
}

/// What `start` found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// It was running already.
    Already,
    /// It was started, from existing data.
    Now,
    /// It was created and started.
    Created,
}

/// A running cluster's addresses. The password is in both URLs, so neither is ever logged.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// Through the Unix socket, the usual way in.
    pub(crate) socket: SecretString,
    /// Through the loopback port, for tools that know no Unix sockets.
    pub(crate) tcp: SecretString,
    /// The loopback port.
    pub(crate) port: u16,
}

impl Cluster {
    /// The cluster whose home is `home`. `bin_dir` names the server's binaries where they are not to be searched.
    pub(crate) fn new(home: &Path, bin_dir: Option<&Path>) -> Self {
        Self { home: home.to_owned(), bin_dir: bin_dir.map(Path::to_owned) }
    }

    /// Makes sure that the server runs: creates the cluster and starts it as needed, and waits until it answers.
    /// Two processes that do this at once take turns.
    pub(crate) fn start(&self, durability: Durability) -> Result<(Started, Addresses)> {
        fs::create_dir_all(&self.home)
            .with_context(|| format!("cannot create the cluster's directory {}", self.home.display()))?;
        let home = self.canonical_home()?;
        let _lock = HomeLock::take(&home)?;

        let known = Record::read(&home)?;
        if let Some(record) = &known
            && server::answers(record)
        {
            return Ok((Started::Already, addresses(record)));
        }
        let created = known.is_none();
        let mut record = match known {
            Some(record) => record,
            None => self.create(&home)?,
        };
        let place = Place::of_record(&home, &record)?;
        let binaries = Binaries::find(self.bin_dir.as_deref(), Some(place.data_version()?))?;
        server::start(&home, &place, &binaries, &mut record, durability)?;
        let started = if created { Started::Created } else { Started::Now };
        Ok((started, addresses(&record)))
    }

    /// Stops the server and waits until it is down. Returns whether it was running.
    pub(crate) fn stop(&self) -> Result<bool> {
        if !self.home.exists() {
            return Ok(false);
        }
        let home = self.canonical_home()?;
        let _lock = HomeLock::take(&home)?;
        let Some(record) = Record::read(&home)? else {
            return Ok(false);
        };
        let place = Place::of_record(&home, &record)?;
        if server::postmaster_pid(&place)?.is_none() {
            return Ok(false);
        }
        let binaries = Binaries::find(self.bin_dir.as_deref(), Some(place.data_version()?))?;
        server::stop(&place, &binaries)?;
        Ok(true)
    }

    /// The program `psql`, beside the server's binaries or in the PATH.
    pub(crate) fn psql(&self) -> Result<PathBuf> {
        binaries::find_psql(self.bin_dir.as_deref())
    }

    fn create(&self, home: &Path) -> Result<Record> {
        let binaries = Binaries::find(self.bin_dir.as_deref(), None)?;
        let place = Place::choose(home)?;
        if server::postmaster_pid(&place)?.is_some() {
            // The record is gone (somebody removed the home), but its server still runs in the other place.
            server::stop(&place, &binaries)?;
        }
        place.prepare_empty(home)?;
        let record = Record::fresh(home, &place)?;
        server::initialise(&place, &binaries, &record)?;
        record.write(home)?;
        place.finished(home)?;
        Ok(record)
    }

    fn canonical_home(&self) -> Result<PathBuf> {
        let home = self
            .home
            .canonicalize()
            .with_context(|| format!("cannot resolve the cluster's directory {}", self.home.display()))?;
        // Postgres' own pg_ctl hands the path to a shell, between double quotes.
        match home.to_str() {
            Some(text) if !text.contains(['"', '$', '`', '\\', '\n']) => Ok(home),
            _ => bail!(
                "the cluster's directory {} is not UTF-8 or holds one of \" $ ` \\: choose another one with --dir",
                home.display()
            ),
        }
    }
}

/// Builds the URLs of `record`. Generated passwords are hexadecimal, so only the path needs escaping.
fn addresses(record: &Record) -> Addresses {
    let sockets: String = url::form_urlencoded::byte_serialize(record.sockets.as_os_str().as_encoded_bytes())
        // Form encoding writes a blank as a plus sign, which is a plain plus in the host part of a URL.
        .map(|part| if part == "+" { "%20" } else { part })
        .collect();
    let (password, port) = (&record.password, record.port);
    Addresses {
        socket: format!("postgres://{SUPERUSER}:{password}@{sockets}:{port}/{DATABASE}").into(),
        tcp: format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{DATABASE}").into(),
        port,
    }
}
