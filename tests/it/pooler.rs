//! A worker behind PgBouncer in transaction mode: no session of its own, no notifications, and nothing lost.

use std::{
    fs::File,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use backhaul_engine::{Store, WorkerOptions};

use crate::support::{Toy, ToyEnv, Worker, database, eventually, scratch};

/// A running PgBouncer, stopped with its test.
struct PgBouncer {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It may be gone already; what counts is that it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl PgBouncer {
    /// None, loudly, where it is not installed; on CI that is a failure.
    fn start(url: &url::Url) -> Option<Self> {
        let installed = Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !installed {
            assert!(std::env::var_os("CI").is_none(), "CI installs pgbouncer");
            eprintln!("SKIPPED: pgbouncer is not installed (Debian: apt-get install pgbouncer)");
            return None;
        }
        // Below the system's directory for temporary files: the user it runs as may not enter the checkout.
        let dir = std::env::temp_dir().join(scratch("pgbouncer").file_name().expect("named"));
        std::fs::create_dir_all(&dir).expect("creatable");
        let port = free_port();
        let server = server(url);
        let settings = format!(
            "[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\nignore_startup_parameters = extra_float_digits\ndefault_pool_size = 4\n"
        );
        let ini = dir.join("pgbouncer.ini");
        std::fs::write(&ini, settings).expect("writable");
        let mut command = Command::new("pgbouncer");
        if nix::unistd::Uid::effective().is_root() {
            let user = nix::unistd::User::from_name("postgres").expect("readable").expect("Postgres is installed");
            for path in [&dir, &ini] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
            }
            command.args(["-u", "postgres"]);
        }
        std::fs::set_permissions(&ini, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let log = File::create(dir.join("log")).expect("creatable");
        let child = command.arg("-q").arg(&ini).stdout(Stdio::null()).stderr(log).spawn().expect("starts");
        Some(Self { child, dir, port })
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// The server's address and credentials, as PgBouncer's settings spell them.
fn server(url: &url::Url) -> String {
    let query: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
    let host = query.get("host").map(String::as_str).or(url.host_str()).expect("a host").replace("%2F", "/");
    let port = query.get("port").cloned().or(url.port().map(|port| port.to_string())).unwrap_or("5432".into());
    let user = query.get("user").cloned().unwrap_or(url.username().to_owned());
    let password = query.get("password").cloned().or(url.password().map(str::to_owned)).unwrap_or_default();
    format!("host={host} port={port} user={user} password={password}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_behind_a_transaction_pooler_loses_nothing() {
    let db = database().await;
    let Some(pooler) = PgBouncer::start(&url::Url::parse(&db.url).expect("a URL")) else { return };
    let name = url::Url::parse(&db.url).expect("a URL").path().to_owned();
    let through = format!("postgres://anybody@127.0.0.1:{}{name}", pooler.port);
    eventually("PgBouncer answers", async || Store::connect(&through, 1, true).await.is_ok()).await;
    let store = Store::connect(&through, 12, true).await.expect("it answered before");

    let longest: String = sqlx::query_scalar("show statement_timeout").fetch_one(&store).await.expect("answers");
    assert_eq!(longest, "30s", "also where sessions have no options of their own");

    let env = ToyEnv::new();
    let options = WorkerOptions { pooler: true, poll: Duration::from_millis(50), ..Worker::options() };
    let workers =
        [Worker::start_with(store.clone(), &env, options.clone()), Worker::start_with(store.clone(), &env, options)];
    // Through the pooler too, and at the same time as the workers, so that its four servers change hands all the time.
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..8_i64 {
        let store = store.clone();
        producers.spawn(async move {
            for n in 0..40 {
                let toy = Toy::new(producer * 100 + n).act(if n % 10 == 0 { "transient" } else { "steps" }).act("ok");
                let (_, outcome): (i64, String) =
                    sqlx::query_as("select job_id, outcome from backhaul.enqueue('toy', $1)")
                        .bind(sqlx::types::Json(toy))
                        .fetch_one(&store)
                        .await
                        .expect("enqueues");
                assert_eq!(outcome, "inserted");
            }
        });
    }
    producers.join_all().await;
    eventually("all jobs end", async || db.unfinished().await == 0).await;
    for worker in workers {
        worker.stop().await;
    }
    let done: i64 =
        db.one("select count(distinct job_id) from backhaul.events where type = 'dev.backhaul.job.completed'").await;
    assert_eq!(done, 320);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.leases").await, 0);
    assert!(Path::new(&pooler.dir).exists());
}
