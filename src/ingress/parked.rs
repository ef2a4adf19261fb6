//! Events that became no job: what they would become by today's routes.

use backhaul_engine::Store;
use backhaul_outbound::Profile;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    app::Checks,
    event::{self, Arrival, Problem},
    jobs::{self, Common},
    json::Json,
    routes::Routes,
};

/// A parked event as it is stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Parked {
    /// Our id of it.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// The source's name.
    pub source: String,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// The body as it arrived.
    pub body: Vec<u8>,
    /// W3C trace context of the sender.
    pub traceparent: Option<String>,
}

/// Why a parked event stays parked.
#[derive(Debug, thiserror::Error)]
pub enum StillParked {
    /// There is no such parked event.
    #[error("there is no parked event {0}")]
    NotFound(Uuid),
    /// The routes no longer know its source.
    #[error("routes.toml has no source {0:?}")]
    NoSource(String),
    /// It still cannot be read.
    #[error("the body is still invalid: {0}")]
    Invalid(String),
    /// No route wants it.
    #[error("no route of {path} takes the event ({reason}); add one to routes.toml")]
    NoRoute {
        /// The source's name.
        path: String,
        /// `unknown_channel` or `unmatched_event`.
        reason: &'static str,
    },
    /// The database refused or went away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Routes a parked event anew and enqueues its jobs. Returns their ids.
///
/// # Errors
/// Why it stays parked.
pub async fn replay(
    store: &Store,
    routes: &Routes,
    checks: &Checks,
    profile: Option<&Profile>,
    parked: &Parked,
    actor: Option<&str>,
    why: &str,
) -> Result<Vec<i64>, StillParked> {
    let jobs = jobs_of(routes, checks, profile, parked)?;
    Ok(sqlx::query_scalar("select backhaul.parked_replay($1, $2::text::jsonb, $3, $4)")
        .bind(parked.id)
        .bind(jobs)
        .bind(actor)
        .bind(why)
        .fetch_one(store)
        .await?)
}

/// Reads a parked event.
///
/// # Errors
/// It is not there, or the database is not.
pub async fn load(store: &Store, id: Uuid) -> Result<Parked, StillParked> {
    sqlx::query_as(
        "select id, tenant, source, received_at, body, traceparent from backhaul.ingress_events
         where id = $1 and parked is not null",
    )
    .bind(id)
    .fetch_optional(store)
    .await?
    .ok_or(StillParked::NotFound(id))
}

fn jobs_of(
    routes: &Routes,
    checks: &Checks,
    profile: Option<&Profile>,
    parked: &Parked,
) -> Result<String, StillParked> {
    let source = routes.source(&parked.source).ok_or_else(|| StillParked::NoSource(parked.source.clone()))?;
    let body = Json::parse(&parked.body).map_err(|error| StillParked::Invalid(error.to_string()))?;
    let reading = event::read(source, &body).map_err(|problems| StillParked::Invalid(told(&problems)))?;
    let route = source
        .route(&reading.event_type, reading.channel.as_deref())
        .map_err(|reason| StillParked::NoRoute { path: source.name.clone(), reason })?;
    let arrival = Arrival { id: parked.id, received_at: parked.received_at };
    let (record, _) = event::record(routes, source, route, &reading, arrival, &body);
    let jobs = jobs::of(routes, route, &record, &body);
    let problems: Vec<Problem> = profile.map_or_else(Vec::new, |profile| {
        jobs.iter().flat_map(|job| checks.check(profile, &job.kind, &job.payload)).collect()
    });
    if !problems.is_empty() {
        return Err(StillParked::Invalid(told(&problems)));
    }
    let traceparent = parked.traceparent.as_deref();
    Ok(jobs::argument(&jobs, Common { tenant: &parked.tenant, event: parked.id, traceparent }))
}

fn told(problems: &[Problem]) -> String {
    let told: Vec<String> =
        problems.iter().take(20).map(|problem| format!("{} {}", problem.pointer, problem.message)).collect();
    told.join("; ")
}
