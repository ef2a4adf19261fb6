//! `backhaul db`: the private Postgres.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use url::Url;

use super::session::Session;
use crate::cluster::{Cluster, Durability, Started};

/// Start, stop and look into the private Postgres.
///
/// Every command that is given no database URL uses the private Postgres in `.backhaul/postgres` and starts it when
/// it is not running. It is started from the installed binaries (version 15 or later), listens on a Unix socket and
/// on a free loopback port, and keeps running until `backhaul db stop`.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul db start
  backhaul db psql
  backhaul db psql -- -c 'select state, count(*) from backhaul.job_states group by 1'
  psql \"$(backhaul db url)\"
  backhaul db stop")]
pub(crate) enum Db {
    /// Start it, creating it the first time, and wait until it answers
    Start(Start),
    /// Stop it and wait until it is down
    Stop(Place),
    /// Open psql on the database in use; what follows `--` goes to psql
    Psql(Psql),
    /// Print the URL of the database in use, with its password
    Url(ShowUrl),
}

/// Which private cluster is meant.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Home of the private cluster [default: the setting cluster.dir, `.backhaul/postgres`]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    place: Place,
    /// Do not wait for the disk: faster, but a power cut destroys the data. For tests
    #[arg(long)]
    no_sync: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Psql {
    #[command(flatten)]
    place: Place,
    /// Arguments for psql
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowUrl {
    #[command(flatten)]
    place: Place,
    /// The loopback address, for tools that know no Unix sockets
    #[arg(long)]
    tcp: bool,
}

/// Runs one of the subcommands.
pub(crate) fn run(session: &Session, command: Db) -> Result<()> {
    match command {
        Db::Start(start) => {
            let durability = if start.no_sync { Durability::NoSync } else { Durability::Sync };
            let (started, addresses) = cluster(session, &start.place).start(durability)?;
            let what = match started {
                Started::Already => "Postgres was running already",
                Started::Now => "Postgres is running",
                Started::Created => "Postgres was created and is running",
            };
            println!("{what}, on loopback port {} and a Unix socket: see `backhaul db url`", addresses.port);
        }
        Db::Stop(place) => {
            let stopped = cluster(session, &place).stop()?;
            println!("{}", if stopped { "Postgres is stopped" } else { "Postgres was not running" });
        }
        Db::Psql(psql) => return open_psql(session, &psql),
        Db::Url(show) => println!("{}", url(session, &show.place, show.tcp)?),
    }
    Ok(())
}

fn cluster(session: &Session, place: &Place) -> Cluster {
    match &place.dir {
        Some(dir) => Cluster::new(dir, session.settings.cluster.bin_dir.as_deref()),
        None => session.cluster(),
    }
}

fn url(session: &Session, place: &Place, tcp: bool) -> Result<String> {
    if place.dir.is_none()
        && let Some(url) = &session.settings.database.url
    {
        return Ok(url.expose_secret().to_owned());
    }
    let (_, addresses) = cluster(session, place).start(Durability::Sync)?;
    Ok(if tcp { addresses.tcp } else { addresses.socket }.expose_secret().to_owned())
}

/// Becomes psql. The password goes through the environment: arguments are there for every user to see.
fn open_psql(session: &Session, psql: &Psql) -> Result<()> {
    let program = session.cluster().psql()?;
    let mut url = Url::parse(&url(session, &psql.place, false)?).context("the database URL cannot be parsed")?;
    let password = url.password().map(percent_decoded).unwrap_or_default();
    let mut command = Command::new(&program);
    if !password.is_empty() {
        // A URL that has a password has a host, so it can be without one.
        let _ = url.set_password(None);
        command.env("PGPASSWORD", password);
    }
    let error = command.arg(url.as_str()).args(&psql.arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", Path::new(&program).display()))
}

fn percent_decoded(text: &str) -> String {
    // `text` is the only value of a form body, in which a plus sign would be a blank and an ampersand an end.
    let body = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(body.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}
