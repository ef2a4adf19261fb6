//! Replaying and discarding, one by one or by filter.

use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use sqlx::PgPool;

use super::{Chosen, Discard, Filter, MATCHES, Replay};
use crate::commands::{
    bulk::{self, Fate, Words},
    database::explain,
    exit::{self, Coded},
};

/// Largest file that `--payload` reads.
const PAYLOAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Gives dead letters up for good.
pub(super) async fn discard(pool: &PgPool, discard: &Discard) -> Result<()> {
    let words = Words { thing: "dead letter", done: "discarded" };
    decide(pool, &discard.chosen, &discard.why, "select backhaul.dead_discard($1, $2, $3)", words).await
}

/// Puts dead letters back to work.
pub(super) async fn replay(pool: &PgPool, replay: &Replay) -> Result<()> {
    let words = Words { thing: "dead letter", done: "replayed" };
    let (chosen, why) = (&replay.chosen, &replay.why);
    let Some(file) = &replay.payload else {
        return decide(pool, chosen, why, "select backhaul.dead_replay($1, $2, $3)", words).await;
    };
    if chosen.ids.len() != 1 {
        return Err(anyhow!(Coded::new(exit::USAGE, "--payload needs exactly one id")));
    }
    let size = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
    if size > PAYLOAD_BYTES_MAX {
        bail!("{} has {size} bytes, at most {PAYLOAD_BYTES_MAX} are read", file.display());
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let payload: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    bulk::decide(&chosen.ids, false, &chosen.bulk, words, async |id| {
        sqlx::query("select backhaul.dead_replay($1, $2, $3, $4)")
            .bind(id)
            .bind(chosen.actor.name())
            .bind(why)
            .bind(&payload)
            .execute(pool)
            .await
            .map_err(explain)?;
        Ok(Fate::Done(words.done.to_owned()))
    })
    .await
}

/// Calls `sql` for every chosen dead letter.
async fn decide(pool: &PgPool, chosen: &Chosen, why: &str, sql: &'static str, words: Words) -> Result<()> {
    let by_filter = chosen.ids.is_empty();
    if by_filter && chosen.filter.is_empty() {
        let text = "name ids, or a filter: --kind, --tenant, --code, --fingerprint, --batch";
        return Err(anyhow!(Coded::new(exit::USAGE, text)));
    }
    if by_filter && !chosen.bulk.yes {
        return bulk::announce(count(pool, &chosen.filter).await?, &chosen.bulk, words);
    }
    let found = if by_filter { found(pool, chosen).await? } else { chosen.ids.clone() };
    bulk::decide(&found, by_filter, &chosen.bulk, words, async |id| {
        sqlx::query(sql).bind(id).bind(chosen.actor.name()).bind(why).execute(pool).await.map_err(explain)?;
        Ok(Fate::Done(words.done.to_owned()))
    })
    .await
}

async fn count(pool: &PgPool, filter: &Filter) -> Result<i64> {
    let sql = format!("select count(*) from backhaul.dead_letters where {MATCHES}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(&filter.kind)
        .bind(&filter.tenant)
        .bind(&filter.code)
        .bind(&filter.fingerprint)
        .bind(&filter.batch)
        .fetch_one(pool)
        .await
        .map_err(explain)
}

async fn found(pool: &PgPool, chosen: &Chosen) -> Result<Vec<i64>> {
    let filter = &chosen.filter;
    let sql = format!("select id from backhaul.dead_letters where {MATCHES} order by died_at, id limit $6");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(&filter.kind)
        .bind(&filter.tenant)
        .bind(&filter.code)
        .bind(&filter.fingerprint)
        .bind(&filter.batch)
        .bind(chosen.bulk.limit)
        .fetch_all(pool)
        .await
        .map_err(explain)
}
