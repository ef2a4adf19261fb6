//! `backhaul jobs cancel` and `backhaul jobs reschedule`: one by one or by filter.

use anyhow::{Result, anyhow};
use clap::Args;
use sqlx::{AssertSqlSafe, PgPool};

use super::{Filter, MATCHES};
use crate::commands::{
    bulk::{self, Bulk, Fate, Words},
    database::explain,
    exit::{self, Coded},
    session::Actor,
    when::When,
};

/// End unfinished jobs; a running one is stopped within seconds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul jobs cancel 4711 4712 --why 'the customer withdrew'
  backhaul jobs cancel --batch wrong-import --why 'wrong file'
  backhaul jobs cancel --batch wrong-import --why 'wrong file' --limit 100000 --yes")]
pub(crate) struct Cancel {
    #[command(flatten)]
    chosen: Chosen,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT")]
    why: String,
}

/// Move unfinished jobs that are not running to another time
///
/// A job that is ready already keeps its place when it is moved to now; `backhaul jobs reprioritize` gives it a better one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul jobs reschedule 4711 --at now
  backhaul jobs reschedule 4711 --at +2h --why 'the upstream is being maintained'
  backhaul jobs reschedule 4711 --at 2030-01-31T08:00:00Z
  backhaul jobs reschedule --kind handshake --state retrying --at now --yes")]
pub(crate) struct Reschedule {
    #[command(flatten)]
    chosen: Chosen,
    /// When: now, a time from now as +90s, +15m, +2h or +3d, or a time as 2030-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    at: When,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "rescheduled by hand")]
    why: String,
}

/// Jobs by their ids, or all unfinished ones that a filter finds.
#[derive(Debug, Args)]
struct Chosen {
    /// Ids of jobs
    #[arg(value_name = "ID", conflicts_with_all = ["kind", "tenant", "state", "batch"])]
    ids: Vec<i64>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    actor: Actor,
}

/// Ends them.
pub(super) async fn cancel(pool: &PgPool, command: &Cancel) -> Result<()> {
    let Cancel { chosen, why } = command;
    decide(pool, chosen, Words { thing: "job", done: "cancelled" }, async |id| {
        let outcome = sqlx::query_scalar("select backhaul.cancel($1, $2, $3)");
        outcome.bind(id).bind(chosen.actor.name()).bind(why).fetch_one(pool).await.map(Fate::Done).map_err(explain)
    })
    .await
}

/// Moves them, all to the same time.
pub(super) async fn reschedule(pool: &PgPool, command: &Reschedule) -> Result<()> {
    let Reschedule { chosen, at, why } = command;
    let at = at.resolve(pool).await?;
    let done = format!("due at {}", at.format("%Y-%m-%d %H:%M:%S UTC"));
    decide(pool, chosen, Words { thing: "job", done: "rescheduled" }, async |id| {
        let moved = sqlx::query_scalar::<_, String>("select backhaul.reschedule($1, $2, $3, $4)");
        match moved.bind(id).bind(at).bind(chosen.actor.name()).bind(why).fetch_one(pool).await {
            Ok(outcome) if outcome == "ready" => Ok(Fate::Done("ready already, and keeps its place".to_owned())),
            Ok(_) => Ok(Fate::Done(done.clone())),
            Err(error) if is_running(&error) => Ok(Fate::Left("it is running".to_owned())),
            Err(error) => Err(explain(error)),
        }
    })
    .await
}

fn is_running(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|refused| refused.code().as_deref() == Some("BH021"))
}

async fn decide(pool: &PgPool, chosen: &Chosen, words: Words, act: impl AsyncFn(&i64) -> Result<Fate>) -> Result<()> {
    let Chosen { ids, filter, bulk, .. } = chosen;
    if !ids.is_empty() {
        return bulk::decide(ids, false, bulk, words, act).await;
    }
    if filter.is_empty() {
        let text = "name ids, or a filter: --kind, --tenant, --state, --batch";
        return Err(anyhow!(Coded::new(exit::USAGE, text)));
    }
    // A dead job is decided about with `backhaul dead`.
    let found = format!("from backhaul.job_states where {MATCHES} and state <> 'dead'");
    if !bulk.yes {
        let sql = format!("select count(*) {found}");
        let total = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(&filter.kind)
            .bind(&filter.tenant)
            .bind(filter.state())
            .bind(&filter.batch)
            .fetch_one(pool)
            .await
            .map_err(explain)?;
        return bulk::announce(total, bulk, words);
    }
    let sql = format!("select id {found} order by id limit $5");
    let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(&filter.kind)
        .bind(&filter.tenant)
        .bind(filter.state())
        .bind(&filter.batch)
        .bind(bulk.limit)
        .fetch_all(pool)
        .await
        .map_err(explain)?;
    bulk::decide(&ids, true, bulk, words, act).await
}
