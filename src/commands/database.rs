//! The commands' way to the database: connecting, asking, and saying in words what went wrong.

use std::time::Duration;

use anyhow::{Result, anyhow};
use backhaul_engine::{Store, StoreError};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgPoolOptions},
    query::QueryScalar,
};

use super::{
    exit::{self, Coded},
    session::Session,
};

/// A command asks one thing after the other.
const COMMAND_CONNECTIONS_MAX: u32 = 2;

impl Session {
    /// Connects to the database, starting the private one if none is configured.
    pub(crate) async fn connect(&self) -> Result<PgPool> {
        let url = tokio::task::block_in_place(|| self.database_url())?;
        let options = options(url.expose_secret())?;
        reach(&options, self.settings.database.connect_timeout).await?;
        PgPoolOptions::new()
            .max_connections(COMMAND_CONNECTIONS_MAX)
            .acquire_timeout(self.settings.database.connect_timeout)
            .connect_with(if self.settings.database.pooler { options.statement_cache_capacity(0) } else { options })
            .await
            .map_err(explain)
    }
}

fn options(url: &str) -> Result<PgConnectOptions> {
    let options: PgConnectOptions =
        url.parse().map_err(|_| anyhow!(Coded::new(exit::USAGE, "the database URL cannot be parsed")))?;
    Ok(options.application_name("backhaul"))
}

/// Connects once, without the patience of a pool, which tries a server that refuses again until its time is up and then
/// cannot say what was wrong.
async fn reach(options: &PgConnectOptions, timeout: Duration) -> Result<()> {
    let connected = tokio::time::timeout(timeout, PgConnection::connect_with(options)).await;
    let connection = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(explain)?;
    // It said that the server is there; a connection that cannot be closed well is dropped.
    let _ = tokio::time::timeout(timeout, connection.close()).await;
    Ok(())
}

impl Session {
    /// Opens the engine's store with the connections of the settings.
    pub(crate) async fn store(&self) -> Result<Store> {
        let url = tokio::task::block_in_place(|| self.database_url())?;
        let (most, pooler) = (self.settings.database.pool_max, self.settings.database.pooler);
        match Store::connect(url.expose_secret(), most, pooler).await {
            // What runs for long starts with a server that is only just restarting. Where it waited in vain, one more
            // try says why.
            Err(StoreError::Database(error @ sqlx::Error::PoolTimedOut)) => {
                reach(&options(url.expose_secret())?, self.settings.database.connect_timeout).await?;
                Err(explain(error))
            }
            opened => opened.map_err(explain_store),
        }
    }
}

/// As [`explain`], for errors of the engine.
pub(crate) fn explain_store(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Database(error) => explain(error),
        StoreError::SchemaNewer { .. } | StoreError::SchemaOlder { .. } => {
            anyhow!(Coded::new(exit::DATABASE, error.to_string()))
        }
        StoreError::Url(_) | StoreError::Pooler(_) => anyhow!(Coded::new(exit::USAGE, error.to_string())),
        StoreError::Migrate(error) => anyhow!(error).context("the migration failed"),
    }
}

/// A statement that returns one JSON value a row. The texts are constants of this program; values are bound.
pub(crate) fn rows_of(sql: &str) -> QueryScalar<'static, sqlx::Postgres, Value, PgArguments> {
    sqlx::query_scalar(AssertSqlSafe(format!("select to_jsonb(answer) from ({sql}) answer")))
}

/// Whether the login lacks the right to do it.
pub(crate) fn is_forbidden(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(refused) if refused.code().as_deref() == Some("42501"))
}

/// Gives an error of the database its exit code and its advice.
pub(crate) fn explain(error: sqlx::Error) -> anyhow::Error {
    let (code, text) = match &error {
        sqlx::Error::Database(refused) => {
            let refused = refused.downcast_ref::<PgDatabaseError>();
            let hint = refused.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let text = format!("{}{hint}", refused.message());
            match refused.code() {
                "BH020" => (exit::NOT_FOUND, text),
                bad if bad.starts_with("BH00") => (exit::USAGE, text),
                "3F000" | "42P01" | "42883" => {
                    (exit::DATABASE, format!("{text}: the schema is missing or old, run `backhaul migrate`"))
                }
                "42501" => (
                    exit::FAILURE,
                    format!(
                        "{text}: this login lacks a role, for example backhaul_operator; `backhaul doctor` says which it has"
                    ),
                ),
                connection if connection.starts_with("28") || connection.starts_with("3D") => (exit::DATABASE, text),
                _ => (exit::FAILURE, text),
            }
        }
        sqlx::Error::PoolTimedOut => (
            exit::DATABASE,
            "the database cannot be reached: it does not answer (`backhaul doctor` looks closer)".to_owned(),
        ),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
            (exit::DATABASE, format!("the database cannot be reached: {error} (`backhaul doctor` looks closer)"))
        }
        other => (exit::FAILURE, format!("the database: {other}")),
    };
    anyhow!(Coded::new(code, text))
}
