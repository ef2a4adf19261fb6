//! `backhaul jobs explain`: why a job is not running, and what to do about it.

use std::fmt::Write;

use anyhow::Result;
use clap::Args;
use sqlx::PgPool;

use crate::commands::{
    database::{explain, rows_of},
    table,
};

/// Say why a job is not running, and what to do about it
///
/// One cause a paragraph: what it is, and what to do. The same as `select * from backhaul.explain_job(ID)` in SQL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul jobs explain 4711
  backhaul jobs explain 4711 --json | jq -r '.[].code'")]
pub(crate) struct Explain {
    /// The job's id
    id: i64,
    /// Print a JSON array of code, cause and remedy
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub(crate) async fn run(pool: &PgPool, one: &Explain) -> Result<()> {
    let causes = rows_of("select code, cause, remedy from backhaul.explain_job($1)");
    let causes = causes.bind(one.id).fetch_all(pool).await.map_err(explain)?;
    if one.json {
        return table::print(&causes, &[], true, "");
    }
    let mut text = String::new();
    for cause in &causes {
        let said = |member: &str| table::clean(cause[member].as_str().unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {}\n    {}", said("code"), said("cause"), said("remedy"));
    }
    table::write_out(&text)
}
