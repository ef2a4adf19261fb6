//! Webhook registrations in their three bodies (four, as CXone has two of its own).

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    reply::Reply,
    routes::{self, Class, Route},
    settings::WebhookDuplicates,
    world::{Call, Outcome, World, json_object, not_found},
};

/// Webhooks of one tenant and list.
const PER_LIST_MAX: usize = 1000;
/// Tenants times lists.
const LISTS_MAX: usize = 10_000;

/// Whose body it is, and the words it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    /// `{name, url, scope, events}` -> `webhookId`.
    Interactions,
    /// `{name, url, eventTypes, secret, enabled}`.
    Profiles,
    /// `{name, enabled, event, address, method, filter, headers}` -> `id`, `version`.
    Genesys,
    /// `{name, uri, events, status, filter}` -> `id`.
    Social,
}

impl Flavour {
    fn of(call: &Call<'_>, body: &Map<String, Value>) -> Self {
        if call.social_webhooks {
            Self::Social
        } else if call.class == Class::GenesysWebhooks {
            Self::Genesys
        } else if body.contains_key("eventTypes") {
            Self::Profiles
        } else {
            Self::Interactions
        }
    }

    /// The member that holds the target address.
    fn address(self) -> &'static str {
        match self {
            Self::Interactions | Self::Profiles => "url",
            Self::Genesys => "address",
            Self::Social => "uri",
        }
    }

    /// The member that says which events.
    fn events(self) -> &'static str {
        match self {
            Self::Interactions | Self::Social => "events",
            Self::Profiles => "eventTypes",
            Self::Genesys => "event",
        }
    }

    fn new_id(self) -> String {
        match self {
            Self::Social => format!("wh_{}", Uuid::new_v4().simple()),
            _ => Uuid::new_v4().to_string(),
        }
    }
}

#[derive(Debug)]
struct Webhook {
    id: String,
    flavour: Flavour,
    version: u64,
    body: Map<String, Value>,
}

impl Webhook {
    /// What the API shows: both spellings of the id, never the secret.
    fn show(&self) -> Value {
        let mut shown = self.body.clone();
        shown.remove("secret");
        shown.insert("id".to_owned(), Value::from(self.id.as_str()));
        if self.flavour != Flavour::Social {
            shown.insert("webhookId".to_owned(), Value::from(self.id.as_str()));
        }
        shown.insert("version".to_owned(), Value::from(self.version));
        Value::Object(shown)
    }
}

/// Registrations by tenant and list.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    lists: HashMap<String, Vec<Webhook>>,
}

impl Webhooks {
    /// The secret that the tenant's webhook of that name was registered with.
    pub(crate) fn secret(&self, tenant: &str, name: &str) -> Option<String> {
        let lists = ["cxone", "social", "genesys"].map(|list| self.lists.get(&format!("{tenant}/{list}")));
        let mut all = lists.into_iter().flatten().flatten();
        let ours = all.find(|one| one.body.get("name").is_some_and(|own| own == name))?;
        ours.body.get("secret").and_then(Value::as_str).map(str::to_owned)
    }
}

/// The list a call is about: CXone's, CXone's social one, or Genesys's.
fn list_key(call: &Call<'_>) -> String {
    let list = if call.social_webhooks { "social" } else { call.class.provider() };
    format!("{}/{list}", call.tenant)
}

/// List, create, show, replace (PUT), change (PATCH), delete.
pub(crate) fn handle(world: &mut World, call: &Call<'_>) -> Outcome {
    match (call.method.as_str(), call.route) {
        ("GET", Route::Webhooks) => list(world, call),
        ("POST", Route::Webhooks) => create(world, call),
        ("GET", Route::Webhook(id)) => match find(world, call, id) {
            Some(webhook) => Reply::json(200, &webhook.show()).into(),
            None => not_found("webhook", id),
        },
        ("PUT" | "PATCH", Route::Webhook(id)) => update(world, call, id),
        ("DELETE", Route::Webhook(id)) => delete(world, call, id),
        _ => Reply::error(405, "method_not_allowed", "webhooks take GET, POST, PUT, PATCH and DELETE").into(),
    }
}

fn list(world: &World, call: &Call<'_>) -> Outcome {
    // On the shared path a reader without a mount cannot say whose webhooks it means: it gets both lists.
    let mut keys = vec![list_key(call)];
    if !call.social_webhooks && !call.path.starts_with("/cxone/") && call.class == Class::CxoneWebhooks {
        keys.push(format!("{}/genesys", call.tenant));
    }
    let shown: Vec<Value> =
        keys.iter().filter_map(|key| world.webhooks.lists.get(key)).flatten().map(Webhook::show).collect();
    let total = shown.len();
    // Two names for the one list, as the systems differ; both are there so that either reader finds its own.
    let size = call.settings.webhook_page_size;
    if size == 0 {
        return Reply::json(200, &json!({"entities": shown, "webhooks": shown, "total": total})).into();
    }
    let asked = routes::form_pairs(call.query).into_iter().find(|(name, _)| name == "pageNumber");
    let number = asked.and_then(|(_, text)| text.parse::<usize>().ok()).unwrap_or(1).max(1);
    let page: Vec<Value> = shown.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect();
    let count = total.div_ceil(size);
    let mut listing = json!({"entities": page, "webhooks": page, "total": total, "pageSize": size,
        "pageNumber": number, "pageCount": count});
    if number < count {
        listing["nextUri"] = format!("{}?pageSize={size}&pageNumber={}", call.path, number + 1).into();
    }
    Reply::json(200, &listing).into()
}

