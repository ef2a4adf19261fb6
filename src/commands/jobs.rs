//! `backhaul jobs`: unfinished and dead jobs, one job's life, why it does not run, and what a person does about it.

mod decide;
mod explain;
pub(crate) mod preview;
mod reprioritize;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    database::{explain, is_forbidden, rows_of},
    exit::{self, Coded},
    session::Session,
    table::{self, Column},
};

/// List, count, show, explain, reschedule and cancel jobs.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  backhaul jobs list --state retrying --kind enrichment
  backhaul jobs list --json | jq '.[].id'
  backhaul jobs show 4711
  backhaul jobs explain 4711
  backhaul jobs preview 4711
  backhaul jobs reschedule 4711 --at now
  backhaul jobs reprioritize 4711 --priority critical
  backhaul jobs cancel 4711 --why 'the customer withdrew'
  backhaul jobs count --batch leavers-2026
  backhaul jobs cancel --batch leavers-2026 --why 'wrong file' --yes")]
pub(crate) enum Jobs {
    /// List unfinished and dead jobs, oldest first
    List(List),
    /// Show one job: its state, steps, failures and events. A finished job is known by its events
    Show(ShowOne),
    Explain(explain::Explain),
    Preview(preview::PreviewOne),
    Reschedule(decide::Reschedule),
    Reprioritize(reprioritize::Reprioritize),
    Cancel(decide::Cancel),
    /// Count jobs by state; with --batch also those that have ended
    Count(Count),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Ready,
    Running,
    Scheduled,
    Retrying,
    Blocked,
    Dead,
}

/// Which jobs are meant.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only jobs of this batch: those whose idempotency key begins with NAME/, as `backfill --batch` makes them
    #[arg(long, value_name = "NAME")]
    batch: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.kind.is_none() && self.tenant.is_none() && self.state.is_none() && self.batch.is_none()
    }

    fn state(&self) -> Option<String> {
        self.state.and_then(|state| state.to_possible_value().map(|value| value.get_name().to_owned()))
    }
}

/// The condition of a [`Filter`] on `job_states`, with the placeholders $1 to $4.
const MATCHES: &str = "($1::text is null or kind = $1) and ($2::text is null or tenant = $2)
    and ($3::text is null or state = $3) and ($4::text is null or starts_with(idempotency_key, $4 || '/'))";

#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    filter: Filter,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only jobs with a greater id: the next page
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: i64,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowOne {
    /// The job's id
    id: i64,
    /// Show the payload too; it may hold personal data
    #[arg(long)]
    payload: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 9] = [
    ("id", "ID"),
    ("kind", "KIND"),
    ("tenant", "TENANT"),
    ("priority", "PRIORITY"),
    ("state", "STATE"),
    ("tries", "TRIES"),
    ("due", "DUE"),
    ("enqueued", "ENQUEUED"),
    ("last_error", "LAST ERROR"),
];

const STEPS: [Column; 3] = [("name", "STEP"), ("state", "STATE"), ("at", "AT")];
const ERRORS: [Column; 6] = [
    ("at", "AT"),
    ("attempt", "TRY"),
    ("step", "STEP"),
    ("code", "CODE"),
    ("http_status", "HTTP"),
    ("message", "MESSAGE"),
];
const EVENTS: [Column; 3] = [("occurred_at", "AT"), ("type", "EVENT"), ("subject", "SUBJECT")];

/// Runs one of the subcommands.
pub(crate) async fn run(session: &Session, command: Jobs) -> Result<()> {
    let pool = session.connect().await?;
    match command {
        Jobs::List(list) => self::list(&pool, list).await,
        Jobs::Show(show) => self::show(&pool, &show).await,
        Jobs::Explain(one) => explain::run(&pool, &one).await,
        Jobs::Preview(one) => preview::run(session, one).await,
        Jobs::Reschedule(command) => decide::reschedule(&pool, &command).await,
        Jobs::Reprioritize(one) => reprioritize::run(&pool, one).await,
        Jobs::Cancel(command) => decide::cancel(&pool, &command).await,
        Jobs::Count(count) => self::count(&pool, &count).await,
    }
}

