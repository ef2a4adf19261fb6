//! `backhaul dead`: jobs that ended badly, and what a person decides about them.

mod decide;
mod show;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use sqlx::PgPool;

use super::{
    bulk::Bulk,
    database::{explain, rows_of},
    session::{Actor, Session},
    table::{self, Column},
};

/// List, show, replay and discard dead letters.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul dead list
  backhaul dead list --group
  backhaul dead show 4711 --payload
  backhaul dead replay 4711
  backhaul dead replay --kind enrichment --code upstream_unavailable --yes
  backhaul dead discard 4711 4712 --why 'test data'
  backhaul dead discard --batch wrong-import --why 'wrong file' --yes

A replayed job keeps its id, and steps that were finished are not repeated.")]
pub(crate) enum Dead {
    /// List dead letters, newest first
    List(List),
    /// Show one dead letter with all of its failures
    Show(show::ShowOne),
    /// Put dead letters back to work
    Replay(Replay),
    /// Give dead letters up for good
    Discard(Discard),
}

/// Which dead letters are meant.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this failure code, for example invalid_payload
    #[arg(long)]
    code: Option<String>,
    /// Only this fingerprint: the same failure in the same place
    #[arg(long)]
    fingerprint: Option<String>,
    /// Only jobs of this batch: those whose idempotency key begins with NAME/, as `backfill --batch` makes them
    #[arg(long, value_name = "NAME")]
    batch: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Self { kind, tenant, code, fingerprint, batch } = self;
        [kind, tenant, code, fingerprint, batch].iter().all(|condition| condition.is_none())
    }
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Count by kind, tenant, reason and code instead
    #[arg(long)]
    group: bool,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// One dead letter by its id, or all that a filter finds.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Ids of jobs
    #[arg(value_name = "ID", conflicts_with_all = ["kind", "tenant", "code", "fingerprint", "batch"])]
    ids: Vec<i64>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    actor: Actor,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    chosen: Chosen,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "replayed by hand")]
    why: String,
    /// With one id: a JSON file with a corrected payload. The job then starts over
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT")]
    why: String,
}

const COLUMNS: [Column; 8] = [
    ("id", "ID"),
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("reason", "REASON"),
    ("code", "CODE"),
    ("tries", "TRIES"),
    ("died", "DIED"),
    ("message", "MESSAGE"),
];
const GROUPS: [Column; 7] = [
    ("dead", "DEAD"),
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("reason", "REASON"),
    ("code", "CODE"),
    ("fingerprint", "FINGERPRINT"),
    ("newest", "NEWEST"),
];
/// The condition of a [`Filter`], on the placeholders $1 to $5. A reader may see the
/// keys of jobs in their states alone.
const MATCHES: &str = "($1::text is null or kind = $1) and ($2::text is null or tenant = $2)
    and ($3::text is null or error ->> 'code' = $3) and ($4::text is null or fingerprint = $4)
    and ($5::text is null or id in (select s.id from backhaul.job_states s
                                    where s.state = 'dead' and starts_with(s.idempotency_key, $5 || '/')))";

/// Runs one of the subcommands.
pub(crate) async fn run(session: &Session, command: Dead) -> Result<()> {
    let pool = session.connect().await?;
    match command {
        Dead::List(list) => self::list(&pool, list).await,
        Dead::Show(show) => show::run(&pool, &show).await,
        Dead::Replay(replay) => decide::replay(&pool, &replay).await,
        Dead::Discard(discard) => decide::discard(&pool, &discard).await,
    }
}

async fn list(pool: &PgPool, list: List) -> Result<()> {
    let sql = if list.group {
        format!(
            "select count(*) as dead, kind, tenant, reason, error ->> 'code' as code, fingerprint,
                    to_char(max(died_at) at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as newest
             from backhaul.dead_letters where {MATCHES}
             group by kind, tenant, reason, error ->> 'code', fingerprint order by count(*) desc, kind limit $6"
        )
    } else {
        format!(
            "select id, kind, tenant, reason, error ->> 'code' as code, error ->> 'message' as message, fingerprint,
                    attempt, max_attempts, attempt || '/' || max_attempts as tries, replays, enqueued_at, died_at,
                    to_char(died_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as died
             from backhaul.dead_letters where {MATCHES} order by died_at desc, id desc limit $6"
        )
    };
    let filter = list.filter;
    let rows = rows_of(&sql)
        .bind(filter.kind)
        .bind(filter.tenant)
        .bind(filter.code)
        .bind(filter.fingerprint)
        .bind(filter.batch)
        .bind(list.limit)
        .fetch_all(pool)
        .await
        .map_err(explain)?;
    let columns = if list.group { &GROUPS[..] } else { &COLUMNS[..] };
    table::print(&rows, columns, list.json, "no dead letters")
}
