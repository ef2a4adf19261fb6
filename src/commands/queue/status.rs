//! `backhaul queue status`: what waits, and what is held back, capped, weighted and paced.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::commands::{
    database::{explain, rows_of},
    table::{self, Column},
};

/// Most rows of each part.
const ROWS_MAX: i64 = 1_000;

/// Show what waits by kind and tenant, and the pauses, caps, weights and buckets
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue status
  backhaul queue status --tenant acme
  backhaul queue status --json | jq '.pauses, .buckets'")]
pub(crate) struct Status {
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One part: its member in JSON, its title, its statement, and its columns.
struct Part {
    member: &'static str,
    title: &'static str,
    sql: &'static str,
    columns: &'static [Column],
}

/// $1 is a kind or null, $2 a tenant or null, $3 the most rows.
const PARTS: [Part; 6] = [
    Part {
        member: "queues",
        title: "Jobs",
        sql: "select kind, tenant, sum(ready)::bigint as ready, sum(running)::bigint as running,
                  sum(scheduled)::bigint as scheduled, sum(retrying)::bigint as retrying,
                  sum(blocked)::bigint as blocked, sum(dead)::bigint as dead, min(oldest_ready) as oldest_ready,
                  to_char(clock_timestamp() - min(oldest_ready), 'HH24:MI:SS') as oldest
              from backhaul.queue_depth
              where ($1::text is null or kind = $1) and ($2::text is null or tenant = $2)
              group by kind, tenant order by sum(ready) desc, kind, tenant limit $3",
        columns: &[
            ("kind", "KIND"),
            ("tenant", "TENANT"),
            ("ready", "READY"),
            ("running", "RUNNING"),
            ("scheduled", "SCHEDULED"),
            ("retrying", "RETRYING"),
            ("blocked", "BLOCKED"),
            ("dead", "DEAD"),
            ("oldest", "OLDEST READY"),
        ],
    },
    Part {
        member: "pauses",
        title: "Paused",
        sql: "select kind, tenant, actor, why, since,
                  to_char(since at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as since_utc
              from backhaul.pauses
              where ($1::text is null or kind in ($1, '*')) and ($2::text is null or tenant in ($2, '*'))
              order by since limit $3",
        columns: &[("kind", "KIND"), ("tenant", "TENANT"), ("since_utc", "SINCE"), ("actor", "BY"), ("why", "WHY")],
    },
    Part {
        member: "sinks_waited_for",
        title: "Nothing is claimed, because a sink is too far behind (`backhaul outbox status`)",
        // Of whatever kind and tenant.
        sql: "select name, holds_since, behind, last_error,
                  to_char(holds_since at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as since_utc
              from backhaul.sinks_waited_for order by name limit $3",
        columns: &[("name", "SINK"), ("behind", "BEHIND"), ("since_utc", "SINCE"), ("last_error", "LAST ERROR")],
    },
    Part {
        member: "caps",
        title: "Caps",
        sql: "select c.kind, c.tenant, c.running_max,
                  (select sum(q.running)::bigint from backhaul.queue_depth q
                   where q.kind = c.kind and (c.tenant = '*' or q.tenant = c.tenant)) as running
              from backhaul.caps c
              where ($1::text is null or c.kind = $1) and ($2::text is null or c.tenant in ($2, '*'))
              order by c.kind, c.tenant limit $3",
        columns: &[("kind", "KIND"), ("tenant", "TENANT"), ("running_max", "AT MOST"), ("running", "RUNNING")],
    },
    Part {
        member: "weights",
        title: "Weights other than 1",
        sql: "select distinct kind, tenant, weight from backhaul.lanes
              where weight <> 1 and ($1::text is null or kind = $1) and ($2::text is null or tenant = $2)
              order by kind, tenant limit $3",
        columns: &[("kind", "KIND"), ("tenant", "TENANT"), ("weight", "WEIGHT")],
    },
    Part {
        member: "buckets",
        title: "Buckets",
        sql: "select tenant, name, per_minute, within, nullif(array_to_string(within, ' '), '') as also, backfill_share, probing,
                  case when blocked_until > clock_timestamp() then blocked_until end as blocked_until,
                  case when blocked_until > clock_timestamp() then blocked_why end as blocked_why,
                  case when probing then 'probed' when blocked_until > clock_timestamp() then 'closed'
                       else 'open' end as state,
                  case when blocked_until > clock_timestamp()
                       then to_char(blocked_until at time zone 'utc', 'HH24:MI:SS') end as until
              from backhaul.buckets b
              where ($1::text is null or exists (
                    select from backhaul.kinds k where k.kind = $1 and (b.name = any (k.pacing) or exists (
                        select from backhaul.buckets o
                        where o.tenant = b.tenant and o.name = any (k.pacing) and b.name = any (o.within)))))
                and ($2::text is null or tenant = $2)
              order by coalesce(blocked_until > clock_timestamp(), false) desc, tenant, name limit $3",
        columns: &[
            ("tenant", "TENANT"),
            ("name", "BUCKET"),
            ("per_minute", "A MINUTE"),
            ("also", "WITHIN"),
            ("backfill_share", "BACKFILL"),
            ("state", "STATE"),
            ("until", "UNTIL"),
            ("blocked_why", "WHY"),
        ],
    },
];

/// Asks and prints.
pub(crate) async fn run(pool: &PgPool, status: &Status) -> Result<()> {
    let mut whole = json!({});
    let mut text = String::new();
    for part in &PARTS {
        let rows = rows_of(part.sql).bind(&status.kind).bind(&status.tenant).bind(ROWS_MAX);
        let rows = rows.fetch_all(pool).await.map_err(explain)?;
        if !rows.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{}\n{}", part.title, table::render(&rows, part.columns)));
        }
        whole[part.member] = Value::Array(rows);
    }
    if status.json {
        return table::print_json(&whole);
    }
    table::write_out(if text.is_empty() { "nothing waits, and nothing is held back\n" } else { &text })
}
