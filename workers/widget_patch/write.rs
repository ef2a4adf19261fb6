//! The conditional write of a configuration, with its merges and its readings back.

use backhaul_engine::{Begun, Failure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    payload::Request,
    plan::{Plan, holds, plan, wanted},
};
use crate::api::{
    Exchange,
    widgets::{Patched, Snapshot, Widgets},
};

/// Most readings after a conflict in one attempt; so there are at most four writes.
const REREADS_MAX: usize = 3;

/// What the step has achieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Whether this job wrote, as far as it knows: an earlier attempt whose answer was lost may have.
    pub changed: bool,
    /// The gateway accepted the write for later.
    pub pending: bool,
    /// Entity tag that the write was conditional on.
    pub etag_before: String,
    /// Entity tag afterwards, where the gateway told one.
    pub etag_after: Option<String>,
    /// The theme that is live now.
    pub theme: Value,
    /// When it was found to be live.
    pub applied_at: DateTime<Utc>,
    /// The call that showed it; `None` where the document that was read first held all of it already.
    pub exchange: Option<Exchange>,
}

/// The next move of a write.
pub(super) enum Next {
    /// Everything stands there.
    Nothing,
    /// Send this body under this key, on the condition that nobody else writes first.
    Send { body: Value, key: String },
    /// Somebody else changed the members at `pointers`; the job would have made `ours` of the document.
    Conflict { ours: Value, pointers: Vec<String> },
}

/// One write.
pub(super) struct Writer<'w, 'e> {
    pub widgets: &'w Widgets<'e>,
    pub request: &'w Request,
    pub base: &'w Snapshot,
    pub key: &'w str,
}

impl Writer<'_, '_> {
    /// Writes until the request holds, somebody else's change forbids it, or the gateway fails.
    pub(super) async fn write(&self, begun: Begun, now: DateTime<Utc>) -> Result<Applied, Failure> {
        let id = &self.request.configuration_id;
        // A lost answer is no refusal: what an earlier attempt sent may stand there already.
        let mut read = match begun {
            Begun::Now => None,
            Begun::OutcomeUnknown => Some(self.widgets.read(id).await?),
        };
        let mut rereads = 0;
        loop {
            let current = read.as_ref().map_or(self.base, |(snapshot, _)| snapshot);
            let (body, key) = match self.next(current) {
                Next::Send { body, key } => (body, key),
                Next::Conflict { ours, .. } => return Err(self.conflict(ours, current)),
                Next::Nothing => return Ok(self.standing(current, read.as_ref().map(|(_, exchange)| exchange), now)),
            };
            match self.widgets.patch(id, &current.etag, &key, &body).await {
                Ok((patched, exchange)) => return self.judge(patched, exchange, current, now).await,
                Err(trouble) if trouble.is_conflict() && rereads < REREADS_MAX => {
                    rereads += 1;
                    read = Some(self.widgets.read(id).await?);
                }
                Err(trouble) if trouble.is_conflict() => {
                    return Err(self.conflict(wanted(&self.base.document, &self.request.patch), current));
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// What is to be done about `current`.
    pub(super) fn next(&self, current: &Snapshot) -> Next {
        match plan(&self.base.document, &self.request.patch, &current.document) {
            Plan::Nothing => Next::Nothing,
            Plan::Conflict { ours, pointers } => Next::Conflict { ours, pointers },
            Plan::Send(patch) => {
                let body = with_id(patch, &self.request.configuration_id);
                Next::Send { key: self.write_key(&current.etag, &body), body }
            }
        }
    }

    /// What is to be believed of a success.
    async fn judge(
        &self,
        patched: Patched,
        exchange: Exchange,
        before: &Snapshot,
        now: DateTime<Utc>,
    ) -> Result<Applied, Failure> {
        let applied = |pending, etag_after, theme, exchange| Applied {
            changed: true,
            pending,
            etag_before: before.etag.clone(),
            etag_after,
            theme,
            applied_at: now,
            exchange: Some(exchange),
        };
        match patched {
            Patched::Accepted => Ok(applied(true, None, Value::Null, exchange)),
            // The answer may show the configuration in part; what it shows must be ours.
            Patched::Shown(document, etag) if holds(&document, &shown_part(&self.request.patch, &document)) => {
                Ok(applied(false, etag, document["theme"].clone(), exchange))
            }
            Patched::Shown(..) | Patched::Silent => {
                let (after, exchange) = self.widgets.read(&self.request.configuration_id).await?;
                if !holds(&after.document, &self.request.patch) {
                    return Err(Failure::transient(
                        "widget_update_not_visible",
                        "the gateway reported success, but the configuration does not show the change",
                    ));
                }
                let theme = after.document["theme"].clone();
                Ok(applied(false, Some(after.etag), theme, exchange))
            }
        }
    }

    fn standing(&self, current: &Snapshot, exchange: Option<&Exchange>, now: DateTime<Utc>) -> Applied {
        Applied {
            changed: false,
            pending: false,
            etag_before: self.base.etag.clone(),
            etag_after: Some(current.etag.clone()),
            theme: current.document["theme"].clone(),
            applied_at: now,
            exchange: exchange.cloned(),
        }
    }

    fn conflict(&self, ours: Value, theirs: &Snapshot) -> Failure {
        Failure::Conflict { base: self.base.document.clone(), ours, theirs: theirs.document.clone() }
    }

    /// One key for one write: a merged body, or the same body on another condition, is another write.
    fn write_key(&self, etag: &str, body: &Value) -> String {
        let mut hash = Sha256::new();
        hash.update(etag.as_bytes());
        hash.update([0]);
        hash.update(body.to_string().as_bytes());
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", self.key)
    }
}

/// The gateway wants the id in the body too, equal to the one in the path.
fn with_id(mut patch: Value, id: &str) -> Value {
    if let Some(patch) = patch.as_object_mut() {
        patch.insert("configurationId".into(), json!(id));
    }
    patch
}

/// The members of `patch` that `document` has at its top.
fn shown_part(patch: &Value, document: &Value) -> Value {
    let members = patch.as_object().into_iter().flatten();
    let shown = members.filter(|(name, _)| document.get(name.as_str()).is_some());
    Value::Object(shown.map(|(name, member)| (name.clone(), member.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 41: path and body name the same configuration.
    #[test]
    fn the_body_names_the_configuration_of_the_path() {
        let body = with_id(json!({"theme": {"primaryColor": "#fff"}}), "cfg_1");
        assert_eq!(body, json!({"configurationId": "cfg_1", "theme": {"primaryColor": "#fff"}}));
    }

    /// A gateway that shows id and theme only is believed for the theme.
    #[test]
    fn partial_answers_are_judged_by_what_they_show() {
        let patch = json!({"theme": {"primaryColor": "#fff"}, "layout": {"zIndex": 1}});
        let answer = json!({"configurationId": "cfg_1", "theme": {"primaryColor": "#fff", "widgetSize": "large"}});
        assert!(holds(&answer, &shown_part(&patch, &answer)));
        let other = json!({"configurationId": "cfg_1", "theme": {"primaryColor": "#000"}});
        assert!(!holds(&other, &shown_part(&patch, &other)));
    }
}
