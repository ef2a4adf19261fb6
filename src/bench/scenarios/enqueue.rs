//! The front door beside a bare insert of the same bytes into a table with the same indexes: one by one, a thousand in
//! a call, and COPY. Both sides take turns every few transactions, so that they see the same machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use backhaul_engine::Job;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, types::Json};
use tokio::time::Instant;

use crate::{
    case::Case,
    cost::{Cost, Meter},
    database::Database,
    kinds::{Noop, PAD},
    load,
    report::Round,
    runner::Bench,
    target::{Bound, Target, Unit},
};

pub(super) const ABOUT: &str = "enqueue() one by one, enqueue_many of 1,000, and COPY, beside bare inserts and COPY";
pub(super) const TARGETS: [Target; 3] = [
    Target { key: "one", what: "enqueue(), of a bare insert's rate", bound: Bound::AtLeast(0.6), unit: Unit::Ratio },
    Target {
        key: "many",
        what: "enqueue_many of 1,000, of a bare insert's rate",
        bound: Bound::AtLeast(0.6),
        unit: Unit::Ratio,
    },
    Target { key: "copy", what: "COPY, of a bare COPY's rate", bound: Bound::AtLeast(0.6), unit: Unit::Ratio },
];

/// Jobs of one call of `enqueue_many`.
const BATCH: usize = 1_000;

/// A table like `backhaul.jobs`, with its indexes and without its triggers, checks and defaults.
const BARE: &str = "
    create table public.bare (like backhaul.jobs including indexes);
    alter table public.bare alter column enqueued_by drop not null";

/// How the rows come in.
#[derive(Clone, Copy)]
enum Way {
    One,
    Many,
    Copy,
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let mut round = Round::default();
    let ways = [
        (Way::One, "one", bench.size.pick(50, 3_000, 30_000), 1, 100),
        (Way::Many, "many", bench.size.pick(2_000, 100_000, 500_000), BATCH, 5),
        (Way::Copy, "copy", bench.size.pick(2_000, 300_000, 1_000_000), bench.size.pick(1_000, 10_000, 10_000), 3),
    ];
    for (way, key, jobs, batch, turn) in ways {
        let database = bench.server.migrated().await?;
        let [ours, bare] = side_by_side(&database, way, jobs, batch, turn, bench.round).await?;
        let ratio = bare.1.as_secs_f64() / ours.1.as_secs_f64();
        for (name, (cost, took)) in [(key.to_owned(), ours), (format!("{key}-bare"), bare)] {
            round.cases.push(Case::new(&name, u64::try_from(jobs)?, took).cost(cost).with("batch", batch));
        }
        round.figure(key, ratio);
    }
    Ok(round)
}

/// Time and cost of both sides, ours first. `turn` batches of one side are followed by as many of the other.
async fn side_by_side(
    database: &Database,
    way: Way,
    jobs: usize,
    batch: usize,
    turn: usize,
    first: usize,
) -> Result<[(Cost, Duration); 2]> {
    let mut connection = database.connect().await?;
    load::lanes(&mut connection, 1).await?;
    sqlx::raw_sql(BARE).execute(&mut connection).await?;
    let lane: i32 = sqlx::query_scalar("select id from backhaul.lanes").fetch_one(&mut connection).await?;
    let mut took = [Duration::ZERO; 2];
    let mut done = [0; 2];
    // A short prelude warms both sides up; then each is measured for cost on its own at the end of its time.
    let mut side = first % 2;
    while done.iter().any(|done| *done < jobs) {
        for _ in 0..turn {
            if done[side] >= jobs {
                break;
            }
            let numbers = done[side]..jobs.min(done[side] + batch);
            done[side] = numbers.end;
            took[side] += match side {
                0 => ours(&mut connection, way, numbers).await?,
                _ => bare(&mut connection, way, numbers, lane).await?,
            };
        }
        side = 1 - side;
    }
    for (table, count) in
        [("backhaul.jobs", "select count(*) from backhaul.jobs"), ("bare", "select count(*) from public.bare")]
    {
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await?;
        ensure!(usize::try_from(rows)? == jobs, "{table} holds {rows} of {jobs} rows");
    }
    connection.close().await?;
    let sample = jobs.min(batch.max(200));
    let costs = [
        cost(database, way, jobs..jobs + sample, None, batch).await?,
        cost(database, way, jobs..jobs + sample, Some(lane), batch).await?,
    ];
    Ok([(costs[0], took[0]), (costs[1], took[1])])
}

/// What some more rows of one side cost, measured alone.
async fn cost(
    database: &Database,
    way: Way,
    numbers: std::ops::Range<usize>,
    lane: Option<i32>,
    batch: usize,
) -> Result<Cost> {
    let count = u64::try_from(numbers.len())?;
    let meter = Meter::start(database).await?;
    let mut connection = database.connect().await?;
    for from in numbers.clone().step_by(batch) {
        let part = from..numbers.end.min(from + batch);
        match lane {
            None => ours(&mut connection, way, part).await?,
            Some(lane) => bare(&mut connection, way, part, lane).await?,
        };
    }
    connection.close().await?;
    meter.end(count).await
}

