//! The admin listener: reconciliation on demand, metrics and health. It is not for the public network.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::App,
    event::Problem,
    json::Json,
    reply::{self, Refusal},
    signature,
};

/// Kind of the jobs that reconcile threads.
const RECONCILE_KIND: &str = "crm-sync";
/// Longest wait of a readiness probe for the database.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Whose thread it is; needed while there are several tenants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Whose {
    tenant: Option<String>,
}

/// `POST /api/reconcile/{threadId}`: enqueues a job that compares the thread's source with the CRM's record.
pub(crate) async fn reconcile(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(thread): Path<String>,
    whose: Result<Query<Whose>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let id = Uuid::now_v7();
    match enqueue(&app, &headers, &thread, whose.ok().map(|Query(whose)| whose)).await {
        Ok(job) => {
            tracing::info!(job, "reconciliation enqueued");
            reply::respond(StatusCode::ACCEPTED, &json!({"status": "accepted", "jobId": job, "threadId": thread}))
        }
        Err((refusal, why)) => {
            tracing::warn!(%id, code = refusal.code(), why, "reconciliation refused");
            refusal.respond(id)
        }
    }
}

async fn enqueue(app: &App, headers: &HeaderMap, thread: &str, whose: Option<Whose>) -> Result<i64, (Refusal, String)> {
    let plain = |refusal| (refusal, String::new());
    authenticate(app, headers).map_err(plain)?;
    let whose =
        whose.ok_or_else(|| plain(Refusal::BadRequest("the query may name a tenant and nothing else".into())))?;
    let mut tenants = app.profiles.tenants();
    let tenant = match (whose.tenant, tenants.next(), tenants.next()) {
        (Some(tenant), ..) => tenant,
        (None, Some(only), None) => only.to_owned(),
        _ => return Err(plain(Refusal::BadRequest("name the tenant: ?tenant=NAME".into()))),
    };
    let Some(profile) = app.profiles.get(&tenant) else { return Err(plain(Refusal::NotFound)) };
    let mut payload = Json::object();
    payload.set("threadId", thread.into());
    payload.set("reconcile", Json::Bool(true));
    let problems: Vec<Problem> = app.checks.check(profile, RECONCILE_KIND, &payload);
    if !problems.is_empty() {
        return Err(plain(Refusal::WrongShape(problems)));
    }
    let retry_after_s = app.limits.retry_after.as_secs().max(1);
    let statement = sqlx::query_scalar("select job_id from backhaul.enqueue($1, $2::text::jsonb, $3)")
        .bind(RECONCILE_KIND)
        .bind(payload.to_string())
        .bind(&tenant)
        .fetch_one(&app.store);
    match tokio::time::timeout(app.limits.store_timeout, statement).await {
        Ok(Ok(job)) => Ok(job),
        Ok(Err(error))
            if error
                .as_database_error()
                .is_some_and(|refused| refused.code().is_some_and(|code| code.starts_with("BH"))) =>
        {
            Err((Refusal::Internal, error.to_string()))
        }
        Ok(Err(error)) => Err((Refusal::Busy { code: "store_unavailable", retry_after_s }, error.to_string())),
        Err(_) => Err((Refusal::Busy { code: "store_unavailable", retry_after_s }, "no answer in time".into())),
    }
}

/// `GET /api/metrics`: counters since the start of this process.
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authenticate(&app, &headers) {
        return refusal.respond(Uuid::now_v7());
    }
    let mut shown = app.metrics.show();
    shown["backlog"] = json!(app.backlog.jobs());
    shown["registrations"] = app.registrations.show();
    reply::respond(StatusCode::OK, &shown)
}

/// `GET /healthz`: the process lives.
pub(crate) async fn healthz() -> Response {
    reply::respond(StatusCode::OK, &json!({"status": "ok"}))
}

/// `GET /readyz`: deliveries would be taken.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let asked = sqlx::query("select 1").execute(&app.store);
    let store = matches!(tokio::time::timeout(READY_TIMEOUT, asked).await, Ok(Ok(_)));
    let ready = store && !app.backlog.is_full();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::respond(
        status,
        &json!({"status": if ready { "ready" } else { "not_ready" }, "store": store, "queueFull": app.backlog.is_full()}),
    )
}

/// Checks the bearer token. Without one in the settings nobody gets in.
fn authenticate(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, token) = given.split_once(' ').unwrap_or(("", ""));
    let good = app.admin_token.as_ref().is_some_and(|known| {
        scheme.eq_ignore_ascii_case("bearer")
            && signature::same(known.expose_secret().as_bytes(), token.trim().as_bytes())
    });
    if good { Ok(()) } else { Err(Refusal::Unauthorized) }
}
