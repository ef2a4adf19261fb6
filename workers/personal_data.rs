//! Labels for personal data in payloads: where it stands, of which sort, and a copy without it.
//!
//! Values are searched, not matched as a whole, at any depth, numbers and member names included. The rules lean towards
//! finding too much: a false finding costs a line in the audit trail, a missed one leaks a person's data.

mod digits;
mod walk;

use serde::{Deserialize, Serialize};

pub use walk::{Finding, Place, mask, scan};

/// A sort of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Label {
    /// An e-mail address.
    Email,
    /// A telephone number.
    Phone,
    /// A US social security number in its usual form, or under a member whose name says so.
    Ssn,
    /// Nine digits that may be a social security number.
    PossibleSsn,
    /// A payment card number with a right check digit.
    Card,
}

impl Label {
    /// All labels.
    pub const ALL: [Label; 5] = [Label::Email, Label::Phone, Label::Ssn, Label::PossibleSsn, Label::Card];

    /// The label's name as profiles and audit events write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Phone => "PHONE",
            Self::Ssn => "SSN",
            Self::PossibleSsn => "POSSIBLE_SSN",
            Self::Card => "CARD",
        }
    }
}

/// A stretch of a text, in bytes, that carries a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What was found.
    pub label: Label,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// What the name of a member says about its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Context {
    /// Nothing.
    #[default]
    None,
    /// A telephone number: shorter and national forms count.
    Phone,
    /// A social security number: nine digits count as one.
    Ssn,
}

impl Context {
    /// The context that the member `name` gives. Names are split at case changes and at everything that is no letter,
    /// so that `telemetry` is not a telephone.
    pub fn of(name: &str) -> Self {
        let mut words: Vec<String> = vec![String::new()];
        let mut lower_before = false;
        for char in name.chars() {
            if !char.is_alphabetic() || (char.is_uppercase() && lower_before) {
                words.push(String::new());
            }
            if char.is_alphabetic()
                && let Some(word) = words.last_mut()
            {
                word.extend(char.to_lowercase());
            }
            lower_before = char.is_lowercase();
        }
        let says = |known: &[&str]| words.iter().any(|word| known.contains(&word.as_str()));
        if says(&["phone", "phonenumber", "telephone", "tel", "mobile", "msisdn", "cell", "cellphone", "fax", "sms"]) {
            Self::Phone
        } else if says(&["ssn", "socialsecurity", "tin", "itin"]) || (says(&["social"]) && says(&["security"])) {
            Self::Ssn
        } else {
            Self::None
        }
    }
}

/// Everything found in `text`, in order, without overlaps.
pub fn find(text: &str, context: Context) -> Vec<Span> {
    let mut spans = emails(text);
    let numbers = digits::find(text, context, &spans);
    spans.extend(numbers);
    spans.sort_by_key(|span| span.start);
    spans
}

/// `text` with every finding replaced by its label in brackets.
pub fn mask_all(text: &str) -> String {
    mask_spans(text, &find(text, Context::None))
}

/// `text` with the `spans`, which are in order and do not overlap, replaced by their labels in brackets.
pub(crate) fn mask_spans(text: &str, spans: &[Span]) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut from = 0;
    for span in spans {
        masked.push_str(&text[from..span.start]);
        masked.push('[');
        masked.push_str(span.label.name());
        masked.push(']');
        from = span.end;
    }
    masked.push_str(&text[from..]);
    masked
}

/// An address is what stands around an at sign without a space, where the part behind it has an inner dot.
fn emails(text: &str) -> Vec<Span> {
    let belongs = |char: char| !char.is_whitespace() && !char.is_control() && !"@<>()[],;:\"".contains(char);
    let mut spans: Vec<Span> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let local = text[..at].chars().rev().take_while(|&char| belongs(char)).map(char::len_utf8).sum::<usize>();
        let domain = text[at + 1..].chars().take_while(|&char| belongs(char)).map(char::len_utf8).sum::<usize>();
        let domain = text[at + 1..at + 1 + domain].trim_end_matches(['.', '!', '?', '\'']).len();
        let inner_dot = text[at + 1..at + 1 + domain].trim_start_matches('.').contains('.');
        // What stands between two at signs belongs to the address before.
        let start = spans.last().map_or(0, |span: &Span| span.end).max(at - local);
        if start < at && inner_dot {
            spans.push(Span { label: Label::Email, start, end: at + 1 + domain });
        }
    }
    spans
}

#[cfg(test)]
mod tests;
