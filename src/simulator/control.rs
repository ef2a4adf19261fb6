//! The control plane under `/_sim/`: what a test or a person reads and changes. It is neither recorded nor limited.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    channels,
    documents::{Document, Kind, merge_patch},
    effects::EffectFilter,
    faults::faults_from_json,
    generate,
    locked::locked,
    oauth::ClientRule,
    record::RecordFilter,
    routes::is_well_formed,
    settings::Settings,
};

/// Rows in one answer unless `limit` says otherwise.
const LIMIT: usize = 100;
/// Most rows in one answer.
const LIMIT_MAX: usize = 50_000;

type Shared = State<Arc<App>>;
type Answer = Result<Json<Value>, Problem>;

/// A control request that cannot be served, with what to do about it.
pub(crate) struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("{error:#}"))
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.message}))).into_response()
    }
}

/// The routes.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/_sim/health", get(health))
        .route("/_sim/ca.pem", get(ca_pem))
        .route("/_sim/record", get(record))
        .route("/_sim/summary", get(summary))
        .route("/_sim/effects", get(effects))
        .route("/_sim/callbacks", get(callbacks))
        .route("/_sim/faults", get(list_faults).post(add_faults).delete(delete_faults))
        .route("/_sim/settings", get(settings).patch(change_settings))
        .route("/_sim/clients", post(register_client))
        .route("/_sim/tokens/revoke", post(revoke))
        .route("/_sim/clock/advance", post(advance))
        .route("/_sim/reset", post(reset))
        .route("/_sim/documents/{kind}/{tenant}", get(list_documents))
        .route(
            "/_sim/documents/{kind}/{tenant}/{id}",
            get(document).put(put_document).patch(patch_document).delete(delete_document),
        )
        .route("/_sim/generate", post(generate::generate))
        .route("/simulator/generate", post(generate::generate_one))
}

async fn health(State(app): Shared) -> Json<Value> {
    let Some(addresses) = app.addresses.get() else { return Json(json!({"status": "starting"})) };
    let tls: HashMap<&str, String> =
        addresses.tls.iter().map(|endpoint| (endpoint.kind.as_str(), endpoint.url())).collect();
    Json(json!({
        "status": "ok",
        "http": format!("http://{}", addresses.plain),
        "tls": tls,
        "mute": addresses.mute.map(|address| address.to_string()),
        "now": crate::clock::rfc3339(app.clock.now_ms()),
    }))
}

async fn ca_pem(State(app): Shared) -> Response {
    let pem = app.addresses.get().map(|addresses| addresses.ca_pem.clone()).unwrap_or_default();
    ([("content-type", "application/x-pem-file")], pem).into_response()
}

type Parameters = Query<HashMap<String, String>>;

fn text<'a>(parameters: &'a HashMap<String, String>, name: &str) -> Option<&'a str> {
    parameters.get(name).map(String::as_str)
}

fn number<T: std::str::FromStr>(parameters: &HashMap<String, String>, name: &str) -> Result<Option<T>, Problem> {
    let parse = |value: &str| {
        value
            .parse()
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, format!("{name}={value:?} is not a number in range")))
    };
    text(parameters, name).map(parse).transpose()
}

/// Refuses parameters that mean nothing here: a misspelt filter would otherwise match everything.
fn only(parameters: &HashMap<String, String>, known: &[&str]) -> Result<usize, Problem> {
    if let Some(stranger) = parameters.keys().find(|name| !known.contains(&name.as_str()) && *name != "limit") {
        let message = format!("there is no parameter {stranger:?}; known are limit, {}", known.join(", "));
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(number(parameters, "limit")?.unwrap_or(LIMIT).min(LIMIT_MAX))
}

async fn record(State(app): Shared, Query(given): Parameters) -> Answer {
    let limit = only(&given, &["tenant", "class", "method", "path", "status", "key", "since"])?;
    let filter = RecordFilter {
        tenant: text(&given, "tenant"),
        class: text(&given, "class"),
        method: text(&given, "method"),
        path: text(&given, "path"),
        status: number(&given, "status")?,
        key: text(&given, "key"),
        since: number(&given, "since")?.unwrap_or(0),
    };
    Ok(Json(json!({"requests": app.record.list(&filter, limit)})))
}

async fn summary(State(app): Shared) -> Answer {
    Ok(Json(serde_json::to_value(app.summary())?))
}

async fn effects(State(app): Shared, Query(given): Parameters) -> Answer {
    let limit = only(&given, &["tenant", "resource", "what", "key", "duplicates"])?;
    let filter = EffectFilter {
        tenant: text(&given, "tenant"),
        resource: text(&given, "resource"),
        what: text(&given, "what"),
        key: text(&given, "key"),
        duplicates_only: text(&given, "duplicates") == Some("true"),
    };
    let world = locked(&app.world);
    Ok(Json(json!({"totals": world.effects.totals(), "effects": world.effects.list(&filter, limit)})))
}

async fn callbacks(State(app): Shared, Query(given): Parameters) -> Answer {
    let limit = only(&given, &["path"])?;
    let world = locked(&app.world);
    let shown = world.callbacks.list(text(&given, "path"), limit);
    Ok(Json(json!({"received": world.callbacks.received(), "callbacks": shown})))
}

async fn list_faults(State(app): Shared) -> Json<Value> {
    Json(json!({"faults": app.faults.list()}))
}

async fn add_faults(State(app): Shared, Json(body): Json<Value>) -> Answer {
    let rules = faults_from_json(body)?;
    let added = rules.len();
    app.faults.add(rules, app.clock.now_ms())?;
    Ok(Json(json!({"added": added})))
}

async fn delete_faults(State(app): Shared, Query(given): Parameters) -> Answer {
    only(&given, &["name"])?;
    Ok(Json(json!({"removed": app.faults.remove(text(&given, "name"))})))
}

async fn settings(State(app): Shared) -> Answer {
    Ok(Json(serde_json::to_value(&*app.settings())?))
}

async fn change_settings(State(app): Shared, Json(patch): Json<Value>) -> Answer {
    let mut all = serde_json::to_value(&*app.settings())?;
    merge_patch(&mut all, &patch);
    let changed: Settings = serde_json::from_value(all)?;
    changed.check()?;
    app.set_settings(changed.clone());
    Ok(Json(serde_json::to_value(changed)?))
}

async fn register_client(State(app): Shared, Json(body): Json<Value>) -> Answer {
    let rule: ClientRule = serde_json::from_value(body)?;
    app.tokens.register(rule)?;
    Ok(Json(json!({"status": "registered"})))
}

/// A body that may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Revocation {
    tenant: Option<String>,
}

