//! Login roles of a test's own. Roles belong to the whole server, so their names are unique and they are dropped.

use std::sync::atomic::{AtomicU32, Ordering};

use backhaul_engine::Store;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::Database;

/// A role that can log in to one database. Dropped with what it owns when the test ends, also after a panic.
pub(crate) struct Login {
    pub(crate) name: String,
    pub(crate) url: String,
    owner: String,
}

impl Login {
    /// A login that is a member of `role` alone, or of none.
    pub(crate) async fn of(database: &Database, role: Option<&str>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("it_{}_login_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let member = role.map(|role| format!(" in role {role}")).unwrap_or_default();
        let sql = format!("create role {name} login password 'test-secret'{member}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(database.store.pool()).await.expect("creates a login");
        let mut url = url::Url::parse(&database.url).expect("a URL");
        url.set_username(&name).expect("has a host");
        url.set_password(Some("test-secret")).expect("has a host");
        Self { name, url: url.into(), owner: database.url.clone() }
    }

    /// One connection as this login.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the login connects")
    }

    /// The engine's store as this login.
    pub(crate) async fn store(&self) -> Store {
        Store::connect(&self.url, 10, false).await.expect("the login connects")
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let sql = format!("drop owned by {0}; drop role {0}", self.name);
        let dropped = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut owner = PgConnection::connect(&self.owner).await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await?;
                owner.close().await
            })
        });
        if let Err(error) = dropped {
            eprintln!("the role {} stays behind: {error}", self.name);
        }
    }
}
