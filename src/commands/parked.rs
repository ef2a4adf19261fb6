//! `backhaul parked`: webhook events that became no job.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use backhaul_engine::Store;
use backhaul_ingress::parked::{self, StillParked};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    database::{explain, explain_store, rows_of},
    exit::{self, Coded},
    serve,
    session::{Actor, Session},
    table::{self, Column},
};

/// List, show, replay and discard webhook events that no route wanted.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul parked list
  backhaul parked show 0198c0de-0000-7000-8000-000000000001 --body
  backhaul parked replay 0198c0de-0000-7000-8000-000000000001
  backhaul parked replay --reason unknown_channel
  backhaul parked discard 0198c0de-0000-7000-8000-000000000001 --why 'not ours'

A replay routes the event anew by routes.toml as it is now, and makes its jobs once.")]
pub(crate) enum Parked {
    /// List parked events, newest first
    List(List),
    /// Show one parked event
    Show(ShowOne),
    /// Route parked events anew
    Replay(Replay),
    /// Give parked events up for good
    Discard(Discard),
}

/// Which events are meant.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this reason, for example unknown_channel
    #[arg(long)]
    reason: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowOne {
    /// The event's id
    id: Uuid,
    /// Show the body too; it may hold personal data
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Ids of events; none means those of the filter, oldest first
    #[arg(value_name = "ID", conflicts_with_all = ["tenant", "reason"])]
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// What becomes of which event [default: the setting ingress.routes]
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    #[command(flatten)]
    actor: Actor,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "replayed by hand")]
    why: String,
    /// Print a JSON array of outcomes
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// Ids of events
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Uuid>,
    #[command(flatten)]
    actor: Actor,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT")]
    why: String,
}

const COLUMNS: [Column; 7] = [
    ("id", "ID"),
    ("tenant", "TENANT"),
    ("source", "SOURCE"),
    ("reason", "REASON"),
    ("event_type", "EVENT"),
    ("channel", "CHANNEL"),
    ("received", "RECEIVED"),
];
const OUTCOMES: [Column; 3] = [("id", "ID"), ("outcome", "OUTCOME"), ("detail", "DETAIL")];

/// Runs one of the subcommands.
pub(crate) async fn run(session: &Session, command: Parked) -> Result<()> {
    match command {
        Parked::List(list) => self::list(session, list).await,
        Parked::Show(show) => self::show(session, &show).await,
        Parked::Replay(replay) => self::replay(session, &replay).await,
        Parked::Discard(discard) => self::discard(session, &discard).await,
    }
}

async fn list(session: &Session, list: List) -> Result<()> {
    let pool = session.connect().await?;
    let rows = rows_of(
        "select p.*, to_char(p.received_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as received
         from backhaul.parked_events p
         where ($1::text is null or p.tenant = $1) and ($2::text is null or p.reason = $2)
         order by p.received_at desc, p.id desc limit $3",
    )
    .bind(list.filter.tenant)
    .bind(list.filter.reason)
    .bind(list.filter.limit)
    .fetch_all(&pool)
    .await
    .map_err(explain)?;
    table::print(&rows, &COLUMNS, list.json, "no parked events")
}

async fn show(session: &Session, show: &ShowOne) -> Result<()> {
    let pool = session.connect().await?;
    let found = rows_of("select * from backhaul.parked_events where id = $1").bind(show.id);
    let mut event = found.fetch_optional(&pool).await.map_err(explain)?.ok_or_else(|| not_found(show.id))?;
    if show.body {
        let body: Vec<u8> = sqlx::query_scalar("select body from backhaul.ingress_events where id = $1")
            .bind(show.id)
            .fetch_one(&pool)
            .await
            .map_err(explain)?;
        // A body that is no JSON is shown as the text that it is.
        let text = String::from_utf8_lossy(&body);
        event["body"] = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.as_ref()));
    }
    table::print_json(&event)
}

async fn replay(session: &Session, replay: &Replay) -> Result<()> {
    let routes = serve::read_routes(replay.routes.as_deref().unwrap_or(&session.settings.ingress.routes))?;
    let (profiles, checks) = (serve::read_profiles(session)?, serve::checks());
    let store = session.store().await?;
    let mut outcomes = Vec::new();
    for id in chosen(&store, replay).await? {
        let replayed = async {
            let event = parked::load(&store, id).await?;
            let profile = profiles.get(&event.tenant).map(AsRef::as_ref);
            parked::replay(&store, &routes, &checks, profile, &event, &replay.actor.name(), &replay.why).await
        };
        match replayed.await {
            Ok(jobs) => outcomes.push(
                json!({ "id": id, "outcome": "replayed", "detail": format!("{} jobs", jobs.len()), "jobs": jobs }),
            ),
            Err(StillParked::Database(error)) if error.as_database_error().is_none() => return Err(explain(error)),
            Err(error) => outcomes.push(json!({ "id": id, "outcome": "parked", "detail": error.to_string() })),
        }
    }
    table::print(&outcomes, &OUTCOMES, replay.json, "no parked events")?;
    let left = outcomes.iter().filter(|outcome| outcome["outcome"] != "replayed").count();
    if left == 0 {
        return Ok(());
    }
    Err(anyhow!(Coded::new(exit::UNWELL, format!("{left} of {} events stay parked", outcomes.len()))))
}

async fn chosen(store: &Store, replay: &Replay) -> Result<Vec<Uuid>> {
    if !replay.ids.is_empty() {
        return Ok(replay.ids.clone());
    }
    sqlx::query_scalar(
        "select id from backhaul.parked_events
         where ($1::text is null or tenant = $1) and ($2::text is null or reason = $2)
         order by received_at, id limit $3",
    )
    .bind(&replay.filter.tenant)
    .bind(&replay.filter.reason)
    .bind(replay.filter.limit)
    .fetch_all(store)
    .await
    .map_err(|error| explain_store(error.into()))
}

async fn discard(session: &Session, discard: &Discard) -> Result<()> {
    let pool = session.connect().await?;
    for id in &discard.ids {
        sqlx::query("select backhaul.parked_discard($1, $2, $3)")
            .bind(id)
            .bind(discard.actor.name())
            .bind(&discard.why)
            .execute(&pool)
            .await
            .map_err(explain)?;
    }
    table::write_out(&format!("{} parked events discarded\n", discard.ids.len()))
}

fn not_found(id: Uuid) -> anyhow::Error {
    anyhow!(Coded::new(exit::NOT_FOUND, format!("there is no parked event {id}")))
}
