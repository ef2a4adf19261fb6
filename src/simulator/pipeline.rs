//! The way of every request: understand, identify, let a fault rule have its say, authorise, limit, carry out,
//! record, answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    extract::{ConnectInfo, Request, State},
    http::{HeaderName, Method, header, request::Parts},
    response::Response,
};
use serde_json::Value;

use crate::{
    app::App,
    control, discovery,
    documents::Kind,
    faults::{Facts, FaultRule, Reset},
    fingerprint::fingerprint,
    limits::Standing,
    listener::Connection,
    locked::locked,
    oauth::Identity,
    record::{Entry, kept_headers},
    reply::Reply,
    routes::{self, Class, Route, Target},
    scopes,
    settings::Settings,
    spoil, websocket,
    world::{Call, Handled},
};

/// A request, read and understood.
pub(crate) struct Received {
    pub(crate) parts: Parts,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) target: Target,
    pub(crate) class: Class,
    body: Bytes,
    json: Option<Value>,
    fingerprint: u64,
    identity: Identity,
    idempotency_key: Option<String>,
    now_ms: i64,
    began: Instant,
}

/// How a request ended, for the record.
struct Ending<'a> {
    status: u16,
    applied: bool,
    replayed: bool,
    fault: Option<&'a FaultRule>,
}

/// Serves everything outside the control plane.
pub(crate) async fn serve(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, app.options.body_bytes_max).await else {
        return Reply::error(413, "too_large", "the body is longer than the simulator takes").into_response();
    };
    // A copy, because a part of the connection's read buffer would keep the whole buffer in the record.
    let body = Bytes::copy_from_slice(&body);
    let mut received = understand(&app, parts, body, began);
    let facts = Facts {
        tenant: &received.identity.tenant,
        class: received.class,
        method: received.parts.method.as_str(),
        path: received.parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        body: &received.body,
        now_ms: received.now_ms,
    };
    let fault = app.faults.decide(&facts);
    if let Some(delay_ms) = fault.as_ref().and_then(|fault| fault.then.delay_ms) {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let settings = app.settings();
    if let Some(other) = fault.as_ref().and_then(|fault| fault.then.other_writer.as_ref())
        && let Some(kind) = Kind::parse(&other.kind)
    {
        control::merge_document(&app, kind, &received.identity.tenant, &other.id, &other.patch);
    }
    let commits = fault.as_ref().is_none_or(|fault| fault.then.commits());
    if commits && received.target.route == Route::Socket {
        let answered = websocket::answer(&app, &settings, &mut received, &connection).await;
        let status = answered.as_ref().map_or(0, |response| response.status().as_u16());
        let ending = Ending { status, applied: false, replayed: false, fault: fault.as_deref() };
        record(&app, &received, &ending);
        return match answered {
            Some(response) => response,
            None => websocket::no_answer(&received, &connection).await,
        };
    }
    let handled = if commits {
        carry_out(&app, &settings, &received)
    } else {
        Handled { reply: Reply::empty(200), applied: false, replayed: false }
    };
    let Some(fault) = fault else {
        let ending =
            Ending { status: handled.reply.status, applied: handled.applied, replayed: handled.replayed, fault: None };
        record(&app, &received, &ending);
        return handled.reply.into_response();
    };
    answer_spoilt(&app, &received, handled, &fault, &connection).await
}

