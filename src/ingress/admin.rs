//! The admin listener: metrics, health, and (in its own file) reconciliation on demand. It is not for the public network.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use secrecy::ExposeSecret;
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::App,
    reply::{self, Refusal},
    signature,
};

/// Longest wait of a readiness probe for the database.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /api/metrics`: counters since the start of this process.
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authenticate(&app, &headers) {
        return refusal.respond(Uuid::now_v7());
    }
    let mut shown = app.metrics.show();
    shown["backlog"] = json!(app.backlog.waiting());
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
    // A tenant whose jobs wait is no reason: the replica would be taken away from the others.
    let (status, word) = if store { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    reply::respond(status, &json!({"status": word, "store": store}))
}

/// Checks the bearer token. Without one in the settings nobody gets in.
pub(crate) fn authenticate(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, token) = given.split_once(' ').unwrap_or(("", ""));
    let good = app.admin_token.as_ref().is_some_and(|known| {
        scheme.eq_ignore_ascii_case("bearer")
            && signature::same(known.expose_secret().as_bytes(), token.trim().as_bytes())
    });
    if good { Ok(()) } else { Err(Refusal::Unauthorized) }
}
