//! The end of the demo: what the database knows, what the file holds, what the simulator received.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, bail};
use backhaul_engine::Store;
use backhaul_simulator::{Simulator, Summary};
use serde_json::{Value, json};

use super::house::House;
use crate::commands::{
    database::{explain, rows_of},
    table::{self, Column},
};

const KINDS: [Column; 8] = [
    ("kind", "KIND"),
    ("jobs", "JOBS"),
    ("done", "DONE"),
    ("retried", "RETRIED"),
    ("dead", "DEAD"),
    ("attempts", "ATTEMPTS"),
    ("p50", "P50 ms"),
    ("p99", "P99 ms"),
];
const DEAD: [Column; 5] =
    [("id", "ID"), ("kind", "KIND"), ("tenant", "TENANT"), ("code", "CODE"), ("message", "MESSAGE")];
const RECEIVED: [Column; 9] = [
    ("class", "UPSTREAM"),
    ("requests", "REQUESTS"),
    ("2xx", "2XX"),
    ("401", "401"),
    ("refused", "403/404"),
    ("conflict", "409/412"),
    ("429", "429"),
    ("5xx", "5XX"),
    ("other", "OTHER"),
];

/// Per kind, from the audit trail. A job's time is from its enqueueing to its end, waiting and retries included.
const PER_KIND: &str = "
    with told as (
        select aggregatetype as kind, job_id, substr(type, 18) as what,
               case when type = 'dev.backhaul.job.completed'
                    then 1000 * extract(epoch from occurred_at - (payload ->> 'enqueued_at')::timestamptz) end as ms
        from backhaul.outbox_events
        where type in ('dev.backhaul.job.completed', 'dev.backhaul.job.retried', 'dev.backhaul.job.dead')
    )
    select coalesce(kind, 'all') as kind, count(distinct job_id) as jobs,
           count(*) filter (where what = 'completed') as done,
           count(distinct job_id) filter (where what = 'retried') as retried,
           count(*) filter (where what = 'dead') as dead, count(*) as attempts,
           round(percentile_cont(0.5) within group (order by ms)) as p50,
           round(percentile_cont(0.99) within group (order by ms)) as p99
    from told group by rollup (kind) order by grouping(told.kind), told.kind";

/// Writes the summary. An error when the numbers do not add up to `total` jobs.
pub(super) async fn of(store: &Store, simulator: &Simulator, house: &House, total: usize) -> Result<String> {
    let pool = store.pool();
    let kinds = rows_of(PER_KIND).fetch_all(pool).await.map_err(explain)?;
    let dead = rows_of(
        "select id, kind, tenant, reason, error ->> 'code' as code, error ->> 'message' as message
         from backhaul.dead_letters order by id",
    );
    let dead = dead.fetch_all(pool).await.map_err(explain)?;
    let events = rows_of(
        "select s.next_seq - 1 as sealed, k.position as published, k.target
         from backhaul.seal_state s, backhaul.sinks k where k.name = 'file'",
    );
    let events = events.fetch_one(pool).await.map_err(explain)?;
    let rescued: i64 = sqlx::query_scalar(
        "select count(distinct job_id) from backhaul.outbox_events where (payload ->> 'rescues')::int > 0",
    )
    .fetch_one(pool)
    .await
    .map_err(explain)?;

    let lines = count_lines(&house.events())?;
    let received = simulator.summary();
    check(&kinds, &events, lines, total)?;
    let mut text = format!("\nJobs\n{}", table::render(&kinds, &KINDS));
    text.push_str(&format!("{rescued} of them were in the hands of the killed worker and were finished by others\n"));
    text.push_str(&format!("\nDead letters, each for a reason\n{}", table::render(&dead, &DEAD)));
    text.push_str(&format!(
        "\nEvents\n{} published in order to {} ({lines} lines)\n",
        events["published"],
        events["target"].as_str().unwrap_or_default(),
    ));
    text.push_str(&format!("\nWhat the simulator received\n{}", upstreams(&received)));
    text.push_str(&hints(&dead, house));
    Ok(text)
}

fn check(kinds: &[Value], events: &Value, lines: usize, total: usize) -> Result<()> {
    let all = kinds.last().context("no job has ended")?;
    let ended = all["done"].as_u64().unwrap_or(0) + all["dead"].as_u64().unwrap_or(0);
    if ended != total as u64 {
        bail!("{total} jobs were enqueued, but {ended} have ended");
    }
    let published = events["published"].as_u64().unwrap_or(0);
    if events["sealed"] != events["published"] || lines as u64 != published {
        bail!("{} events are in order, {published} were published, and the file has {lines} lines", events["sealed"]);
    }
    Ok(())
}

fn upstreams(received: &Summary) -> String {
    let mut classes: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for (class, statuses) in received.record.by_tenant.values().flatten() {
        let row = classes.entry(class).or_default();
        for (status, count) in statuses {
            *row.entry("requests").or_default() += count;
            *row.entry(column_of(*status)).or_default() += count;
        }
    }
    let rows: Vec<Value> = classes
        .into_iter()
        .map(|(class, counts)| {
            let mut row = json!({ "class": class });
            for (column, _) in &RECEIVED[1..] {
                row[*column] = counts.get(column).copied().unwrap_or(0).into();
            }
            row
        })
        .collect();
    let faults: Vec<String> = received
        .record
        .faults
        .iter()
        .filter(|(name, _)| *name != "latency")
        .map(|(name, count)| format!("{name}: {count}"))
        .collect();
    format!(
        "{}{} changes were applied, {} of them twice; {} requests were answered from their idempotency key\n\
         scripted faults that struck: {}\n",
        table::render(&rows, &RECEIVED),
        received.effects.applied,
        received.effects.duplicates,
        received.record.replays,
        faults.join("; "),
    )
}

fn column_of(status: u16) -> &'static str {
    match status {
        // A socket that was opened is answered 101.
        101 | 200..=299 => "2xx",
        401 => "401",
        // A thread that is not there yet, and a socket that keeps a foreign origin out.
        403 | 404 => "refused",
        409 | 412 => "conflict",
        429 => "429",
        500..=599 => "5xx",
        _ => "other",
    }
}

/// The commands to look further, as they work from this directory.
fn hints(dead: &[Value], house: &House) -> String {
    let program = env::args_os().next().map_or("backhaul".into(), |program| program.to_string_lossy().into_owned());
    let by_code = |code: &str| dead.iter().find(|letter| letter["code"] == code);
    let conflict = by_code("conflict").or(dead.first());
    // The outage is over by now, so a replay of this one succeeds; the others fail again until somebody mends them.
    let outage = dead.iter().rev().find(|letter| letter["reason"] == "transient").or(dead.last());
    let mut text = "\nLook further\n".to_owned();
    let mut line = |command: &str, note: &str| text.push_str(&format!("  {program} {command:<44}  {note}\n"));
    line("dead list", "all dead letters");
    if let Some(letter) = conflict {
        line(&format!("dead show {}", letter["id"]), "one of them, with every failure");
    }
    if let Some(letter) = outage {
        line(&format!("dead replay {}", letter["id"]), "its upstream works again");
    }
    line("outbox status", "how far the events are");
    line("db psql -- -c 'table backhaul.queue_depth'", "anything else, in SQL");
    text.push_str(&format!("  tail -n 2 {}\n", house.events().display()));
    text
}

fn count_lines(path: &Path) -> Result<usize> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let lines = BufReader::new(file).lines().try_fold(0, |count, line| line.map(|_| count + 1));
    lines.with_context(|| format!("cannot read {}", path.display()))
}
