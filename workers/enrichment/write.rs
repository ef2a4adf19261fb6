//! The write of an enrichment: what is sent, what of the answer is believed, and what is read back.

use backhaul_engine::{Begun, Failure};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    payload::{Strategy, uuid},
    plan::{Goal, Missing, Standing, arrived, missing},
};
use crate::api::{
    Exchange,
    profiles::{Enriched, Profile, Profiles},
};

/// Most readings after a refused precondition; so there are at most four writes.
const REREADS_MAX: usize = 3;

/// What the step has achieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Whether the server took the write, holds the data already, or will write later.
    pub result: Outcome,
    /// How many attributes the server says it changed.
    pub updated_attributes: Option<u64>,
    /// Whether the server de-duplicated.
    pub deduplicated: bool,
    /// The profile that remains, where it is another one; a lower-case UUID.
    pub survivor: Option<String>,
    /// The call that showed it; `None` where no call was needed.
    pub exchange: Option<Exchange>,
    /// When the data was found fresh for it; absent in steps of versions that did not note it.
    pub checked_at: Option<DateTime<Utc>>,
}

/// How a write ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Outcome {
    /// The server reported success, or the profile shows the data.
    Success,
    /// The profile held all of it before.
    Unchanged,
    /// Newer data had been applied before; nothing was sent.
    Outdated,
    /// The server will write later.
    Accepted,
}

impl Applied {
    /// The time for which the data has to be fresh: what is written cannot become stale any more.
    pub(super) fn checked_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.checked_at.unwrap_or(now)
    }

    /// Nothing was sent because newer data stands there.
    pub(super) fn outdated() -> Self {
        Self {
            result: Outcome::Outdated,
            updated_attributes: None,
            deduplicated: false,
            survivor: None,
            exchange: None,
            checked_at: None,
        }
    }
}

/// One request of a write.
pub(super) struct Next<'p> {
    /// The entity tag that it is conditional on, where one was read.
    pub etag: Option<&'p str>,
    /// Its Idempotency-Key.
    pub key: String,
    /// Its body.
    pub body: Value,
}

/// One write.
pub(super) struct Writer<'w, 'e> {
    pub profiles: &'w Profiles<'e>,
    /// The profile to write to: the payload's, or the one it was merged into.
    pub target: &'w str,
    pub goal: &'w Goal,
    pub source_system: &'w str,
    pub source_time: Option<DateTime<Utc>>,
    pub key: &'w str,
}

