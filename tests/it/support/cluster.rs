//! One private cluster a run, one database a test.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use backhaul_engine::{Job, KindSpec, Store, migrate};
use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use super::Toy;

/// The product's binary.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backhaul"));
    // No setting of the person who runs the tests may leak in.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("BACKHAUL_") || text == "DATABASE_URL" {
            command.env_remove(&name);
        }
    }
    command
}

/// Where tests may write.
pub(crate) fn target_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// URL of the run's server, without a database's name at its end being meaningful.
async fn server() -> &'static str {
    static SERVER: OnceCell<String> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            if let Ok(url) = std::env::var("BACKHAUL_TEST_DATABASE_URL") {
                return url;
            }
            let directory = target_dir().join("cluster");
            run(binary().args(["db", "start", "--no-sync", "--dir"]).arg(&directory));
            run(binary().args(["db", "url", "--dir"]).arg(&directory)).trim().to_owned()
        })
        .await
}

/// Runs it to its end and returns what it printed; fails with everything it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A database of a test's own, migrated and with the toy kind registered. Dropped with the run's cluster.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) store: Store,
}

/// Makes a fresh database from a template that is migrated once.
pub(crate) async fn database() -> Database {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let server = server().await;
    let template = TEMPLATE
        .get_or_init(|| async {
            let name = format!("it_{}_template", std::process::id());
            create(server, &name, "template0").await;
            let store = Store::connect(&with_database(server, &name), 2, false).await.expect("connects");
            migrate(&store, &[KindSpec::of::<Toy>()]).await.expect("migrates");
            store.close().await;
            name
        })
        .await;
    assert!(!Toy::KIND.is_empty());
    made_from(server, template).await
}

/// A database without our schema.
pub(crate) async fn empty_database() -> Database {
    made_from(server().await, "template0").await
}

async fn made_from(server: &str, template: &str) -> Database {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("it_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    create(server, &name, template).await;
    let url = with_database(server, &name);
    let store = Store::connect(&url, 10, false).await.expect("connects");
    Database { url, store }
}

async fn create(server: &str, name: &str, template: &str) {
    let mut connection = PgConnection::connect(server).await.expect("connects to the server");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name} template {template}")))
        .execute(&mut connection)
        .await
        .expect("creates a database");
    connection.close().await.expect("closes");
}

fn with_database(server: &str, name: &str) -> String {
    let mut url = url::Url::parse(server).expect("a URL");
    url.set_path(name);
    url.into()
}

impl Database {
    /// One value.
    pub(crate) async fn one<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.expect(sql)
    }

    /// A statement or several.
    pub(crate) async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.store.pool()).await.expect(sql);
    }

    /// Enqueues toys with consecutive numbers; returns their job ids.
    pub(crate) async fn toys(&self, toys: &[Toy]) -> Vec<i64> {
        let jobs: Vec<_> = toys.iter().map(|toy| serde_json::json!({ "kind": Toy::KIND, "payload": toy })).collect();
        let rows: Vec<(i64, String)> =
            sqlx::query_as("select job_id, outcome from backhaul.enqueue_many($1) order by position")
                .bind(sqlx::types::Json(jobs))
                .fetch_all(self.store.pool())
                .await
                .expect("enqueues");
        assert!(rows.iter().all(|(_, outcome)| outcome == "inserted"), "{rows:?}");
        rows.into_iter().map(|(id, _)| id).collect()
    }

    /// How many jobs are neither finished nor dead.
    pub(crate) async fn unfinished(&self) -> i64 {
        self.one("select count(*) from backhaul.jobs").await
    }
}
