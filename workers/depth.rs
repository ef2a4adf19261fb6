//! How deep a JSON value is nested, as the widget gateway counts it.

use serde_json::Value;

/// The depth of `value`: the root counts one, and every member or item, scalars included, counts one more than what
/// holds it. An empty object or list therefore counts as much as a scalar. Values that serde_json has parsed are at
/// most 128 deep, so the recursion is bounded.
pub fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Object(members) => members.values().map(depth).max(),
        Value::Array(items) => items.iter().map(depth).max(),
        _ => None,
    };
    1 + inner.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Covers row 43 with the limit of five: four containers and a scalar pass, five and a scalar do not, a fifth
    /// container passes only while it is empty, a sixth never.
    #[test]
    fn scalars_count_a_level() {
        let cases = [
            (json!(1), 1),
            (json!({}), 1),
            (json!({"a": {"b": {"c": {"d": 1}}}}), 5),
            (json!({"a": {"b": {"c": {"d": {}}}}}), 5),
            (json!({"a": {"b": {"c": {"d": []}}}}), 5),
            (json!({"a": {"b": {"c": {"d": {"e": 1}}}}}), 6),
            (json!({"a": {"b": {"c": {"d": {"e": {}}}}}}), 6),
            (json!([[[[["x"]]]]]), 6),
        ];
        for (value, expected) in cases {
            assert_eq!(depth(&value), expected, "{value}");
        }
    }
}
