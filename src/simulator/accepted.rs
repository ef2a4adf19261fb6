//! What a platform accepts for later: it answers 202, and shows the change when it was looked for a few times.

use serde_json::{Value, json};

use crate::documents::Document;

/// What was accepted. Each is the name of a member of a document's hidden part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Later {
    /// A write.
    Write,
    /// A publication.
    Publication,
}

impl Later {
    fn member(self) -> &'static str {
        match self {
            Self::Write => "accepted_write",
            Self::Publication => "accepted_publication",
        }
    }
}

impl Document {
    /// Keeps `value` until it was looked for `looks` times, in place of what was accepted before.
    pub(crate) fn accept(&mut self, later: Later, value: Value, looks: u32) {
        self.hide(later.member(), json!({"value": value, "looks": looks}));
    }

    /// One look at what was accepted: its value, once it was looked for often enough.
    pub(crate) fn look(&mut self, later: Later) -> Option<Value> {
        let kept = self.hidden.get_mut(later.member())?;
        let left = kept["looks"].as_u64().unwrap_or_default().saturating_sub(1);
        kept["looks"] = Value::from(left);
        if left > 0 {
            return None;
        }
        let value = kept["value"].take();
        self.hidden.as_object_mut()?.remove(later.member());
        Some(value)
    }

    /// Sets a member of the hidden part.
    pub(crate) fn hide(&mut self, member: &str, value: Value) {
        if !self.hidden.is_object() {
            self.hidden = json!({});
        }
        self.hidden[member] = value;
    }
}
