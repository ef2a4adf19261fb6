//! The conditional write of a channel: read, merged and put back whole, so that nobody else's change is lost.

use backhaul_engine::{Begun, Failure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::payload;
use crate::{
    api::{
        Exchange,
        channels::{Channel, Channels},
        precondition::Standing,
    },
    merge,
};

/// Most readings after a conflict in one attempt; so there are at most four writes.
const REREADS_MAX: u32 = 3;

/// What the write has achieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// The channel's id; another than the payload's where the channel was created under an external id.
    pub id: String,
    /// The job wanted something that did not stand there before.
    pub changed: bool,
    /// The channel as it was, for a roll-back; absent where it did not exist.
    pub before: Option<Map<String, Value>>,
    /// The channel as this job left it.
    pub after: Map<String, Value>,
    /// Marks before the write.
    pub standing_before: Option<Standing>,
    /// Marks after it, as far as the answer shows them.
    pub standing_after: Option<Standing>,
    /// Readings after a conflict.
    pub rereads: u32,
    /// The write; absent where nothing had to be sent.
    pub exchange: Option<Exchange>,
    /// When the platform accepted the write for later; absent where it has carried it out.
    pub accepted_at: Option<DateTime<Utc>>,
}

/// What is left to do for a document.
#[derive(Debug, Clone, PartialEq)]
enum Plan {
    Nothing,
    Send(Map<String, Value>),
    /// JSON pointers of the members that somebody else changed too.
    Conflict(Vec<String>),
}

/// What a write is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Goal {
    /// The members of this sparse patch hold, also those that held before.
    Set(Value),
    /// What the job changed is again as it was in this document. What it left alone is nobody's goal.
    PutBack(Map<String, Value>),
}

/// The members that a job sets, in the platform's names. Everything else in the channel is somebody else's.
pub(super) fn patch(channel: &payload::Channel) -> Value {
    let mut patch = json!({
        "name": channel.name,
        "enabled": channel.enabled,
        "webchatSettings": {
            "webchatUrl": channel.webchat_url,
            "corsAllowedOrigins": channel.origins,
            "authProviderId": channel.auth_provider_id,
            "webchatId": channel.webchat_id,
        },
    });
    if let Some(description) = &channel.description {
        patch["description"] = json!(description);
    }
    patch
}

/// Brings `goal` over what stood in `base` into `current`.
fn plan(base: &Map<String, Value>, goal: &Goal, current: &Map<String, Value>) -> Plan {
    let (base, theirs) = (Value::Object(base.clone()), Value::Object(current.clone()));
    let merged = match goal {
        Goal::Set(patch) => merge::rebase(&base, patch, &theirs, &[]),
        Goal::PutBack(before) => merge::three_way(&base, &Value::Object(before.clone()), &theirs),
    };
    match merged {
        Ok(merged) if merged == theirs => Plan::Nothing,
        Ok(Value::Object(merged)) => Plan::Send(merged),
        // Two objects merge to an object.
        Ok(_) => Plan::Conflict(Vec::new()),
        Err(pointers) => Plan::Conflict(pointers),
    }
}

/// The next move of a write.
pub(super) enum Next {
    /// Everything stands there.
    Nothing,
    /// Send this document under this key, on the condition that nobody else writes first.
    Send { document: Map<String, Value>, key: String },
    /// Somebody else changed the members at these JSON pointers.
    Conflict(Vec<String>),
}

/// One write: from what was read to what is wanted.
pub(super) struct Writer<'a> {
    pub channels: &'a Channels<'a>,
    pub id: &'a str,
    /// What was read when the job began.
    pub base: &'a Channel,
    pub goal: Goal,
    pub key: &'a str,
}

