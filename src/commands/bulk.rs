//! One decision about many things: each in a transaction of its own, so that one that is gone stops no other.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    exit::{self, Coded},
    table,
};

/// Ids that a message repeats; all are in `--json`.
const NAMED_MAX: usize = 20;

/// How a command goes about what a filter finds.
#[derive(Debug, Args)]
pub(crate) struct Bulk {
    /// With a filter: do it. Without it, only the number is shown
    #[arg(long)]
    pub(crate) yes: bool,
    /// With a filter: at most so many, oldest first
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub(crate) limit: i64,
    /// Print a JSON array of outcomes
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is decided about, and what it is afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    /// For example `dead letter`.
    pub(crate) thing: &'static str,
    /// For example `replayed`.
    pub(crate) done: &'static str,
}

/// What became of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was done, and is this now.
    Done(String),
    /// It stays as it was, and why.
    Left(String),
}

/// Says how many of `total` a filter would decide about, and does nothing.
pub(crate) fn announce(total: i64, bulk: &Bulk, words: Words) -> Result<()> {
    let Words { thing, done } = words;
    let count = total.min(bulk.limit);
    if bulk.json {
        return table::print_json(&json!({ "would_be": done, "count": count, "of": total }));
    }
    let more = if count < total { format!(" of {total}") } else { String::new() };
    let wider = if count < total { ", and --limit for more at once" } else { "" };
    table::write_out(&format!("{count}{more} {thing}s would be {done}; add --yes to do it{wider}\n"))
}

/// Decides about each of `ids`, and tells what became of them. What was named and does not exist ends with the code for
/// that; what a filter found and somebody else took meanwhile does not.
pub(crate) async fn decide<I: Display + Serialize>(
    ids: &[I],
    by_filter: bool,
    bulk: &Bulk,
    words: Words,
    act: impl AsyncFn(&I) -> Result<Fate>,
) -> Result<()> {
    let mut outcomes = Vec::with_capacity(ids.len());
    let mut missing = Vec::new();
    let (mut done, mut left) = (0_usize, Vec::new());
    for id in ids {
        match act(id).await {
            Ok(Fate::Done(outcome)) => {
                done += 1;
                outcomes.push(json!({ "id": id, "outcome": outcome }));
            }
            Ok(Fate::Left(why)) => {
                outcomes.push(json!({ "id": id, "outcome": "left", "why": why }));
                left.push(format!("{id}: {why}"));
            }
            Err(error) if exit::code_of(&error) == exit::NOT_FOUND => {
                outcomes.push(json!({ "id": id, "outcome": if by_filter { "gone" } else { "not_found" } }));
                if !by_filter {
                    missing.push(id.to_string());
                }
            }
            Err(error) => {
                if !outcomes.is_empty() {
                    report(&outcomes, done, bulk.json, words)?;
                }
                return Err(error);
            }
        }
    }
    report(&outcomes, done, bulk.json, words)?;
    if !missing.is_empty() {
        let text = format!("there is no {} {}", words.thing, named(&missing, ", "));
        return Err(anyhow!(Coded::new(exit::NOT_FOUND, text)));
    }
    if !left.is_empty() {
        let text = format!("{} of {} {}s stay as they are: {}", left.len(), ids.len(), words.thing, named(&left, "; "));
        return Err(anyhow!(Coded::new(exit::UNWELL, text)));
    }
    Ok(())
}

fn named(names: &[String], between: &str) -> String {
    let shown = names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(between);
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more (all are in --json)"),
    }
}

fn report(outcomes: &[Value], done: usize, json: bool, words: Words) -> Result<()> {
    if json {
        return table::print_json(&Value::Array(outcomes.to_vec()));
    }
    let Words { thing, done: is } = words;
    match (outcomes, done) {
        ([only], 1) => {
            let id = only["id"].as_str().map_or_else(|| only["id"].to_string(), str::to_owned);
            table::write_out(&format!("{thing} {id} is {}\n", only["outcome"].as_str().unwrap_or(is)))
        }
        // The message of the error says it all.
        ([_], _) => Ok(()),
        _ => table::write_out(&format!("{done} {thing}s {is}\n")),
    }
}
