//! The front door for producers: `backhaul.enqueue` and `backhaul.enqueue_many`, called as producers call them.

mod arguments;
mod bulk;
mod guide;
mod idempotency;
mod outside;
mod placement;
mod refusals;

use sqlx::{AssertSqlSafe, Executor, Postgres};

use crate::support::Database;

/// Calls `backhaul.enqueue` with arguments written in SQL; returns the job's id and the outcome.
async fn enqueue<'c>(executor: impl Executor<'c, Database = Postgres>, arguments: &str) -> sqlx::Result<(i64, String)> {
    sqlx::query_as(AssertSqlSafe(format!("select job_id, outcome from backhaul.enqueue({arguments})")))
        .fetch_one(executor)
        .await
}

/// As [`enqueue`], where nothing can go wrong.
async fn enqueued(database: &Database, arguments: &str) -> (i64, String) {
    enqueue(database.store.pool(), arguments).await.expect(arguments)
}

/// One answer of `backhaul.enqueue_many`: position, job id, outcome, reason.
type Answer = (i32, Option<i64>, String, Option<String>);

/// Calls `backhaul.enqueue_many` with the batch as text, as a producer without a JSON type would.
async fn enqueue_many<'c>(executor: impl Executor<'c, Database = Postgres>, batch: &str) -> sqlx::Result<Vec<Answer>> {
    sqlx::query_as("select position, job_id, outcome, reason from backhaul.enqueue_many($1::text::jsonb)")
        .bind(batch)
        .fetch_all(executor)
        .await
}