impl Writer<'_> {
    /// Writes until the document holds, somebody else's change forbids it, or the platform fails.
    pub(super) async fn write(&self, begun: Begun, now: DateTime<Utc>) -> Result<Applied, Failure> {
        // A lost answer is no refusal: what an earlier attempt sent may stand there already.
        let mut current = match begun {
            Begun::Now => self.base.clone(),
            Begun::OutcomeUnknown => self.read().await?,
        };
        let mut rereads = 0;
        loop {
            let (document, key) = match self.next(&current) {
                Next::Nothing => return Ok(self.standing(current, rereads)),
                Next::Conflict(_) => return Err(self.conflict(&current)),
                Next::Send { document, key } => (document, key),
            };
            match self.channels.put(self.id, &current.standing, &document, &key).await {
                Ok((standing, exchange)) => {
                    return Ok(Applied {
                        accepted_at: exchange.is_for_later().then_some(now),
                        id: self.id.to_owned(),
                        changed: true,
                        before: Some(current.document),
                        after: document,
                        standing_before: Some(current.standing),
                        standing_after: Some(standing),
                        rereads,
                        exchange: Some(exchange),
                    });
                }
                Err(trouble) if trouble.is_conflict() && rereads < REREADS_MAX => {
                    rereads += 1;
                    current = self.read().await?;
                }
                Err(trouble) if trouble.is_conflict() => return Err(self.conflict(&current)),
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// What is to be done about `current`.
    pub(super) fn next(&self, current: &Channel) -> Next {
        match plan(&self.base.document, &self.goal, &current.document) {
            Plan::Nothing => Next::Nothing,
            Plan::Conflict(pointers) => Next::Conflict(pointers),
            Plan::Send(document) => Next::Send { key: self.write_key(&current.standing, &document), document },
        }
    }

    /// A key for exactly this write: upstreams refuse a key that comes with another body.
    fn write_key(&self, standing: &Standing, document: &Map<String, Value>) -> String {
        let content = json!([self.key, standing, document]).to_string();
        Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    async fn read(&self) -> Result<Channel, Failure> {
        match self.channels.read(self.id).await? {
            Some(channel) => Ok(channel),
            None => Err(Failure::permanent("channel_not_found", "the channel is gone since it was read")),
        }
    }

    /// The whole document as the job wants it, on top of `base`.
    pub(super) fn ours(&self) -> Map<String, Value> {
        match &self.goal {
            Goal::Set(patch) => wanted(&self.base.document, patch),
            Goal::PutBack(before) => before.clone(),
        }
    }

    /// Nothing is left to send: it stood there already, or an earlier attempt wrote it and lost the answer.
    fn standing(&self, current: Channel, rereads: u32) -> Applied {
        let after = self.ours();
        Applied {
            id: self.id.to_owned(),
            changed: after != self.base.document,
            before: Some(self.base.document.clone()),
            // Without what others changed since, so that a roll-back leaves that alone.
            after,
            standing_before: Some(self.base.standing.clone()),
            standing_after: Some(current.standing),
            rereads,
            exchange: None,
            accepted_at: None,
        }
    }

    pub(super) fn conflict(&self, current: &Channel) -> Failure {
        Failure::Conflict {
            base: Value::Object(self.base.document.clone()),
            ours: Value::Object(self.ours()),
            theirs: Value::Object(current.document.clone()),
        }
    }
}

/// `document` with the job's members set.
fn wanted(document: &Map<String, Value>, patch: &Value) -> Map<String, Value> {
    match merge::overlay(&Value::Object(document.clone()), patch, &[]) {
        Value::Object(wanted) => wanted,
        // A patch is an object, and so is what it makes of another.
        _ => Map::new(),
    }
}

/// The members of `document` that the job sets, in the form of a patch.
pub(super) fn as_written(patch: &Value, document: &Map<String, Value>) -> Value {
    let Value::Object(members) = patch else { return patch.clone() };
    let part = |(name, patch): (&String, &Value)| {
        let value = document.get(name)?;
        let value = value.as_object().map_or_else(|| value.clone(), |inner| as_written(patch, inner));
        Some((name.clone(), value))
    };
    Value::Object(members.iter().filter_map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    fn channel() -> payload::Channel {
        payload::Channel {
            name: "Shop".into(),
            description: None,
            enabled: true,
            webchat_url: "https://chat.example.com".into(),
            origins: vec!["https://shop.example.com".into()],
            auth_provider_id: "auth-1".into(),
            webchat_id: "webchat-1".into(),
        }
    }

    fn goal() -> Goal {
        Goal::Set(patch(&channel()))
    }

    fn standing() -> Map<String, Value> {
        object(json!({
            "id": "ch_1", "name": "Old", "description": "kept", "enabled": true, "foo": {"bar": 1},
            "webchatSettings": {"webchatUrl": "https://old.example.com", "theme": "classic",
                "corsAllowedOrigins": ["https://a.com", "https://b.com"]},
        }))
    }

    /// Covers row 148: members that nobody here knows stay, at every depth; origins are the job's whole list.
    #[test]
    fn unknown_members_are_kept() {
        let base = standing();
        let Plan::Send(document) = plan(&base, &goal(), &base) else { panic!("a change") };
        assert_eq!(document["foo"], json!({"bar": 1}));
        assert_eq!(document["webchatSettings"]["theme"], "classic");
        assert_eq!(document["webchatSettings"]["corsAllowedOrigins"], json!(["https://shop.example.com"]));
        assert_eq!((&document["name"], &document["description"]), (&json!("Shop"), &json!("kept")));
    }

    /// Covers row 151: what somebody else changed meanwhile is kept, and not overwritten where it is ours too.
    #[test]
    fn changes_of_others_are_merged_or_a_conflict() {
        let base = standing();
        let mut theirs = base.clone();
        theirs["foo"] = json!({"bar": 2});
        let Plan::Send(document) = plan(&base, &goal(), &theirs) else { panic!("a change") };
        assert_eq!((&document["foo"], &document["name"]), (&json!({"bar": 2}), &json!("Shop")));
        theirs["name"] = json!("Theirs");
        assert_eq!(plan(&base, &goal(), &theirs), Plan::Conflict(vec!["/name".to_owned()]));
    }

    /// A member that already held what the job wants is the job's too: origins that somebody else replaced meanwhile
    /// would be no success. A roll-back wants nothing of what the job did not change.
    #[test]
    fn named_members_that_held_before_are_not_given_up() {
        let mut base = standing();
        base["webchatSettings"]["corsAllowedOrigins"] = json!(["https://shop.example.com"]);
        let mut theirs = base.clone();
        theirs["webchatSettings"]["corsAllowedOrigins"] = json!(["https://theirs.example.com"]);
        let clash = Plan::Conflict(vec!["/webchatSettings/corsAllowedOrigins".to_owned()]);
        assert_eq!(plan(&base, &goal(), &theirs), clash);
        let after = wanted(&base, &patch(&channel()));
        let mut now = after.clone();
        now["webchatSettings"]["corsAllowedOrigins"] = json!(["https://theirs.example.com"]);
        let Plan::Send(document) = plan(&after, &Goal::PutBack(base), &now) else { panic!("a change") };
        assert_eq!(document["webchatSettings"]["corsAllowedOrigins"], json!(["https://theirs.example.com"]));
        assert_eq!(document["name"], "Old");
    }

    #[test]
    fn what_stands_there_is_not_written_again() {
        let base = wanted(&standing(), &patch(&channel()));
        assert_eq!(plan(&base, &goal(), &base), Plan::Nothing);
        assert_eq!(plan(&standing(), &goal(), &base), Plan::Nothing, "somebody did the same");
    }

    /// Covers row 142: putting back what was there keeps what others have changed since.
    #[test]
    fn a_roll_back_is_a_merge_too() {
        let before = standing();
        let after = wanted(&before, &patch(&channel()));
        let mut now = after.clone();
        now["foo"] = json!({"bar": 3});
        let Plan::Send(document) = plan(&after, &Goal::PutBack(before), &now) else { panic!("a change") };
        assert_eq!((&document["name"], &document["foo"]), (&json!("Old"), &json!({"bar": 3})));
    }
}
