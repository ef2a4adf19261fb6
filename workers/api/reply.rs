//! Bodies of successful replies.

use backhaul_engine::Failure;
use backhaul_outbound::Reply;
use serde_json::Value;

use super::failure::Trouble;

/// How JSON writes U+0000.
const ESCAPED_NUL: &[u8] = b"\\u0000";

/// The body. One that is no JSON may be a proxy's, and passes: it is a transient failure `code`.
pub fn json(reply: &Reply, code: &'static str) -> Result<Value, Trouble> {
    Ok(reply.json().map_err(|error| Failure::transient(code, error).with_status(reply.status))?)
}

/// As [`json`], without the character that neither Postgres, where steps keep answers, nor a CRM can hold.
pub fn json_without_nul(reply: &Reply, code: &'static str) -> Result<Value, Trouble> {
    let mut value = json(reply, code)?;
    // Few texts hold one, and a look at the bytes is cheap.
    if reply.body.windows(ESCAPED_NUL.len()).any(|bytes| bytes == ESCAPED_NUL) {
        drop_nul(&mut value);
    }
    Ok(value)
}

fn drop_nul(value: &mut Value) {
    match value {
        Value::String(text) => text.retain(|char| char != '\0'),
        Value::Array(items) => items.iter_mut().for_each(drop_nul),
        Value::Object(members) => members.values_mut().for_each(drop_nul),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_database_can_hold_is_dropped() {
        let mut value = serde_json::json!({"messages": [{"text": "a\0b"}, {"text": null}], "version": 7});
        drop_nul(&mut value);
        assert_eq!(value, serde_json::json!({"messages": [{"text": "ab"}, {"text": null}], "version": 7}));
    }
}
