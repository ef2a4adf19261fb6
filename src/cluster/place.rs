//! Where a cluster's data and socket lie.
//!
//! Usually in the cluster's home. Two things can forbid that: Postgres refuses to run as root and may not be able to
//! enter the home (a checkout under `/root`), and the path of a Unix socket is limited to 107 bytes.

use std::{
    env, fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};

use super::record::Record;

/// Longest path of a socket's directory: 107 bytes less `/.s.PGSQL.65535`.
const SOCKET_DIR_BYTES_MAX: usize = 107 - 15;
/// Name of the data directory, and the proof in its parent that an unfinished one may be removed.
const DATA: &str = "pgdata";
const UNFINISHED: &str = "unfinished";

/// The directories of one cluster and the user that its processes run as.
#[derive(Debug, Clone)]
pub(super) struct Place {
    base: PathBuf,
    owner: Option<Owner>,
}

/// The user that stands in for root.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Place {
    /// Chooses where a new cluster of `home` goes.
    pub(super) fn choose(home: &Path) -> Result<Self> {
        let owner = Owner::needed()?;
        let Some(user) = owner else {
            return Ok(Self { base: home.to_owned(), owner });
        };
        if user.can_enter(home) && user.can_own_below(home) {
            return Ok(Self { base: home.to_owned(), owner });
        }
        // Keyed by the home's path, so that two checkouts never meet, and one that lost its record finds its data.
        let name = format!("backhaul-{:016x}", fnv1a(home));
        let base = ["/var/tmp".into(), env::temp_dir()]
            .into_iter()
            .filter(|temporary: &PathBuf| temporary.is_dir() && user.can_enter(temporary))
            .map(|temporary| temporary.join(&name))
            .next()
            .with_context(|| {
                format!("the user postgres can enter neither {} nor /var/tmp: choose another --dir", home.display())
            })?;
        Ok(Self { base, owner })
    }

    /// The place that a record speaks of.
    pub(super) fn of_record(home: &Path, record: &Record) -> Result<Self> {
        let base = record.elsewhere.clone().unwrap_or_else(|| home.to_owned());
        Ok(Self { base, owner: Owner::needed()? })
    }

    /// The directory that holds all of the cluster but its record.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.base.join(DATA)
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.base.join("server.log")
    }

    /// Major version of the server that made the data.
    pub(super) fn data_version(&self) -> Result<u32> {
        let path = self.data().join("PG_VERSION");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} holds no version number", path.display()))
    }

    /// Directory of the socket; it is created and given to the server's user here.
    pub(super) fn sockets(&self) -> Result<PathBuf> {
        let near = self.base.join("sockets");
        let sockets = if near.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
            near
        } else {
            PathBuf::from(format!("/tmp/backhaul-{:016x}-sockets", fnv1a(&self.base)))
        };
        if self.base.is_dir() {
            self.own_directory(&sockets)?;
        }
        Ok(sockets)
    }

    /// Makes the empty directories of a new cluster.
    ///
    /// What an interrupted set-up left is removed. Anything else that is in the way is somebody's data and stays.
    pub(super) fn prepare_empty(&self, home: &Path) -> Result<()> {
        let data = self.data();
        let elsewhere = self.base != home;
        if elsewhere {
            // 0711: the server's user may pass through, nobody may look around.
            create_private(&self.base, 0o711)?;
            require_own(&self.base)?;
        }
        let marker = home.join(UNFINISHED);
        if data.exists() {
            if !elsewhere && !marker.exists() {
                bail!(
                    "{} exists but {} has no record of it: choose another --dir, or remove it",
                    data.display(),
                    home.display()
                );
            }
            fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        }
        fs::write(&marker, "The set-up of this cluster has begun; it is repeated while this file exists.\n")
            .with_context(|| format!("cannot write {}", marker.display()))?;
        self.own_directory(&data)?;
        self.sockets()?;
        Ok(())
    }

    /// Ends what [`Place::prepare_empty`] began.
    pub(super) fn finished(&self, home: &Path) -> Result<()> {
        let marker = home.join(UNFINISHED);
        fs::remove_file(&marker).with_context(|| format!("cannot remove {}", marker.display()))
    }

    /// A program of the server's, run as the user that owns the data, untouched by the caller's `PG…` variables.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir(&self.base);
        if let Some(owner) = self.owner {
            use std::os::unix::process::CommandExt;
            command.uid(owner.uid).gid(owner.gid);
        }
        command
    }

    /// Gives a file to the server's user.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        match self.owner {
            Some(owner) => chown(path, Some(owner.uid), Some(owner.gid))
                .with_context(|| format!("cannot give {} to the user postgres", path.display())),
            None => Ok(()),
        }
    }

    fn own_directory(&self, path: &Path) -> Result<()> {
        create_private(path, 0o700)?;
        let here = require_own_or(path, self.owner.map(|owner| owner.uid))?;
        fs::set_permissions(&here, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        self.give(path)
    }
}

impl Owner {
    /// Root may not run Postgres, so root lends it to the user postgres. Others run it themselves.
    fn needed() -> Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let user = User::from_name("postgres").context("cannot look up the user postgres")?.context(
            "Postgres does not run as root and there is no user `postgres` to run it as: \
             install your distribution's Postgres package, or set DATABASE_URL",
        )?;
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Whether this user may pass through every directory on the way to `path`, by the plain mode bits.
    fn can_enter(self, path: &Path) -> bool {
        path.ancestors().all(|dir| {
            fs::metadata(dir).is_ok_and(|meta| {
                let bit = if meta.uid() == self.uid {
                    0o100
                } else if meta.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                meta.mode() & bit != 0
            })
        })
    }

    /// Whether files there can be given away: shared folders of virtual machines cannot.
    fn can_own_below(self, dir: &Path) -> bool {
        let probe = dir.join("ownership-probe");
        let owned = fs::write(&probe, "").is_ok() && chown(&probe, Some(self.uid), Some(self.gid)).is_ok();
        let _ = fs::remove_file(&probe);
        owned
    }
}

fn create_private(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}

fn require_own(path: &Path) -> Result<()> {
    require_own_or(path, None).map(|_| ())
}

/// In a directory that everybody may write to, a stranger could have put a directory or a link of our name first.
fn require_own_or(path: &Path, other: Option<u32>) -> Result<PathBuf> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let ours = meta.uid() == Uid::effective().as_raw() || Some(meta.uid()) == other;
    if !meta.is_dir() || !ours {
        bail!("{} is in the way: it is not a directory of ours, remove it", path.display());
    }
    Ok(path.to_owned())
}

/// FNV-1a over the bytes of a path: stable over releases, unlike the standard library's hashers.
fn fnv1a(path: &Path) -> u64 {
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