async fn answer_spoilt(
    app: &App,
    received: &Received,
    handled: Handled,
    fault: &FaultRule,
    connection: &Connection,
) -> Response {
    if let Some(delay_ms) = fault.then.answer_delay_ms {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let Handled { reply, applied, replayed } = handled;
    if matches!(fault.then.reset, Some(Reset::Before | Reset::AfterCommit)) {
        record(app, received, &Ending { status: 0, applied, replayed, fault: Some(fault) });
        connection.cut();
        return Reply::empty(500).into_response();
    }
    let reply = spoil::spoil(reply, &fault.then, app.clock.now_ms());
    record(app, received, &Ending { status: reply.status, applied, replayed, fault: Some(fault) });
    if fault.then.endless_body { spoil::endless(reply) } else { reply.into_response() }
}

fn understand(app: &App, parts: Parts, body: Bytes, began: Instant) -> Received {
    let now_ms = app.clock.now_ms();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let target = routes::parse(&path);
    let is_token = target.route == Route::Token;
    let json = if is_token || body.is_empty() { None } else { serde_json::from_slice(&body).ok() };
    let class = routes::class_of_webhook_body(&target, json.as_ref());
    let identity = match target.route {
        Route::Token => app.tokens.identify_client(&parts.headers, &body),
        _ => app.tokens.identify(&parts.headers, now_ms),
    };
    // Deliveries that follow Standard Webhooks name themselves by `webhook-id`.
    let key_header = if target.route == Route::Callback { "webhook-id" } else { "idempotency-key" };
    let key = parts.headers.get(key_header).or_else(|| parts.headers.get("idempotency-key"));
    let idempotency_key = key.and_then(|key| key.to_str().ok()).filter(|key| !key.is_empty()).map(str::to_owned);
    let fingerprint = fingerprint(&body);
    Received { parts, path, query, target, class, body, json, fingerprint, identity, idempotency_key, now_ms, began }
}

/// Authorises, limits and applies.
fn carry_out(app: &App, settings: &Settings, received: &Received) -> Handled {
    let answered = |reply| Handled { reply, applied: false, replayed: false };
    let (parts, target, class) = (&received.parts, &received.target, received.class);
    let is_document = matches!(target.route, Route::CxoneConfiguration | Route::OpenIdConfiguration);
    let behind_token = !is_document && !matches!(target.route, Route::Token | Route::Callback | Route::Unknown);
    if behind_token
        && let Some(refusal) = scopes::refusal(&received.identity, &parts.method, &target.route, class, target.mount)
    {
        return answered(refusal);
    }
    let limit = settings.limits.get(class.as_str()).copied();
    // The clock is read again: a delay may lie between arrival and now.
    let now_ms = app.clock.now_ms();
    let standing = app.limits.take(&received.identity.tenant, &received.identity.client, class, limit, now_ms);
    if !standing.allowed {
        let mut reply = Reply::error(429, "rate_limited", "too many requests in 60 s");
        if settings.retry_after {
            reply.set_header(header::RETRY_AFTER, standing.reset_s.to_string());
        }
        return answered(with_limit_headers(reply, &target.route, class, standing));
    }
    let mut handled = if is_document {
        answered(discovery::document(app, &target.route, &parts.method, &received.query))
    } else if target.route == Route::Token {
        let method_is_post = parts.method == Method::POST;
        answered(match method_is_post {
            true => app.tokens.issue(&parts.headers, &received.body, target.mount, settings, now_ms),
            false => Reply::error(405, "method_not_allowed", "POST a token request"),
        })
    } else {
        let call = Call {
            tenant: &received.identity.tenant,
            method: &parts.method,
            path: &received.path,
            query: &received.query,
            route: &target.route,
            class,
            social_webhooks: target.social_webhooks,
            headers: &parts.headers,
            body: &received.body,
            json: received.json.as_ref(),
            fingerprint: received.fingerprint,
            idempotency_key: received.idempotency_key.as_deref(),
            now_ms,
            settings,
        };
        locked(&app.world).handle(&call)
    };
    handled.reply = with_limit_headers(handled.reply, &target.route, class, standing);
    handled
}

/// The documented headers of Genesys and of each CRM, and the customary ones elsewhere.
fn with_limit_headers(mut reply: Reply, route: &Route, class: Class, standing: Standing) -> Reply {
    let Some(limit) = standing.limit else { return reply };
    if let Route::Record(at) = route {
        for (name, value) in at.product.limit_headers(limit, standing.used, standing.reset_s) {
            reply.set_header(HeaderName::from_static(name), value);
        }
        return reply;
    }
    let [allowed, count, reset] = match class.provider() {
        "genesys" => ["inin-ratelimit-allowed", "inin-ratelimit-count", "inin-ratelimit-reset"],
        _ => ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"],
    };
    let shown = if class.provider() == "genesys" { standing.used } else { limit.saturating_sub(standing.used) };
    for (name, value) in [(allowed, limit), (count, shown), (reset, standing.reset_s)] {
        reply.set_header(HeaderName::from_static(name), value.to_string());
    }
    reply
}

fn record(app: &App, received: &Received, ending: &Ending<'_>) {
    let keeps_body = received.json.is_some() && app.options.record_bodies_bytes_max > 0;
    app.record.add(Entry {
        at_ms: received.now_ms,
        tenant: received.identity.tenant.clone(),
        method: received.parts.method.to_string(),
        path: received.parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        class: received.class,
        status: ending.status,
        applied: ending.applied,
        idempotency_key: received.idempotency_key.clone(),
        replayed: ending.replayed,
        fault: ending.fault.map(|fault| fault.name.as_str().into()),
        token: received.identity.token,
        fingerprint: received.fingerprint,
        body_bytes: received.body.len(),
        body: keeps_body.then(|| received.body.clone()),
        headers: kept_headers(&received.parts.headers),
        latency_us: u64::try_from(received.began.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
}
