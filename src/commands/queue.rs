//! `backhaul queue`: what operators hold back, limit and share out.

mod open;
mod status;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    database::explain,
    exit::{self, Coded},
    session::{Audit, Session},
    table,
};

/// Pause and resume work, cap and weigh it, and look at all of that.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul queue status
  backhaul queue pause --kind enrichment --why 'the CDP is being migrated'
  backhaul queue pause --tenant acme --why 'asked by the customer'
  backhaul queue resume --kind enrichment
  backhaul queue cap --kind handshake --max 4
  backhaul queue weight --kind enrichment --tenant acme --weight 3
  backhaul queue share --tenant acme --bucket cxone/profiles --share 0.25
  backhaul queue open --tenant acme --bucket cxone/profiles --why 'their Retry-After was a mistake'

Running jobs are never stopped by these; `backhaul jobs cancel` stops one.")]
pub(crate) enum Queue {
    Status(status::Status),
    Pause(Pause),
    Resume(Resume),
    Cap(Cap),
    Weight(Weight),
    Share(Share),
    Open(open::Open),
}

/// What is meant: a kind, a tenant, or one tenant's kind.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Target {
    /// This kind; with --tenant, this tenant's jobs of it
    #[arg(long)]
    kind: Option<String>,
    /// This tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Everything
    #[arg(long, conflicts_with_all = ["kind", "tenant"])]
    all: bool,
}

/// Hold back what has not started
///
/// Running jobs go on. Producers may go on enqueueing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue pause --kind enrichment --why 'the CDP is being migrated'
  backhaul queue pause --kind enrichment --tenant acme --why 'bad data'
  backhaul queue pause --all --why 'something is very wrong'")]
pub(crate) struct Pause {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    audit: Audit,
}

/// Let go what a pause with the same options held back
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue resume --kind enrichment
  backhaul queue resume --all --why 'mended'")]
pub(crate) struct Resume {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    audit: Audit,
}

/// Bound how many jobs of a kind are in workers' hands at once, in the whole fleet
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue cap --kind handshake --max 4
  backhaul queue cap --kind enrichment --tenant acme --max 10
  backhaul queue cap --kind handshake --none")]
pub(crate) struct Cap {
    /// The kind
    #[arg(long)]
    kind: String,
    /// Only this tenant's jobs of the kind [default: all tenants' together]
    #[arg(long, default_value = "*", hide_default_value = true)]
    tenant: String,
    /// At most so many
    #[arg(long, value_name = "JOBS", required_unless_present = "none", conflicts_with = "none",
          value_parser = clap::value_parser!(i32).range(1..))]
    max: Option<i32>,
    /// Take the cap away
    #[arg(long)]
    none: bool,
    #[command(flatten)]
    audit: Audit,
}

/// Serve a tenant more often than others, while all have work of the kind
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue weight --kind enrichment --tenant acme --weight 3
  backhaul queue weight --kind enrichment --tenant acme --weight 1")]
pub(crate) struct Weight {
    /// The kind
    #[arg(long)]
    kind: String,
    /// The tenant
    #[arg(long)]
    tenant: String,
    /// How often, compared with 1
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    weight: i32,
    #[command(flatten)]
    audit: Audit,
}

/// Bound the part of an upstream's limit that work of priority backfill may use
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul queue share --tenant acme --bucket cxone/profiles --share 0.25
  backhaul queue share --tenant acme --bucket cxone/profiles --share 1")]
pub(crate) struct Share {
    /// The tenant
    #[arg(long)]
    tenant: String,
    /// The limit, as provider/class
    #[arg(long)]
    bucket: String,
    /// The part, above 0 and at most 1
    #[arg(long)]
    share: f32,
    #[command(flatten)]
    audit: Audit,
}

impl Target {
    fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("*")
    }

    fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or("*")
    }

    fn words(&self) -> String {
        match (&self.kind, &self.tenant) {
            (Some(kind), Some(tenant)) => format!("{kind} of {tenant}"),
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => "everything".to_owned(),
        }
    }
}

/// Runs one of the subcommands.
pub(crate) async fn run(session: &Session, command: Queue) -> Result<()> {
    let pool = session.connect().await?;
    match command {
        Queue::Status(status) => status::run(&pool, &status).await,
        Queue::Pause(pause) => self::pause(session, &pool, &pause.target, &pause.audit).await,
        Queue::Resume(resume) => self::resume(&pool, &resume.target, &resume.audit).await,
        Queue::Cap(cap) => self::cap(&pool, &cap).await,
        Queue::Weight(weight) => self::weight(&pool, &weight).await,
        Queue::Share(share) => self::share(&pool, &share).await,
        Queue::Open(open) => open::run(&pool, &open).await,
    }
}

