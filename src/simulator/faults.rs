//! Scripted faults: which requests, on which occasions, are answered in which wrong way.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{documents::Kind, locked::locked, routes::Class};

/// Most rules at one time; each is looked at for every request.
const RULES_MAX: usize = 256;

/// One rule. A request that reaches the rule and matches is counted; `when` says on which counts it fires, and
/// `then` what happens. A request that a rule fired on does not reach the rules after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Names the rule in the record and the summary.
    pub name: String,
    /// Which requests; an empty match is every request.
    #[serde(rename = "match", default)]
    pub matching: Match,
    /// On which occasions; an empty `when` is every one.
    #[serde(default)]
    pub when: When,
    /// What happens.
    pub then: Then,
}

/// Which requests a rule concerns. All given members must agree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The tenant, as the token (or the client id of a token request) tells it.
    pub tenant: Option<String>,
    /// The class, whole (`cxone/profiles`) or without the provider (`profiles`).
    pub class: Option<String>,
    /// The HTTP method, in any case.
    pub method: Option<String>,
    /// Start of the raw path.
    pub path_prefix: Option<String>,
    /// A part of the raw path and query.
    pub path_contains: Option<String>,
    /// A part of the body's text.
    pub body_contains: Option<String>,
}

/// On which of the counted requests a rule fires. All given members must agree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// On these counts, beginning with 1.
    pub nth: Option<Vec<u64>>,
    /// On the first so many.
    pub first: Option<u64>,
    /// On every so-manieth: 3 means the 3rd, 6th, 9th.
    pub every: Option<u64>,
    /// With this probability, from 0 to 1.
    pub probability: Option<f64>,
    /// Start of the sequence behind `probability`; the same seed gives the same decisions. Default 0.
    pub seed: Option<u64>,
    /// Only so long after the rule was added, in milliseconds of the simulator's clock.
    pub for_ms: Option<u64>,
}

/// What a rule does. Statuses, redirects and `reset = "before"` answer in the request's stead, so that nothing is
/// applied; the others let the request be applied and then spoil the answer. `commit` overrides which.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Then {
    /// Answer with this status.
    pub status: Option<u16>,
    /// `Retry-After` in seconds.
    pub retry_after_s: Option<i64>,
    /// `Retry-After` as an HTTP date so many seconds ahead.
    pub retry_after_date_s: Option<i64>,
    /// `Retry-After` with exactly this text.
    pub retry_after: Option<String>,
    /// Wait before the request is looked at.
    pub delay_ms: Option<u64>,
    /// Wait after the request was applied and before it is answered.
    pub answer_delay_ms: Option<u64>,
    /// Drop the connection without an answer.
    pub reset: Option<Reset>,
    /// Answer with a body that does not end.
    pub endless_body: bool,
    /// Answer with a body that is cut in the middle of its JSON.
    pub malformed_json: bool,
    /// Answer 302 (or `status`) with this `Location`.
    pub redirect: Option<String>,
    /// Answer 204 without a body.
    pub empty_204: bool,
    /// Answer with this body: a string as it stands, anything else as JSON.
    pub body: Option<Value>,
    /// Change the true JSON answer by this merge patch (RFC 7396), for example `{"mergeResult": "PARTIAL"}`.
    pub merge_body: Option<Value>,
    /// Just before the request is carried out, another writer changes a document of its tenant.
    pub other_writer: Option<OtherWriter>,
    /// Whether the request is applied, where that should differ from the rule above.
    pub commit: Option<bool>,
}

/// What another writer does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherWriter {
    /// As in the control plane's `/_sim/documents/{kind}`.
    pub kind: String,
    /// Whose document.
    pub id: String,
    /// A merge patch (RFC 7396).
    pub patch: Value,
}

/// When a connection is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Before the request is looked at.
    Before,
    /// After its effect was applied.
    AfterCommit,
}

impl Then {
    /// Whether the request itself is carried out.
    pub(crate) fn commits(&self) -> bool {
        let answers_instead =
            self.status.is_some() || self.redirect.is_some() || matches!(self.reset, Some(Reset::Before));
        self.commit.unwrap_or(!answers_instead)
    }
}

/// The TOML form of a script: `[[faults]]` tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    faults: Vec<FaultRule>,
}

/// Reads a script of `[[faults]]` tables.
///
/// # Errors
/// Where the text is not TOML, or a rule has unknown members or members out of range; the error names the rule.
pub fn faults_from_toml(text: &str) -> anyhow::Result<Vec<FaultRule>> {
    let script: Script = toml::from_str(text).context("the fault script is not valid TOML of [[faults]] tables")?;
    script.faults.iter().try_for_each(FaultRule::check)?;
    Ok(script.faults)
}

/// Reads one rule, a list of rules, or `{"faults": [..]}`.
pub(crate) fn faults_from_json(value: Value) -> anyhow::Result<Vec<FaultRule>> {
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut object) if object.contains_key("faults") => match object.remove("faults") {
            Some(Value::Array(list)) => list,
            _ => anyhow::bail!("\"faults\" must be a list of rules"),
        },
        one => vec![one],
    };
    let rules: Vec<FaultRule> = list
        .into_iter()
        .enumerate()
        .map(|(at, rule)| serde_json::from_value(rule).with_context(|| format!("rule {at}")))
        .collect::<anyhow::Result<_>>()?;
    rules.iter().try_for_each(FaultRule::check)?;
    Ok(rules)
}

