//! Everything the simulated systems remember, behind one lock, and the way of a call through it: stored answer,
//! handler, effect, stored answer for next time. One lock makes "look up the key, apply, remember" atomic.

use std::collections::{BTreeSet, HashMap};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, Method},
};
use serde_json::Value;

use crate::{
    audit::AuditTrail,
    callbacks::{self, Callbacks},
    channels, crm, crm_record,
    documents::{Document, Documents, Kind},
    effects::{Effect, Effects},
    idempotency::{Idempotency, Known},
    options::SimOptions,
    profiles::{self, Identities},
    reply::Reply,
    routes::{Class, Route},
    settings::Settings,
    social,
    webhooks::{self, Webhooks},
    widgets,
};

/// One authorised request.
pub(crate) struct Call<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) route: &'a Route,
    pub(crate) class: Class,
    pub(crate) social_webhooks: bool,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
    /// The body, where it is JSON.
    pub(crate) json: Option<&'a Value>,
    pub(crate) fingerprint: u64,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) now_ms: i64,
    pub(crate) settings: &'a Settings,
}

/// What a handler did.
pub(crate) struct Outcome {
    pub(crate) reply: Reply,
    pub(crate) effect: Option<Effect>,
}

impl Outcome {
    pub(crate) fn applied(reply: Reply, resource: String, what: &'static str, detail: Option<String>) -> Self {
        Self { reply, effect: Some(Effect { resource, what, detail }) }
    }
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self { reply, effect: None }
    }
}

/// What became of a call.
pub(crate) struct Handled {
    pub(crate) reply: Reply,
    pub(crate) applied: bool,
    pub(crate) replayed: bool,
}

/// The memory of all simulated systems.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) documents: Documents,
    pub(crate) effects: Effects,
    pub(crate) idempotency: Idempotency,
    pub(crate) webhooks: Webhooks,
    pub(crate) identities: Identities,
    pub(crate) audit: AuditTrail,
    pub(crate) callbacks: Callbacks,
    /// Channels by the external id they were created with.
    pub(crate) channels_by_external_id: HashMap<String, String>,
    /// Origins that any channel was configured with.
    pub(crate) channel_origins: BTreeSet<String>,
    /// Requests whose idempotency key had come with another body.
    pub(crate) key_conflicts: u64,
}

impl World {
    pub(crate) fn new(options: &SimOptions) -> Self {
        Self {
            documents: Documents::new(options.documents_max),
            effects: Effects::new(options.effects_max),
            idempotency: Idempotency::new(options.idempotency_keys_max, options.idempotency_bytes_max),
            webhooks: Webhooks::default(),
            identities: Identities::new(options.documents_max),
            audit: AuditTrail::default(),
            callbacks: Callbacks::default(),
            channels_by_external_id: HashMap::new(),
            channel_origins: BTreeSet::new(),
            key_conflicts: 0,
        }
    }

    /// Carries a call out.
    pub(crate) fn handle(&mut self, call: &Call<'_>) -> Handled {
        let key = call.idempotency_key.filter(|_| call.method != Method::GET);
        let honoured = key.filter(|_| call.settings.honour_idempotency_keys);
        // Every delivery is kept. A receiver knows a repeat by its id alone: the body is not compared.
        let is_callback = *call.route == Route::Callback && call.method == Method::POST;
        let fingerprint = if is_callback { 0 } else { call.fingerprint };
        if is_callback {
            self.callbacks.keep(call);
        }
        let scope = honoured.map(|key| Idempotency::scope(call.tenant, call.method.as_str(), call.path, key));
        if let Some(scope) = &scope {
            match self.idempotency.look_up(scope, fingerprint) {
                Known::No => {}
                Known::Replay(reply) => {
                    let reply = reply.with_header(HeaderName::from_static("idempotent-replayed"), "true");
                    return Handled { reply, applied: false, replayed: true };
                }
                Known::OtherBody => {
                    self.key_conflicts += 1;
                    let reply = Reply::error(
                        422,
                        "idempotency_key_reused",
                        "this Idempotency-Key came with another body before; a new body needs a new key",
                    );
                    return Handled { reply, applied: false, replayed: false };
                }
            }
        }
        self.documents.now_ms = call.now_ms;
        let Outcome { reply, effect } = self.dispatch(call);
        let applied = effect.is_some() && reply.is_success();
        if applied {
            if let Some(effect) = effect {
                self.effects.apply(call.tenant, effect, key, call.fingerprint, call.now_ms);
            }
            if let Some(scope) = scope {
                self.idempotency.store(scope, fingerprint, reply.clone());
            }
        }
        Handled { reply, applied, replayed: false }
    }

