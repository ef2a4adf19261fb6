//! `backhaul stats`: how jobs fared over a window.

use anyhow::Result;
use clap::Args;

use super::{
    database::{explain, rows_of},
    session::Session,
    table::{self, Column},
};

/// Show success ratios and latencies by kind and tenant
///
/// Counted from the events of the window. Every attempt counts with its time, also those that failed. A kind and tenant
/// that nothing happened to has no row.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul stats
  backhaul stats --minutes 1440 --kind enrichment
  backhaul stats --json | jq '.[] | select(.success_ratio < 99)'")]
pub(crate) struct Stats {
    /// How far back to look, in minutes
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(i32).range(1..=527_040))]
    minutes: i32,
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 9] = [
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("completed", "DONE"),
    ("dead", "DEAD"),
    ("ratio", "SUCCESS %"),
    ("failures", "FAILED TRIES"),
    ("latency_p50_ms", "P50 MS"),
    ("latency_p95_ms", "P95 MS"),
    ("latency_p99_ms", "P99 MS"),
];

/// Runs the command.
pub(crate) async fn run(session: &Session, stats: Stats) -> Result<()> {
    let pool = session.connect().await?;
    let rows = rows_of(
        "select o.*, o.success_ratio::text as ratio
         from backhaul.outcomes(clock_timestamp() - make_interval(mins => $1), $2, $3) o",
    );
    let rows = rows.bind(stats.minutes).bind(stats.kind).bind(stats.tenant).fetch_all(&pool).await.map_err(explain)?;
    table::print(&rows, &COLUMNS, stats.json, "nothing happened")
}
