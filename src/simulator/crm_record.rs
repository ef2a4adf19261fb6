//! CRMs as they are sold: Zendesk, Salesforce, HubSpot and Dataverse, each with one installation's object and fields. A
//! record shows the same thread that the endpoints under `/threads` show, so that one world serves all of them.
//!
//! What they answer follows their public documentation; nobody has compared it with the products themselves.

mod dataverse;
mod fields;
mod hubspot;
mod salesforce;
mod zendesk;

use axum::http::header;
use serde_json::{Map, Value};

use crate::{
    clock::http_date,
    crm,
    documents::{Document, Kind},
    fingerprint::fingerprint,
    reply::Reply,
    world::{Call, Outcome, World},
};

/// Whose API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Zendesk,
    Salesforce,
    Hubspot,
    Dataverse,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) product: Product,
    by: By,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum By {
    /// All records: a creation, or a search.
    Nothing,
    /// The thread's id.
    Thread(String),
    /// The product's own id.
    Own(String),
}

impl At {
    /// The id that the path holds.
    pub(crate) fn id(&self) -> Option<&str> {
        match &self.by {
            By::Nothing => None,
            By::Thread(id) | By::Own(id) => Some(id),
        }
    }
}

impl Product {
    /// What tells a client of its rate limit.
    pub(crate) fn limit_headers(self, limit: u32, used: u32, reset_s: u32) -> Vec<(&'static str, String)> {
        let left = limit.saturating_sub(used).to_string();
        match self {
            Self::Zendesk => vec![
                ("x-rate-limit", limit.to_string()),
                ("x-rate-limit-remaining", left.clone()),
                ("ratelimit-limit", limit.to_string()),
                ("ratelimit-remaining", left),
                ("ratelimit-reset", reset_s.to_string()),
            ],
            Self::Salesforce => vec![("sforce-limit-info", format!("api-usage={used}/{limit}"))],
            Self::Hubspot => vec![
                ("x-hubspot-ratelimit-max", limit.to_string()),
                ("x-hubspot-ratelimit-remaining", left),
                ("x-hubspot-ratelimit-interval-milliseconds", "60000".to_owned()),
            ],
            Self::Dataverse => vec![("x-ms-ratelimit-burst-remaining-xrm-requests", left)],
        }
    }
}

/// Reads the decoded segments of a path.
pub(crate) fn route(parts: &[&str]) -> Option<At> {
    let (product, by) = match parts {
        ["api", "v2", "tickets"] => (Product::Zendesk, By::Nothing),
        ["api", "v2", "tickets", id] => (Product::Zendesk, By::Own((*id).to_owned())),
        ["services", "data", _, "sobjects", salesforce::OBJECT, rest @ ..] => match rest {
            [] => (Product::Salesforce, By::Nothing),
            [id] => (Product::Salesforce, By::Own((*id).to_owned())),
            [salesforce::ID_FIELD, id] => (Product::Salesforce, By::Thread((*id).to_owned())),
            _ => return None,
        },
        ["crm", "v3", "objects", hubspot::OBJECT] => (Product::Hubspot, By::Nothing),
        ["crm", "v3", "objects", hubspot::OBJECT, id] => (Product::Hubspot, By::Thread((*id).to_owned())),
        ["api", "data", _, row] => (Product::Dataverse, By::Thread(dataverse::key_of(row)?.to_owned())),
        _ => return None,
    };
    Some(At { product, by })
}

/// Carries a call out. Each answer tells the time, by which clients judge time stamps.
pub(crate) fn handle(world: &mut World, call: &Call<'_>, at: &At) -> Outcome {
    let outcome = match at.product {
        Product::Zendesk => zendesk::handle(world, call, &at.by),
        Product::Salesforce => salesforce::handle(world, call, &at.by),
        Product::Hubspot => hubspot::handle(world, call, &at.by),
        Product::Dataverse => dataverse::handle(world, call, &at.by),
    };
    let mut outcome = outcome.unwrap_or_else(Outcome::from);
    outcome.reply.set_header(header::DATE, http_date(call.now_ms));
    outcome
}

/// The number that stands for a thread where the product gives ids of its own.
fn number_of(tenant: &str, thread: &str) -> u64 {
    // Small enough for every JSON reader.
    fingerprint(format!("{tenant}/{thread}").as_bytes()) >> 16
}

/// The thread with this number.
fn thread_numbered(world: &World, call: &Call<'_>, number: u64) -> Option<String> {
    let ids = world.documents.ids(Kind::Thread, call.tenant, usize::MAX);
    ids.into_iter().find(|id| number_of(call.tenant, id) == number)
}

/// The thread's document; one is never made by a look.
fn document<'w>(world: &'w World, call: &Call<'_>, id: &str) -> Option<&'w Document> {
    world.documents.get(Kind::Thread, call.tenant, id)
}

/// Writes fields into a thread, or into a new one.
fn put(
    world: &mut World,
    call: &Call<'_>,
    id: &str,
    installation: &fields::Installation,
    written: &Map<String, Value>,
) -> Result<(), fields::Flaw> {
    let mut thread = document(world, call, id).map_or_else(|| crm::initial(id), |document| document.value.clone());
    installation.write(&mut thread, written)?;
    world.documents.put(Kind::Thread, call.tenant, id, thread);
    Ok(())
}

/// What was done, for the ledger.
fn applied(reply: Reply, id: &str, what: &'static str) -> Outcome {
    Outcome::applied(reply, format!("threads/{id}"), what, None)
}

/// A member of the query.
fn query(call: &Call<'_>, name: &str) -> Option<String> {
    crate::routes::form_pairs(call.query).into_iter().find(|(own, _)| own == name).map(|(_, value)| value)
}