async fn ours(connection: &mut PgConnection, way: Way, numbers: std::ops::Range<usize>) -> Result<Duration> {
    match way {
        Way::One => {
            let payload = payload(numbers.start);
            let started = Instant::now();
            sqlx::query("select job_id, outcome from backhaul.enqueue($1, $2, 't0')")
                .bind(Noop::KIND)
                .bind(Json(payload))
                .fetch_one(connection)
                .await?;
            Ok(started.elapsed())
        }
        Way::Many => {
            let jobs: Vec<Value> =
                numbers.clone().map(|n| json!({ "kind": Noop::KIND, "tenant": "t0", "payload": payload(n) })).collect();
            let started = Instant::now();
            let rows: Vec<(i64, String)> = sqlx::query_as("select job_id, outcome from backhaul.enqueue_many($1)")
                .bind(Json(jobs))
                .fetch_all(connection)
                .await?;
            let took = started.elapsed();
            let inserted = rows.iter().filter(|(_, outcome)| outcome == "inserted").count();
            ensure!(inserted == numbers.len(), "enqueue_many inserted {inserted} of {}", numbers.len());
            Ok(took)
        }
        Way::Copy => {
            copy(
                connection,
                "copy backhaul.jobs (kind, tenant, max_attempts, due_at, deadline_at, payload) from stdin",
                numbers,
                &|_| String::new(),
            )
            .await
        }
    }
}

async fn bare(connection: &mut PgConnection, way: Way, numbers: std::ops::Range<usize>, lane: i32) -> Result<Duration> {
    match way {
        Way::One => {
            let (number, payload) = (i64::try_from(numbers.start)?, payload(numbers.start));
            let started = Instant::now();
            sqlx::query(
                "insert into public.bare (id, lane, priority, version, attempt, max_attempts, rescues, replays, seq,
                     deadline_at, enqueued_at, kind, tenant, enqueued_by, payload)
                 values ($1, $2, 2, 1, 0, 4, 0, 0, $1, now(), now(), $3, 't0', 'postgres', $4)",
            )
            .bind(number)
            .bind(lane)
            .bind(Noop::KIND)
            .bind(Json(payload))
            .execute(connection)
            .await?;
            Ok(started.elapsed())
        }
        Way::Many => {
            let ids: Vec<i64> = numbers.clone().map(i64::try_from).collect::<Result<_, _>>()?;
            let payloads: Vec<Json<Value>> = numbers.clone().map(|n| Json(payload(n))).collect();
            let started = Instant::now();
            sqlx::query(
                "insert into public.bare (id, lane, priority, version, attempt, max_attempts, rescues, replays, seq,
                     deadline_at, enqueued_at, kind, tenant, enqueued_by, payload)
                 select u.id, $1, 2, 1, 0, 4, 0, 0, u.id, now(), now(), $2, 't0', 'postgres', u.payload
                 from unnest($3::bigint[], $4::jsonb[]) as u (id, payload)",
            )
            .bind(lane)
            .bind(Noop::KIND)
            .bind(ids)
            .bind(payloads)
            .execute(connection)
            .await?;
            Ok(started.elapsed())
        }
        Way::Copy => {
            copy(
                connection,
                "copy public.bare (id, priority, version, attempt, rescues, replays, enqueued_at, enqueued_by, kind,
                     tenant, max_attempts, due_at, deadline_at, payload) from stdin",
                numbers,
                &|n| format!("{n}\t2\t1\t0\t0\t0\t2026-11-01 12:00:00+00\tpostgres\t"),
            )
            .await
        }
    }
}

/// Sends the rows in COPY's text format; `before` gives what stands before the columns that both sides send.
async fn copy(
    connection: &mut PgConnection,
    statement: &'static str,
    numbers: std::ops::Range<usize>,
    before: &dyn Fn(usize) -> String,
) -> Result<Duration> {
    let mut text = String::new();
    let count = u64::try_from(numbers.len())?;
    for n in numbers {
        text.push_str(&before(n));
        text.push_str(&format!(
            "{}\tt0\t4\t2026-11-01 12:00:00+00\t2036-11-01 12:00:00+00\t{}\n",
            Noop::KIND,
            payload(n)
        ));
    }
    let started = Instant::now();
    let mut into = connection.copy_in_raw(statement).await?;
    into.send(text.into_bytes()).await?;
    let copied = into.finish().await?;
    ensure!(copied == count, "COPY took {copied} of {count} rows");
    Ok(started.elapsed())
}

fn payload(n: usize) -> Value {
    json!({ "n": n, "pad": PAD })
}
