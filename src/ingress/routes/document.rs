//! The text of `routes.toml`: its shape, and the checks that say everything that is wrong at once.

use std::{collections::BTreeMap, fmt};

use backhaul_outbound::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Content, Customer, Destination, Identifier, Registration, Route, Routes, Source};
use crate::{json::Json, normalise::Dialling, path::Path};

/// The placeholder of a source's path.
pub(super) const TENANT: &str = "{tenant}";
/// Largest file in bytes.
const BYTES_MAX: usize = 256 * 1024;
/// Most sources, routes of one, and destinations: each is a line somebody wrote.
const ENTRIES_MAX: usize = 200;

/// Everything that is wrong with the file, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteErrors(pub Vec<String>);

impl fmt::Display for RouteErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.join("; "))
    }
}

impl std::error::Error for RouteErrors {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dialling: Option<Dialling>,
    sources: Vec<SourceText>,
    destinations: BTreeMap<String, DestinationText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceText {
    name: String,
    path: String,
    #[serde(default)]
    proof: Proof,
    event: String,
    #[serde(default)]
    event_ids: Vec<String>,
    channel: Option<String>,
    occurred_at: String,
    webhook_id: Option<String>,
    #[serde(default)]
    delivery_id: Vec<String>,
    identity: Vec<String>,
    #[serde(default)]
    identity_body: bool,
    #[serde(default)]
    required: Vec<String>,
    #[serde(default = "yes")]
    keep_body: bool,
    #[serde(default)]
    record: BTreeMap<String, Vec<String>>,
    routes: Vec<RouteText>,
    registration: Option<RegistrationText>,
}

/// What the deliveries of a source prove themselves with.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Proof {
    /// As the tenant's profile says.
    #[default]
    Signature,
    /// The tenant's bearer token.
    Bearer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteText {
    events: Vec<String>,
    #[serde(default)]
    channels: Vec<String>,
    customer: Option<CustomerText>,
    #[serde(default)]
    context: BTreeMap<String, Vec<String>>,
    to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomerText {
    #[serde(rename = "type")]
    sort: Identifier,
    from: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationText {
    kind: String,
    #[serde(default)]
    with: serde_json::Map<String, Value>,
    fields: Option<Vec<String>>,
    under: Option<String>,
    #[serde(default)]
    body: bool,
    copy: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistrationText {
    provider: String,
    list: String,
    item: String,
    class: String,
    only_with: Option<String>,
    id: Vec<String>,
    #[serde(default = "put")]
    update: String,
    body: serde_json::Map<String, Value>,
}

fn yes() -> bool {
    true
}

fn put() -> String {
    Method::PUT.to_string()
}

/// Reads the file.
pub(super) fn read(text: &str) -> Result<Routes, RouteErrors> {
    if text.len() > BYTES_MAX {
        return Err(RouteErrors(vec![format!("the file has more than {BYTES_MAX} bytes")]));
    }
    let one = |problem: String| RouteErrors(vec![problem]);
    let deserializer = toml::Deserializer::parse(text).map_err(|error| one(error.to_string().trim().to_owned()))?;
    let file: File = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        one(format!("{path}: {}", error.into_inner().message()))
    })?;
    let mut reader = Reader { problems: Vec::new() };
    let routes = reader.routes(file);
    if reader.problems.is_empty() { Ok(routes) } else { Err(RouteErrors(reader.problems)) }
}

struct Reader {
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, at: &str, what: impl fmt::Display) {
        self.problems.push(format!("{at}: {what}"));
    }

    fn routes(&mut self, file: File) -> Routes {
        if let Some(what) = file.dialling.as_ref().and_then(Dialling::problem) {
            self.problem("dialling", what);
        }
        if file.sources.is_empty() || file.sources.len() > ENTRIES_MAX || file.destinations.len() > ENTRIES_MAX {
            self.problem("sources", format!("there must be 1 to {ENTRIES_MAX}, and at most as many destinations"));
        }
        let destinations: BTreeMap<String, Destination> =
            file.destinations.into_iter().map(|(name, text)| (name.clone(), self.destination(name, text))).collect();
        let sources: Vec<Source> = file.sources.into_iter().map(|source| self.source(source, &destinations)).collect();
        for (nth, source) in sources.iter().enumerate() {
            if sources[..nth].iter().any(|other| other.name == source.name || other.path == source.path) {
                self.problem(&format!("sources.{}", source.name), "its name or its path stands twice");
            }
        }
        Routes { sources, destinations, dialling: file.dialling }
    }

    fn source(&mut self, text: SourceText, destinations: &BTreeMap<String, Destination>) -> Source {
        let at = format!("sources.{}", text.name);
        self.name(&at, &text.name);
        let whole = text.path.starts_with('/') && text.path.matches(TENANT).count() == 1;
        let plain = text.path.replace(TENANT, "x").split('/').skip(1).all(|segment| {
            !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        });
        if !whole || !plain || !text.path.contains(&format!("/{TENANT}/")) {
            self.problem(&at, format!("path must be plain segments, one of them {TENANT} between two others"));
        }
        if text.identity.is_empty() {
            self.problem(&at, "identity must name what tells one event from another");
        }
        if text.routes.is_empty() || text.routes.len() > ENTRIES_MAX {
            self.problem(&at, format!("there must be 1 to {ENTRIES_MAX} routes"));
        }
        let routes = text.routes.into_iter().enumerate();
        let routes =
            routes.map(|(nth, route)| self.route(&format!("{at}.routes[{nth}]"), route, destinations)).collect();
        if text.event_ids.iter().any(|word| word.is_empty() || word.contains('.')) {
            self.problem(&at, "event_ids must be words without dots");
        }
        if text.proof == Proof::Bearer && text.delivery_id.is_empty() {
            self.problem(
                &at,
                "delivery_id is needed with proof = \"bearer\": nothing else shows that a delivery is old",
            );
        }
        Source {
            bearer: text.proof == Proof::Bearer,
            event: self.path(&at, &text.event),
            event_ids: text.event_ids,
            channel: text.channel.map(|path| self.path(&at, &path)),
            occurred_at: self.path(&at, &text.occurred_at),
            webhook_id: text.webhook_id.map(|path| self.path(&at, &path)),
            delivery_id: self.paths(&at, text.delivery_id),
            identity: self.paths(&at, text.identity),
            identity_body: text.identity_body,
            required: self.paths(&at, text.required),
            keep_body: text.keep_body,
            record: self.fields(&at, text.record),
            routes,
            registration: text.registration.map(|registration| self.registration(&at, registration)),
            name: text.name,
            path: text.path,
        }
    }

    fn route(&mut self, at: &str, text: RouteText, destinations: &BTreeMap<String, Destination>) -> Route {
        for event in &text.events {
            let start = event.strip_suffix('*').unwrap_or(event);
            if start.contains('*') || event.is_empty() || event.len() > 200 {
                self.problem(at, format!("{event:?} is no event: write a type, or its beginning and a star"));
            }
        }
        if text.events.is_empty() {
            self.problem(at, "events must name at least one type");
        }
        for name in &text.to {
            if !destinations.contains_key(name) {
                let known: Vec<&str> = destinations.keys().map(String::as_str).collect();
                self.problem(at, format!("there is no destination {name:?}; known are {}", known.join(", ")));
            }
        }
        if text.to.is_empty() {
            self.problem(at, "to must name at least one destination; an event that is not wanted needs no route");
        }
        let customer = text.customer.map(|customer| {
            if customer.from.is_empty() {
                self.problem(at, "customer.from must name at least one place");
            }
            Customer { sort: customer.sort, from: self.paths(at, customer.from) }
        });
        Route {
            events: text.events,
            channels: text.channels,
            customer,
            context: self.fields(at, text.context),
            to: text.to,
        }
    }

    fn destination(&mut self, name: String, text: DestinationText) -> Destination {
        let at = format!("destinations.{name}");
        self.name(&at, &name);
        self.name(&at, &text.kind);
        let content = match (text.fields, text.copy) {
            (Some(fields), None) => {
                if fields.is_empty() && !text.body {
                    self.problem(&at, "fields must name at least one member of the record");
                }
                Content::Record { fields: self.paths(&at, fields), under: text.under, body: text.body }
            }
            (None, copy) if text.body && text.under.is_none() => {
                let copy = copy.unwrap_or_default();
                Content::Body { copy: copy.into_iter().map(|(name, path)| (name, self.path(&at, &path))).collect() }
            }
            _ => {
                self.problem(&at, "needs either fields (a choice of the record), or body = true with or without copy");
                Content::Record { fields: Vec::new(), under: None, body: false }
            }
        };
        let with = Value::Object(text.with).to_string();
        Destination { name, kind: text.kind, with: Json::parse(with.as_bytes()).unwrap_or(Json::object()), content }
    }

    fn registration(&mut self, at: &str, text: RegistrationText) -> Registration {
        let at = format!("{at}.registration");
        if !["cxone", "genesys", "crm"].contains(&text.provider.as_str()) {
            self.problem(&at, "provider must be cxone, genesys or crm");
        }
        if !["PUT", "PATCH"].contains(&text.update.as_str()) {
            self.problem(&at, "update must be PUT or PATCH");
        }
        if text.id.is_empty() {
            self.problem(&at, "id must name the members that may hold the webhook's id");
        }
        if text.body.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            self.problem(&at, "body.name must be a text: webhooks are told apart by it");
        }
        if !text.body.values().any(|value| value == "{url}") {
            self.problem(&at, "body must have a member \"{url}\", which takes our address");
        }
        if let Some(kind) = &text.only_with {
            self.name(&at, kind);
        }
        Registration {
            provider: text.provider,
            list: text.list,
            item: text.item,
            class: text.class,
            only_with: text.only_with,
            id: text.id,
            replace: text.update == "PUT",
            body: text.body,
        }
    }

    fn name(&mut self, at: &str, name: &str) {
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if name.is_empty() || name.len() > 63 || !plain {
            self.problem(at, format!("{name:?} must be 1 to 63 of a-z, 0-9 and hyphen"));
        }
    }

    fn fields(&mut self, at: &str, texts: BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<Path>> {
        texts
            .into_iter()
            .map(|(name, paths)| {
                if paths.is_empty() {
                    self.problem(at, format!("{name} must name at least one place"));
                }
                (name, self.paths(at, paths))
            })
            .collect()
    }

    fn paths(&mut self, at: &str, texts: Vec<String>) -> Vec<Path> {
        texts.iter().map(|text| self.path(at, text)).collect()
    }

    fn path(&mut self, at: &str, text: &str) -> Path {
        Path::parse(text).unwrap_or_else(|what| {
            self.problem(at, what);
            Path::nowhere()
        })
    }
}
