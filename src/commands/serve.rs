//! `backhaul serve`: the webhook receiver.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use backhaul_engine::Store;
use backhaul_ingress::{Checks, Ingress, Limits, Options, Problem, Routes};
use backhaul_outbound::{Client, Profile, Profiles, client};
use backhaul_workers::crm_sync::{CrmSync, settings::CrmSyncSettings};
use clap::Args;
use serde_json::{Value, json};

use super::{
    database::explain_store,
    exit::{self, Coded},
    kinds,
    session::Session,
    stop::Stop,
    table,
};
use crate::config::IngressSection;

/// Receive webhooks until told to stop.
///
/// Deliveries are verified, normalised, routed by routes.toml and turned into jobs in one transaction; 200 means that
/// the jobs are there. docs/guide/ingress.md tells more.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul serve
  backhaul serve --listen 0.0.0.0:3000 --routes config/routes.toml
  BACKHAUL__INGRESS__ADMIN_TOKEN=... backhaul serve")]
pub(crate) struct Serve {
    /// Address for senders [default: the setting ingress.listen]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Address for operators [default: the setting ingress.admin_listen]
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<SocketAddr>,
    /// What becomes of which event [default: the setting ingress.routes]
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// Print the addresses as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the receiver.
pub(crate) async fn run(session: &Session, command: Serve) -> Result<()> {
    let stop = Stop::listen()?;
    let settings = &session.settings.ingress;
    let routes = read_routes(command.routes.as_deref().unwrap_or(&settings.routes))?;
    let profiles = read_profiles(session)?;
    tell_gaps(&profiles);
    let client = Client::new(client::Settings::default()).context("the HTTP client cannot be built")?;
    let store = session.store().await?;
    backhaul_engine::check_version(&store).await.map_err(explain_store)?;
    let options = Options {
        public: command.listen.unwrap_or(settings.listen),
        admin: command.admin_listen.unwrap_or(settings.admin_listen),
        admin_token: settings.admin_token.clone(),
        limits: limits(settings),
    };
    let ingress = Ingress::bind(store.clone(), routes, profiles, checks(), client, options).await?;
    announce(&ingress, command.json)?;
    ingress.run(stop.token()).await;
    close(&store).await;
    Ok(())
}

fn announce(ingress: &Ingress, json: bool) -> Result<()> {
    let (public, admin) = (ingress.public_address(), ingress.admin_address());
    if json {
        return table::print_json(&json!({ "public": public, "admin": admin }));
    }
    table::write_out(&format!("receiving webhooks on {public}; health and metrics on {admin}; Ctrl-C ends it\n"))
}

async fn close(store: &Store) {
    // Connections that a hanging server does not let go must not keep a stopped receiver alive.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), store.close()).await;
}

fn limits(settings: &IngressSection) -> Limits {
    Limits {
        connections_max: settings.connections_max,
        in_flight_max: settings.in_flight_max,
        backlog_max: settings.backlog_max,
        body_timeout: settings.body_timeout,
        store_timeout: settings.store_timeout,
        retry_after: settings.retry_after,
        sweep: settings.sweep,
        grace: settings.grace,
        ..Limits::default()
    }
}

/// The routes of a file, whose destinations name kinds of this program.
pub(crate) fn read_routes(file: &Path) -> Result<Routes> {
    let usage = |text: String| anyhow!(Coded::new(exit::USAGE, text));
    let text = fs::read_to_string(file)
        .map_err(|error| usage(format!("the routes {} cannot be read: {error}", file.display())))?;
    let routes = Routes::from_toml(&text).map_err(|errors| usage(format!("{}: {errors}", file.display())))?;
    let specs = kinds::specs();
    let known: BTreeSet<&str> = specs.iter().map(|spec| spec.kind).collect();
    if let Some(stranger) = routes.kinds().find(|kind| !known.contains(kind)) {
        let names: Vec<&str> = known.into_iter().collect();
        let text = format!("{}: there is no kind {stranger:?}; known are {}", file.display(), names.join(", "));
        return Err(usage(text));
    }
    Ok(routes)
}

/// The connection profiles, with everything that is wrong with them at once.
pub(crate) fn read_profiles(session: &Session) -> Result<Profiles> {
    let dir = &session.settings.profiles.dir;
    let wrong = |problems: String| {
        anyhow!(Coded::new(exit::USAGE, format!("the connection profiles in {}: {problems}", dir.display())))
    };
    let profiles = Profiles::load_dir(dir).map_err(|problems| wrong(problems.to_string()))?;
    let problems = backhaul_workers::validate_profiles(&profiles, &|name| std::env::var(name).ok());
    if problems.is_empty() { Ok(profiles) } else { Err(wrong(problems.join("; "))) }
}

/// Says once what would otherwise be asked about a thousand refused deliveries.
fn tell_gaps(profiles: &Profiles) {
    if profiles.tenants().next().is_none() {
        tracing::warn!("there is no connection profile: every delivery will be refused");
    }
    for profile in profiles.iter().filter(|profile| profile.webhook.secrets.is_empty()) {
        tracing::warn!(tenant = profile.tenant, "[webhook] has no secret: every delivery will be refused");
    }
}

/// What kinds say about payloads before they become jobs.
pub(crate) fn checks() -> Checks {
    Checks::new().with("crm-sync", check_thread)
}

/// A thread that the sender got wrong is refused; one that this installation is not set up for (a role without a
/// mapping, a text too long for the CRM) becomes a job and a dead letter, which a person can mend and replay.
fn check_thread(profile: &Profile, payload: &Value) -> Vec<Problem> {
    let settings = CrmSyncSettings::of(profile).unwrap_or_default();
    let job: CrmSync = match serde_json::from_value(payload.clone()) {
        Ok(job) => job,
        Err(_) => return vec![Problem::new("", "must be an object")],
    };
    match job.request(&settings) {
        Err(refusal) if refusal.code() == "invalid_payload" => {
            let problems = refusal.problems().list().iter();
            problems.map(|problem| Problem::new(&problem.pointer, &problem.message)).collect()
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}
