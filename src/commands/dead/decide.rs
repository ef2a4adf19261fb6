//! Replaying and discarding, one by one or by filter.

use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Chosen, Discard, MATCHES, Replay};
use crate::commands::{
    database::explain,
    exit::{self, Coded},
    table,
};

/// Largest file that `--payload` reads.
const PAYLOAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Gives dead letters up for good.
pub(super) async fn discard(pool: &PgPool, discard: &Discard) -> Result<()> {
    decide(pool, &discard.chosen, &discard.why, "select backhaul.dead_discard($1, $2, $3)", "discarded").await
}

/// Puts dead letters back to work.
pub(super) async fn replay(pool: &PgPool, replay: &Replay) -> Result<()> {
    let Some(file) = &replay.payload else {
        return decide(pool, &replay.chosen, &replay.why, "select backhaul.dead_replay($1, $2, $3)", "replayed").await;
    };
    let [id] = replay.chosen.ids.as_slice() else {
        return Err(anyhow!(Coded::new(exit::USAGE, "--payload needs exactly one id")));
    };
    let size = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
    if size > PAYLOAD_BYTES_MAX {
        bail!("{} has {size} bytes, at most {PAYLOAD_BYTES_MAX} are read", file.display());
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let payload: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    sqlx::query("select backhaul.dead_replay($1, $2, $3, $4)")
        .bind(id)
        .bind(replay.chosen.actor.name())
        .bind(&replay.why)
        .bind(payload)
        .execute(pool)
        .await
        .map_err(explain)?;
    report(&[json!({ "id": id, "outcome": "replayed" })], replay.chosen.json, "replayed")
}

/// Calls `sql` for every chosen dead letter, each in a transaction of its own: one that is gone stops no other.
async fn decide(pool: &PgPool, chosen: &Chosen, why: &str, sql: &'static str, done: &str) -> Result<()> {
    let ids = chosen_ids(pool, chosen).await?;
    let bulk = chosen.ids.is_empty();
    if bulk && !chosen.yes {
        let note = format!("{} dead letters would be {done}; add --yes to do it\n", ids.len());
        return if chosen.json {
            table::print_json(&json!({ "would_be": done, "count": ids.len() }))
        } else {
            table::write_out(&note)
        };
    }
    let mut outcomes = Vec::new();
    for id in &ids {
        let answer = sqlx::query(sql).bind(id).bind(chosen.actor.name()).bind(why).execute(pool).await.map_err(explain);
        match answer {
            Ok(_) => outcomes.push(json!({ "id": id, "outcome": done })),
            // Somebody else decided on it since the list was read; that is no failure of this command.
            Err(error) if bulk && exit::code_of(&error) == exit::NOT_FOUND => {
                outcomes.push(json!({ "id": id, "outcome": "gone" }));
            }
            Err(error) => {
                if !outcomes.is_empty() {
                    report(&outcomes, chosen.json, done)?;
                }
                return Err(error);
            }
        }
    }
    report(&outcomes, chosen.json, done)
}

async fn chosen_ids(pool: &PgPool, chosen: &Chosen) -> Result<Vec<i64>> {
    if !chosen.ids.is_empty() {
        return Ok(chosen.ids.clone());
    }
    let filter = &chosen.filter;
    if filter.kind.is_none() && filter.tenant.is_none() && filter.code.is_none() && filter.fingerprint.is_none() {
        return Err(anyhow!(Coded::new(exit::USAGE, "name ids, or a filter: --kind, --tenant, --code, --fingerprint")));
    }
    let sql = format!("select id from backhaul.dead_letters where {MATCHES} order by died_at, id limit $5");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(&filter.kind)
        .bind(&filter.tenant)
        .bind(&filter.code)
        .bind(&filter.fingerprint)
        .bind(chosen.limit)
        .fetch_all(pool)
        .await
        .map_err(explain)
}

fn report(outcomes: &[Value], json: bool, done: &str) -> Result<()> {
    if json {
        return table::print_json(&Value::Array(outcomes.to_vec()));
    }
    let count = outcomes.iter().filter(|outcome| outcome["outcome"] == done).count();
    match outcomes {
        [only] => table::write_out(&format!("job {} is {}\n", only["id"], only["outcome"].as_str().unwrap_or(done))),
        _ => table::write_out(&format!("{count} dead letters {done}\n")),
    }
}
