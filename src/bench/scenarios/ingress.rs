//! `backhaul serve` under a steady stream of good, repeated, badly signed and malformed deliveries to both endpoints.
//! Each is sent at its time, whatever became of those before it, and its latency counts from that time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sqlx::Connection;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    case::{Case, Cpu},
    database::Database,
    letters::{Expected, Letter, letters},
    quantiles::quantile,
    report::Round,
    runner::Bench,
    serve::{self, Receiver},
    target::{Bound, Target, Unit},
    usage,
};

pub(super) const ABOUT: &str =
    "backhaul serve at 500 deliveries a second, some of them repeated, malformed or badly signed";
pub(super) const TARGETS: [Target; 7] = [
    Target { key: "p99", what: "answer, p99, from its time", bound: Bound::AtMost(50.0), unit: Unit::Milliseconds },
    Target { key: "p50", what: "answer, p50, from its time", bound: Bound::None, unit: Unit::Milliseconds },
    Target { key: "rate", what: "answers, of the rate sent", bound: Bound::AtLeast(0.99), unit: Unit::Ratio },
    Target { key: "wrong", what: "answers that were wrong", bound: Bound::AtMost(0.0), unit: Unit::Count },
    Target {
        key: "lost",
        what: "events with a 200, not exactly their jobs",
        bound: Bound::AtMost(0.0),
        unit: Unit::Count,
    },
    Target { key: "growth", what: "resident, end less first fifth", bound: Bound::AtMost(5.0), unit: Unit::Megabytes },
    Target { key: "resident", what: "resident at the end", bound: Bound::None, unit: Unit::Megabytes },
];

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How one delivery was answered.
struct Answer {
    expected: Expected,
    /// None where there was none.
    status: Option<u16>,
    taken: Option<Taken>,
    /// When it was due, in seconds from the start.
    due_s: f64,
    latency_ms: f64,
}

/// What a 200 says.
#[derive(Deserialize)]
struct Taken {
    status: String,
    #[serde(rename = "eventId")]
    event: String,
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    // The small run sends fewer than the receiver takes at once, so that no slow machine makes it send senders away.
    let rate: u32 = bench.size.pick(100, 500, 500);
    let count = rate as usize * bench.size.pick(2, 10, 60);
    let database = bench.server.empty().await?;
    serve::migrate(bench.migrate_arguments, &database.url).await?;
    let receiver = Receiver::start(bench.serve_arguments, &database.url).await?;
    let pid = receiver.pid().context("the receiver is gone")?;
    let letters = letters(count, u64::try_from(bench.round)?);

    let stop = CancellationToken::new();
    let watched = AbortOnDropHandle::new(tokio::spawn(watch(pid, stop.clone())));
    let (cpu, served) = (Cpu::start(bench.postmaster), usage::cpu_s(pid));
    let started = Instant::now();
    let answers = send(&receiver.url, letters, started, Duration::from_secs(1) / rate).await?;
    let took = started.elapsed();
    stop.cancel();
    let samples = watched.await?;
    let resident = usage::resident_mb(pid);
    let served = usage::cpu_s(pid).zip(served).map(|(after, before)| (after - before) * 1e6 / count as f64);
    let log_bytes = receiver.log_bytes();
    receiver.kill().await?;

    let books = Books::of(&answers);
    let lost = books.lost(&database).await?;
    // What was answered wrongly, or lost, is not done: so the small run of the tests fails by it.
    let undone = i64::try_from(books.wrong + lost)?;
    let mut case = Case::new("serve", u64::try_from(count)?, took).used(&cpu).left(undone);
    case.done = case.done.saturating_sub(case.left);
    case.started = case.done;
    let latencies: Vec<f64> = answers.iter().map(|answer| answer.latency_ms).collect();
    // The receiver opens its connections with the first deliveries, and each plans its statements anew.
    let warm: Vec<f64> = answers.iter().filter(|answer| answer.due_s >= 1.0).map(|answer| answer.latency_ms).collect();
    let at = |q| quantile(&latencies, q).context("nothing was sent");
    let mut round = Round::default();
    round.figure("p99", at(0.99)?);
    round.figure("p50", at(0.5)?);
    round.figure("rate", case.rate / f64::from(rate));
    round.figure("wrong", books.wrong as f64);
    round.figure("lost", lost as f64);
    let early = samples.get(samples.len() / 5).copied();
    if let (Some(early), Some(resident)) = (early, resident) {
        round.figure("growth", resident - early);
        round.figure("resident", resident);
    }
    let more = [("p90_ms", at(0.9)?), ("p999_ms", at(0.999)?), ("most_ms", at(1.0)?)];
    case = more.iter().fold(case, |case, (name, value)| case.with(name, *value));
    case = case
        .with("statuses", serde_json::to_value(&books.statuses)?)
        .with("taken", books.events.len())
        .with("repeated", books.repeated)
        .with("p99_ms_after_a_second", quantile(&warm, 0.99))
        .with("resident_mb", samples)
        .with("serve_cpu_us_per_request", served)
        .with("log_bytes", log_bytes);
    round.cases.push(case);
    Ok(round)
}

