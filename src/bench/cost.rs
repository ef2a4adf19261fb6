//! What a run costs the server: WAL, commits, dead rows.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::database::Database;

/// How long the counters of connections that have just closed may take to arrive.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Counters of one database, read at one moment.
struct Counters {
    wal_bytes: i64,
    commits: i64,
    dead_rows: i64,
}

/// Reads the counters before and after a run. Its own commits do not count.
pub(crate) struct Meter {
    connection: PgConnection,
    before: Counters,
    /// Statements of our own since `before`.
    asked: i64,
}

/// The cost of a run, for each of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub wal_bytes_per_job: f64,
    pub commits_per_job: f64,
    /// Row versions that died: updates and deletes, whether or not they were vacuumed since.
    pub dead_rows_per_job: f64,
}

impl Meter {
    /// Reads the counters once everybody else has left the database.
    pub(crate) async fn start(database: &Database) -> Result<Self> {
        let mut connection = database.connect().await?;
        let mut asked = 0;
        let before = read(&mut connection, &mut asked).await?;
        Ok(Self { connection, before, asked: 1 })
    }

    /// True once no job is in anybody's hands.
    pub(crate) async fn settled(&mut self) -> Result<bool> {
        self.ask("select not exists (select from backhaul.leases)").await
    }

    /// One value from the measured database, without counting as a commit of what is measured.
    pub(crate) async fn ask<T>(&mut self, sql: &'static str) -> Result<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.asked += 1;
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connection).await?)
    }

    /// Reads the counters again once everybody else has left, and divides by `jobs`.
    pub(crate) async fn end(mut self, jobs: u64) -> Result<Cost> {
        let after = read(&mut self.connection, &mut self.asked).await?;
        self.connection.close().await?;
        let per_job = |value: i64| value as f64 / jobs.max(1) as f64;
        Ok(Cost {
            wal_bytes_per_job: per_job(after.wal_bytes - self.before.wal_bytes),
            commits_per_job: per_job((after.commits - self.before.commits - self.asked).max(0)),
            dead_rows_per_job: per_job(after.dead_rows - self.before.dead_rows),
        })
    }
}

/// A connection's counters arrive at the latest when it has closed, so this waits until nobody else is there.
async fn read(connection: &mut PgConnection, asked: &mut i64) -> Result<Counters> {
    sqlx::query("set stats_fetch_consistency = none").execute(&mut *connection).await?;
    *asked += 1;
    let deadline = tokio::time::Instant::now() + SETTLE_MAX;
    loop {
        *asked += 1;
        let alone: bool = sqlx::query_scalar(
            "select count(*) = 1 from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend'",
        )
        .fetch_one(&mut *connection)
        .await?;
        if alone || tokio::time::Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Takes effect when this statement's transaction ends, so that our own commits are in the counter too.
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut *connection).await?;
    *asked += 1;
    let (wal_bytes, commits, dead_rows) = sqlx::query_as(
        "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,
            (select xact_commit from pg_stat_database where datname = current_database()),
            (select coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables)",
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(Counters { wal_bytes, commits, dead_rows })
}