impl Writer<'_, '_> {
    /// Writes until the profile holds what the job wants, or the server fails.
    pub(super) async fn write(&self, begun: Begun) -> Result<Applied, Failure> {
        let mut read = if self.reads_first(begun) { Some(self.read().await?) } else { None };
        let base = read.as_ref().map(|profile| self.concerned(profile));
        let mut rereads = 0;
        loop {
            let Some(Next { etag, key, body }) = self.next(read.as_ref()) else {
                return Ok(self.standing_already(begun, read.as_ref()));
            };
            match self.profiles.enrich(self.target, etag, &key, &body).await {
                Ok((enriched, exchange)) => return self.judge(enriched, exchange).await,
                Err(trouble) if trouble.is_conflict() && rereads < REREADS_MAX => {
                    rereads += 1;
                    read = Some(self.read().await?);
                }
                // Nothing of ours contradicts anything: the others were only faster, four times.
                Err(trouble) if trouble.is_conflict() => {
                    let ours = json!({ "attributes": self.goal.attributes, "tags": self.goal.tags });
                    let theirs = read.as_ref().map(|profile| self.concerned(profile));
                    return Err(Failure::Conflict { base: json!(base), ours, theirs: json!(theirs) });
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// Appending needs to know what stands there; so does everybody whose last answer was lost.
    pub(super) fn reads_first(&self, begun: Begun) -> bool {
        match (begun, self.goal.strategy) {
            (Begun::Now, Strategy::Overwrite | Strategy::KeepLatest) => false,
            (Begun::Now, Strategy::Append) | (Begun::OutcomeUnknown, _) => true,
        }
    }

    /// The request to send next, given the profile where it was read; `None` where it holds everything.
    pub(super) fn next<'p>(&self, read: Option<&'p Profile>) -> Option<Next<'p>> {
        let rest = match read {
            None => Missing { attributes: self.goal.attributes.clone(), tags: self.goal.tags.clone() },
            Some(profile) => missing(self.goal, standing(profile))?,
        };
        let etag = read.and_then(|profile| profile.etag.as_deref());
        let body = self.body(rest);
        Some(Next { etag, key: self.write_key(etag, &body), body })
    }

    /// The profile as it stands.
    async fn read(&self) -> Result<Profile, Failure> {
        Ok(self.profiles.read(self.target).await?)
    }

    async fn judge(&self, enriched: Enriched, exchange: Exchange) -> Result<Applied, Failure> {
        let applied = |result, survivor: Option<String>| Applied {
            result,
            updated_attributes: None,
            deduplicated: false,
            survivor: survivor.as_deref().and_then(uuid),
            exchange: Some(exchange.clone()),
            checked_at: None,
        };
        match enriched {
            Enriched::Success { updated_attributes, deduplicated, survivor } => {
                Ok(Applied { updated_attributes, deduplicated, ..applied(Outcome::Success, survivor) })
            }
            Enriched::Incomplete(result) => Err(Failure::permanent(
                "merge_not_successful",
                format!("the server answered {} with mergeResult {result}", exchange.http_status),
            )
            .with_status(exchange.http_status)),
            Enriched::Accepted => Ok(applied(Outcome::Accepted, None)),
            Enriched::Silent => {
                let profile = self.read().await?;
                if !arrived(self.goal, standing(&profile)) {
                    return Err(Failure::transient(
                        "profile_update_not_visible",
                        "the server reported success, but the profile does not show the data",
                    ));
                }
                Ok(applied(Outcome::Success, profile.survivor))
            }
        }
    }

    /// The profile holds everything. After a lost answer that is this job's own doing, as far as anybody can tell.
    fn standing_already(&self, begun: Begun, profile: Option<&Profile>) -> Applied {
        let survivor = profile.and_then(|profile| profile.survivor.as_deref()).and_then(uuid);
        Applied {
            result: if begun == Begun::OutcomeUnknown { Outcome::Success } else { Outcome::Unchanged },
            updated_attributes: None,
            deduplicated: survivor.is_some(),
            survivor,
            exchange: None,
            checked_at: None,
        }
    }

    /// Of a profile, what the job names. The rest of a person's data has no place in a dead letter.
    fn concerned(&self, profile: &Profile) -> Value {
        let named = |(name, _): &(&String, &Value)| self.goal.attributes.contains_key(*name);
        let attributes: Map<String, Value> =
            profile.attributes.iter().filter(named).map(|(name, value)| (name.clone(), value.clone())).collect();
        json!({ "attributes": attributes, "tags": profile.tags })
    }

    fn body(&self, rest: Missing) -> Value {
        let mut body = json!({
            "profileId": self.target,
            "attributes": rest.attributes,
            "mergeStrategy": self.goal.strategy.name(),
            "sourceSystem": self.source_system,
        });
        if !rest.tags.is_empty() {
            body["tags"] = json!(rest.tags);
        }
        if let Some(time) = self.source_time {
            body["sourceUpdatedAt"] = json!(time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        body
    }

    /// One key for one write: another body, or another condition, is another write.
    fn write_key(&self, etag: Option<&str>, body: &Value) -> String {
        let mut hash = Sha256::new();
        hash.update(etag.unwrap_or_default().as_bytes());
        hash.update([0]);
        hash.update(body.to_string().as_bytes());
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", self.key)
    }
}

pub(super) fn standing(profile: &Profile) -> Standing<'_> {
    Standing { attributes: &profile.attributes, tags: &profile.tags }
}
