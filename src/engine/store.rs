//! The connection to Postgres, and the errors that come from there.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

/// Longest time a statement of the engine may take. None of them waits for a person.
const STATEMENT_MS_MAX: u64 = 30_000;
/// Longest wait for a connection of a pool.
const ACQUIRE_MAX: Duration = Duration::from_secs(10);

/// A pool of connections to one Backhaul database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    options: Arc<PgConnectOptions>,
    pooled: bool,
}

/// By hand, because the options print the password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("host", &self.options.get_host())
            .field("database", &self.options.get_database())
            .field("pooled", &self.pooled)
            .finish_non_exhaustive()
    }
}

/// What can go wrong between us and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is not one of Postgres.
    #[error("the database URL is not valid: {0}")]
    Url(String),
    /// The database refused or went away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A pooler in between refuses how we connect.
    #[error(
        "{0}: this looks like PgBouncer; set `ignore_startup_parameters = extra_float_digits` there and \
         `database.pooler = true` here"
    )]
    Pooler(String),
    /// A migration failed.
    #[error("migration failed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The schema is newer than this program.
    #[error("the database has schema version {found}, this program knows {known}: run a newer backhaul")]
    SchemaNewer {
        /// Version in the database.
        found: i64,
        /// Newest version of this program.
        known: i64,
    },
    /// The schema is older than this program, or absent.
    #[error("the database has schema version {found}, this program needs {known}: run `backhaul migrate`")]
    SchemaOlder {
        /// Version in the database; 0 where there is none.
        found: i64,
        /// Newest version of this program.
        known: i64,
    },
}

impl StoreError {
    /// The SQLSTATE, where the database gave one.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Database(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
            _ => None,
        }
    }
}

impl Store {
    /// Opens a pool. `pooler` is for a transaction pooler in between: no prepared statements, no start-up options.
    pub async fn connect(url: &str, connections_max: u32, pooler: bool) -> Result<Self, StoreError> {
        let mut options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Url(error.to_string()))?;
        if options.get_application_name().is_none() {
            options = options.application_name("backhaul");
        }
        options = if pooler {
            options.statement_cache_capacity(0)
        } else {
            options.options([
                ("statement_timeout", STATEMENT_MS_MAX.to_string()),
                // A batch of a few hundred rows never repays compiling its plan.
                ("jit", "off".to_owned()),
            ])
        };
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_MAX)
            .connect_with(options.clone())
            .await
            .map_err(|error| match error.to_string() {
                text if text.contains("unsupported startup parameter") => StoreError::Pooler(text),
                _ => StoreError::Database(error),
            })?;
        Ok(Self { pool, options: Arc::new(options), pooled: pooler })
    }

    /// The pool, for transactions and connections of one's own. For single statements use the store itself as executor:
    /// that also works behind a transaction pooler.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How connections are made, for those that cannot come from a pool.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The same database over one more connection, opened when it is first used.
    pub(crate) fn apart(&self) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_MAX)
            .connect_lazy_with(PgConnectOptions::clone(&self.options));
        Self { pool, options: self.options.clone(), pooled: self.pooled }
    }

    /// Whether a transaction pooler sits in between.
    pub(crate) fn pooled(&self) -> bool {
        self.pooled
    }

    /// The installation's id, part of idempotency keys and of the source of events.
    pub async fn deployment(&self) -> Result<Uuid, StoreError> {
        Ok(sqlx::query_scalar("select id from backhaul.deployment").fetch_one(self).await?)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_debug_text_holds_the_password() {
        let options = PgConnectOptions::from_str("postgres://ann:test-password-1@db.example.com/jobs").expect("a URL");
        let pool = PgPoolOptions::new().connect_lazy_with(options.clone());
        let told = format!("{:?}", Store { pool, options: Arc::new(options), pooled: false });
        assert!(told.contains("db.example.com") && !told.contains("test-password"), "{told}");
    }
}
