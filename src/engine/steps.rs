//! Stored steps and memories of one job, written under its lease.

use std::{collections::HashMap, sync::Arc};

use chrono::TimeDelta;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    clock::Clock,
    context::JobInfo,
    events::{EventColumns, EventRow},
    failure::Failure,
    misfit,
    reconnect::{is_of_a_value, is_passing},
    store::Store,
};

/// The database's side of one attempt. A lost connection is a transient failure of the attempt; a lost lease ends it.
#[derive(Clone)]
pub(crate) struct StepTable {
    pub store: Store,
    pub clock: Clock,
    pub worker: Uuid,
    pub lease: i64,
    pub job: i64,
    pub deployment: Uuid,
    /// False only where a look would surely find nothing.
    pub may_have_steps: bool,
}

impl StepTable {
    /// The Idempotency-Key of a step: the same for every attempt and replay, and for no other step anywhere.
    pub(crate) fn key(&self, step: &str) -> String {
        format!("{}-{}-{step}", self.deployment.simple(), self.job)
    }

    pub(crate) async fn load(&self) -> Result<HashMap<String, (bool, Value)>, Failure> {
        let rows: Vec<(String, String, Option<Json<Value>>)> =
            sqlx::query_as("select name, state, output from backhaul.steps where job_id = $1")
                .bind(self.job)
                .fetch_all(&self.store)
                .await
                .map_err(|error| unreachable_store(&self.clock, error))?;
        Ok(rows
            .into_iter()
            .map(|(name, state, output)| (name, (state == "done", output.map_or(Value::Null, |json| json.0))))
            .collect())
    }

    pub(crate) async fn put(
        &self,
        name: &str,
        done: bool,
        output: &Value,
        events: &[(Arc<JobInfo>, EventRow)],
        memories: &[Value],
    ) -> Result<(), Failure> {
        let events = EventColumns::of(events);
        let held: bool = sqlx::query_scalar(
            "select backhaul.put_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .bind(self.worker)
        .bind(self.lease)
        .bind(self.job)
        .bind(name)
        .bind(if done { "done" } else { "begun" })
        .bind(Json(output))
        .bind(events.id)
        .bind(events.at)
        .bind(events.event_type)
        .bind(events.tenant)
        .bind(events.kind)
        .bind(events.subject)
        .bind(events.trace)
        .bind(events.data)
        .bind((!memories.is_empty()).then_some(Json(memories)))
        .fetch_one(&self.store)
        .await
        .map_err(|error| unreachable_store(&self.clock, error))?;
        if held { Ok(()) } else { Err(Failure::LeaseLost) }
    }

    pub(crate) async fn memory(&self, tenant: &str, kind: &str, resource: &str) -> Result<Option<Value>, Failure> {
        let row: Option<Json<Value>> =
            sqlx::query_scalar("select value from backhaul.memories where tenant = $1 and kind = $2 and resource = $3")
                .bind(tenant)
                .bind(kind)
                .bind(resource)
                .fetch_optional(&self.store)
                .await
                .map_err(|error| unreachable_store(&self.clock, error))?;
        Ok(row.map(|json| json.0))
    }
}

/// The stored result of a finished step among `steps`.
pub(crate) fn stored<T: DeserializeOwned>(
    steps: &HashMap<String, (bool, Value)>,
    name: &str,
) -> Result<Option<T>, Failure> {
    let Some((true, output)) = steps.get(name) else { return Ok(None) };
    serde_json::from_value(output.clone()).map(Some).map_err(|error| {
        let misfit = misfit::of_value::<T>(output, &error);
        Failure::permanent("step_output_unreadable", format!("step {name} was stored as {misfit}"))
    })
}

/// A database that is away is nobody's failure: the job comes back in a moment, and its tries are for its upstream. What
/// it refuses for another reason costs a try, as a failure of the step; a value that it does not take it would refuse at
/// every try, and each would call the upstream again.
pub(crate) fn unreachable_store(clock: &Clock, error: sqlx::Error) -> Failure {
    if is_of_a_value(&error) {
        return Failure::permanent("store_refused", error);
    }
    if !is_passing(&error) {
        return Failure::transient("store_refused", error);
    }
    let pause = TimeDelta::milliseconds(rand::random_range(1_000..3_000));
    Failure::snoozed(clock.now() + pause, "store_unavailable", error)
}
