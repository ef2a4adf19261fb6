//! The limit: the same claim and settle statements, sent by bare connections with no worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use backhaul_engine::Job;
use chrono::Utc;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    database::Database,
    kinds::{Noop, PAD},
};

/// Connections that claim and settle side by side, and jobs of one batch: the best of what was tried on two cores.
const CONNECTIONS: usize = 2;
const BATCH: i32 = 500;
/// Wait after a claim that brought nothing.
const EMPTY_WAIT: Duration = Duration::from_millis(1);

/// Claims and settles `jobs` ready jobs, with one event each; returns the time it took.
pub(crate) async fn drain(database: &Database, jobs: u64, within: Duration) -> Result<Duration> {
    let worker = Uuid::new_v4();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(database.connect().await?);
    }
    sqlx::query("select backhaul.register_worker($1, 'bench', 0, 'bench', $2, 1)")
        .bind(worker)
        .bind(kinds())
        .execute(&mut connections[0])
        .await?;
    let done = Arc::new(AtomicU64::new(0));
    let started = tokio::time::Instant::now();
    let ends = connections.into_iter().map(|connection| {
        tokio::spawn(tokio::time::timeout(within, claim_and_settle(connection, worker, jobs, done.clone())))
    });
    for end in futures::future::join_all(ends.collect::<Vec<_>>()).await {
        end???;
    }
    let took = started.elapsed();
    match done.load(Ordering::Acquire) {
        all if all == jobs => Ok(took),
        other => bail!("the bare statements settled {other} of {jobs} jobs"),
    }
}

fn kinds() -> Vec<String> {
    vec![format!("{}@{}", Noop::KIND, Noop::VERSION)]
}

async fn claim_and_settle(mut connection: PgConnection, worker: Uuid, jobs: u64, done: Arc<AtomicU64>) -> Result<()> {
    while done.load(Ordering::Acquire) < jobs {
        // As a worker asks: only now and then for all that is due, else for what came due in the last seconds.
        let rows = sqlx::query("select * from backhaul.claim($1, $2, $3, clock_timestamp() - interval '2 seconds')")
            .bind(worker)
            .bind(kinds())
            .bind(BATCH)
            .fetch_all(&mut connection)
            .await?;
        if rows.is_empty() {
            // The other connection has the cursor, or the last batch. Asking again at once would only take its time.
            tokio::time::sleep(EMPTY_WAIT).await;
            continue;
        }
        let settled = settle(&mut connection, worker, &rows).await?;
        done.fetch_add(settled, Ordering::AcqRel);
    }
    connection.close().await?;
    Ok(())
}

async fn settle(connection: &mut PgConnection, worker: Uuid, rows: &[sqlx::postgres::PgRow]) -> Result<u64> {
    let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
    let mut of: Vec<i64> = Vec::with_capacity(rows.len());
    for row in rows {
        of.push(row.try_get("lease")?);
        ids.push(row.try_get("id")?);
    }
    let mut leases = of.clone();
    leases.sort_unstable();
    leases.dedup();
    let now = Utc::now();
    let count = rows.len();
    let data: Vec<Vec<u8>> = ids.iter().map(|id| event(*id)).collect();
    let subjects: Vec<String> = ids.iter().map(|id| format!("job/{id}")).collect();
    let refused: Vec<i64> = sqlx::query_scalar(
        "select backhaul.settle($1, $2, $3, null, $4, $4, false, '{}', $2, $5, $6, $7, $8, $9, $10, $11, $12, null, null)",
    )
    .bind(worker)
    .bind(&ids)
    .bind(&of)
    .bind(&leases)
    .bind((0..count).map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(vec![now; count])
    .bind(vec!["dev.backhaul.job.completed"; count])
    .bind(vec!["t0"; count])
    .bind(vec![Noop::KIND; count])
    .bind(subjects)
    .bind(vec![None::<String>; count])
    .bind(data)
    .fetch_one(&mut *connection)
    .await?;
    if !refused.is_empty() {
        bail!("settle refused {} jobs", refused.len());
    }
    Ok(u64::try_from(count)?)
}

/// As many bytes as a worker's `job.completed`.
fn event(id: i64) -> Vec<u8> {
    format!("{{\"job_id\":{id},\"pad\":\"{}\"}}", &PAD[..150]).into_bytes()
}
