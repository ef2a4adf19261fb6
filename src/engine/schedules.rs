//! Schedules: rows whose time has come become jobs. Every worker looks; whoever locks a row first fires it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    pooler,
    reconnect::{Pause, is_passing},
    store::Store,
    timetable::{MISSED_MAX, Missed, Plan, Timetable},
};

/// Time between looks: how late a run may be while a worker lives.
const EVERY: Duration = Duration::from_secs(1);
/// Most schedules that one look deals with; the rest are due still, and come with the next look.
const FIRED_MAX: usize = 100;

/// A schedule that is due, locked by this transaction.
#[derive(sqlx::FromRow)]
struct Due {
    name: String,
    cron: String,
    timezone: String,
    missed: String,
    counted_from: DateTime<Utc>,
    next_at: Option<DateTime<Utc>>,
    /// The database's time: no host's clock has a say in when anything fires.
    now: DateTime<Utc>,
}

/// Fires what is due, look after look, until `stop`.
pub(crate) async fn run(store: Store, stop: CancellationToken) {
    let mut pause = Pause::default();
    loop {
        match pooler::answered(fire(&store)).await {
            Ok(()) => pause = Pause::default(),
            Err(error) if is_passing(&error) => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = pause.after(&error, "schedules") => {}
                }
            }
            Err(error) => error!(%error, "schedules refused"),
        }
        // Not all workers of a fleet that was started at once look at the same moment.
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY.mul_f64(rand::random_range(0.8..1.2))) => {}
        }
    }
}

/// Fires what is due.
async fn fire(store: &Store) -> Result<(), sqlx::Error> {
    let mut connection = store.pool().acquire().await?;
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < FIRED_MAX {
        let Some(name) = fire_one(&mut connection, &seen).await? else { break };
        seen.push(name);
    }
    Ok(())
}

/// One schedule, in a transaction of its own: the runs and the move to the next time commit together or not at all.
async fn fire_one(connection: &mut PgConnection, seen: &[String]) -> Result<Option<String>, sqlx::Error> {
    let mut transaction = connection.begin_with(pooler::BEGIN).await?;
    // No statement has a name on the server: behind a transaction pooler, names belong to somebody else.
    let due: Option<Due> = sqlx::query_as("select * from backhaul.schedule_due($1)")
        .bind(seen)
        .persistent(false)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(due) = due else {
        transaction.rollback().await?;
        return Ok(None);
    };
    let done = match plan(&due) {
        Ok(plan) => self::enqueue(&mut transaction, &due.name, plan).await?,
        Err(error) => Err(error),
    };
    let made = match done {
        Ok(made) => made,
        Err(error) => {
            warn!(schedule = due.name, "paused: {error}");
            sqlx::query("select backhaul.schedule_stop($1, $2)")
                .bind(&due.name)
                .bind(error)
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
            0
        }
    };
    transaction.commit().await?;
    if made > 0 {
        info!(schedule = due.name, jobs = made, "fired");
    }
    Ok(Some(due.name))
}

/// Enqueues the runs and moves on. Inside, what the database refuses: one such schedule must not keep all others from
/// firing. The savepoint keeps the row's lock, so that nobody mends it between the refusal and its note.
async fn enqueue(connection: &mut PgConnection, name: &str, plan: Plan) -> Result<Result<i32, String>, sqlx::Error> {
    if plan.runs.len() == MISSED_MAX {
        warn!(schedule = name, "far behind: {MISSED_MAX} missed runs now, the others with the next looks");
    }
    let mut savepoint = connection.begin().await?;
    let fired = sqlx::query_scalar::<_, i32>("select backhaul.schedule_fire($1, $2, $3)")
        .bind(name)
        .bind(plan.runs)
        .bind(plan.next)
        .persistent(false)
        .fetch_one(&mut *savepoint)
        .await;
    match fired {
        Ok(made) => savepoint.commit().await.map(|()| Ok(made)),
        Err(error) if is_passing(&error) => Err(error),
        Err(error) => savepoint.rollback().await.map(|()| Err(error.to_string())),
    }
}

/// What to do about a schedule, or what is wrong with it. Rows may be older than this program, or written by hand.
fn plan(due: &Due) -> Result<Plan, String> {
    let table = Timetable::parse(&due.cron, &due.timezone)?;
    let missed: Missed = due.missed.parse()?;
    let first = match due.next_at {
        Some(at) => at,
        None => table.next(due.counted_from)?,
    };
    table.plan(missed, first, due.now)
}
