//! Tells upstreams our address: lists the webhooks there, and creates or repairs ours. Never in anybody's way: it begins
//! when the listeners answer, and goes on in the background until it has succeeded.

mod mark;
mod plan;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backhaul_outbound::{
    Call, Class, Client, Method, Profile, Provider, Reply, classify,
    paging::{self, PAGES_MAX},
};
use rand::RngExt;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{mark::Mark, plan::Wanted};
use crate::{app::App, routes::Registration};

/// First and longest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How the registrations stand, by tenant and source.
#[derive(Debug, Default)]
pub(crate) struct Registrations {
    states: Mutex<BTreeMap<(String, String), State>>,
}

#[derive(Debug, Clone)]
struct State {
    word: &'static str,
    webhook_id: Option<String>,
    error: Option<String>,
    tries: u32,
}

/// How a registration was brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ensured {
    /// It stood there as it should.
    Found,
    /// It was new.
    Created,
    /// It stood there otherwise.
    Repaired,
}

impl Registrations {
    /// Starts to see to the registrations of all tenants that have a public address.
    pub(crate) fn start(app: &Arc<App>, client: &Client, stop: &CancellationToken, tasks: &TaskTracker) {
        for profile in app.profiles.iter() {
            for source in &app.routes.sources {
                let Some(registration) = &source.registration else { continue };
                if registration.only_with.as_ref().is_some_and(|kind| !profile.kinds.contains_key(kind)) {
                    continue;
                }
                let Some(public_url) = &profile.webhook.public_url else { continue };
                let Some(provider) = profile.provider(&registration.provider) else { continue };
                let url = format!("{}{}", public_url.as_str().trim_end_matches('/'), source.path_of(&profile.tenant));
                let secret = profile.webhook.secrets.first().map(|secret| secret.expose().to_owned());
                let one = Ensure {
                    app: Arc::clone(app),
                    client: client.clone(),
                    profile: Arc::clone(profile),
                    provider: provider.clone(),
                    source: source.name.clone(),
                    registration: registration.clone(),
                    wanted: Wanted::new(&registration.body, &url, secret.as_deref()),
                };
                let stop = stop.clone();
                tasks.spawn(async move {
                    stop.run_until_cancelled(one.until_done()).await;
                });
            }
        }
    }

    /// One entry a tenant and source.
    pub(crate) fn show(&self) -> Value {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .iter()
            .map(|((tenant, source), state)| {
                json!({"tenant": tenant, "source": source, "state": state.word, "webhookId": state.webhook_id,
                    "error": state.error, "tries": state.tries})
            })
            .collect()
    }

    fn set(&self, tenant: &str, source: &str, state: State) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert((tenant.to_owned(), source.to_owned()), state);
    }
}

/// One registration on its way.
struct Ensure {
    app: Arc<App>,
    client: Client,
    profile: Arc<Profile>,
    provider: Provider,
    source: String,
    registration: Registration,
    wanted: Wanted,
}

/// Why a try failed, and when the upstream wants to be asked again.
struct Trouble {
    what: String,
    not_before: Option<chrono::DateTime<chrono::Utc>>,
}

impl Trouble {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), not_before: None }
    }
}

