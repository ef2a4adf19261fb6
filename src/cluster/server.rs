//! Creates, starts and stops the server of a private cluster.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{DATABASE, Durability, SUPERUSER, binaries::Binaries, place::Place, record::Record};

/// Longest wait for the server to answer, and to end.
const READY_MAX: Duration = Duration::from_secs(30);
/// Longest time for `initdb`, which takes about a second on an idle machine.
const INITDB_MAX: Duration = Duration::from_secs(60);
/// A port that was free a moment ago can be taken before the server binds it, and the backends of a killed server
/// take a moment to end.
const TRIES_MAX: u32 = 5;
const ORPHANS_END: Duration = Duration::from_secs(1);
/// No system gives a process this number.
const NO_PROCESS: i32 = i32::MAX - 1;
/// How much of the server's log an error shows.
const LOG_TAIL_BYTES: u64 = 2_000;
/// A log that has grown beyond this is put aside at the next start.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
const POLL: Duration = Duration::from_millis(20);

/// Runs `initdb` and makes the database.
pub(super) fn initialise(place: &Place, binaries: &Binaries, record: &Record) -> Result<()> {
    fresh_log(place)?;
    let password_file = place.base().join("initial-password");
    let _ = fs::remove_file(&password_file);
    write_private(place, &password_file, &record.password)?;
    let mut initdb = place.command(&binaries.program("initdb"));
    // The locale C exists everywhere and sorts by code point; the set-up itself need not survive a power cut.
    initdb
        .args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C", "--no-sync"])
        .args(["--auth", "scram-sha-256", "--pwfile"])
        .arg(&password_file)
        .arg("--pgdata")
        .arg(place.data());
    let done = run(place, &mut initdb, "initdb", INITDB_MAX, Stdio::null());
    let _ = fs::remove_file(&password_file);
    done?;

    // The password crosses the socket as it is: nobody can listen there, and hashing it costs a client in an
    // unoptimised build a tenth of a second for each connection. The loopback port keeps the stronger way.
    let access = "# type  database  user  address  method\n\
                  local   all       all                  password\n\
                  host    all       all   127.0.0.1/32   scram-sha-256\n";
    fs::write(place.data().join("pg_hba.conf"), access).context("cannot write pg_hba.conf")?;
    let mut main = OpenOptions::new()
        .append(true)
        .open(place.data().join("postgresql.conf"))
        .context("cannot open postgresql.conf")?;
    std::io::Write::write_all(&mut main, b"\ninclude 'backhaul.conf'\n").context("cannot extend postgresql.conf")?;
    write_private(place, &place.data().join("backhaul.conf"), "")?;

    let statement = place.base().join("initial-statement.sql");
    write_private(place, &statement, &format!("create database {DATABASE};\n"))?;
    let input = File::open(&statement).context("cannot read the initial statement")?;
    let mut single = place.command(&binaries.program("postgres"));
    single.arg("--single").args(["-c", "fsync=off", "-D"]).arg(place.data()).arg("postgres");
    let done = run(place, &mut single, "creating the database", READY_MAX, input.into());
    let _ = fs::remove_file(&statement);
    done
}

/// Starts the server in a session of its own and waits until it answers. Updates the record.
pub(super) fn start(
    home: &Path,
    place: &Place,
    binaries: &Binaries,
    record: &mut Record,
    durability: Durability,
) -> Result<()> {
    record.sockets = place.sockets()?;
    if postmaster_pid(place)?.is_some() {
        // Somebody started it and died before it answered, or it is still recovering.
        return wait_until_answers(place, record);
    }
    defuse_lock_files(place, &record.sockets)?;
    for tried in 1..=TRIES_MAX {
        record.port = free_port(if tried == 1 { record.port } else { 0 })?;
        fresh_log(place)?;
        write_private(place, &place.data().join("backhaul.conf"), &settings(record, durability))?;
        record.write(home)?;
        let mut pg_ctl = place.command(&binaries.program("pg_ctl"));
        // `pg_ctl` starts the server in a session of its own, so that it survives this command and its terminal.
        pg_ctl
            .args(["start", "--silent", "--wait", "--timeout", &READY_MAX.as_secs().to_string(), "--pgdata"])
            .arg(place.data())
            .arg("--log")
            .arg(place.log());
        let limit = READY_MAX + Duration::from_secs(5);
        match run(place, &mut pg_ctl, "starting Postgres", limit, Stdio::null()) {
            Ok(()) => return wait_until_answers(place, record),
            Err(error) if tried == TRIES_MAX => return Err(error),
            Err(_) if log_tail(place).contains("could not bind") => {}
            Err(_) if log_tail(place).contains("shared memory block") => thread::sleep(ORPHANS_END),
            Err(error) => return Err(error),
        }
    }
    bail!("Postgres did not start in {TRIES_MAX} tries")
}