    fn dispatch(&mut self, call: &Call<'_>) -> Outcome {
        let method = call.method.as_str();
        match (method, call.route) {
            ("GET", Route::Widget(id)) => widgets::get(self, call, id),
            ("PATCH", Route::Widget(id)) => widgets::patch(self, call, id),
            ("POST", Route::WidgetPurge(id)) => widgets::purge(self, call, id),
            ("GET", Route::Profile(id)) => profiles::get(self, call, id),
            ("PATCH", Route::Profile(id)) => profiles::patch(self, call, id),
            (_, Route::Webhooks | Route::Webhook(_)) => webhooks::handle(self, call),
            ("GET", Route::Channels) => channels::list(self, call),
            ("POST", Route::Channels) => channels::create(self, call),
            ("GET", Route::Channel(id)) => channels::get(self, call, id),
            ("PUT", Route::Channel(id)) => channels::put(self, call, id),
            ("POST", Route::ChannelPublish(id)) => channels::publish(self, call, id),
            ("GET", Route::ChannelPublished(id)) => channels::published(self, call, id),
            ("GET" | "POST", Route::AuditQuery) => crate::audit::query(self, call),
            ("GET", Route::AuditTransaction(id)) => crate::audit::transaction(self, call, id),
            ("GET", Route::AuditResults(id)) => crate::audit::results(self, call, id),
            ("GET", Route::SocialThread(id)) => social::get(self, call, id),
            ("POST", Route::Threads) => crm::create(self, call),
            ("GET", Route::Thread(id)) => crm::get(self, call, id),
            ("PATCH", Route::Thread(id)) => crm::patch(self, call, id),
            (_, Route::Record(at)) => crm_record::handle(self, call, at),
            ("POST", Route::Callback) => callbacks::received(call),
            (_, Route::BadId) => {
                Reply::error(400, "invalid_id", "ids are 1 to 128 characters of A-Z, a-z, 0-9, _ and -").into()
            }
            (_, Route::Unknown) => Reply::error(404, "no_such_endpoint", "see the simulator's README").into(),
            _ => Reply::error(405, "method_not_allowed", format!("{method} does nothing here")).into(),
        }
    }

    /// A document, made on first access unless the simulator is strict.
    pub(crate) fn load(&mut self, kind: Kind, call: &Call<'_>, id: &str) -> Option<&mut Document> {
        if self.documents.get(kind, call.tenant, id).is_none() {
            if call.settings.strict {
                return None;
            }
            self.documents.put(kind, call.tenant, id, kind.initial(id));
        }
        self.documents.get_mut(kind, call.tenant, id)
    }

    /// Forgets everything but the revision of entity tags.
    pub(crate) fn reset(&mut self) {
        self.documents.reset();
        self.effects.reset();
        self.idempotency.reset();
        self.webhooks = Webhooks::default();
        self.identities.reset();
        self.audit = AuditTrail::default();
        self.callbacks = Callbacks::default();
        self.channels_by_external_id.clear();
        self.channel_origins.clear();
        self.key_conflicts = 0;
    }
}

/// The JSON object of a write, or the refusal: 415 for another media type, 400 for what is not a JSON object.
pub(crate) fn json_object<'a>(call: &Call<'a>) -> Result<&'a serde_json::Map<String, Value>, Reply> {
    let media = call.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media.trim_start().to_ascii_lowercase().starts_with("application/json") {
        return Err(Reply::error(415, "unsupported_media_type", "send Content-Type: application/json"));
    }
    match call.json {
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(Reply::error(400, "invalid_body", "the body must be a JSON object")),
        None => Err(Reply::error(400, "invalid_json", "the body is not JSON")),
    }
}

/// 404 in the simulator's form.
pub(crate) fn not_found(what: &str, id: &str) -> Outcome {
    Reply::error(404, "not_found", format!("there is no {what} {id}")).into()
}
