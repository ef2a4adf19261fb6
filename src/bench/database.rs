//! A fresh database for every measurement, dropped afterwards.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use backhaul_engine::Store;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use url::Url;

use crate::kinds;

/// A database may be dropped while somebody still leaves it.
const DROP_MAX: Duration = Duration::from_secs(30);

/// The server that is measured, and the databases that were made on it.
pub(crate) struct Server {
    url: String,
    made: Mutex<Vec<String>>,
}

/// One fresh database.
pub(crate) struct Database {
    pub url: String,
}

impl Server {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), made: Mutex::new(Vec::new()) }
    }

    /// A connection to the server's own database, for what is not measured.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    /// A database with Backhaul's schema and the kinds of the benchmark.
    pub(crate) async fn migrated(&self) -> Result<Database> {
        let database = self.empty().await?;
        let store = Store::connect(&database.url, 2, false).await?;
        backhaul_engine::migrate(&store, &kinds::specs()).await?;
        store.close().await;
        Ok(database)
    }

    /// A database with nothing in it.
    pub(crate) async fn empty(&self) -> Result<Database> {
        let name = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            let name = format!("backhaul_bench_{}_{}", std::process::id(), uuid::Uuid::new_v4().simple());
            made.push(name.clone());
            name
        };
        let mut connection = self.connect().await?;
        // The name is made of letters and digits of ours.
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name} template template0")))
            .execute(&mut connection)
            .await
            .context("cannot create a database; the login needs the right to (createdb)")?;
        let mut url = Url::parse(&self.url).context("the database URL cannot be parsed")?;
        url.set_path(&name);
        Ok(Database { url: url.into() })
    }

    /// Drops what was made so far. What cannot be dropped is named, and does not stop the rest.
    pub(crate) async fn drop_made(&self) {
        let names = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        if names.is_empty() {
            return;
        }
        let Ok(mut connection) = self.connect().await else {
            tracing::warn!(databases = ?names, "these databases of the benchmark are left behind");
            return;
        };
        for name in names {
            let drop = sqlx::raw_sql(AssertSqlSafe(format!("drop database if exists {name} with (force)")));
            match tokio::time::timeout(DROP_MAX, drop.execute(&mut connection)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, database = name, "a database of the benchmark is left behind"),
                Err(_) => tracing::warn!(database = name, "a database of the benchmark is left behind"),
            }
        }
    }
}

impl Database {
    /// A connection without the engine's settings.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        let options = PgConnectOptions::from_str(&self.url)?
            .application_name("backhaul-bench")
            // As the engine has it: a batch of some hundred rows never repays compiling its plan.
            .options([("jit", "off")]);
        Ok(PgConnection::connect_with(&options).await?)
    }

    /// A pool without the engine's settings.
    pub(crate) async fn pool(&self, connections: u32) -> Result<sqlx::PgPool> {
        let options = PgConnectOptions::from_str(&self.url)?.application_name("backhaul-bench");
        Ok(PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(connections)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options)
            .await?)
    }

    /// The engine's store.
    pub(crate) async fn store(&self, connections: u32) -> Result<Store> {
        Ok(Store::connect(&self.url, connections, false).await?)
    }
}
