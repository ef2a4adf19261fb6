//! The tenant's policy on personal data, applied before anything is sent.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    payload::Request,
    settings::{Policy, Settings},
};
use crate::{
    personal_data::{self, Finding, Label, Place},
    pointer::Pointer,
    problem::Problems,
};

/// Labels by JSON pointer, as audit events carry them. Neither holds a value.
pub type Labels = BTreeMap<String, BTreeSet<Label>>;

/// Most pointers in an audit event; the labels of further places stand together under `/…`.
const POINTERS_MAX: usize = 200;

/// The members of a payload that are searched. The profile id is a UUID, the strategy a known word.
const SEARCHED: [&str; 3] = ["attributes", "tags", "sourceSystem"];

/// What of a request may be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Cleared {
    /// The attributes, masked where the policy says so.
    pub attributes: Map<String, Value>,
    /// The job's tags, masked alike.
    pub tags: Vec<String>,
    /// The source's name, masked alike: it is free text.
    pub source_system: String,
}

/// Searches the parts of a payload that carry data of the person. The payload need not be a valid one: the audit trail
/// of a refused job tells its labels too.
pub fn labels(payload: &Value) -> Labels {
    let mut labels = Labels::new();
    let mut rest = BTreeSet::new();
    let searched: Map<String, Value> =
        SEARCHED.iter().filter_map(|name| Some(((*name).to_owned(), payload.get(*name)?.clone()))).collect();
    for finding in personal_data::scan(&Value::Object(searched)) {
        let pointer = finding.pointer.as_str();
        if labels.len() < POINTERS_MAX || labels.contains_key(pointer) {
            labels.entry(pointer.to_owned()).or_default().insert(finding.span.label);
        } else {
            rest.insert(finding.span.label);
        }
    }
    if !rest.is_empty() {
        labels.insert("/…".to_owned(), rest);
    }
    labels
}

/// Applies the tenant's policy: what may be sent, or everything that forbids sending.
pub fn clear(request: &Request, settings: &Settings) -> Result<Cleared, Problems> {
    let mut problems = Problems::new();
    let mut told: BTreeSet<(Pointer, Label)> = BTreeSet::new();
    for finding in findings(request) {
        let label = finding.span.label;
        let message = match (settings.policy(label), finding.place) {
            (Policy::Block, _) => format!("carries {}, which the profile blocks", label.name()),
            // A masked name would be another attribute.
            (Policy::Mask, Place::Name) => format!("carries {} in its name, which cannot be masked", label.name()),
            (Policy::Mask, Place::Value) | (Policy::Allow, _) => continue,
        };
        if told.insert((finding.pointer.clone(), label)) {
            problems.add(&finding.pointer, message);
        }
    }
    let masks = |label| settings.policy(label) == Policy::Mask;
    let attributes = match personal_data::mask(&Value::Object(request.attributes.clone()), &masks) {
        Value::Object(attributes) => attributes,
        // Masking keeps the shape of what it is given.
        _ => Map::new(),
    };
    let word = |word: &String| match personal_data::mask(&json!(word), &masks) {
        Value::String(masked) => masked,
        _ => word.clone(),
    };
    let tags = request.tags.iter().map(word).collect();
    let cleared = Cleared { attributes, tags, source_system: word(&request.source_system) };
    problems.or(Some(cleared))
}

fn findings(request: &Request) -> Vec<Finding> {
    personal_data::scan(&json!({
        "attributes": request.attributes,
        "tags": request.tags,
        "sourceSystem": request.source_system,
    }))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{payload::check, settings::test_settings},
        *,
    };

    fn request(attributes: Value) -> Request {
        let payload = json!({
            "profileId": "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e", "attributes": attributes,
            "mergeStrategy": "OVERWRITE", "sourceSystem": "crm", "tags": ["vip"]});
        check(&payload, &test_settings(""), chrono::DateTime::UNIX_EPOCH).expect("a valid payload")
    }

    /// Covers row 118, row 119: a blocked label stops the job, and the reason does not repeat the value.
    #[test]
    fn blocked_labels_stop_the_job() {
        let request = request(json!({"note": "ssn 123-45-6789", "email": "a@b.co", "c": {"d": "123456789"}}));
        let problems = clear(&request, &test_settings("")).expect_err("SSNs are blocked by default");
        let text = problems.to_string();
        assert_eq!(problems.list().len(), 2, "{text}");
        assert!(text.contains("/attributes/note") && text.contains("SSN"), "{text}");
        assert!(!text.contains("6789") && !text.contains("a@b.co"), "{text}");
    }

    #[test]
    fn masked_labels_are_replaced_and_allowed_ones_are_recorded() {
        let request = request(json!({"note": "ssn 123-45-6789", "email": "a@b.co +15551234567"}));
        let cleared = clear(&request, &test_settings("[personal_data]\nSSN = \"mask\"")).expect("nothing is blocked");
        assert_eq!(cleared.attributes["note"], "ssn [SSN]");
        assert_eq!(cleared.attributes["email"], "a@b.co +15551234567");
        assert_eq!(
            serde_json::to_value(labels(&json!({"attributes": request.attributes}))).expect("labels are JSON"),
            json!({"/attributes/email": ["EMAIL", "PHONE"], "/attributes/note": ["SSN"]})
        );
    }

    /// Covers row 118: the policy holds for every part that is sent, the source's name and the tags too.
    #[test]
    fn tags_and_the_sources_name_are_masked_alike() {
        let mut request = request(json!({"tier": "gold"}));
        request.tags = vec!["for a@b.co".to_owned()];
        request.source_system = "export of a@b.co".to_owned();
        let cleared = clear(&request, &test_settings("[personal_data]\nEMAIL = \"mask\"")).expect("nothing is blocked");
        assert_eq!((&cleared.tags[0][..], &cleared.source_system[..]), ("for [EMAIL]", "export of [EMAIL]"));
        assert!(clear(&request, &test_settings("[personal_data]\nEMAIL = \"block\"")).is_err());
    }

    /// An audit event stays small whatever the payload.
    #[test]
    fn labelled_places_are_bounded() {
        let many: Vec<String> = (0..1_000).map(|at| format!("user{at}@example.com")).collect();
        let labels = labels(&json!({"attributes": {"list": many}}));
        assert_eq!(labels.len(), POINTERS_MAX + 1);
        assert_eq!(labels["/…"], BTreeSet::from([Label::Email]));
    }

    /// Covers row 117: a name cannot be masked, so it stops the job.
    #[test]
    fn names_cannot_be_masked() {
        let request = request(json!({"a@b.co": 1}));
        assert!(clear(&request, &test_settings("")).is_ok());
        let problems = clear(&request, &test_settings("[personal_data]\nEMAIL = \"mask\"")).expect_err("not maskable");
        assert_eq!(problems.list()[0].pointer, "/attributes/[EMAIL]");
    }
}
