//! What a job would do to its upstream, found out by asking and without doing it.
//!
//! A preview reads: the job's row, its stored steps, the kind's memories, and the upstream. It takes tokens of the
//! upstream limits as every call does, and leaves nothing behind: no step, no event, no memory.

mod context;
mod subject;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

pub use self::{context::PreviewContext, subject::Subject};

/// Most differences, conflicts and problems that are shown, each.
const ENTRIES_MAX: usize = 200;

/// What would come of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It would send the request.
    WouldChange,
    /// The upstream holds all that the job wants.
    AlreadyApplied,
    /// What stands there, or what somebody else made of it, keeps the job from having its way.
    WouldConflict,
    /// The payload would be refused.
    Invalid,
}

/// The answer to a preview. Values are redacted as the kind's policy says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// What would come of the job.
    pub verdict: Verdict,
    /// The next write, as it would leave now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<PlannedRequest>,
    /// What stands at the upstream, as far as it concerns the job; absent where nothing was read or nothing stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Value>,
    /// What the job would change.
    pub difference: Vec<Difference>,
    /// Where the job cannot have its way.
    pub conflicts: Vec<Clash>,
    /// What is wrong with the payload.
    pub problems: Vec<Flaw>,
    /// What else there is to know, a sentence each.
    pub notes: Vec<String>,
}

/// One HTTP request that was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRequest {
    /// For example `PATCH`.
    pub method: String,
    /// The URL.
    pub endpoint: String,
    /// Headers by lower-case name, without secrets.
    pub headers: BTreeMap<String, String>,
    /// The JSON body; `null` where there is none.
    pub body: Value,
}

/// One member that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// JSON pointer in the upstream's document.
    pub pointer: String,
    /// The value now; absent where the member is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The value afterwards; absent where the member would be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// One member that the job wants otherwise than it will stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clash {
    /// JSON pointer in the upstream's document.
    pub pointer: String,
    /// The value when the job first looked; absent where it has not looked before, or nothing stood there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Value>,
    /// The value that the job wants; absent where it wants the member gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<Value>,
    /// The value now; absent where the member is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theirs: Option<Value>,
}

/// One thing that is wrong with the payload; it never holds the offending value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// JSON pointer of the place; empty for the whole document.
    pub pointer: String,
    /// What is expected there.
    pub message: String,
}

impl Preview {
    /// A preview that says no more than `verdict`.
    pub fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            request: None,
            current: None,
            difference: Vec::new(),
            conflicts: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A payload that would be refused under the failure code `code`.
    pub fn invalid(code: &'static str, problems: impl IntoIterator<Item = Flaw>) -> Self {
        let preview = Self::new(Verdict::Invalid).note(format!("the job would end as a dead letter with code {code}"));
        Self { problems: problems.into_iter().collect(), ..preview }
    }

    /// Adds a sentence.
    #[must_use]
    pub fn note(mut self, sentence: impl Into<String>) -> Self {
        self.notes.push(sentence.into());
        self
    }

    /// The same with lists of bounded length, and a note where one was cut.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        let lists = [
            ("differences", cut(&mut self.difference)),
            ("conflicts", cut(&mut self.conflicts)),
            ("problems", cut(&mut self.problems)),
        ];
        for (what, more) in lists.into_iter().filter(|(_, more)| *more > 0) {
            self.notes.push(format!("{more} more {what} are not shown"));
        }
        self
    }
}

/// Cuts a list to its bound; answers how many were cut off.
fn cut<T>(list: &mut Vec<T>) -> usize {
    let more = list.len().saturating_sub(ENTRIES_MAX);
    list.truncate(ENTRIES_MAX);
    more
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_null_are_two_things() {
        let difference = Difference { pointer: "/a".into(), before: None, after: Some(Value::Null) };
        let shown = serde_json::to_value(difference).expect("JSON");
        assert_eq!(shown, json!({"pointer": "/a", "after": null}));
    }

    #[test]
    fn lists_are_bounded() {
        let flaw = Flaw { pointer: String::new(), message: "wrong".into() };
        let preview = Preview::invalid("invalid_payload", vec![flaw; 500]).bounded();
        assert_eq!(preview.problems.len(), ENTRIES_MAX);
        assert_eq!(preview.notes.last().map(String::as_str), Some("300 more problems are not shown"));
    }
}