async fn revoke(State(app): Shared, body: axum::body::Bytes) -> Answer {
    let asked: Revocation = if body.is_empty() { Revocation::default() } else { serde_json::from_slice(&body)? };
    Ok(Json(json!({"revoked": app.tokens.revoke(asked.tenant.as_deref())})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    ms: i64,
}

async fn advance(State(app): Shared, Json(body): Json<Value>) -> Answer {
    let asked: Advance = serde_json::from_value(body)?;
    Ok(Json(json!({"now": crate::clock::rfc3339(app.clock.advance(asked.ms))})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Reset {
    tokens: bool,
}

async fn reset(State(app): Shared, body: axum::body::Bytes) -> Answer {
    let asked: Reset = if body.is_empty() { Reset::default() } else { serde_json::from_slice(&body)? };
    app.reset(asked.tokens);
    Ok(Json(json!({"status": "reset"})))
}

fn kind(name: &str) -> Result<Kind, Problem> {
    let known = Kind::ALL.map(Kind::as_str).join(", ");
    Kind::parse(name)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no kind {name:?}; known are {known}")))
}

fn shown(document: &Document) -> Value {
    json!({"version": document.version, "etag": document.etag(), "document": document.value})
}

async fn list_documents(
    State(app): Shared,
    Path((kind_name, tenant)): Path<(String, String)>,
    Query(given): Parameters,
) -> Answer {
    let (kind, limit) = (kind(&kind_name)?, only(&given, &[])?);
    Ok(Json(json!({"ids": locked(&app.world).documents.ids(kind, &tenant, limit)})))
}

type DocumentPath = Path<(String, String, String)>;

async fn document(State(app): Shared, Path((kind_name, tenant, id)): DocumentPath) -> Answer {
    let kind = kind(&kind_name)?;
    match locked(&app.world).documents.get(kind, &tenant, &id) {
        Some(document) => Ok(Json(shown(document))),
        None => Err(Problem::new(StatusCode::NOT_FOUND, format!("nobody has asked for {kind_name} {id} yet"))),
    }
}

/// Another writer: replaces the document, with a new version and entity tag, outside the ledger of effects.
async fn put_document(
    State(app): Shared,
    Path((kind_name, tenant, id)): DocumentPath,
    Json(body): Json<Value>,
) -> Answer {
    write_document(&app, kind(&kind_name)?, &tenant, &id, |_| body)
}

/// Another writer: changes the document by a merge patch (RFC 7396).
async fn patch_document(
    State(app): Shared,
    Path((kind_name, tenant, id)): DocumentPath,
    Json(body): Json<Value>,
) -> Answer {
    write_document(&app, kind(&kind_name)?, &tenant, &id, |mut value| {
        merge_patch(&mut value, &body);
        value
    })
}

/// Another writer of a fault script: as [`patch_document`].
pub(crate) fn merge_document(app: &App, kind: Kind, tenant: &str, id: &str, patch: &Value) {
    // A script that asks for nonsense changes nothing, which its test will notice.
    let _ = write_document(app, kind, tenant, id, |mut value| {
        merge_patch(&mut value, patch);
        value
    });
}

fn write_document(app: &App, kind: Kind, tenant: &str, id: &str, change: impl FnOnce(Value) -> Value) -> Answer {
    if !is_well_formed(id) || !is_well_formed(tenant) {
        let message = "tenant and id are 1 to 128 characters of A-Z, a-z, 0-9, _ and -";
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }
    let mut world = locked(&app.world);
    world.documents.now_ms = app.clock.now_ms();
    let current = match world.documents.get(kind, tenant, id) {
        Some(document) => document.value.clone(),
        None => kind.initial(id),
    };
    let value = change(current);
    if !value.is_object() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "a document is a JSON object"));
    }
    if kind == Kind::Channel {
        channels::collect_origins(&value, &mut world.channel_origins);
    }
    Ok(Json(shown(world.documents.put(kind, tenant, id, value))))
}

async fn delete_document(State(app): Shared, Path((kind_name, tenant, id)): DocumentPath) -> Answer {
    let kind = kind(&kind_name)?;
    Ok(Json(json!({"deleted": locked(&app.world).documents.remove(kind, &tenant, &id)})))
}
