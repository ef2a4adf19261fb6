//! `backhaul queue open`: ending a pause that an upstream asked for.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sqlx::PgPool;

use crate::commands::{database::explain, session::Actor, table};

/// Open a bucket before the time that its upstream asked for
///
/// For a Retry-After that was wrong. Jobs that met the pause are due at once; an upstream that still refuses closes the
/// bucket again. The limit stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue open --tenant acme --bucket cxone/profiles --why 'their Retry-After was a mistake'")]
pub(crate) struct Open {
    /// The tenant
    #[arg(long)]
    tenant: String,
    /// The bucket, as provider/class
    #[arg(long)]
    bucket: String,
    #[command(flatten)]
    actor: Actor,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Opens it.
pub(crate) async fn run(pool: &PgPool, open: &Open) -> Result<()> {
    let moved: Option<i32> = sqlx::query_scalar("select backhaul.open_bucket($1, $2, $3, $4)")
        .bind(&open.tenant)
        .bind(&open.bucket)
        .bind(open.actor.name())
        .bind(&open.why)
        .fetch_one(pool)
        .await
        .map_err(explain)?;
    let Open { tenant, bucket, .. } = open;
    if open.json {
        let changed = moved.is_some();
        return table::print_json(&json!({ "tenant": tenant, "bucket": bucket, "changed": changed, "due": moved }));
    }
    table::write_out(&match moved {
        Some(jobs) => format!("{bucket} of {tenant} is open; {jobs} jobs that met the pause are due now\n"),
        None => format!("{bucket} of {tenant} was open\n"),
    })
}
