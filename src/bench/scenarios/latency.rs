//! From the acknowledged commit to the handler, with a worker that has nothing to do, beside a bare LISTEN and NOTIFY.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use backhaul_engine::{Job, WorkerOptions};
use sqlx::{Connection, PgConnection, postgres::PgListener};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    case::Case,
    cost::Meter,
    kinds::{Noop, NoopEnv, PAD},
    quantiles::quantile,
    report::Round,
    runner::Bench,
    tally::Tally,
    target::{Bound, Target, Unit},
    worker::{Worker, settled},
};

pub(super) const ABOUT: &str = "commit acknowledged to handler started, idle worker, beside a bare LISTEN and NOTIFY";
pub(super) const TARGETS: [Target; 6] = [
    Target { key: "p50", what: "pick-up p50, of a bare NOTIFY's", bound: Bound::AtMost(1.5), unit: Unit::Ratio },
    Target { key: "p99", what: "pick-up p99, of a bare NOTIFY's", bound: Bound::AtMost(3.0), unit: Unit::Ratio },
    Target { key: "worker_p50_ms", what: "pick-up p50", bound: Bound::None, unit: Unit::Milliseconds },
    Target { key: "worker_p99_ms", what: "pick-up p99", bound: Bound::None, unit: Unit::Milliseconds },
    Target { key: "bare_p50_ms", what: "bare NOTIFY p50", bound: Bound::None, unit: Unit::Milliseconds },
    Target { key: "bare_p99_ms", what: "bare NOTIFY p99", bound: Bound::None, unit: Unit::Milliseconds },
];

/// Longest wait for one notification or one start.
const ONE_MAX: Duration = Duration::from_secs(10);

/// One sample: nanoseconds from the call, and from its acknowledgement.
#[derive(Clone, Copy)]
struct Sample {
    from_call_ms: f64,
    from_ack_ms: f64,
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let samples = bench.size.pick(10, 300, 2_000);
    let database = bench.server.migrated().await?;
    sqlx::raw_sql("create table public.bare (id bigint primary key, payload jsonb not null)")
        .execute(&mut database.connect().await?)
        .await?;
    let mut meter = Meter::start(&database).await?;
    let started = Instant::now();
    let env = Arc::new(NoopEnv { tally: Tally::new(samples), work: Duration::ZERO });
    let worker = Worker::noop(&database, &env, WorkerOptions::default()).await?;
    let mut producer = database.connect().await?;
    let mut bare = Bare::start(&database).await?;

    let (mut jobs, mut notes) = (Vec::with_capacity(samples), Vec::with_capacity(samples));
    for number in 0..samples {
        // Apart enough that the worker is asleep again, and not in step with anything periodic.
        let gap = Duration::from_micros(rand::random_range(5_000..20_000));
        sleep(gap).await;
        jobs.push(job(&mut producer, &env.tally, number).await?);
        sleep(gap).await;
        notes.push(bare.sample(i64::try_from(number)?).await?);
    }
    settled(&mut meter).await?;
    let took = started.elapsed();
    worker.stop().await?;
    producer.close().await?;
    bare.end().await?;
    let left = meter.ask("select count(*) from backhaul.jobs").await?;
    let count = u64::try_from(samples)?;
    let cost = meter.end(count).await?;
    let case = Case::new("worker", count, took).counted(&env.tally).left(left).cost(cost);
    let mut round = Round::default();
    round.cases.push(described(case, &jobs));
    round.cases.push(described(Case::new("bare", count, took), &notes));
    let at = |of: &[Sample], q| quantile(&of.iter().map(|sample| sample.from_ack_ms).collect::<Vec<_>>(), q);
    for (ratio, worker_key, bare_key, q) in
        [("p50", "worker_p50_ms", "bare_p50_ms", 0.5), ("p99", "worker_p99_ms", "bare_p99_ms", 0.99)]
    {
        let (Some(ours), Some(theirs)) = (at(&jobs, q), at(&notes, q)) else { continue };
        round.figure(ratio, ours / theirs);
        round.figure(worker_key, ours);
        round.figure(bare_key, theirs);
    }
    Ok(round)
}

fn described(case: Case, samples: &[Sample]) -> Case {
    let acks: Vec<f64> = samples.iter().map(|sample| sample.from_ack_ms).collect();
    let calls: Vec<f64> = samples.iter().map(|sample| sample.from_call_ms).collect();
    case.with("from_ack_p50_ms", quantile(&acks, 0.5))
        .with("from_ack_p99_ms", quantile(&acks, 0.99))
        .with("from_call_p50_ms", quantile(&calls, 0.5))
        .with("from_call_p99_ms", quantile(&calls, 0.99))
}

async fn job(producer: &mut PgConnection, tally: &Tally, number: usize) -> Result<Sample> {
    let called = tally.now();
    sqlx::query("select job_id from backhaul.enqueue($1, jsonb_build_object('n', $2::bigint, 'pad', $3::text))")
        .bind(Noop::KIND)
        .bind(i64::try_from(number)?)
        .bind(PAD)
        .execute(producer)
        .await?;
    let acknowledged = tally.now();
    let deadline = Instant::now() + ONE_MAX;
    let at = loop {
        if let Some(at) = tally.started_at(number) {
            break at;
        }
        anyhow::ensure!(Instant::now() < deadline, "job {number} did not start within {ONE_MAX:?}");
        sleep(Duration::from_millis(1)).await;
    };
    Ok(Sample { from_call_ms: (at - called) as f64 / 1e6, from_ack_ms: (at - acknowledged) as f64 / 1e6 })
}

/// A connection that listens, and one that inserts a row and notifies in the same transaction.
struct Bare {
    producer: PgConnection,
    heard: mpsc::UnboundedReceiver<std::time::Instant>,
    listening: tokio::task::JoinHandle<()>,
}

impl Bare {
    async fn start(database: &crate::database::Database) -> Result<Self> {
        let mut listener = PgListener::connect(&database.url).await?;
        listener.listen("bare").await?;
        let (tell, heard) = mpsc::unbounded_channel();
        let listening = tokio::spawn(async move {
            while listener.recv().await.is_ok() {
                if tell.send(std::time::Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { producer: database.connect().await?, heard, listening })
    }

    async fn sample(&mut self, number: i64) -> Result<Sample> {
        let called = std::time::Instant::now();
        sqlx::query(
            "with row as (insert into public.bare values ($1, jsonb_build_object('n', $1, 'pad', $2::text)) returning id)
             select pg_notify('bare', '') from row",
        )
        .bind(number)
        .bind(PAD)
        .execute(&mut self.producer)
        .await?;
        let acknowledged = std::time::Instant::now();
        let at = timeout(ONE_MAX, self.heard.recv()).await?.context("the listener ended")?;
        let ms = |from: std::time::Instant| match at.checked_duration_since(from) {
            Some(after) => after.as_secs_f64() * 1e3,
            None => -from.duration_since(at).as_secs_f64() * 1e3,
        };
        Ok(Sample { from_call_ms: ms(called), from_ack_ms: ms(acknowledged) })
    }

    async fn end(self) -> Result<()> {
        self.listening.abort();
        let _ = self.listening.await;
        Ok(self.producer.close().await?)
    }
}
