//! Where a demo lives: its directory, and the schema that it may throw away.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sqlx::PgPool;

use crate::commands::database::{explain, rows_of};

/// Comment of a schema that a demo made.
const MARK: &str = "made by backhaul demo, which drops it at its next run";

/// `.backhaul/demo`, locked for this run.
#[derive(Debug)]
pub(super) struct House {
    path: PathBuf,
    _lock: File,
}

impl House {
    /// Creates the directory and makes sure that no other demo uses it.
    pub(super) fn open() -> Result<Self> {
        let path = PathBuf::from(".backhaul/demo");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .with_context(|| format!("cannot open the lock in {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!("a demo is already running in this directory: end it with Ctrl-C"),
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the demo's directory"),
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the connection profiles go.
    pub(super) fn profiles(&self) -> PathBuf {
        self.path.join("profiles")
    }

    /// Where the file sink writes.
    pub(super) fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// The workers' settings.
    pub(super) fn settings(&self) -> PathBuf {
        self.path.join("settings.toml")
    }

    /// Log of worker `number`.
    pub(super) fn log(&self, number: usize) -> PathBuf {
        self.path.join(format!("worker-{number}.log"))
    }

    /// Removes what an earlier run left.
    pub(super) fn clean_files(&self) -> Result<()> {
        let entries = fs::read_dir(&self.path).with_context(|| format!("cannot list {}", self.path.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", self.path.display()))?;
            let path = entry.path();
            let removed = match entry.file_type() {
                _ if entry.file_name() == "lock" => Ok(()),
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes the workers' settings.
    pub(super) fn write_settings(&self, text: &str) -> Result<()> {
        let path = self.settings();
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Drops the schema of an earlier demo. Work of anybody else is refused, unless `reset` gives it up.
pub(super) async fn clean_schema(pool: &PgPool, tenants: &[&str], reset: bool) -> Result<()> {
    let schema = rows_of(
        "select obj_description(to_regnamespace('backhaul'), 'pg_namespace') as mark,
                                 to_regnamespace('backhaul') is not null as present,
                                 to_regclass('backhaul.dead_letters') is not null as filled",
    );
    let schema = schema.fetch_one(pool).await.map_err(explain)?;
    if schema["present"] != true {
        return Ok(());
    }
    if schema["filled"] == true && !reset {
        let strangers = strangers(pool, tenants, schema["mark"] == MARK).await?;
        if let Some(tenant) = strangers {
            bail!(
                "this database holds work that is not the demo's (of tenant {tenant}), and a demo begins by dropping \
                 the schema backhaul: give it another database with --database-url, or let it drop the work with --reset"
            );
        }
    }
    // A worker that still runs here would wait for the locks, and so would we for its.
    let dropped = sqlx::raw_sql("set lock_timeout = '10s'; drop schema backhaul cascade; reset lock_timeout");
    dropped
        .execute(pool)
        .await
        .map_err(explain)
        .context("the schema of the last demo cannot be dropped; does a worker still run on this database?")?;
    Ok(())
}

/// A tenant whose work would be lost. In a schema that a demo made, the demo's own tenants do not count.
async fn strangers(pool: &PgPool, tenants: &[&str], marked: bool) -> Result<Option<String>> {
    let spared: Vec<String> =
        if marked { tenants.iter().map(|tenant| (*tenant).to_owned()).collect() } else { Vec::new() };
    let found = rows_of(
        "select tenant from backhaul.jobs where tenant <> all ($1)
         union all select tenant from backhaul.dead_letters where tenant <> all ($1)
         union all select tenant from backhaul.events where tenant <> all ($1) limit 1",
    );
    let found: Option<Value> = found.bind(spared).fetch_optional(pool).await.map_err(explain)?;
    Ok(found.and_then(|row| row["tenant"].as_str().map(str::to_owned)))
}

/// Marks the schema as a demo's.
pub(super) async fn mark_schema(pool: &PgPool) -> Result<()> {
    let statement = format!("comment on schema backhaul is '{MARK}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(pool).await.map_err(explain)?;
    Ok(())
}
