//! From the commit to the handler, with a worker that has nothing to do, beside a bare LISTEN and NOTIFY.
//!
//! Postgres signals listeners before it acknowledges the commit, so that a bare notification is often heard before
//! the acknowledgement is read: counted from there its median lies around zero and is no measure. For the ratios the
//! clock therefore starts on both sides when COMMIT is sent; the times from the acknowledgement stand beside them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
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

pub(super) const ABOUT: &str = "from the commit to the started handler, idle worker, beside a bare LISTEN and NOTIFY";
pub(super) const TARGETS: [Target; 8] = [
    Target { key: "p50", what: "pick-up p50, of a bare NOTIFY's", bound: Bound::AtMost(1.5), unit: Unit::Ratio },
    Target { key: "p99", what: "pick-up p99, of a bare NOTIFY's", bound: Bound::AtMost(3.0), unit: Unit::Ratio },
    plain("p50_ms", "pick-up p50"),
    plain("p99_ms", "pick-up p99"),
    plain("bare_p50_ms", "bare NOTIFY p50"),
    plain("bare_p99_ms", "bare NOTIFY p99"),
    plain("from_ack_p50_ms", "pick-up p50, from the acknowledgement"),
    plain("from_ack_p99_ms", "pick-up p99, from the acknowledgement"),
];

const fn plain(key: &'static str, what: &'static str) -> Target {
    Target { key, what, bound: Bound::None, unit: Unit::Milliseconds }
}

/// Longest wait for one notification or one start.
const ONE_MAX: Duration = Duration::from_secs(10);

/// One sample: from COMMIT as it is sent, and from its acknowledgement.
#[derive(Clone, Copy)]
struct Sample {
    from_commit_ms: f64,
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
    for (q, ratio, of_worker, of_bare, from_ack) in [
        (0.5, "p50", "p50_ms", "bare_p50_ms", "from_ack_p50_ms"),
        (0.99, "p99", "p99_ms", "bare_p99_ms", "from_ack_p99_ms"),
    ] {
        let (Some(ours), Some(theirs)) = (from_commit(&jobs, q), from_commit(&notes, q)) else { continue };
        round.figure(ratio, ours / theirs);
        round.figure(of_worker, ours);
        round.figure(of_bare, theirs);
        if let Some(ours) = acknowledged(&jobs, q) {
            round.figure(from_ack, ours);
        }
    }
    Ok(round)
}

fn from_commit(samples: &[Sample], q: f64) -> Option<f64> {
    quantile(&samples.iter().map(|sample| sample.from_commit_ms).collect::<Vec<_>>(), q)
}

fn acknowledged(samples: &[Sample], q: f64) -> Option<f64> {
    quantile(&samples.iter().map(|sample| sample.from_ack_ms).collect::<Vec<_>>(), q)
}

fn described(case: Case, samples: &[Sample]) -> Case {
    case.with("from_ack_p50_ms", acknowledged(samples, 0.5))
        .with("from_ack_p99_ms", acknowledged(samples, 0.99))
        .with("from_commit_p50_ms", from_commit(samples, 0.5))
        .with("from_commit_p99_ms", from_commit(samples, 0.99))
}

async fn job(producer: &mut PgConnection, tally: &Tally, number: usize) -> Result<Sample> {
    let mut transaction = producer.begin().await?;
    sqlx::query("select job_id from backhaul.enqueue($1, jsonb_build_object('n', $2::bigint, 'pad', $3::text))")
        .bind(Noop::KIND)
        .bind(i64::try_from(number)?)
        .bind(PAD)
        .execute(&mut *transaction)
        .await?;
    let sent = tally.now();
    transaction.commit().await?;
    let acknowledged = tally.now();
    let deadline = Instant::now() + ONE_MAX;
    let at = loop {
        if let Some(at) = tally.started_at(number) {
            break at;
        }
        ensure!(Instant::now() < deadline, "job {number} did not start within {ONE_MAX:?}");
        sleep(Duration::from_millis(1)).await;
    };
    Ok(Sample { from_commit_ms: (at - sent) as f64 / 1e6, from_ack_ms: (at - acknowledged) as f64 / 1e6 })
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
        let mut transaction = self.producer.begin().await?;
        sqlx::query(
            "with row as (insert into public.bare values ($1, jsonb_build_object('n', $1, 'pad', $2::text)) returning id)
             select pg_notify('bare', '') from row",
        )
        .bind(number)
        .bind(PAD)
        .execute(&mut *transaction)
        .await?;
        let sent = std::time::Instant::now();
        transaction.commit().await?;
        let acknowledged = std::time::Instant::now();
        let at = timeout(ONE_MAX, self.heard.recv()).await?.context("the listener ended")?;
        let ms = |from: std::time::Instant| match at.checked_duration_since(from) {
            Some(after) => after.as_secs_f64() * 1e3,
            None => -from.duration_since(at).as_secs_f64() * 1e3,
        };
        Ok(Sample { from_commit_ms: ms(sent), from_ack_ms: ms(acknowledged) })
    }

    async fn end(self) -> Result<()> {
        self.listening.abort();
        let _ = self.listening.await;
        Ok(self.producer.close().await?)
    }
}
