//! Where and when it was measured.

use std::fs;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

/// Facts of the machine and the server, as far as they can be read.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub at: DateTime<Utc>,
    pub backhaul: &'static str,
    pub optimised: bool,
    pub cores: usize,
    pub processor: Option<String>,
    pub memory_mb: Option<u64>,
    pub kernel: Option<String>,
    pub postgres: String,
    /// Settings that decide how fast a server can be.
    pub settings: serde_json::Value,
}

impl Machine {
    pub(crate) async fn read(connection: &mut PgConnection, optimised: bool) -> Result<Self> {
        let (postgres, settings) = sqlx::query_as(
            "select current_setting('server_version'),
                (select jsonb_object_agg(name, current_setting(name)) from pg_settings where name = any ($1))",
        )
        .bind(["fsync", "synchronous_commit", "shared_buffers", "max_wal_size", "full_page_writes", "autovacuum"])
        .fetch_one(connection)
        .await?;
        let line = |path: &str, name: &str| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib = line("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Self {
            at: Utc::now(),
            backhaul: env!("CARGO_PKG_VERSION"),
            optimised,
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            processor: line("/proc/cpuinfo", "model name"),
            memory_mb: memory_kib.map(|kib| kib * 1024 / 1_000_000),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            postgres,
            settings,
        })
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let setting = |name: &str| self.settings[name].as_str().unwrap_or("?").to_owned();
        format!(
            "{} cores, {}, Postgres {}, fsync {}, synchronous_commit {}, shared_buffers {}, backhaul {}{}, {}",
            self.cores,
            self.processor.as_deref().unwrap_or("unknown processor"),
            self.postgres,
            setting("fsync"),
            setting("synchronous_commit"),
            setting("shared_buffers"),
            self.backhaul,
            if self.optimised { "" } else { " (built without optimisation: the figures mean nothing)" },
            self.at.format("%Y-%m-%d %H:%M UTC"),
        )
    }
}