async fn list(pool: &PgPool, list: List) -> Result<()> {
    let filter = list.filter;
    let rows = rows_of(&format!(
        "select id, kind, tenant, priority, state, attempt, max_attempts, due_at, enqueued_at, deadline_at,
                ordering_key, idempotency_key, enqueued_by, rescues, replays, worker,
                attempt || '/' || max_attempts as tries,
                to_char(due_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as due,
                to_char(enqueued_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') as enqueued,
                last_error ->> 'code' as last_error
         from backhaul.job_states where {MATCHES} and id > $5 order by id limit $6"
    ))
    .bind(&filter.kind)
    .bind(&filter.tenant)
    .bind(filter.state())
    .bind(&filter.batch)
    .bind(list.after)
    .bind(list.limit)
    .fetch_all(pool)
    .await
    .map_err(explain)?;
    table::print(&rows, &COLUMNS, list.json, "no such jobs")
}

/// A finished job is gone from the queue; of a batch its key is remembered, so that its end can be looked up.
async fn count(pool: &PgPool, count: &Count) -> Result<()> {
    let Count { filter, json } = count;
    let rows = match &filter.batch {
        Some(batch) => {
            let sql = "select * from backhaul.batch_states($1, $2, $3) where $4::text is null or state = $4";
            rows_of(sql).bind(batch).bind(&filter.kind).bind(&filter.tenant).bind(filter.state())
        }
        None => rows_of(&format!(
            "select state, count(*) as jobs from backhaul.job_states where {MATCHES} group by state order by state"
        ))
        .bind(&filter.kind)
        .bind(&filter.tenant)
        .bind(filter.state())
        .bind(&filter.batch),
    };
    let rows = rows.fetch_all(pool).await.map_err(explain)?;
    table::print(&rows, &[("state", "STATE"), ("jobs", "JOBS")], *json, "no such jobs")
}

async fn show(pool: &PgPool, show: &ShowOne) -> Result<()> {
    let job = rows_of("select * from backhaul.job_states where id = $1").bind(show.id);
    let job = job.fetch_optional(pool).await.map_err(explain)?;
    let events = rows_of(
        "select occurred_at, type, aggregateid as subject, payload from backhaul.outbox_events where job_id = $1
         order by event_no limit 1000",
    );
    let events = events.bind(show.id).fetch_all(pool).await.map_err(explain)?;
    if job.is_none() && events.is_empty() {
        return Err(anyhow!(Coded::new(exit::NOT_FOUND, format!("there is no job {} and no event of one", show.id))));
    }
    let inside = rows_of(
        "select payload, errors from backhaul.jobs where id = $1
         union all select payload, errors from backhaul.dead_letters where id = $1",
    );
    let inside = match inside.bind(show.id).fetch_optional(pool).await {
        // A reader may see a job's state and events but not its content.
        Err(error) if !show.payload && is_forbidden(&error) => Value::Null,
        answer => answer.map_err(explain)?.unwrap_or_default(),
    };
    let steps = rows_of("select name, state, at from backhaul.steps where job_id = $1 order by at");
    let steps = match steps.bind(show.id).fetch_all(pool).await {
        Err(error) if is_forbidden(&error) => Vec::new(),
        answer => answer.map_err(explain)?,
    };
    let errors = inside["errors"].as_array().cloned().unwrap_or_default();

    if show.json {
        let mut whole = json!({ "job": job, "steps": steps, "errors": errors, "events": events });
        if show.payload {
            whole["payload"] = inside["payload"].clone();
        }
        return table::print_json(&whole);
    }
    let mut text = match &job {
        Some(job) => members(job),
        None => format!("job {} is finished; its events remain\n", show.id),
    };
    for (title, rows, columns) in
        [("Steps", &steps, &STEPS[..]), ("Failures", &errors, &ERRORS[..]), ("Events", &events, &EVENTS[..])]
    {
        if !rows.is_empty() {
            text.push_str(&format!("\n{title}\n{}", table::render_whole(rows, columns)));
        }
    }
    if show.payload && !inside["payload"].is_null() {
        text.push_str(&format!("\nPayload\n{:#}\n", inside["payload"]));
    }
    table::write_out(&text)
}

/// The members of an object that are set, one a line.
fn members(object: &Value) -> String {
    let rows: Vec<Value> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null() && !value.is_object())
        .map(|(name, value)| json!({ "name": name, "value": value.as_str().map_or(value.to_string(), str::to_owned) }))
        .collect();
    table::render_whole(&rows, &[("name", "JOB"), ("value", "")])
}
