//! What is left to write, given what stood there, what the job wants and what stands there now. Pure.

use serde_json::Value;

use crate::merge::{KeyedList, difference, overlay, rebase};

/// Listeners are one list on the wire; an event and an action name one of them.
const LISTS: &[KeyedList] = &[KeyedList { pointer: "/eventListeners", key: &["eventType", "action"] }];

/// The next move.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// What the job wants already stands there.
    Nothing,
    /// The members to send; lists as a whole, because the gateway replaces them.
    Send(Value),
    /// Somebody else gave a member that the job sets another value since `base`.
    Conflict {
        /// What the job would have made of `base`.
        ours: Value,
        /// JSON pointers of the members.
        pointers: Vec<String>,
    },
}

/// Decides what to write over `theirs` so that the sparse `patch`, meant for `base`, holds and nobody's change is lost.
pub fn plan(base: &Value, patch: &Value, theirs: &Value) -> Plan {
    match rebase(base, patch, theirs, LISTS) {
        Ok(merged) => difference(theirs, &merged).map_or(Plan::Nothing, Plan::Send),
        Err(pointers) => Plan::Conflict { ours: wanted(base, patch), pointers },
    }
}

/// What the sparse `patch` makes of `document`.
pub fn wanted(document: &Value, patch: &Value) -> Value {
    overlay(document, patch, LISTS)
}

/// Whether `document` holds everything that the sparse `patch` sets.
pub fn holds(document: &Value, patch: &Value) -> bool {
    wanted(document, patch) == *document
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(primary: &str, z_index: u64) -> Value {
        json!({
            "configurationId": "cfg_1",
            "theme": {"primaryColor": primary, "widgetSize": "medium"},
            "eventListeners": [{"eventType": "widget_open", "action": "log_to_external", "payload": {"n": 1}}],
            "layout": {"zIndex": z_index},
        })
    }

    /// Covers row 38, row 39: the first write carries what the job names.
    #[test]
    fn only_what_the_job_names_is_sent() {
        let base = document("#aaa", 1);
        let patch = json!({"theme": {"primaryColor": "#fff"}});
        assert_eq!(plan(&base, &patch, &base), Plan::Send(patch));
    }

    /// Covers row 36: the layout that the other writer changed is not touched.
    #[test]
    fn foreign_changes_of_other_members_stay() {
        let patch = json!({"theme": {"primaryColor": "#bbb"}});
        assert_eq!(plan(&document("#aaa", 1), &patch, &document("#aaa", 2)), Plan::Send(patch));
    }

    /// Covers row 37.
    #[test]
    fn foreign_changes_of_our_members_are_conflicts() {
        let patch = json!({"theme": {"primaryColor": "#bbb"}});
        match plan(&document("#aaa", 1), &patch, &document("#ccc", 1)) {
            Plan::Conflict { ours, pointers } => {
                assert_eq!(ours["theme"]["primaryColor"], "#bbb");
                assert_eq!(pointers, ["/theme/primaryColor"]);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Covers row 37: a value that the job names and that stood there already is the job's too.
    #[test]
    fn foreign_changes_of_named_members_are_conflicts() {
        let patch = json!({"theme": {"primaryColor": "#bbb", "widgetSize": "medium"}});
        let mut theirs = document("#aaa", 1);
        theirs["theme"]["widgetSize"] = json!("large");
        let planned = plan(&document("#aaa", 1), &patch, &theirs);
        assert!(matches!(planned, Plan::Conflict { pointers, .. } if pointers == ["/theme/widgetSize"]));
    }

    /// Covers row 32: what an earlier try has written is not written again.
    #[test]
    fn what_stands_there_is_not_sent_again() {
        let patch = json!({"theme": {"primaryColor": "#bbb"}});
        assert_eq!(plan(&document("#aaa", 1), &patch, &document("#bbb", 9)), Plan::Nothing);
        assert!(holds(&document("#bbb", 9), &patch));
        assert!(!holds(&document("#aaa", 9), &patch));
    }

    /// Covers row 40: the list that is sent holds the listeners that stand there and ours.
    #[test]
    fn listeners_are_merged_into_those_that_stand_there() {
        let base = document("#aaa", 1);
        let patch = json!({"eventListeners": [{"eventType": "message_sent", "action": "track_latency"}]});
        let Plan::Send(body) = plan(&base, &patch, &base) else { panic!("something is to be sent") };
        assert_eq!(
            body,
            json!({"eventListeners": [
                {"eventType": "widget_open", "action": "log_to_external", "payload": {"n": 1}},
                {"eventType": "message_sent", "action": "track_latency"}]})
        );
    }

    /// A listener that is named again without a payload keeps the one it has.
    #[test]
    fn listeners_keep_what_is_not_named() {
        let base = document("#aaa", 1);
        let patch = json!({"eventListeners": [{"eventType": "widget_open", "action": "log_to_external"}]});
        assert_eq!(plan(&base, &patch, &base), Plan::Nothing);
    }
}