impl Ensure {
    async fn until_done(&self) {
        let (tenant, source) = (self.profile.tenant.as_str(), self.source.as_str());
        let mut pause = PAUSE_MIN;
        for tries in 1_u32.. {
            let state = match self.once().await {
                Ok((ensured, id)) => {
                    let word = match ensured {
                        Ensured::Found => "found",
                        Ensured::Created => "created",
                        Ensured::Repaired => "repaired",
                    };
                    tracing::info!(tenant, source, webhook_id = id, outcome = word, "webhook registered");
                    State { word, webhook_id: id, error: None, tries }
                }
                Err(trouble) => {
                    tracing::warn!(tenant, source, tries, error = trouble.what, "webhook not registered; tried again");
                    let state = State { word: "retrying", webhook_id: None, error: Some(trouble.what), tries };
                    self.app.registrations.set(tenant, source, state);
                    let now = self.app.clock.now();
                    let named = trouble.not_before.and_then(|at| (at - now).to_std().ok()).unwrap_or_default();
                    // Between half and all of the pause, so that replicas that start together do not stay together.
                    let jittered = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
                    tokio::time::sleep(jittered.max(named)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
            };
            self.app.registrations.set(tenant, source, state);
            return;
        }
    }

    async fn once(&self) -> Result<(Ensured, Option<String>), Trouble> {
        if let Some(standing) = self.find().await? {
            return self.repair(&standing).await;
        }
        let call = Call::new(Method::POST, &self.registration.list, &self.registration.class);
        let outcome = self.client.send(&self.profile.tenant, &self.provider, call.json(self.wanted.body())).await;
        if matches!(&outcome, Ok(reply) if reply.status == 409) {
            // Somebody was faster, most likely another replica. That says nothing of whether it is as it should be.
            let unlisted = || Trouble::new("the upstream says that the webhook exists, and does not list it");
            return self.repair(&self.find().await?.ok_or_else(unlisted)?).await;
        }
        let reply = self.judge(outcome)?;
        let created: Value = reply.json().unwrap_or_default();
        let id = plan::id_of(&created, &self.registration.id);
        self.remember(self.mark(id.as_deref())).await?;
        Ok((Ensured::Created, id))
    }

    /// Ours among all that stand there, page by page. Of several, the one that is right already.
    async fn find(&self) -> Result<Option<Value>, Trouble> {
        let (mut first, mut query) = (None, paging::Query::new());
        for _ in 0..PAGES_MAX {
            let pairs: Vec<_> = query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let call = Call::get(&self.registration.list, &self.registration.class).query(&pairs);
            let reply = self.judge(self.client.send(&self.profile.tenant, &self.provider, call).await)?;
            let list: Value = reply.json().map_err(|error| Trouble::new(format!("the list: {error}")))?;
            match self.wanted.find(&list) {
                Some(ours) if self.wanted.is_met_by(ours) => return Ok(Some(ours.clone())),
                Some(ours) => drop(first.get_or_insert_with(|| ours.clone())),
                None => {}
            }
            match paging::next(&list, &query) {
                Some(next) => query = next,
                None => return Ok(first),
            }
        }
        Err(Trouble::new(format!("the list has more than {PAGES_MAX} pages")))
    }

    async fn repair(&self, standing: &Value) -> Result<(Ensured, Option<String>), Trouble> {
        let id = plan::id_of(standing, &self.registration.id);
        let mark = self.mark(id.as_deref());
        if self.wanted.is_met_by(standing) && self.has_our_secret(mark.as_ref()).await? {
            return Ok((Ensured::Found, id));
        }
        let Some(id) = id else {
            return Err(Trouble::new("the webhook that stands there has no id"));
        };
        let placeholder = self.placeholder();
        let params = [(placeholder.as_str(), id.as_str())];
        let (method, body) = match self.registration.replace {
            true => (Method::PUT, self.wanted.over(standing)),
            false => (Method::PATCH, self.wanted.body().clone()),
        };
        let call = Call::new(method, &self.registration.item, &self.registration.class).params(&params).json(&body);
        self.judge(self.client.send(&self.profile.tenant, &self.provider, call).await)?;
        self.remember(mark).await?;
        Ok((Ensured::Repaired, Some(id)))
    }

    /// The mark of our secret on the webhook of that id; nothing where the registration holds no secret.
    fn mark(&self, id: Option<&str>) -> Option<Mark> {
        let secret = self.profile.webhook.secrets.first().filter(|_| self.wanted.is_secret())?;
        let call = Call::get(&self.registration.list, &self.registration.class);
        let list = self.client.target(&self.profile.tenant, &self.provider, &call);
        let list = list.map(String::from).unwrap_or_default();
        Mark::new(secret, &self.profile.tenant, &self.source, &list, id.unwrap_or_default())
    }

    /// Whether the webhook was last registered with the secret of `mark`.
    async fn has_our_secret(&self, mark: Option<&Mark>) -> Result<bool, Trouble> {
        let Some(mark) = mark else { return Ok(true) };
        let app = &self.app;
        let known = Mark::load(&app.store, &self.profile.tenant, &self.source, app.limits.store_timeout).await;
        Ok(known.map_err(Trouble::new)?.as_ref() == Some(mark))
    }

    async fn remember(&self, mark: Option<Mark>) -> Result<(), Trouble> {
        let Some(mark) = mark else { return Ok(()) };
        let app = &self.app;
        let saved = mark.save(&app.store, &self.profile.tenant, &self.source, app.limits.store_timeout).await;
        saved.map_err(Trouble::new)
    }

    /// The one placeholder of the endpoint's template.
    fn placeholder(&self) -> String {
        let template = self.provider.endpoints.get(&self.registration.item);
        let name = template.and_then(|text| text.split_once('{')).and_then(|(_, rest)| rest.split_once('}'));
        name.map_or("webhookId", |(name, _)| name).to_owned()
    }

    fn judge(&self, outcome: Result<Reply, backhaul_outbound::CallError>) -> Result<Reply, Trouble> {
        let class = classify(outcome.as_ref(), &self.provider.retry, self.app.clock.now());
        let not_before = match class {
            Class::Ok => None,
            Class::Throttled { until, .. } => Some(until),
            Class::Transient { not_before, .. } => not_before,
            Class::AuthBlocked { until, .. } => until,
            Class::Permanent { .. } | Class::Conflict | Class::Ambiguous { .. } => None,
        };
        match outcome {
            Ok(reply) if reply.is_success() => Ok(reply),
            Ok(reply) => Err(Trouble {
                what: format!("the upstream answered {} (request {})", reply.status, reply.request_id),
                not_before,
            }),
            Err(error) => Err(Trouble { what: error.to_string(), not_before }),
        }
    }
}
