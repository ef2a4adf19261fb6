//! The private Postgres: every command finds it, two never collide, and a crash does not lock anybody out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sqlx::{Connection, PgConnection};

use crate::support::{binary, target_dir};

/// A home of a test's own; its server is stopped at the end, also when the test fails.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let path = target_dir().join(format!("home-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn db(&self, command: &str) -> Command {
        let mut binary = binary();
        binary.args(["db", command, "--dir"]).arg(&self.0);
        if command == "start" {
            binary.arg("--no-sync");
        }
        binary
    }

    fn url(&self, form: &[&str]) -> String {
        ok(self.db("url").args(form)).trim().to_owned()
    }

    /// Directory of the data: the home, unless the server's user may not enter it.
    fn data(&self) -> PathBuf {
        let record = fs::read_to_string(self.0.join("cluster.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        let base = record["elsewhere"].as_str().map_or_else(|| self.0.clone(), PathBuf::from);
        base.join("pgdata")
    }

    fn pid(&self) -> String {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).expect("a pid file");
        file.lines().next().expect("a first line").to_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.db("stop").output();
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ok(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

async fn answers(url: &str) -> bool {
    let Ok(mut connection) = PgConnection::connect(url).await else { return false };
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await.expect("an answer");
    connection.close().await.expect("closes");
    one == 1
}

#[tokio::test]
async fn it_listens_on_a_socket_and_a_port_and_stays_until_it_is_stopped() {
    let home = Home::new("life");
    assert!(ok(&mut home.db("start")).contains("was created"));
    assert!(ok(&mut home.db("start")).contains("was running already"));
    let (socket, tcp) = (home.url(&[]), home.url(&["--tcp"]));
    assert!(answers(&socket).await && answers(&tcp).await);
    assert!(tcp.contains("@127.0.0.1:"), "{tcp}");
    let (without, _) = tcp.split_once("postgres:").expect("a password");
    assert!(!answers(&format!("{without}postgres:wrong@{}", tcp.rsplit_once('@').expect("a host").1)).await);

    assert!(ok(&mut home.db("stop")).contains("is stopped"));
    assert!(ok(&mut home.db("stop")).contains("was not running"));
    // The URL's command starts it again, on the same data and with the same password.
    assert_eq!(home.url(&[]), socket);
    assert!(answers(&socket).await);
}

#[tokio::test]
async fn two_processes_that_start_it_at_once_get_the_same_server() {
    let home = Home::new("race");
    let starts: Vec<_> = (0..4).map(|_| home.db("start").stdout(Stdio::null()).spawn().expect("spawns")).collect();
    for start in starts {
        let output = start.wait_with_output().expect("ends");
        assert!(output.status.success());
    }
    assert!(answers(&home.url(&[])).await);
}

#[tokio::test]
async fn two_homes_have_nothing_in_common() {
    let (one, two) = (Home::new("one"), Home::new("two"));
    ok(&mut one.db("start"));
    ok(&mut two.db("start"));
    let (first, second) = (one.url(&["--tcp"]), two.url(&["--tcp"]));
    assert_ne!(first, second);
    ok(&mut one.db("stop"));
    assert!(answers(&second).await, "stopping one leaves the other alone");
}

#[tokio::test]
async fn a_killed_server_is_started_again() {
    let home = Home::new("killed");
    ok(&mut home.db("start"));
    ok(Command::new("kill").args(["-KILL", &home.pid()]));
    assert!(answers(&home.url(&[])).await);
}

#[tokio::test]
async fn a_pid_file_that_names_a_stranger_is_no_obstacle() {
    let home = Home::new("stale");
    ok(&mut home.db("start"));
    let file = home.data().join("postmaster.pid");
    let text = fs::read_to_string(&file).expect("readable");
    ok(&mut home.db("stop"));
    // After a restart of a container the number often belongs to somebody else: here to this test.
    let (_, rest) = text.split_once('\n').expect("lines");
    fs::write(&file, format!("{}\n{rest}", std::process::id())).expect("written");
    give_like(&home.data(), &file);
    assert!(answers(&home.url(&[])).await);
}

#[tokio::test]
async fn an_interrupted_set_up_is_repeated_and_strange_data_is_left_alone() {
    let home = Home::new("torn");
    fs::create_dir_all(home.0.join("pgdata")).expect("a directory");
    fs::write(home.0.join("pgdata/keep"), "somebody's").expect("written");
    let refused = home.db("start").output().expect("runs");
    assert!(!refused.status.success());
    assert!(home.0.join("pgdata/keep").exists());
    fs::write(home.0.join("unfinished"), "").expect("written");
    ok(&mut home.db("start"));
    assert!(answers(&home.url(&[])).await);
}

#[tokio::test]
async fn a_path_may_be_long_and_hold_blanks_and_quotes() {
    let refused = Home::new("a$b").db("start").output().expect("runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("choose another one"), "Postgres would misread it");
    let home = Home::new(&format!("a b'c,d-{}", "x".repeat(100)));
    ok(&mut home.db("start"));
    assert!(answers(&home.url(&[])).await);
    let one = ok(home.db("psql").args(["--", "-Atc", "select 41 + 1"]));
    assert_eq!(one.trim(), "42");
}

/// Files of a cluster that root set up belong to the server's user.
fn give_like(model: &Path, file: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    let owner = fs::metadata(model).expect("readable");
    chown(file, Some(owner.uid()), Some(owner.gid())).expect("given");
}
