//! `backhaul parked`: webhook events that became no job.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use backhaul_engine::Store;
use backhaul_ingress::parked::{self, StillParked};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    bulk::{self, Bulk, Fate, Words},
    database::{explain, rows_of},
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
  backhaul parked replay --reason unknown_channel --yes
  backhaul parked discard 0198c0de-0000-7000-8000-000000000001 --why 'not ours'
  backhaul parked discard --tenant acme --reason unmatched_event --why 'not ours' --yes

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

/// Events that are asked for at a time.
const PAGE_EVENTS: usize = 500;
/// Events that one replay by filter looks at, however few of them can be routed.
const LOOKED_AT_MAX: usize = 100_000;

/// Which events are meant.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this reason, for example unknown_channel
    #[arg(long)]
    reason: Option<String>,
}

/// The condition of a [`Filter`], on the placeholders $1 and $2.
const MATCHES: &str = "($1::text is null or tenant = $1) and ($2::text is null or reason = $2)";

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
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

/// Events by their ids, or all that a filter finds, oldest first.
#[derive(Debug, Args)]
struct Chosen {
    /// Ids of events
    #[arg(value_name = "ID", conflicts_with_all = ["tenant", "reason"])]
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    actor: Actor,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    chosen: Chosen,
    /// What becomes of which event [default: the setting ingress.routes]
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT", default_value = "replayed by hand")]
    why: String,
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
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
    let rows = rows_of(&format!(
        "select p.*, to_char(p.received_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as received
         from backhaul.parked_events p where {MATCHES} order by p.received_at desc, p.id desc limit $3"
    ))
    .bind(list.filter.tenant)
    .bind(list.filter.reason)
    .bind(list.limit)
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
    let Replay { chosen, routes, why } = replay;
    let routes = serve::read_routes(routes.as_deref().unwrap_or(&session.settings.ingress.routes))?;
    let (profiles, checks) = (serve::read_profiles(session)?, serve::checks());
    let store = session.store().await?;
    let actor = chosen.actor.name();
    let mut outcomes = Vec::new();
    let mut replayed = 0;
    let mut pages = Pages::of(&store, chosen)?;
    if pages.only_counts() {
        return bulk::announce(pages.total().await?, &chosen.bulk, Words { thing: "parked event", done: "replayed" });
    }
    // Events that no route wants yet do not use the limit up, or the same ones would stand before all others for ever.
    'all: while let Some(page) = pages.next().await? {
        for id in page {
            let jobs = async {
                let event = parked::load(&store, id).await?;
                let profile = profiles.get(&event.tenant).map(AsRef::as_ref);
                parked::replay(&store, &routes, &checks, profile, &event, actor.as_deref(), why).await
            };
            match jobs.await {
                Ok(jobs) => {
                    replayed += 1;
                    let detail = format!("{} jobs", jobs.len());
                    outcomes.push(json!({ "id": id, "outcome": "replayed", "detail": detail, "jobs": jobs }));
                }
                Err(StillParked::Database(error)) if error.as_database_error().is_none() => return Err(explain(error)),
                Err(error) => outcomes.push(json!({ "id": id, "outcome": "parked", "detail": error.to_string() })),
            }
            if chosen.ids.is_empty() && (replayed >= chosen.bulk.limit || outcomes.len() >= LOOKED_AT_MAX) {
                break 'all;
            }
        }
    }
    table::print(&outcomes, &OUTCOMES, chosen.bulk.json, "no parked events")?;
    let left = outcomes.iter().filter(|outcome| outcome["outcome"] != "replayed").count();
    if left == 0 {
        return Ok(());
    }
    Err(anyhow!(Coded::new(exit::UNWELL, format!("{left} of {} events stay parked", outcomes.len()))))
}

async fn discard(session: &Session, discard: &Discard) -> Result<()> {
    let Discard { chosen, why } = discard;
    let store = session.store().await?;
    let words = Words { thing: "parked event", done: "discarded" };
    let mut pages = Pages::of(&store, chosen)?;
    if pages.only_counts() {
        return bulk::announce(pages.total().await?, &chosen.bulk, words);
    }
    let most = usize::try_from(chosen.bulk.limit).unwrap_or(usize::MAX);
    let mut ids = Vec::new();
    while let Some(page) = pages.next().await? {
        ids.extend(page);
        if chosen.ids.is_empty() && ids.len() >= most {
            ids.truncate(most);
            break;
        }
    }
    bulk::decide(&ids, chosen.ids.is_empty(), &chosen.bulk, words, async |id| {
        let given_up = sqlx::query("select backhaul.parked_discard($1, $2, $3)");
        given_up.bind(id).bind(chosen.actor.name()).bind(why).execute(&store).await.map_err(explain)?;
        Ok(Fate::Done(words.done.to_owned()))
    })
    .await
}

/// The chosen events page by page, oldest first.
struct Pages<'a> {
    store: &'a Store,
    chosen: &'a Chosen,
    last: Option<(DateTime<Utc>, Uuid)>,
    ended: bool,
}

impl<'a> Pages<'a> {
    fn of(store: &'a Store, chosen: &'a Chosen) -> Result<Self> {
        if chosen.ids.is_empty() && chosen.filter.tenant.is_none() && chosen.filter.reason.is_none() {
            return Err(anyhow!(Coded::new(exit::USAGE, "name ids, or a filter: --tenant, --reason")));
        }
        Ok(Self { store, chosen, last: None, ended: false })
    }

    fn only_counts(&self) -> bool {
        self.chosen.ids.is_empty() && !self.chosen.bulk.yes
    }

    async fn total(&self) -> Result<i64> {
        let sql = format!("select count(*) from backhaul.parked_events where {MATCHES}");
        let total = sqlx::query_scalar(AssertSqlSafe(sql));
        let Filter { tenant, reason } = &self.chosen.filter;
        total.bind(tenant).bind(reason).fetch_one(self.store).await.map_err(explain)
    }

    async fn next(&mut self) -> Result<Option<Vec<Uuid>>> {
        if std::mem::replace(&mut self.ended, !self.chosen.ids.is_empty()) {
            return Ok(None);
        }
        if !self.chosen.ids.is_empty() {
            return Ok(Some(self.chosen.ids.clone()));
        }
        let sql = format!(
            "select received_at, id from backhaul.parked_events
             where {MATCHES} and ($3::timestamptz is null or (received_at, id) > ($3, $4::uuid))
             order by received_at, id limit {PAGE_EVENTS}"
        );
        let Filter { tenant, reason } = &self.chosen.filter;
        let page: Vec<(DateTime<Utc>, Uuid)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(reason)
            .bind(self.last.map(|(at, _)| at))
            .bind(self.last.map(|(_, id)| id))
            .fetch_all(self.store)
            .await
            .map_err(explain)?;
        self.last = page.last().copied();
        self.ended = page.is_empty();
        Ok(Some(page.into_iter().map(|(_, id)| id).collect()).filter(|_| !self.ended))
    }
}

fn not_found(id: Uuid) -> anyhow::Error {
    anyhow!(Coded::new(exit::NOT_FOUND, format!("there is no parked event {id}")))
}