/// Stops the server: clients are disconnected, their transactions rolled back.
pub(super) fn stop(place: &Place, binaries: &Binaries) -> Result<()> {
    let mut pg_ctl = place.command(&binaries.program("pg_ctl"));
    pg_ctl
        .args([
            "stop",
            "--silent",
            "--wait",
            "--mode",
            "fast",
            "--timeout",
            &READY_MAX.as_secs().to_string(),
            "--pgdata",
        ])
        .arg(place.data());
    run(place, &mut pg_ctl, "stopping Postgres", READY_MAX + Duration::from_secs(5), Stdio::null())
}

/// Whether a server listens on the record's socket.
pub(super) fn answers(record: &Record) -> bool {
    record.port != 0 && UnixStream::connect(record.sockets.join(format!(".s.PGSQL.{}", record.port))).is_ok()
}

/// Process id of this cluster's running server.
///
/// After a restart of the machine or container the number in the file often belongs to some other process, so the
/// process is asked whether it works on this data directory.
pub(super) fn postmaster_pid(place: &Place) -> Result<Option<u32>> {
    let path = place.data().join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    Ok(pid.filter(|pid| command_line(*pid).is_some_and(|line| works_on(&line, &place.data()))))
}

fn works_on(command_line: &str, data: &Path) -> bool {
    command_line.contains("postgres") && command_line.contains(&*data.to_string_lossy())
}

fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " "));
    }
    let output = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes what a killed server left harmless to the next one.
///
/// Postgres takes a live process with the number in its lock files for another server, also when it is a stranger or
/// a zombie. The number is replaced and the file kept: its other lines let Postgres notice orphaned backends.
fn defuse_lock_files(place: &Place, sockets: &Path) -> Result<()> {
    let path = place.data().join("postmaster.pid");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
            write_private(place, &path, &format!("{NO_PROCESS}\n{rest}"))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    // The directory is this cluster's alone, and its server is not running.
    for entry in fs::read_dir(sockets).with_context(|| format!("cannot list {}", sockets.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", sockets.display()))?.path();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn wait_until_answers(place: &Place, record: &Record) -> Result<()> {
    let started = Instant::now();
    while !answers(record) {
        if started.elapsed() > READY_MAX {
            bail!("Postgres does not answer after {} s; the end of its log:\n{}", READY_MAX.as_secs(), log_tail(place));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// The server's settings beyond its defaults.
fn settings(record: &Record, durability: Durability) -> String {
    let on = match durability {
        Durability::Sync => "on",
        Durability::NoSync => "off",
    };
    // A list of directories: quoted once as a list member, and once as a setting.
    let sockets = record.sockets.to_string_lossy().replace('"', "\"\"").replace('\'', "''");
    format!(
        "# Written by `backhaul db start` at every start.\n\
         cluster_name = 'backhaul'\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '\"{sockets}\"'\n\
         max_connections = 200\n\
         shared_buffers = '128MB'\n\
         max_wal_size = '2GB'\n\
         jit = off\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         fsync = {on}\n\
         synchronous_commit = {on}\n\
         full_page_writes = {on}\n",
        port = record.port,
    )
}

/// `wanted` if it is free, else any port that is.
fn free_port(wanted: u16) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("cannot find a free loopback port")?;
    Ok(listener.local_addr().context("cannot read the port that was found")?.port())
}

fn write_private(place: &Place, path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    place.give(path)
}

fn fresh_log(place: &Place) -> Result<()> {
    let path = place.log();
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        fs::rename(&path, path.with_extension("log.old")).context("cannot put the old server log aside")?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    place.give(&path)
}

/// Runs one of the server's programs to its end, with its output in the server's log.
fn run(place: &Place, command: &mut Command, what: &str, limit: Duration, input: Stdio) -> Result<()> {
    let log = OpenOptions::new().append(true).open(place.log()).context("cannot open the server's log")?;
    let errors = log.try_clone().context("cannot open the server's log twice")?;
    let mut child = command
        .stdin(input)
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("{what}: cannot start {}", PathBuf::from(command.get_program()).display()))?;
    let started = Instant::now();
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("{what}: cannot wait for it"))? {
            break status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{what} took more than {} s; the end of its log:\n{}", limit.as_secs(), log_tail(place));
        }
        thread::sleep(POLL);
    };
    if !status.success() {
        bail!("{what} failed ({status}); the end of {}:\n{}", place.log().display(), log_tail(place));
    }
    Ok(())
}

fn log_tail(place: &Place) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(place.log())?;
        let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
}
