//! What the previews of all kinds share: what may be shown, and how two documents differ.

use backhaul_engine::{
    Failure,
    preview::{Difference, Flaw, Preview},
};
use serde_json::{Map, Value};

use crate::{
    personal_data::{self, Context, Label, find, mask_spans},
    pointer::Pointer,
    problem::{Problem, Problems},
};

/// Which personal data is not shown.
pub(crate) struct Redaction<'a> {
    hides: Box<dyn Fn(Label) -> bool + Send + Sync + 'a>,
    members: Vec<String>,
}

/// What stands for a value that is hidden whatever it is.
const HIDDEN: &str = "[hidden]";

impl<'a> Redaction<'a> {
    /// Labels that `hides` names are shown in brackets instead of what was found.
    pub(crate) fn new(hides: impl Fn(Label) -> bool + Send + Sync + 'a) -> Self {
        Self { hides: Box::new(hides), members: Vec::new() }
    }

    /// Hides, besides, all that stands in members of these names.
    #[must_use]
    pub(crate) fn hiding(self, members: Vec<String>) -> Self {
        Self { members, ..self }
    }

    /// `document` as it may be shown.
    pub(crate) fn show(&self, document: &Value) -> Value {
        self.rename(&self.mask(document))
    }

    /// How `before` and `after` differ, member by member.
    pub(crate) fn difference(&self, before: &Value, after: &Value) -> Vec<Difference> {
        let (shown_before, shown_after) = (self.mask(before), self.mask(after));
        let mut list = Vec::new();
        let before = Some(Pair { value: before, shown: &shown_before });
        let after = Some(Pair { value: after, shown: &shown_after });
        self.walk(before, after, &Pointer::root(), &mut list);
        list
    }

    /// Masked values under their own names: the shape stays, so that two documents can be walked side by side.
    fn mask(&self, document: &Value) -> Value {
        let mut masked = personal_data::mask(document, &*self.hides);
        if !self.members.is_empty() {
            self.hide_members(&mut masked);
        }
        masked
    }

    fn hide_members(&self, value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, inner) in members {
                    if self.members.contains(name) { hide(inner) } else { self.hide_members(inner) }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_members(item)),
            _ => {}
        }
    }

    fn rename(&self, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let shown: Map<String, Value> =
                    members.iter().map(|(name, inner)| (self.name(name), self.rename(inner))).collect();
                Value::Object(shown)
            }
            Value::Array(items) => Value::Array(items.iter().map(|item| self.rename(item)).collect()),
            scalar => scalar.clone(),
        }
    }

    fn name(&self, name: &str) -> String {
        let spans: Vec<_> = find(name, Context::None).into_iter().filter(|span| (self.hides)(span.label)).collect();
        mask_spans(name, &spans)
    }

    fn walk(&self, before: Option<Pair<'_>>, after: Option<Pair<'_>>, at: &Pointer, list: &mut Vec<Difference>) {
        let (old, new) = (before.map(|pair| pair.value), after.map(|pair| pair.value));
        if old == new {
            return;
        }
        match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let gone = old.keys().filter(|name| !new.contains_key(*name));
                for name in new.keys().chain(gone) {
                    let (before, after) = (inner(before, name.as_str()), inner(after, name.as_str()));
                    self.walk(before, after, &at.member(name), list);
                }
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) => {
                for index in 0..old.len().max(new.len()) {
                    self.walk(inner(before, index), inner(after, index), &at.item(index), list);
                }
            }
            _ => list.push(Difference {
                pointer: at.as_str().to_owned(),
                before: before.map(|pair| self.rename(pair.shown)),
                after: after.map(|pair| self.rename(pair.shown)),
            }),
        }
    }
}

/// Hides what a value says and keeps its shape. `null` says nothing.
fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null => {}
        scalar => *scalar = Value::from(HIDDEN),
    }
}

/// A value and what is shown of it.
#[derive(Clone, Copy)]
struct Pair<'v> {
    value: &'v Value,
    shown: &'v Value,
}

fn inner(pair: Option<Pair<'_>>, index: impl serde_json::value::Index + Copy) -> Option<Pair<'_>> {
    let Pair { value, shown } = pair?;
    Some(Pair { value: value.get(index)?, shown: shown.get(index)? })
}

/// A payload that breaks the kind's rules.
pub(crate) fn refused(code: &'static str, problems: &Problems) -> Preview {
    let flaw = |problem: &Problem| Flaw { pointer: problem.pointer.clone(), message: problem.message.clone() };
    Preview::invalid(code, problems.list().iter().map(flaw))
}

/// A payload whose member at `pointer` makes every attempt fail before it calls anybody.
pub(crate) fn refused_at(pointer: &str, failure: Failure) -> Result<Preview, Failure> {
    match failure {
        Failure::Permanent(cause) => {
            Ok(Preview::invalid(cause.code, [Flaw { pointer: pointer.to_owned(), message: cause.message }]))
        }
        // Only what is wrong for good is the payload's fault.
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(before: Value, after: Value, hides: bool) -> Value {
        serde_json::to_value(Redaction::new(|_| hides).difference(&before, &after)).expect("JSON")
    }

    #[test]
    fn members_and_items_are_told_one_by_one() {
        let before = json!({"a": 1, "b": {"c": [1, 2], "d": null}, "gone": true, "same": {"x": 1}});
        let after = json!({"a": 2, "b": {"c": [1, 3, 4], "d": {}}, "new": null, "same": {"x": 1}});
        assert_eq!(
            shown(before, after, true),
            json!([
                {"pointer": "/a", "before": 1, "after": 2},
                {"pointer": "/b/c/1", "before": 2, "after": 3},
                {"pointer": "/b/c/2", "after": 4},
                {"pointer": "/b/d", "before": null, "after": {}},
                {"pointer": "/new", "after": null},
                {"pointer": "/gone", "before": true},
            ])
        );
        assert_eq!(shown(json!([1]), json!([1]), true), json!([]));
    }

    /// A change of a telephone number is told without either number, also where only the member's name says what it is.
    #[test]
    fn what_is_hidden_is_hidden_on_both_sides_and_in_names() {
        let before = json!({"phone": 5_551_234, "ann@example.com": "x"});
        let after = json!({"phone": "555 9876", "ann@example.com": "bob@example.com", "o": {"bob@example.com": 1}});
        let told = shown(before.clone(), after.clone(), true);
        assert_eq!(
            told,
            json!([
                {"pointer": "/[EMAIL]", "before": "x", "after": "[EMAIL]"},
                {"pointer": "/o", "after": {"[EMAIL]": 1}},
                {"pointer": "/phone", "before": "[PHONE]", "after": "[PHONE]"},
            ])
        );
        let told = shown(before, after, false);
        assert_eq!(told[2]["after"], "555 9876");
        assert_eq!(Redaction::new(|_| true).show(&json!({"ann@example.com": [1]})), json!({"[EMAIL]": [1]}));
    }
}
