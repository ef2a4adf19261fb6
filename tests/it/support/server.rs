//! A Postgres server of one test's own, which it may crash.

use std::path::{Path, PathBuf};

use backhaul_engine::{KindSpec, Store, migrate};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Database, PATIENCE, Toy, binary, run};

/// A running private cluster; it is stopped when the test ends, also after a panic.
pub(crate) struct Server {
    dir: PathBuf,
    pub(crate) url: String,
}

impl Server {
    /// Creates and starts one below `dir`. It never flushes the disk, which only a machine without power would notice:
    /// what was committed is with the operating system, and survives the death of every process of the server.
    pub(crate) async fn start(dir: &Path) -> Self {
        let dir = dir.join("cluster");
        Self::run(&dir);
        let url = run(binary().args(["db", "url", "--dir"]).arg(&dir)).trim().to_owned();
        let server = Self { dir, url };
        let mut connection = PgConnection::connect(&server.url).await.expect("connects");
        let name: String =
            sqlx::query_scalar("select current_database()").fetch_one(&mut connection).await.expect("a name");
        sqlx::raw_sql(AssertSqlSafe(format!("alter database {name} set synchronous_commit = on")))
            .execute(&mut connection)
            .await
            .expect("alters");
        connection.close().await.expect("closes");
        server
    }

    fn run(dir: &Path) {
        run(binary().args(["db", "start", "--no-sync", "--dir"]).arg(dir));
    }

    /// Its database, migrated and with the toy kind registered.
    pub(crate) async fn database(&self) -> Database {
        let store = Store::connect(&self.url, 10, false).await.expect("connects");
        migrate(&store, &[KindSpec::of::<Toy>()]).await.expect("migrates");
        Database { url: self.url.clone(), store }
    }

    /// What `pg_ctl stop -m immediate` does: every backend dies where it stands, and the next start recovers from the
    /// log.
    pub(crate) fn restart_at_once(&self) {
        let place = std::fs::read_dir(&self.dir)
            .expect("readable")
            .filter_map(Result::ok)
            .map(|entry| entry.path().join("postmaster.pid"))
            .find(|path| path.exists())
            .expect("the server has written its pid");
        let pid: i32 = std::fs::read_to_string(&place)
            .expect("readable")
            .lines()
            .next()
            .expect("a line")
            .parse()
            .expect("a number");
        kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("the server runs");
        let looks = PATIENCE.as_millis() / 20;
        for _ in 0..looks {
            // It takes its pid file away with its last step; what is left may be a zombie that nobody has reaped yet.
            if !place.exists() || kill(Pid::from_raw(pid), None).is_err() {
                Self::run(&self.dir);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("Postgres did not stop within {PATIENCE:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = binary().args(["db", "stop", "--dir"]).arg(&self.dir).output();
    }
}