async fn pause(session: &Session, pool: &PgPool, target: &Target, audit: &Audit) -> Result<()> {
    if audit.why.is_none() {
        // Whoever finds work held back at night wants to know why.
        return Err(anyhow!(Coded::new(exit::USAGE, "say why: --why TEXT; `backhaul queue status` shows it")));
    }
    let new: bool = sqlx::query_scalar("select backhaul.pause($1, $2, $3, $4)")
        .bind(target.kind())
        .bind(target.tenant())
        .bind(audit.actor.name())
        .bind(&audit.why)
        .fetch_one(pool)
        .await
        .map_err(explain)?;
    if let Some(tenant) = &target.tenant
        && !is_known(session, pool, tenant).await?
    {
        // It may be one that is yet to come; more often it is a slip of the hand, and the right one goes on.
        eprintln!("warning: nothing is known of a tenant {tenant}: no job, no bucket, and no connection profile here");
    }
    let text = if new { "is paused; what runs goes on" } else { "was paused already" };
    tell(audit, &json!({ "paused": true, "changed": new }), &format!("{} {text}", target.words()))
}

/// Whether there is any trace of the tenant. The profiles are those of this machine, which need not be the workers'.
async fn is_known(session: &Session, pool: &PgPool, tenant: &str) -> Result<bool> {
    let traced: bool = sqlx::query_scalar(
        "select exists (select from backhaul.lanes where tenant = $1) or exists (select from backhaul.buckets where tenant = $1)
             or exists (select from backhaul.job_states where tenant = $1)",
    )
    .bind(tenant)
    .fetch_one(pool)
    .await
    .map_err(explain)?;
    Ok(traced || session.settings.profiles.dir.join(format!("{tenant}.toml")).exists())
}

async fn resume(pool: &PgPool, target: &Target, audit: &Audit) -> Result<()> {
    let was: bool = sqlx::query_scalar("select backhaul.resume($1, $2, $3, $4)")
        .bind(target.kind())
        .bind(target.tenant())
        .bind(audit.actor.name())
        .bind(&audit.why)
        .fetch_one(pool)
        .await
        .map_err(explain)?;
    let text = if was { "goes on" } else { "was not paused with these options; `backhaul queue status` shows what is" };
    tell(audit, &json!({ "paused": false, "changed": was }), &format!("{} {text}", target.words()))
}

async fn cap(pool: &PgPool, cap: &Cap) -> Result<()> {
    let max = if cap.none { None } else { cap.max };
    sqlx::query("select backhaul.set_cap($1, $2, $3, $4, $5)")
        .bind(&cap.kind)
        .bind(&cap.tenant)
        .bind(max)
        .bind(cap.audit.actor.name())
        .bind(&cap.audit.why)
        .execute(pool)
        .await
        .map_err(explain)?;
    let whose = if cap.tenant == "*" { String::new() } else { format!(" of {}", cap.tenant) };
    let text = match max {
        Some(max) => format!("at most {max} jobs of {}{whose} are in workers' hands at once", cap.kind),
        None => format!("{}{whose} has no cap", cap.kind),
    };
    tell(&cap.audit, &json!({ "kind": cap.kind, "tenant": cap.tenant, "running_max": max }), &text)
}

async fn weight(pool: &PgPool, weight: &Weight) -> Result<()> {
    sqlx::query("select backhaul.set_weight($1, $2, $3, $4, $5)")
        .bind(&weight.kind)
        .bind(&weight.tenant)
        .bind(weight.weight)
        .bind(weight.audit.actor.name())
        .bind(&weight.audit.why)
        .execute(pool)
        .await
        .map_err(explain)?;
    let Weight { kind, tenant, weight: times, audit } = weight;
    let text = format!("{kind} of {tenant} has weight {times}");
    tell(audit, &json!({ "kind": kind, "tenant": tenant, "weight": times }), &text)
}

async fn share(pool: &PgPool, share: &Share) -> Result<()> {
    sqlx::query("select backhaul.set_backfill_share($1, $2, $3, $4, $5)")
        .bind(&share.tenant)
        .bind(&share.bucket)
        .bind(share.share)
        .bind(share.audit.actor.name())
        .bind(&share.audit.why)
        .execute(pool)
        .await
        .map_err(explain)?;
    let Share { tenant, bucket, share: part, audit } = share;
    let text = format!("backfill may use {part} of {tenant}'s limit {bucket}");
    tell(audit, &json!({ "tenant": tenant, "bucket": bucket, "backfill_share": part }), &text)
}

fn tell(audit: &Audit, value: &Value, text: &str) -> Result<()> {
    if audit.json { table::print_json(value) } else { table::write_out(&format!("{text}\n")) }
}
