//! Worker processes of the toy kind: this test binary once more, so that a signal hits a real process and nothing else.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use backhaul_engine::{Registry, Store, WorkerOptions, run_worker};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Database, PATIENCE, Process, Toy, ToyEnv, Worker, eventually, scratch};

/// Where a process finds out how it is to work.
const HOW: &str = "BACKHAUL_TOY_PROCESS";

#[derive(Serialize, Deserialize)]
struct How {
    url: String,
    ledger: PathBuf,
    gate: PathBuf,
    concurrency: usize,
    prefetch: usize,
    heartbeat: Duration,
}

/// What the toys of all processes of a test did, in the order in which they did it.
pub(crate) struct Ledger {
    dir: PathBuf,
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) process: u32,
    pub(crate) n: i64,
    /// As in [`ToyEnv::log`]; after the name of a step stands its Idempotency-Key.
    pub(crate) what: String,
}

impl Ledger {
    /// An empty one, and a gate that is shut: toys that `wait` do so until [`Ledger::open_gate`].
    pub(crate) fn new(name: &str) -> Self {
        Self { dir: scratch(name) }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("ledger")
    }

    fn gate(&self) -> PathBuf {
        self.dir.join("gate")
    }

    /// Lets every toy pass that waits or will wait.
    pub(crate) fn open_gate(&self) {
        File::create(self.gate()).expect("creatable");
    }

