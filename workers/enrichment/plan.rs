//! What is left to write to a profile, given what stands there. Pure, and safe to repeat: planning again after a write
//! that arrived plans nothing more.

use serde_json::{Map, Value};

use super::payload::{Strategy, TAGS_MAX};

/// What the job wants of a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// The attributes, cleared and, for `KEEP_LATEST`, only those that are the latest.
    pub attributes: Map<String, Value>,
    /// The tags.
    pub tags: Vec<String>,
    /// How values that stand there are treated.
    pub strategy: Strategy,
}

/// The members of a profile as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'p> {
    /// Its attributes.
    pub attributes: &'p Map<String, Value>,
    /// Its tags.
    pub tags: &'p [String],
}

/// The attributes and tags that are still to be sent; `None` where the profile holds all that the job wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// Attributes to send under the job's strategy.
    pub attributes: Map<String, Value>,
    /// Tags to send: all of the job's, where one is missing. The server adds what it lacks.
    pub tags: Vec<String>,
}

/// Compares the goal with what stands there.
pub fn missing(goal: &Goal, standing: Standing<'_>) -> Option<Missing> {
    let attributes: Map<String, Value> = goal
        .attributes
        .iter()
        .filter_map(|(name, wanted)| {
            let present = standing.attributes.get(name);
            let rest = match goal.strategy {
                // Both set the value; whether the job is the latest was decided before.
                Strategy::Overwrite | Strategy::KeepLatest => (present != Some(wanted)).then(|| wanted.clone()),
                Strategy::Append => lacking(present, wanted),
            };
            rest.map(|rest| (name.clone(), rest))
        })
        .collect();
    let tags_missing = goal.tags.iter().any(|tag| !standing.tags.contains(tag));
    if attributes.is_empty() && !tags_missing {
        return None;
    }
    Some(Missing { attributes, tags: if tags_missing { goal.tags.clone() } else { Vec::new() } })
}

/// Whether a write that the server took shows in the profile: its own values and its tags. The goal of a `KEEP_LATEST`
/// holds only what nothing newer is known of, so that another value there says that the write has not arrived.
pub fn arrived(goal: &Goal, standing: Standing<'_>) -> bool {
    missing(goal, standing).is_none()
}

/// What `present` lacks of `wanted`: members for lists, the value where none stands. A scalar never replaces or joins
/// another one, and a list does not replace a scalar.
fn lacking(present: Option<&Value>, wanted: &Value) -> Option<Value> {
    match (present, wanted) {
        (None | Some(Value::Null), Value::Null) => None,
        (None | Some(Value::Null), Value::Array(items)) => Some(Value::Array(distinct(items, &[]))),
        (None | Some(Value::Null), wanted) => Some(wanted.clone()),
        (Some(Value::Array(present)), Value::Array(items)) => {
            let rest = distinct(items, present);
            (!rest.is_empty()).then_some(Value::Array(rest))
        }
        (Some(Value::Array(present)), one) => (!present.contains(one)).then(|| Value::Array(vec![one.clone()])),
        (Some(_), _) => None,
    }
}

/// The `items` that are not in `present`, each once.
fn distinct(items: &[Value], present: &[Value]) -> Vec<Value> {
    let mut rest: Vec<Value> = Vec::new();
    for item in items {
        if !present.contains(item) && !rest.contains(item) {
            rest.push(item.clone());
        }
    }
    rest
}

/// The job's tags and then the tenant's own, each once, within the limit of the API: the job's come first.
pub fn merged_tags(own: &[String], default_tags: &[String]) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for tag in own.iter().chain(default_tags) {
        if tags.len() < TAGS_MAX && !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    fn left(strategy: Strategy, wanted: Value, present: Value) -> Option<Value> {
        let goal = Goal { attributes: object(wanted), tags: Vec::new(), strategy };
        let present = object(present);
        missing(&goal, Standing { attributes: &present, tags: &[] }).map(|missing| Value::Object(missing.attributes))
    }

    /// Covers row 126: a member that stands there is not appended again.
    #[test]
    fn append_sends_only_what_is_missing() {
        let append = |wanted, present| left(Strategy::Append, wanted, present);
        assert_eq!(append(json!({"l": [1, 2, 2]}), json!({"l": [1]})), Some(json!({"l": [2]})));
        assert_eq!(append(json!({"l": [1, 2]}), json!({"l": [2, 1]})), None);
        assert_eq!(append(json!({"l": 3}), json!({"l": [1]})), Some(json!({"l": [3]})));
        assert_eq!(append(json!({"l": 1}), json!({"l": [1]})), None);
        assert_eq!(append(json!({"l": [1, 1]}), json!({})), Some(json!({"l": [1]})));
        assert_eq!(append(json!({"s": "new"}), json!({"s": "old"})), None);
        assert_eq!(append(json!({"s": "new"}), json!({"s": null})), Some(json!({"s": "new"})));
        assert_eq!(append(json!({"s": [1]}), json!({"s": "old"})), None);
        assert_eq!(append(json!({"s": null}), json!({})), None);
    }

    /// Planning again on top of what a write has left plans nothing: the answer may be lost at any point.
    #[test]
    fn every_strategy_is_safe_to_repeat() {
        for strategy in [Strategy::Overwrite, Strategy::Append, Strategy::KeepLatest] {
            let wanted = json!({"a": 1, "l": [1, 2], "o": {"x": 1}});
            let sent = left(strategy, wanted.clone(), json!({})).expect("something is missing");
            assert_eq!(left(strategy, wanted, sent), None, "{strategy:?}");
        }
    }

    /// Covers row 30: a value that stood there before is no proof that the one which replaces it has arrived, and nor
    /// are attributes a proof of the tags.
    #[test]
    fn an_old_value_proves_no_write() {
        let (old, new) = (object(json!({"a": "old"})), object(json!({"a": "ours"})));
        for strategy in [Strategy::Overwrite, Strategy::KeepLatest] {
            let goal = Goal { attributes: new.clone(), tags: vec!["t".to_owned()], strategy };
            let standing = |attributes, tags| Standing { attributes, tags };
            assert!(!arrived(&goal, standing(&old, &goal.tags)), "{strategy:?}");
            assert!(!arrived(&goal, standing(&new, &[])), "{strategy:?}");
            assert!(arrived(&goal, standing(&new, &goal.tags)), "{strategy:?}");
        }
    }

    #[test]
    fn overwrite_sends_what_differs() {
        let sent = left(Strategy::Overwrite, json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3, "c": 4}));
        assert_eq!(sent, Some(json!({"b": 2})));
    }

    /// Covers row 104: the job's tags are kept, the tenant's are added, each once.
    #[test]
    fn tags_are_merged() {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(merged_tags(&own(&["a", "a"]), &own(&["x", "a"])), ["a", "x"]);
        let ten: Vec<String> = (0..10).map(|at| format!("t{at}")).collect();
        assert_eq!(merged_tags(&ten, &own(&["x"])), ten);
        let goal = Goal { attributes: Map::new(), tags: own(&["a", "b"]), strategy: Strategy::Append };
        let none = Map::new();
        let standing = own(&["a"]);
        let rest = missing(&goal, Standing { attributes: &none, tags: &standing }).expect("b is missing");
        assert_eq!(rest.tags, ["a", "b"]);
    }
}
