//! Millions of jobs waiting behind those that are taken.

use anyhow::Result;
use sqlx::Connection;

use crate::{
    load,
    report::Round,
    runner::Bench,
    stream::Stream,
    target::{Bound, Target, Unit},
};

pub(super) const ABOUT: &str = "10,000,000 jobs waiting, beside 10,000 (medium: 500,000)";
pub(super) const TARGETS: [Target; 1] =
    [Target { key: "rate", what: "rate, of that with few waiting", bound: Bound::AtLeast(0.9), unit: Unit::Ratio }];

pub(super) async fn run(bench: &Bench<'_>) -> Result<Round> {
    let jobs = bench.size.pick(2_000, 200_000, 500_000);
    let few = bench.size.pick(500, 10_000, 10_000);
    let many = bench.size.pick(5_000, 500_000, 10_000_000);
    let mut round = Round::default();
    for turn in 0..2 {
        let (name, waiting) = if (turn + bench.round).is_multiple_of(2) { ("few", few) } else { ("many", many) };
        let database = bench.server.migrated().await?;
        let mut setup = database.connect().await?;
        load::lanes(&mut setup, 1).await?;
        setup.close().await?;
        let (case, _) = Stream { name, waiting, jobs, tenants: 1 }.run(bench, &database).await?;
        round.cases.push(case);
        // Ten million rows take room that the next case may need.
        bench.server.drop_made().await;
    }
    if let Some(ratio) = round.rates("many", "few") {
        round.figure("rate", ratio);
    }
    Ok(round)
}