    /// All whole lines.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(Entry::read).collect()
    }

    /// How often `what` was noted, for one toy or for all.
    pub(crate) fn count(&self, n: Option<i64>, what: &str) -> usize {
        self.entries().iter().filter(|entry| n.is_none_or(|n| n == entry.n) && entry.what == what).count()
    }

    /// The toys in the order in which they noted `what`.
    pub(crate) fn order(&self, what: &str) -> Vec<i64> {
        self.entries().into_iter().filter(|entry| entry.what == what).map(|entry| entry.n).collect()
    }

    /// The Idempotency-Keys with which a step of a toy was called, one for each call.
    pub(crate) fn calls(&self, n: i64, step: &str) -> Vec<String> {
        let begin = format!("step {step} ");
        let mine = self.entries().into_iter().filter(|entry| entry.n == n);
        mine.filter_map(|entry| entry.what.strip_prefix(&begin).map(str::to_owned)).collect()
    }

    fn note(&self, process: u32, what: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.file()).expect("creatable");
        file.write_all(format!("{process} -1 {what}\n").as_bytes()).expect("writable");
    }

    /// Panics where two toys of one key ran at the same time, or one before an older one had ended for good. `key`
    /// tells the key of a toy's number, if it has one; numbers grow in the order in which the toys were enqueued.
    pub(crate) fn assert_ordered(&self, key: impl Fn(i64) -> Option<i64>) {
        let mut running: HashMap<i64, Entry> = HashMap::new();
        let mut newest: HashMap<i64, i64> = HashMap::new();
        for entry in self.entries() {
            if entry.what == "killed" {
                running.retain(|_, other| other.process != entry.process);
                continue;
            }
            let Some(key) = key(entry.n) else { continue };
            match entry.what.as_str() {
                "start" => {
                    let last = newest.insert(key, entry.n).unwrap_or(entry.n);
                    assert!(last <= entry.n, "toy {} starts after {last} of the same key had its turn", entry.n);
                    let other = running.insert(key, entry.clone());
                    assert_eq!(other, None, "{entry:?} while another of its key runs");
                }
                "end" => {
                    let started = running.remove(&key);
                    assert_eq!(started.map(|entry| entry.n), Some(entry.n));
                }
                _ => {}
            }
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // What a failed test leaves behind is what its reader wants to see.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Entry {
    fn read(line: &str) -> Self {
        let mut words = line.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_else(|| panic!("no line of a ledger: {line}"));
        Self { process: next().parse().expect("a process"), n: next().parse().expect("a toy"), what: next().to_owned() }
    }
}

/// A running worker in a process of its own. It is given up for dead only when a test says so.
pub(crate) struct ToyProcess {
    process: Process,
}

impl ToyProcess {
    /// Starts a worker that runs up to `concurrency` toys at once and holds as many in reserve.
    pub(crate) fn start(url: &str, ledger: &Ledger, concurrency: usize) -> Self {
        Self::start_with(url, ledger, concurrency, concurrency, Worker::patient().heartbeat)
    }

    /// Starts a worker that says nothing of itself while it has `concurrency` toys in hand, and hears nothing.
    pub(crate) fn start_unheard(url: &str, ledger: &Ledger, concurrency: usize) -> Self {
        Self::start_with(url, ledger, concurrency, 0, PATIENCE * 10)
    }

    fn start_with(url: &str, ledger: &Ledger, concurrency: usize, prefetch: usize, heartbeat: Duration) -> Self {
        let (url, gate) = (url.to_owned(), ledger.gate());
        let how = How { url, ledger: ledger.file(), gate, concurrency, prefetch, heartbeat };
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command
            .args(["--exact", "support::toy_process::body", "--ignored", "--nocapture"])
            .env(HOW, serde_json::to_string(&how).expect("JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(
                File::create(ledger.dir.join(format!("{}.log", uuid::Uuid::new_v4().simple()))).expect("creatable"),
            );
        Self { process: Process::start(&mut command) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it runs still.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// SIGKILL, and wait for the end of it. The ledger says when.
    pub(crate) fn kill(self, ledger: &Ledger) {
        let id = self.id();
        self.process.kill();
        ledger.note(id, "killed");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it lives");
    }
}

impl Database {
    /// Makes the worker of a process look as if it had not been heard of for ever.
    pub(crate) async fn give_up_process(&self, id: u32) {
        self.let_the_given_up_rest().await;
        sqlx::query("update backhaul.workers set heartbeat_at = '-infinity' where pid = $1")
            .bind(i32::try_from(id).expect("a process id"))
            .execute(self.store.pool())
            .await
            .expect("gives up");
    }

    /// Waits until the server has seen a killed process go: a claim that was on its way would still be carried out, and
    /// its jobs would be with a worker that nobody knows.
    pub(crate) async fn has_seen_go(&self, id: u32) {
        eventually("the server has seen the process go", async || {
            sqlx::query_scalar("select not exists (select from pg_stat_activity where application_name = $1)")
                .bind(name_of(id))
                .fetch_one(self.store.pool())
                .await
                .expect("looks")
        })
        .await;
    }

    /// Whether a worker of the process is registered.
    pub(crate) async fn knows_process(&self, id: u32) -> bool {
        sqlx::query_scalar("select exists (select from backhaul.workers where pid = $1)")
            .bind(i32::try_from(id).expect("a process id"))
            .fetch_one(self.store.pool())
            .await
            .expect("looks")
    }

    /// Panics unless each of the jobs has exactly one event that ended it, and no other job has any.
    pub(crate) async fn assert_ended_once(&self, ids: &[i64]) {
        let ends = self.ends().await;
        let twice: Vec<_> = ends.iter().filter(|(_, times)| *times != 1).collect();
        assert!(twice.is_empty(), "(job, ends) other than one: {twice:?}");
        let ended: BTreeSet<i64> = ends.iter().map(|(id, _)| *id).collect();
        assert_eq!(ended, ids.iter().copied().collect(), "these ended, and those should have");
    }
}

/// Who a process is among the server's connections.
fn name_of(process: u32) -> String {
    format!("toys-{process}")
}

/// What a process of this binary does that was started by [`ToyProcess`]: a worker until its standard input ends, which
/// it also does when the test that started it dies.
#[test]
#[ignore = "the body of processes that other tests start"]
fn body() {
    let Ok(how) = std::env::var(HOW) else { return };
    let how: How = serde_json::from_str(&how).expect("JSON");
    let ledger = OpenOptions::new().append(true).create(true).open(&how.ledger).expect("creatable");
    let env = ToyEnv::written_to(Some(ledger));
    let stop = CancellationToken::new();
    let ended = stop.clone();
    // A thread of its own: a blocked read would keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.cancel();
    });
    let How { concurrency, prefetch, heartbeat, .. } = how;
    let options = WorkerOptions { concurrency, prefetch, heartbeat, ..Worker::patient() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        tokio::spawn(watch(how.gate, env.clone()));
        let mut url = url::Url::parse(&how.url).expect("a URL");
        url.query_pairs_mut().append_pair("application_name", &name_of(std::process::id()));
        let store = Store::connect(url.as_str(), 10, false).await.expect("connects");
        let registry = move || {
            let mut registry = Registry::new();
            registry.add::<Toy>(env.clone());
            registry
        };
        run_worker(store, registry, Vec::new, options, stop).await.expect("the worker starts");
    });
}

/// Opens the toys' gate once its file is there.
async fn watch(gate: PathBuf, env: Arc<ToyEnv>) {
    while !gate.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    env.gate.add_permits(Semaphore::MAX_PERMITS);
}
