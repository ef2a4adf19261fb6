//! A snapshot that somebody else holds open keeps every dead row alive while a stream of jobs flows.

use anyhow::Result;
use sqlx::{Connection, Executor};

use crate::{
    case::Case,
    load,
    report::Round,
    runner::Bench,
    stream::Stream,
    target::{Bound, Target, Unit},
};

pub(super) const ABOUT: &str = "a snapshot held open by somebody else while jobs flow";
pub(super) const TARGETS: [Target; 3] = [
    Target { key: "all", what: "rate, of the rate without it", bound: Bound::AtLeast(0.9), unit: Unit::Ratio },
    Target { key: "start", what: "first fifth, of that without it", bound: Bound::AtLeast(0.9), unit: Unit::Ratio },
    Target { key: "end", what: "last fifth, of that without it", bound: Bound::AtLeast(0.9), unit: Unit::Ratio },
];

/// Jobs that wait all the time.
const WAITING: usize = 10_000;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let mut round = Round::default();
    for turn in 0..2 {
        let held = (turn + bench.round) % 2 == 1;
        round.cases.push(one(bench, held).await?);
    }
    if let Some(ratio) = round.rates("held", "free") {
        round.figure("all", ratio);
    }
    for (key, rate) in [("start", "first_fifth_rate"), ("end", "last_fifth_rate")] {
        let of = |case: &str| round.case(case)?.more.get(rate)?.as_f64();
        if let (Some(held), Some(free)) = (of("held"), of("free")) {
            round.figure(key, held / free);
        }
    }
    Ok(round)
}

async fn one(bench: &Bench<'_>, held: bool) -> Result<Case> {
    let jobs = bench.size.pick(2_000, 200_000, 1_000_000);
    let database = bench.server.migrated().await?;
    let mut setup = database.connect().await?;
    load::lanes(&mut setup, 1).await?;
    setup.close().await?;
    let mut holder = None;
    if held {
        let mut connection = database.connect().await?;
        connection.execute("begin isolation level repeatable read").await?;
        // The first query takes the snapshot.
        connection.execute("select count(*) from backhaul.jobs").await?;
        holder = Some(connection);
    }
    let waiting = bench.size.pick(500, WAITING, WAITING);
    let stream = Stream { name: if held { "held" } else { "free" }, waiting, jobs, tenants: 1 };
    let (case, env) = stream.run(bench, &database).await?;
    if let Some(mut connection) = holder {
        connection.execute("rollback").await?;
        connection.close().await?;
    }
    Ok(case.with("first_fifth_rate", env.tally.rate(0.0, 0.2)).with("last_fifth_rate", env.tally.rate(0.8, 1.0)))
}
