//! `[crm] flavour`: CRMs that keep a thread as one flat record of named fields, where that record is, and how large a
//! text it takes. What requests and replies look like is the client's business.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    defaults::{self, Defaults},
    document::Section,
};

/// The member of a thread that finds its record again.
pub const THREAD_ID: &str = "threadId";
/// The members of a thread that are fields of its record.
pub const MEMBERS: [&str; 6] = ["parentThreadId", "status", "sourceVersion", "updatedAt", "messages", "participants"];
/// Longest name of an object or a field.
const NAME_BYTES_MAX: usize = 100;
/// Most UTF-16 units that a field of any of the products holds.
const TEXT_UNITS_MAX: u64 = 1_048_576;

/// A CRM that keeps flat records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Tickets with custom fields, found by `external_id`.
    Zendesk,
    /// An object with an external id field.
    Salesforce,
    /// An object with a unique property.
    Hubspot,
    /// A table of Dataverse (Dynamics 365) with an alternate key.
    Dataverse,
}

/// The words of `flavour`; `threads` is the API whose threads have lists of their own.
const FLAVOURS: &[(&str, Option<Product>)] = &[
    ("threads", None),
    ("zendesk", Some(Product::Zendesk)),
    ("salesforce", Some(Product::Salesforce)),
    ("hubspot", Some(Product::Hubspot)),
    ("dataverse", Some(Product::Dataverse)),
];

/// How an installation keeps threads as records.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordForm {
    /// Whose API it is.
    pub product: Product,
    /// Object type, or entity set; `tickets` for Zendesk.
    pub object: String,
    /// The field with the thread's id; it must be unique.
    pub id_field: String,
    /// The field of each of [`MEMBERS`].
    pub fields: BTreeMap<&'static str, String>,
    /// Longest text of a field, in UTF-16 units.
    pub text_units_max: usize,
    /// Fields that every new record gets besides.
    pub create: Map<String, Value>,
}

impl RecordForm {
    /// The field of a member; empty for what is none of [`MEMBERS`].
    pub fn field(&self, member: &str) -> &str {
        self.fields.get(member).map(String::as_str).unwrap_or_default()
    }
}

impl Product {
    /// What its API is like when the profile does not say.
    pub(super) fn defaults(self) -> &'static Defaults {
        match self {
            Self::Zendesk => &defaults::ZENDESK,
            Self::Salesforce => &defaults::SALESFORCE,
            Self::Hubspot => &defaults::HUBSPOT,
            Self::Dataverse => &defaults::DATAVERSE,
        }
    }

    /// The longest text of the field type that is meant for long texts.
    fn text_units_max(self) -> usize {
        match self {
            Self::Zendesk | Self::Hubspot => 65_536,
            Self::Salesforce => 131_072,
            Self::Dataverse => 1_048_576,
        }
    }

    /// Zendesk's tickets are one object, and their `external_id` is a field of its own.
    fn is_zendesk(self) -> bool {
        self == Self::Zendesk
    }
}

/// What `[crm] flavour` says: nothing or no known word, threads, or a product.
pub(super) fn flavour(section: &mut Section<'_>) -> Option<Option<Product>> {
    section.word("flavour", FLAVOURS)
}

/// Reads `[crm.record]`; `None` where something is wrong with it, which was reported.
pub(super) fn read(crm: &mut Section<'_>, product: Product) -> Option<RecordForm> {
    let Some(mut section) = crm.table("record") else {
        crm.missing("record", "is missing: a flavour with records needs [crm.record] with the names of its fields");
        return None;
    };
    let object = match product.is_zendesk() {
        true => Some("tickets".to_owned()),
        false => name(&mut section, "object", product, "is not set; name the object type, or the entity set"),
    };
    let units = section.number("text_units_max", 255..=TEXT_UNITS_MAX).and_then(|units| usize::try_from(units).ok());
    let create = section.json("create").unwrap_or_else(|| defaults_of_new(product));
    let fields = section.table("fields");
    if fields.is_none() {
        section.missing("fields", "is missing: it names the field of each member of a thread");
    }
    let named = fields.map(|fields| read_fields(fields, product));
    section.finish();
    let (id_field, fields) = named?;
    let whole = fields.len() == MEMBERS.len();
    let text_units_max = units.unwrap_or_else(|| product.text_units_max());
    whole.then_some(RecordForm { product, object: object?, id_field: id_field?, fields, text_units_max, create })
}

/// The field of the id, and those of the members that are named as they have to be.
fn read_fields(mut section: Section<'_>, product: Product) -> (Option<String>, BTreeMap<&'static str, String>) {
    let id_field = match product.is_zendesk() {
        true => Some("external_id".to_owned()),
        false => name(&mut section, THREAD_ID, product, "is not set; name the unique field that holds the thread's id"),
    };
    let mut fields: BTreeMap<&'static str, String> = BTreeMap::new();
    for member in MEMBERS {
        let missing = match product {
            Product::Zendesk => "is not set; give the number of a custom ticket field",
            _ => "is not set; name the field that holds it",
        };
        let Some(field) = name(&mut section, member, product, missing) else { continue };
        if id_field.as_ref() == Some(&field) || fields.values().any(|other| *other == field) {
            section.error(member, format!("names the field {field}, which another member has already"));
        }
        fields.insert(member, field);
    }
    section.finish();
    (id_field, fields)
}

/// A name that may stand in a path, in a query and in a body; of Zendesk's fields, the number.
fn name(section: &mut Section<'_>, key: &str, product: Product, missing: &str) -> Option<String> {
    section.missing(key, missing);
    let text = section.text_or_number(key)?;
    let fits = match product.is_zendesk() {
        true => text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()),
        false => {
            text.len() <= NAME_BYTES_MAX
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        }
    };
    if !fits {
        let form = match product.is_zendesk() {
            true => "must be the number of a custom ticket field".to_owned(),
            false => format!("must be at most {NAME_BYTES_MAX} letters, digits, `_` and `-`"),
        };
        section.error(key, form);
        return None;
    }
    Some(text)
}

/// A ticket cannot be made without a comment.
fn defaults_of_new(product: Product) -> Map<String, Value> {
    let Product::Zendesk = product else { return Map::new() };
    let comment = serde_json::json!({ "body": "A social thread, kept in step by Backhaul.", "public": false });
    Map::from_iter([("subject".to_owned(), Value::from("Social thread")), ("comment".to_owned(), comment)])
}
