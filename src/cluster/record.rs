//! What is known of a cluster between two commands.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::place::Place;

/// The content of `cluster.json`. It holds the password, so its mode is 0600 and it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The home this record was written for: a copied or moved checkout is noticed by it.
    pub(super) home: PathBuf,
    /// Where the data lies when that is not the home itself.
    pub(super) elsewhere: Option<PathBuf>,
    /// Directory of the Unix socket at the last start.
    pub(super) sockets: PathBuf,
    /// Loopback port at the last start, and the number in the socket's name. 0 before the first start.
    pub(super) port: u16,
    /// Password of the superuser.
    pub(super) password: String,
}

impl Record {
    /// A record for a cluster that is about to be created.
    pub(super) fn fresh(home: &Path, place: &Place) -> Result<Self> {
        Ok(Self {
            home: home.to_owned(),
            elsewhere: (place.base() != home).then(|| place.base().to_owned()),
            sockets: place.sockets()?,
            port: 0,
            password: Uuid::new_v4().simple().to_string(),
        })
    }

    /// Reads the record of `home`. None when there is none, or when it speaks of data that belongs to another
    /// checkout: a copy of a directory must not share its original's server.
    pub(super) fn read(home: &Path) -> Result<Option<Self>> {
        let path = path(home);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let record: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: remove {} to start afresh", path.display(), home.display()))?;
        let same_home = record.home == home;
        let data_exists = record.elsewhere.as_deref().is_none_or(|base| base.join("pgdata/PG_VERSION").exists());
        if !same_home && record.elsewhere.is_some() || !data_exists {
            return Ok(None);
        }
        if !same_home {
            // Moved or copied together with its data: the socket and the port are chosen anew at the start.
            return Ok(Some(Self { home: home.to_owned(), port: 0, sockets: home.join("sockets"), ..record }));
        }
        Ok(Some(record))
    }

    /// Writes the record so that a reader sees the old one or the new one, never a part.
    pub(super) fn write(&self, home: &Path) -> Result<()> {
        let path = path(home);
        let fresh = path.with_extension("json.new");
        let write = || -> Result<()> {
            let _ = fs::remove_file(&fresh);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn path(home: &Path) -> PathBuf {
    home.join("cluster.json")
}
