//! `POST /api/reconcile/{threadId}`: has a thread's source compared with the CRM's record, now.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    admin,
    app::App,
    json::Json,
    reply::{self, Refusal},
};

/// Kind of the jobs.
const KIND: &str = "crm-sync";
/// Longest wait for a job that a caller may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at the job.
const LOOK: Duration = Duration::from_millis(200);

/// What the query may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Whose thread it is; needed while there are several tenants.
    tenant: Option<String>,
    /// How long to wait for the job's end.
    #[serde(default)]
    wait_s: u64,
}

/// How the job fares.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Fate {
    state: String,
    status: Option<String>,
    code: Option<String>,
    http_status: Option<i32>,
    due_at: Option<DateTime<Utc>>,
}

/// Enqueues the job. Answers 202 at once, or, asked to wait, how the job ended.
pub(crate) async fn reconcile(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(thread): Path<String>,
    options: Result<Query<Options>, QueryRejection>,
) -> Response {
    let id = Uuid::now_v7();
    let outcome = async {
        admin::authenticate(&app, &headers).map_err(plain)?;
        let wrong = || plain(Refusal::BadRequest("the query may hold tenant and wait_s, and nothing else".into()));
        let Query(options) = options.map_err(|_| wrong())?;
        let wait = Duration::from_secs(options.wait_s).min(WAIT_MAX);
        let job = enqueue(&app, &thread, options.tenant).await?;
        tracing::info!(job, "reconciliation enqueued");
        let fate = watch(&app, job, wait).await?;
        Ok((job, fate))
    };
    match outcome.await {
        Ok((job, fate)) => tell(&app, id, &thread, job, fate.as_ref()),
        Err((refusal, why)) => {
            tracing::warn!(%id, code = refusal.code(), why, "reconciliation refused");
            refusal.respond(id)
        }
    }
}

type Refused = (Refusal, String);

fn plain(refusal: Refusal) -> Refused {
    (refusal, String::new())
}

async fn enqueue(app: &App, thread: &str, tenant: Option<String>) -> Result<i64, Refused> {
    let mut tenants = app.profiles.tenants();
    let tenant = match (tenant, tenants.next(), tenants.next()) {
        (Some(tenant), ..) => tenant,
        (None, Some(only), None) => only.to_owned(),
        _ => return Err(plain(Refusal::BadRequest("name the tenant: ?tenant=NAME".into()))),
    };
    let Some(profile) = app.profiles.get(&tenant) else { return Err(plain(Refusal::NotFound)) };
    let mut payload = Json::object();
    payload.set("threadId", thread.into());
    payload.set("reconcile", Json::Bool(true));
    let problems = app.checks.check(profile, KIND, &payload);
    if !problems.is_empty() {
        return Err(plain(Refusal::WrongShape(problems)));
    }
    let statement = sqlx::query_scalar("select job_id from backhaul.enqueue($1, $2::text::jsonb, $3)")
        .bind(KIND)
        .bind(payload.to_string())
        .bind(&tenant)
        .fetch_one(&app.store);
    asked(app, statement).await
}

/// Looks at the job until it has ended, or the upstream asked for peace, or the wait is over.
async fn watch(app: &App, job: i64, wait: Duration) -> Result<Option<Fate>, Refused> {
    if wait.is_zero() {
        return Ok(None);
    }
    let look = async {
        loop {
            let statement = sqlx::query_as("select * from backhaul.job_fate($1)").bind(job).fetch_one(&app.store);
            let fate: Fate = asked(app, statement).await?;
            if fate.state != "waiting" || fate.is_throttled() {
                return Ok(fate);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(wait, look).await.ok().transpose()
}

async fn asked<T>(app: &App, statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Refused> {
    let away = |why: String| {
        let retry_after_s = app.limits.retry_after.as_secs().max(1);
        (Refusal::Busy { code: "store_unavailable", retry_after_s }, why)
    };
    match tokio::time::timeout(app.limits.store_timeout, statement).await {
        Ok(Ok(answer)) => Ok(answer),
        // Our own refusals are about the call, which this program made.
        Ok(Err(error)) if error.as_database_error().is_some_and(is_ours) => Err((Refusal::Internal, error.to_string())),
        Ok(Err(error)) => Err(away(error.to_string())),
        Err(_) => Err(away("no answer in time".to_owned())),
    }
}

fn is_ours(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with("BH"))
}

impl Fate {
    fn is_throttled(&self) -> bool {
        self.http_status == Some(429) || matches!(self.code.as_deref(), Some("throttled" | "rate_limited"))
    }
}

/// The upstream's answer in our caller's terms: a thread that is not there is 404, a limit is 503 with the time to come
/// back, and only what is broken between us and the upstream is 502.
fn tell(app: &App, id: Uuid, thread: &str, job: i64, fate: Option<&Fate>) -> Response {
    let body = |status: &str| json!({"status": status, "jobId": job, "threadId": thread});
    let Some(fate) = fate else { return reply::respond(StatusCode::ACCEPTED, &body("accepted")) };
    match fate.state.as_str() {
        "done" if fate.status.as_deref() == Some("up_to_date") => reply::respond(StatusCode::OK, &body("UP_TO_DATE")),
        "done" => reply::respond(StatusCode::OK, &body("RECONCILED")),
        "dead" => {
            tracing::warn!(%id, job, code = fate.code, "reconciliation failed");
            let refusal = match fate.http_status {
                Some(404 | 410) => Refusal::NotFound,
                _ => Refusal::Upstream { code: fate.code.clone().unwrap_or_default() },
            };
            refusal.respond(id)
        }
        _ => {
            let until = fate.due_at.and_then(|at| (at - app.clock.now()).to_std().ok()).unwrap_or_default();
            Refusal::Busy { code: "upstream_busy", retry_after_s: until.as_secs().saturating_add(1) }.respond(id)
        }
    }
}