/// Memory of the process, ten times a second until the stop, in megabytes.
async fn watch(pid: u32, stop: CancellationToken) -> Vec<f64> {
    let mut ticks = interval(Duration::from_millis(100));
    let mut samples = Vec::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        samples.extend(usage::resident_mb(pid));
    }
    samples
}

/// Sends each letter at its time and waits for all answers.
async fn send(url: &str, letters: Vec<Letter>, started: Instant, every: Duration) -> Result<Vec<Answer>> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build()?;
    let mut under_way = JoinSet::new();
    for (nth, letter) in letters.into_iter().enumerate() {
        let due = started + every * u32::try_from(nth)?;
        sleep_until(due).await;
        let request = client
            .post(format!("{url}{}", letter.path))
            .header("content-type", "application/json")
            .header("x-cxone-timestamp", letter.stamp)
            .header("x-cxone-signature", letter.signature)
            .body(letter.body);
        under_way.spawn(one(request, letter.expected, started, due));
    }
    Ok(under_way.join_all().await)
}

/// One request. Whatever goes wrong is an answer that does not fit.
async fn one(request: reqwest::RequestBuilder, expected: Expected, started: Instant, due: Instant) -> Answer {
    let reply = async {
        let reply = request.send().await?;
        anyhow::Ok((reply.status().as_u16(), reply.bytes().await?))
    };
    let reply = reply.await.ok();
    let latency_ms = due.elapsed().as_secs_f64() * 1000.0;
    let taken =
        reply.as_ref().and_then(|(status, body)| (*status == 200).then(|| serde_json::from_slice(body).ok())?);
    let due_s = (due - started).as_secs_f64();
    Answer { expected, status: reply.map(|(status, _)| status), taken, due_s, latency_ms }
}

/// What the answers say, taken together.
struct Books {
    /// Jobs that each acknowledged event must have, by its id.
    events: HashMap<String, i64>,
    /// Answers by status; 0 stands for none.
    statuses: BTreeMap<u16, u64>,
    /// Deliveries that were told to be repetitions.
    repeated: u64,
    /// Answers that did not fit what was sent.
    wrong: usize,
}

impl Books {
    fn of(answers: &[Answer]) -> Self {
        let mut books = Self { events: HashMap::new(), statuses: BTreeMap::new(), repeated: 0, wrong: 0 };
        let mut ids: HashMap<usize, &str> = HashMap::new();
        let mut accepted = HashSet::new();
        for answer in answers {
            *books.statuses.entry(answer.status.unwrap_or(0)).or_default() += 1;
            let fits = match (answer.expected, &answer.taken) {
                (Expected::Refused(status), None) => answer.status == Some(status),
                (Expected::Taken { event, jobs }, Some(taken)) => {
                    books.events.insert(taken.event.clone(), jobs);
                    let id = *ids.entry(event).or_insert(&taken.event);
                    match taken.status.as_str() {
                        "accepted" => id == taken.event && accepted.insert(event),
                        "duplicate" => {
                            books.repeated += 1;
                            id == taken.event
                        }
                        _ => false,
                    }
                }
                _ => false,
            };
            books.wrong += usize::from(!fits);
        }
        books
    }

    /// Acknowledged events that have not exactly their jobs.
    ///
    /// # Errors
    /// There are events that nobody was told of, though everybody was answered.
    async fn lost(&self, database: &Database) -> Result<usize> {
        let mut connection = database.connect().await?;
        // The key of a job names its event: `ingress/<event>/<destination>`.
        let stored: Vec<(String, i64)> =
            sqlx::query_as("select split_part(idempotency_key, '/', 2), count(*) from backhaul.jobs group by 1")
                .fetch_all(&mut connection)
                .await?;
        let kept: Vec<String> =
            sqlx::query_scalar("select id::text from backhaul.ingress_events").fetch_all(&mut connection).await?;
        connection.close().await?;
        let strangers = kept.iter().chain(stored.iter().map(|(id, _)| id)).filter(|id| !self.events.contains_key(*id));
        let strangers = strangers.count();
        ensure!(
            strangers == 0 || self.statuses.contains_key(&0),
            "{strangers} events or their jobs are there, and nobody was told 200"
        );
        let stored: HashMap<String, i64> = stored.into_iter().collect();
        let kept: HashSet<String> = kept.into_iter().collect();
        let right = |id: &String, jobs: &i64| kept.contains(id) && stored.get(id) == Some(jobs);
        Ok(self.events.iter().filter(|(id, jobs)| !right(id, jobs)).count())
    }
}
