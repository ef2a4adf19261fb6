//! Filling the queue before the clock starts.

use anyhow::Result;
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    database::Database,
    kinds::{Noop, PAD},
};
use backhaul_engine::Job;

/// Rows of one insert while loading.
const CHUNK: i64 = 100_000;

/// Makes lanes for `tenants` (named t0, t1, …) with awake cursors, as the first job of each tenant would.
pub(crate) async fn lanes(connection: &mut PgConnection, tenants: usize) -> Result<()> {
    sqlx::query(
        "insert into backhaul.lanes (kind, version, tenant) select $1, 1, 't' || i from generate_series(0, $2 - 1) i",
    )
    .bind(Noop::KIND)
    .bind(i64::try_from(tenants)?)
    .execute(&mut *connection)
    .await?;
    sqlx::query("insert into backhaul.cursors (lane, priority) select id, 2 from backhaul.lanes")
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Appends the ready jobs numbered `from` to `to - 1`, placed behind awake cursors as `enqueue_many` places them, and
/// spread over the lanes of the first `tenants` tenants.
pub(crate) async fn ready(connection: &mut PgConnection, from: usize, to: usize, tenants: usize) -> Result<()> {
    let (mut from, to) = (i64::try_from(from)?, i64::try_from(to)?);
    while from < to {
        let until = to.min(from + CHUNK);
        sqlx::query(
            "insert into backhaul.jobs (id, lane, seq, due_at, max_attempts, deadline_at, kind, tenant, payload)
             select s.id, l.id, s.id, null, 4, clock_timestamp() + interval '1 day', $1, l.tenant,
                 jsonb_build_object('n', s.n, 'pad', $5::text)
             from (select n, nextval('backhaul.job_seq') as id from generate_series($2, $3 - 1) n) s
             join backhaul.lanes l on l.kind = $1 and l.tenant = 't' || s.n % $4",
        )
        .bind(Noop::KIND)
        .bind(from)
        .bind(until)
        .bind(i64::try_from(tenants)?)
        .bind(PAD)
        .execute(&mut *connection)
        .await?;
        from = until;
    }
    Ok(())
}

/// A migrated database's queue with `jobs` ready jobs of one tenant, vacuumed, with the log flushed.
pub(crate) async fn queue(database: &Database, jobs: usize) -> Result<()> {
    let mut connection = database.connect().await?;
    lanes(&mut connection, 1).await?;
    ready(&mut connection, 0, jobs, 1).await?;
    tidy(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Leaves nothing of the loading to be done while the clock runs.
pub(crate) async fn tidy(connection: &mut PgConnection) -> Result<()> {
    connection.execute("vacuum (analyze) backhaul.jobs").await?;
    // Only some logins may; for the others the checkpoint comes when it comes.
    let _ = connection.execute("checkpoint").await;
    Ok(())
}