impl FaultRule {
    /// Refuses a rule that could never fire or has nothing to do.
    ///
    /// # Errors
    /// Names the rule and the member.
    pub fn check(&self) -> anyhow::Result<()> {
        let name = &self.name;
        ensure!(!name.is_empty() && name.len() <= 128, "a fault rule needs a name of 1 to 128 bytes");
        ensure!(self.then != Then::default(), "fault rule {name:?}: \"then\" says nothing to do");
        if let Some(class) = &self.matching.class {
            let known = Class::parse(class).is_some()
                || ["token", "profiles", "webchat", "webhooks", "interactions", "channels", "audit", "threads"]
                    .contains(&class.as_str());
            ensure!(known, "fault rule {name:?}: there is no class {class:?}");
        }
        if let Some(status) = self.then.status {
            ensure!((200..=599).contains(&status), "fault rule {name:?}: status {status} is not within 200 to 599");
        }
        if let Some(other) = &self.then.other_writer {
            let kind = &other.kind;
            ensure!(Kind::parse(kind).is_some(), "fault rule {name:?}: there is no kind of documents {kind:?}");
        }
        if let Some(nth) = &self.when.nth {
            ensure!(!nth.is_empty() && !nth.contains(&0), "fault rule {name:?}: nth counts from 1");
        }
        ensure!(self.when.every != Some(0), "fault rule {name:?}: every must be at least 1");
        if let Some(probability) = self.when.probability {
            ensure!(
                (0.0..=1.0).contains(&probability),
                "fault rule {name:?}: probability {probability} is not within 0 to 1"
            );
        }
        for (member, delay) in [("delay_ms", self.then.delay_ms), ("answer_delay_ms", self.then.answer_delay_ms)] {
            ensure!(delay.unwrap_or(0) <= 600_000, "fault rule {name:?}: {member} is above 600000");
        }
        Ok(())
    }
}

/// What a rule is asked about a request.
pub(crate) struct Facts<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) class: Class,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) now_ms: i64,
}

impl Match {
    fn agrees(&self, facts: &Facts<'_>) -> bool {
        self.tenant.as_deref().is_none_or(|tenant| tenant == facts.tenant)
            && self.class.as_deref().is_none_or(|class| facts.class.is_named(class))
            && self.method.as_deref().is_none_or(|method| method.eq_ignore_ascii_case(facts.method))
            && self.path_prefix.as_deref().is_none_or(|prefix| facts.path.starts_with(prefix))
            && self.path_contains.as_deref().is_none_or(|part| facts.path.contains(part))
            && self.body_contains.as_deref().is_none_or(|part| contains(facts.body, part.as_bytes()))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

#[derive(Debug)]
struct Active {
    rule: Arc<FaultRule>,
    matched: u64,
    fired: u64,
    random: u64,
    added_ms: i64,
}

impl Active {
    /// Counts the request and decides.
    fn fires(&mut self, now_ms: i64) -> bool {
        self.matched += 1;
        let when = &self.rule.when;
        let count = self.matched;
        // Drawn for every counted request, so that the other conditions do not shift the sequence.
        let lucky = when.probability.is_none_or(|probability| next_unit(&mut self.random) < probability);
        let when = &self.rule.when;
        let fires = lucky
            && when.nth.as_ref().is_none_or(|nth| nth.contains(&count))
            && when.first.is_none_or(|first| count <= first)
            && when.every.is_none_or(|every| count.is_multiple_of(every))
            && when.for_ms.is_none_or(|for_ms| now_ms - self.added_ms < i64::try_from(for_ms).unwrap_or(i64::MAX));
        self.fired += u64::from(fires);
        fires
    }
}

/// The next number of a SplitMix64 sequence, as a fraction in [0, 1). Written out because the sequence of a seed
/// must not change with a library's version.
fn next_unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// A rule's own counts, for the control plane.
#[derive(Debug, Clone, Serialize)]
pub struct FaultStatus {
    /// The rule as it was given.
    pub rule: FaultRule,
    /// Requests that reached it and matched.
    pub matched: u64,
    /// Requests it fired on.
    pub fired: u64,
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Mutex<Vec<Active>>,
    // Read without the lock, because most requests are served while no rule is in force.
    count: AtomicUsize,
}

impl Faults {
    /// Adds rules after those in force.
    pub(crate) fn add(&self, rules: Vec<FaultRule>, now_ms: i64) -> anyhow::Result<()> {
        let mut active = locked(&self.rules);
        ensure!(active.len() + rules.len() <= RULES_MAX, "more than {RULES_MAX} fault rules; delete some first");
        active.extend(rules.into_iter().map(|rule| Active {
            random: rule.when.seed.unwrap_or(0),
            rule: Arc::new(rule),
            matched: 0,
            fired: 0,
            added_ms: now_ms,
        }));
        self.count.store(active.len(), Ordering::Release);
        Ok(())
    }

    /// Removes the rules of this name, or all. Answers how many went.
    pub(crate) fn remove(&self, name: Option<&str>) -> usize {
        let mut active = locked(&self.rules);
        let before = active.len();
        active.retain(|one| name.is_some_and(|name| one.rule.name != name));
        self.count.store(active.len(), Ordering::Release);
        before - active.len()
    }

    /// The rule that fires on this request, if any.
    pub(crate) fn decide(&self, facts: &Facts<'_>) -> Option<Arc<FaultRule>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        locked(&self.rules)
            .iter_mut()
            .find_map(|one| (one.rule.matching.agrees(facts) && one.fires(facts.now_ms)).then(|| one.rule.clone()))
    }

    pub(crate) fn list(&self) -> Vec<FaultStatus> {
        locked(&self.rules)
            .iter()
            .map(|one| FaultStatus { rule: one.rule.as_ref().clone(), matched: one.matched, fired: one.fired })
            .collect()
    }
}

#[cfg(test)]
mod tests;
