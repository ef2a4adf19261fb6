//! Personal data in a whole JSON document.

use serde_json::{Map, Value};

use super::{Context, Label, Span, find, mask_spans};
use crate::pointer::Pointer;

/// Which half of a member carries the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The member's name.
    Name,
    /// Its value.
    Value,
}

/// One finding in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where; names in it are masked already.
    pub pointer: Pointer,
    /// In a member's name or in a value.
    pub place: Place,
    /// What and where in the text. For numbers, in their decimal text.
    pub span: Span,
}

/// Everything found in `document`, names and numbers included, in the order of the document.
pub fn scan(document: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    scan_at(document, &Pointer::root(), Context::None, &mut findings);
    findings
}

fn scan_at(value: &Value, at: &Pointer, context: Context, findings: &mut Vec<Finding>) {
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                let pointer = at.member(name);
                for span in find(name, Context::None) {
                    findings.push(Finding { pointer: pointer.clone(), place: Place::Name, span });
                }
                let own = Context::of(name);
                scan_at(inner, &pointer, if own == Context::None { context } else { own }, findings);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                scan_at(inner, &at.item(index), context, findings);
            }
        }
        scalar => {
            let spans = scalar_text(scalar).map(|text| find(&text, context)).unwrap_or_default();
            findings.extend(spans.into_iter().map(|span| Finding { pointer: at.clone(), place: Place::Value, span }));
        }
    }
}

/// The text that a scalar is searched in; `None` for those that cannot carry personal data.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        // 4111111111111111.0 is a card number too.
        Value::Number(number) => {
            let text = number.to_string();
            Some(text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A copy of `document` in which findings that `masks` names are replaced by their label in brackets. Member names are
/// left alone: a masked name would be another member.
pub fn mask(document: &Value, masks: &dyn Fn(Label) -> bool) -> Value {
    mask_at(document, Context::None, masks)
}

fn mask_at(value: &Value, context: Context, masks: &dyn Fn(Label) -> bool) -> Value {
    match value {
        Value::Object(members) => {
            let masked: Map<String, Value> = members
                .iter()
                .map(|(name, inner)| {
                    let own = Context::of(name);
                    (name.clone(), mask_at(inner, if own == Context::None { context } else { own }, masks))
                })
                .collect();
            Value::Object(masked)
        }
        Value::Array(items) => Value::Array(items.iter().map(|inner| mask_at(inner, context, masks)).collect()),
        scalar => {
            let Some(text) = scalar_text(scalar) else { return scalar.clone() };
            let spans: Vec<Span> = find(&text, context).into_iter().filter(|span| masks(span.label)).collect();
            if spans.is_empty() { scalar.clone() } else { Value::String(mask_spans(&text, &spans)) }
        }
    }
}
