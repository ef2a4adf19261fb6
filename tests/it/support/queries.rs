//! What tests ask the database, and what they tell it behind the workers' backs.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use sqlx::types::Json;

use super::{Database, eventually};

/// Types of the events that end a job.
pub(crate) const TERMINAL: &str =
    "type in ('dev.backhaul.job.completed', 'dev.backhaul.job.dead', 'dev.backhaul.job.cancelled')";

impl Database {
    /// Enqueues jobs as `enqueue_many` takes them; all must be inserted. Returns their ids in the given order.
    pub(crate) async fn enqueue(&self, jobs: Vec<Value>) -> Vec<i64> {
        let rows: Vec<(Option<i64>, String, Option<String>)> =
            sqlx::query_as("select job_id, outcome, reason from backhaul.enqueue_many($1) order by position")
                .bind(Json(jobs))
                .fetch_all(self.store.pool())
                .await
                .expect("enqueues");
        assert!(rows.iter().all(|(_, outcome, _)| outcome == "inserted"), "{rows:?}");
        rows.into_iter().filter_map(|(id, _, _)| id).collect()
    }

    /// Rows of any query.
    pub(crate) async fn rows<T>(&self, sql: &'static str) -> Vec<T>
    where
        T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        sqlx::query_as(sql).fetch_all(self.store.pool()).await.expect(sql)
    }

    /// Types of a job's events in the order in which they were written, without the common prefix.
    pub(crate) async fn told(&self, job: i64) -> Vec<String> {
        sqlx::query_scalar(
            "select replace(type, 'dev.backhaul.', '') from backhaul.events where job_id = $1 order by id",
        )
        .bind(job)
        .fetch_all(self.store.pool())
        .await
        .expect("reads events")
    }

    /// `(job, how many events ended it)`, by job.
    pub(crate) async fn ends(&self) -> Vec<(i64, i64)> {
        let sql = format!("select job_id, count(*) from backhaul.events where {TERMINAL} group by 1 order by 1");
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(self.store.pool()).await.expect("reads events")
    }

    /// Makes every worker that runs now, or was killed, look as if it had not been heard of for ever.
    pub(crate) async fn give_up_workers(&self) {
        self.let_the_given_up_rest().await;
        self.run("update backhaul.workers set heartbeat_at = '-infinity'").await;
    }

    /// Whoever is given up stays so: a heartbeat that a killed worker had sent may come later, and would count for as long
    /// as a patient worker waits.
    pub(crate) async fn let_the_given_up_rest(&self) {
        self.run(
            "create or replace function public.rest() returns trigger language plpgsql as $$
             begin new.heartbeat_at := '-infinity'; return new; end $$;
             create or replace trigger given_up before update on backhaul.workers for each row
                 when (old.heartbeat_at = '-infinity') execute function public.rest()",
        )
        .await;
    }

    /// Makes every job that waits for its time due now, and wakes whoever sleeps.
    pub(crate) async fn hurry(&self) {
        self.run("update backhaul.jobs set due_at = clock_timestamp() where due_at > clock_timestamp()").await;
        self.run("select pg_notify('backhaul', '')").await;
    }

    /// Waits until every job has ended, without waiting for pauses between tries.
    pub(crate) async fn drained_in_a_hurry(&self) {
        eventually("all jobs end", async || {
            self.hurry().await;
            self.unfinished().await == 0
        })
        .await;
    }

    /// Waits until every job has ended.
    pub(crate) async fn drained(&self) {
        eventually("all jobs end", async || self.unfinished().await == 0).await;
    }

    /// Waits until every event is sealed, and panics where they are not in order.
    pub(crate) async fn assert_sealed_in_order(&self) {
        let all = "select (select count(*) from backhaul.events) = (select next_seq - 1 from backhaul.seal_state)";
        eventually("every event is sealed", async || self.one::<bool>(all).await).await;
        self.assert_events_in_order().await;
    }

    /// Panics unless every event is sealed once, under dense sequence numbers, each job's in the order in which they
    /// were written, and none after the one that ended it.
    pub(crate) async fn assert_events_in_order(&self) {
        let seals: Vec<(i64, Vec<i64>)> = self.rows("select first_seq, event_ids from backhaul.seals order by 1").await;
        let mut next = 1;
        let mut sealed = Vec::new();
        for (first, ids) in seals {
            assert_eq!(first, next, "sequence numbers are dense");
            next += i64::try_from(ids.len()).expect("small");
            sealed.extend(ids);
        }
        let written: Vec<(i64, i64, String)> =
            self.rows("select id, job_id, type from backhaul.events order by id").await;
        let distinct: BTreeSet<i64> = sealed.iter().copied().collect();
        assert_eq!(distinct.len(), sealed.len(), "an event is sealed once");
        assert_eq!(distinct, written.iter().map(|(id, ..)| *id).collect(), "every event is sealed");
        let of: HashMap<i64, (i64, &str)> =
            written.iter().map(|(id, job, kind)| (*id, (*job, kind.as_str()))).collect();
        let mut last: HashMap<i64, (i64, &str)> = HashMap::new();
        for id in sealed {
            let (job, kind) = of[&id];
            if let Some((before, ended)) = last.insert(job, (id, kind)) {
                assert!(before < id, "job {job}: event {before} was sealed before {id}");
                assert!(!ended.ends_with("completed") && !ended.ends_with("dead"), "job {job}: {kind} after {ended}");
            }
        }
    }
}
