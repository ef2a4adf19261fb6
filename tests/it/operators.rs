//! What operators decide: cancelling and rescheduling jobs, replaying and discarding dead letters; and what they see.

mod cancel;
mod dead;
mod remedies;
mod views;

use std::sync::Arc;

use backhaul_engine::{Done, Failure, Job, JobContext, Registry};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::support::{Database, ToyEnv, Worker, eventually};

/// A kind of two writes with a purge after each, as widget-patch has: what `broken` names fails in the way it says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    n: i64,
    /// Fails for good at this step, until the test gives the gate a permit.
    broken: String,
}

impl Job for Write {
    const KIND: &'static str = "write";
    type Env = ToyEnv;

    async fn run(&self, env: &ToyEnv, ctx: &mut JobContext) -> Result<(), Failure> {
        ctx.step("patch", |key| self.request(env, "patch", key)).await?;
        ctx.write_step("purge", |key, begun| {
            env.note(self.n, format!("purge {begun:?}"));
            self.request(env, "purge", key)
        })
        .await
    }
}

impl Write {
    /// One call of an upstream, noted with the Idempotency-Key it would carry.
    async fn request(&self, env: &ToyEnv, step: &str, key: String) -> Result<Done<()>, Failure> {
        env.note(self.n, format!("{step} {key}"));
        if self.broken == step && env.gate.try_acquire().is_err() {
            return Err(Failure::permanent("upstream_refused", format!("request {} was refused", self.n)));
        }
        Ok(Done::new(()))
    }

    /// A worker of this kind alone.
    fn worker(database: &Database, env: &Arc<ToyEnv>) -> Worker {
        let env = env.clone();
        let registry = move || {
            let mut registry = Registry::new();
            registry.add::<Self>(env.clone());
            registry
        };
        Worker::start_kinds(database.store.clone(), registry, Vec::new, Worker::options())
    }
}

/// One text of a query that is put together.
async fn text(database: &Database, sql: String) -> sqlx::Result<String> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(database.store.pool()).await
}

/// The data of a job's last event, with the event's type as `type`.
async fn last_event(database: &Database, job: i64) -> Value {
    sqlx::query_scalar(
        "select payload || jsonb_build_object('type', type) from backhaul.outbox_events
         where job_id = $1 order by event_no desc limit 1",
    )
    .bind(job)
    .fetch_one(database.store.pool())
    .await
    .expect("there is an event")
}

/// State of each job, by id.
async fn states(database: &Database) -> Vec<(i64, String)> {
    database.rows("select id, state from backhaul.job_states order by id").await
}

/// Waits until a job is in that state. Those that failed are kept from their next try meanwhile.
async fn state_is(database: &Database, job: i64, state: &str) {
    eventually(&format!("job {job} is {state}"), async || {
        database
            .run("update backhaul.jobs set due_at = '2030-01-01' where due_at < '2029-01-01' and errors is not null")
            .await;
        // One that went back only now may start again at any moment.
        let kept = "select id, state from backhaul.job_states where state <> 'retrying' or due_at > '2029-01-01'";
        database.rows::<(i64, String)>(kept).await.contains(&(job, state.to_owned()))
    })
    .await;
}
