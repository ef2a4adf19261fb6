//! Starting, serving and stopping.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::Request,
    response::Response,
    routing::{get, post},
};
use backhaul_engine::Store;
use backhaul_outbound::{Client, Profiles};
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    admin,
    app::{App, Checks, Limits},
    backlog::Backlog,
    listener::Listener,
    metrics::Metrics,
    readers::Readers,
    receive, reconcile,
    registration::Registrations,
    reply::Refusal,
    routes::Routes,
    sweep,
};

/// What a receiver is made of.
#[derive(Debug)]
pub struct Options {
    /// Where senders reach it.
    pub public: SocketAddr,
    /// Where operators reach it.
    pub admin: SocketAddr,
    /// Bearer token of the admin listener; without one its API refuses everybody.
    pub admin_token: Option<SecretString>,
    /// Bounds.
    pub limits: Limits,
}

/// A receiver whose listeners are bound.
pub struct Ingress {
    app: Arc<App>,
    client: Client,
    public: Listener,
    admin: Listener,
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    address: SocketAddr,
    error: std::io::Error,
}

impl Ingress {
    /// Binds the listeners and counts what waits. Nobody is answered before [`Ingress::run`].
    ///
    /// # Errors
    /// An address cannot be bound.
    pub async fn bind(
        store: Store,
        routes: Routes,
        profiles: Profiles,
        checks: Checks,
        client: Client,
        options: Options,
    ) -> Result<Self, BindError> {
        let bind = async |address| Listener::bind(address).await.map_err(|error| BindError { address, error });
        let (public, admin) = (bind(options.public).await?, bind(options.admin).await?);
        let backlog = Backlog::new(options.limits.backlog_max, profiles.tenants());
        if let Err(error) = backlog.count(&store).await {
            tracing::warn!(%error, "the jobs that wait could not be counted");
        }
        let app = App {
            store,
            routes,
            profiles,
            checks,
            admin_token: options.admin_token,
            metrics: Metrics::default(),
            backlog,
            registrations: Registrations::default(),
            readers: Readers::new(options.limits.in_flight_max.saturating_mul(2)),
            places: Semaphore::new(options.limits.in_flight_max),
            clock: Arc::clone(client.clock()),
            limits: options.limits,
        };
        Ok(Self { app: Arc::new(app), client, public, admin })
    }

    /// Where senders reach it.
    pub fn public_address(&self) -> SocketAddr {
        self.public.address()
    }

    /// Where operators reach it.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until told to stop. Registrations are seen to once both listeners answer, and never keep them waiting.
    pub async fn run(self, stop: CancellationToken) {
        let Self { app, client, public, admin } = self;
        let tasks = TaskTracker::new();
        let (public_router, admin_router) = (public_router(&app), admin_router(&app));
        let (limits, token) = (app.limits.clone(), stop.clone());
        tasks.spawn(async move { public.serve(public_router, &limits, token).await });
        let (limits, token) = (app.limits.clone(), stop.clone());
        tasks.spawn(async move { admin.serve(admin_router, &limits, token).await });
        let (watched, token) = (Arc::clone(&app), stop.clone());
        tasks.spawn(async move { watched.backlog.watch(&watched.store, &token).await });
        let (swept, token) = (Arc::clone(&app), stop.clone());
        tasks.spawn(async move { sweep::run(&swept.store, swept.limits.sweep, &token).await });
        Registrations::start(&app, &client, &stop, &tasks);
        tasks.close();
        tasks.wait().await;
    }
}

fn public_router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for (nth, source) in app.routes.sources.iter().enumerate() {
        let of_tenant = async move |State(app): State<Arc<App>>, Path(tenant): Path<String>, request: Request<Body>| {
            receive::receive(app, nth, Some(tenant), request).await
        };
        let of_only = async move |State(app): State<Arc<App>>, request: Request<Body>| {
            receive::receive(app, nth, None, request).await
        };
        router = router.route(&source.path, post(of_tenant)).route(&source.bare_path(), post(of_only));
    }
    finish(router.route("/healthz", get(admin::healthz)), app)
}

fn admin_router(app: &Arc<App>) -> Router {
    let router = Router::new()
        .route("/api/reconcile/{thread}", post(reconcile::reconcile))
        .route("/api/metrics", get(admin::metrics))
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz));
    finish(router, app)
}

fn finish(router: Router<Arc<App>>, app: &Arc<App>) -> Router {
    router.fallback(nothing_here).method_not_allowed_fallback(another_method).with_state(Arc::clone(app))
}

async fn nothing_here() -> Response {
    Refusal::NotFound.respond(Uuid::now_v7())
}

async fn another_method() -> Response {
    Refusal::Method.respond(Uuid::now_v7())
}