fn create(world: &mut World, call: &Call<'_>) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    let flavour = Flavour::of(call, body);
    if let Some(problem) = problem(flavour, body) {
        return Reply::error(400, "validation_failed", problem).into();
    }
    let (key, full) = (list_key(call), world.webhooks.lists.len() >= LISTS_MAX);
    if full && !world.webhooks.lists.contains_key(&key) {
        return Reply::error(507, "full", "the simulator holds no more tenants' webhooks; reset it").into();
    }
    let list = world.webhooks.lists.entry(key).or_default();
    if list.len() >= PER_LIST_MAX {
        return Reply::error(507, "full", "a tenant has at most 1000 webhooks; delete some").into();
    }
    let same_by = match call.settings.webhook_duplicates {
        WebhookDuplicates::ByName => Some("name"),
        WebhookDuplicates::ByAddress => Some(flavour.address()),
        WebhookDuplicates::Allowed => None,
    };
    let twin = same_by
        .and_then(|member| list.iter().find(|one| one.flavour == flavour && one.body.get(member) == body.get(member)));
    if let Some(twin) = twin {
        let answer = json!({
            "error": "ALREADY_EXISTS",
            "status": "ALREADY_EXISTS",
            "message": "a webhook like this is registered: list, compare and repair",
            "id": twin.id,
        });
        return Reply::json(409, &answer).into();
    }
    let webhook = Webhook { id: flavour.new_id(), flavour, version: 1, body: body.clone() };
    let (reply, resource) = (Reply::json(201, &webhook.show()), format!("webhooks/{}", webhook.id));
    let name = body.get("name").and_then(Value::as_str).map(str::to_owned);
    list.push(webhook);
    Outcome::applied(reply, resource, "webhook.create", name)
}

fn update(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    let body = match json_object(call) {
        Ok(object) => object,
        Err(refusal) => return refusal.into(),
    };
    let replace = call.method == axum::http::Method::PUT;
    let conflict = call.settings.channel_conflict_status;
    let Some(webhook) = find(world, call, id) else { return not_found("webhook", id) };
    let mut new = if replace { Map::new() } else { webhook.body.clone() };
    new.extend(body.iter().filter(|(name, _)| !["id", "webhookId", "version"].contains(&name.as_str())).map(own));
    // A registration that is read and put back has lost its secret, which is never shown: keep the one that stands.
    if let (false, Some(secret)) = (new.contains_key("secret"), webhook.body.get("secret")) {
        new.insert("secret".to_owned(), secret.clone());
    }
    if let Some(problem) = problem(webhook.flavour, &new) {
        return Reply::error(400, "validation_failed", problem).into();
    }
    if webhook.flavour == Flavour::Genesys && body.get("version").is_some_and(|own| *own != webhook.version) {
        return Reply::error(conflict, "version_conflict", "the webhook has changed: read it and try again").into();
    }
    webhook.body = new;
    webhook.version += 1;
    Outcome::applied(Reply::json(200, &webhook.show()), format!("webhooks/{id}"), "webhook.update", None)
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn delete(world: &mut World, call: &Call<'_>, id: &str) -> Outcome {
    if find(world, call, id).is_none() {
        return not_found("webhook", id);
    }
    for key in readable_lists(call) {
        if let Some(list) = world.webhooks.lists.get_mut(&key) {
            list.retain(|one| one.id != id);
        }
    }
    Outcome::applied(Reply::empty(204), format!("webhooks/{id}"), "webhook.delete", None)
}

fn find<'a>(world: &'a mut World, call: &Call<'_>, id: &str) -> Option<&'a mut Webhook> {
    let keys = readable_lists(call);
    let key = keys
        .into_iter()
        .find(|key| world.webhooks.lists.get(key).is_some_and(|list| list.iter().any(|one| one.id == id)))?;
    world.webhooks.lists.get_mut(&key)?.iter_mut().find(|one| one.id == id)
}

/// An id on the shared path may belong to either system.
fn readable_lists(call: &Call<'_>) -> Vec<String> {
    if call.social_webhooks {
        vec![list_key(call)]
    } else {
        vec![list_key(call), format!("{}/cxone", call.tenant), format!("{}/genesys", call.tenant)]
    }
}

fn problem(flavour: Flavour, body: &Map<String, Value>) -> Option<String> {
    for member in ["name", flavour.address()] {
        if body.get(member).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Some(format!("{member} is required"));
        }
    }
    let address = body.get(flavour.address()).and_then(Value::as_str).unwrap_or_default();
    if !(address.starts_with("https://") || address.starts_with("http://")) {
        return Some(format!("{} must be a URL", flavour.address()));
    }
    let events = body.get(flavour.events());
    let present = match flavour {
        Flavour::Genesys => events.is_some_and(Value::is_string),
        _ => events.and_then(Value::as_array).is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string)),
    };
    (!present).then(|| format!("{} is required", flavour.events()))
}
