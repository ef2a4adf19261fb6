//! What a tenant's connection profile says about enrichment: the table `[kinds.enrichment]`.

use std::collections::BTreeMap;

use backhaul_outbound::Profile;
use chrono::TimeDelta;
use serde::Deserialize;

use crate::{freshness::Window, keyed_hash::HashKey, personal_data::Label};

/// Name of the table.
pub const SECTION: &str = "enrichment";

/// Largest freshness window in days.
const FRESHNESS_DAYS_MAX: u32 = 3_650;
/// Largest difference between a sender's clock and ours in seconds.
const SKEW_SECONDS_MAX: u32 = 300;
/// Largest number of tags that are added to every job.
const DEFAULT_TAGS_MAX: usize = 10;

/// The table as it is written. All members are optional, but enrichment is refused without `legal_basis` and a hash key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Table {
    legal_basis: Option<String>,
    hash_key_env: Option<String>,
    hash_key_file: Option<std::path::PathBuf>,
    hash_key_id: Option<String>,
    freshness_days: Option<u32>,
    future_skew_s: Option<u32>,
    time_fields: Vec<String>,
    required_time_fields: Vec<String>,
    sources: BTreeMap<String, TimeFields>,
    default_tags: Option<Vec<String>>,
    personal_data: BTreeMap<Label, Policy>,
}

/// The attributes that hold times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeFields {
    /// Attributes that must be fresh times where they are there.
    pub time_fields: Vec<String>,
    /// Attributes that must be there and be fresh times.
    pub required_time_fields: Vec<String>,
}

/// What happens to a value that carries a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// It is sent, and the label is recorded.
    Allow,
    /// The label is sent in its stead.
    Mask,
    /// The job is refused.
    Block,
}

/// A tenant's settings, complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Article of the GDPR that the processing rests on, for example `6(1)(f)`.
    pub legal_basis: String,
    /// Key of the audit trail's payload hashes.
    pub hash_key: HashKey,
    /// How old times may be.
    pub window: Window,
    /// Tags that every job carries beside its own.
    pub default_tags: Vec<String>,
    times: TimeFields,
    sources: BTreeMap<String, TimeFields>,
    policies: BTreeMap<Label, Policy>,
}

impl Table {
    /// Completes the table. `env` answers environment variables. Reports everything that is wrong.
    pub fn complete(self, tenant: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        let legal_basis = self.legal_basis.clone().filter(|basis| is_article(basis));
        if legal_basis.is_none() {
            problems.push(
                "legal_basis: name the article of the GDPR that the processing rests on, such as \"6(1)(f)\"; without \
                 one enrichment is refused"
                    .to_owned(),
            );
        }
        let freshness_days = self.freshness_days.unwrap_or(30);
        if !(1..=FRESHNESS_DAYS_MAX).contains(&freshness_days) {
            problems.push(format!("freshness_days: must be 1 to {FRESHNESS_DAYS_MAX}"));
        }
        let future_skew_s = self.future_skew_s.unwrap_or(SKEW_SECONDS_MAX);
        if future_skew_s > SKEW_SECONDS_MAX {
            problems.push(format!("future_skew_s: must be at most {SKEW_SECONDS_MAX}"));
        }
        let default_tags = self
            .default_tags
            .clone()
            .unwrap_or_else(|| vec!["enriched_via_rest".to_owned(), "digital_engagement".to_owned()]);
        if default_tags.len() > DEFAULT_TAGS_MAX || default_tags.iter().any(|tag| !(1..=64).contains(&tag.len())) {
            problems.push(format!("default_tags: at most {DEFAULT_TAGS_MAX} tags of 1 to 64 characters"));
        }
        let hash_key = self.hash_key(tenant, env).map_err(|problem| problems.push(problem)).ok();
        match (legal_basis, hash_key) {
            (Some(legal_basis), Some(hash_key)) if problems.is_empty() => Ok(Settings {
                legal_basis,
                hash_key,
                window: Window {
                    age_max: TimeDelta::days(i64::from(freshness_days)),
                    skew_max: TimeDelta::seconds(i64::from(future_skew_s)),
                },
                default_tags,
                times: TimeFields { time_fields: self.time_fields, required_time_fields: self.required_time_fields },
                sources: self.sources,
                policies: self.personal_data,
            }),
            _ => Err(problems),
        }
    }

    fn hash_key(&self, tenant: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<HashKey, String> {
        let secret = match (&self.hash_key_env, &self.hash_key_file) {
            (Some(name), None) => env(name).ok_or(format!("hash_key_env: the variable {name} is not set"))?,
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| format!("hash_key_file: {} cannot be read: {error}", path.display()))?,
            _ => {
                return Err(
                    "hash_key_env or hash_key_file: give one of them; it keys the audit trail's payload hashes"
                        .to_owned(),
                );
            }
        };
        let id = self.hash_key_id.as_deref().unwrap_or("1");
        HashKey::derive(tenant, id, secret.trim().as_bytes()).map_err(|error| format!("hash_key: {error}"))
    }
}

/// An article such as `6(1)(f)`.
fn is_article(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|char: char| char.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'(' | b')' | b'.' | b' '))
}

impl Settings {
    /// The settings of a profile; `None` where it has no table. `variables` answers environment variables.
    ///
    /// # Errors
    /// Everything that is wrong with the table, one line each.
    pub fn of(profile: &Profile, variables: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Vec<String>> {
        if !profile.kinds.contains_key(SECTION) {
            return Ok(None);
        }
        let mut table: Table = profile.knobs(SECTION).map_err(|error| vec![error.to_string()])?;
        table.hash_key_file = table.hash_key_file.map(|path| profile.file(&path));
        table.complete(&profile.tenant, variables).map(Some).map_err(|problems| {
            problems.iter().map(|problem| format!("{}: kinds.{SECTION}.{problem}", profile.tenant)).collect()
        })
    }

    /// Settings that say nothing, to check a payload with where the tenant's own are not at hand. Nothing is sent or
    /// hashed under them.
    pub(crate) fn of_nobody() -> Self {
        Self {
            legal_basis: String::new(),
            hash_key: HashKey::of_nobody(),
            window: Window {
                age_max: TimeDelta::days(i64::from(FRESHNESS_DAYS_MAX)),
                skew_max: TimeDelta::seconds(i64::from(SKEW_SECONDS_MAX)),
            },
            default_tags: Vec::new(),
            times: TimeFields::default(),
            sources: BTreeMap::new(),
            policies: BTreeMap::new(),
        }
    }

    /// The time-bearing attributes of `source`: those of its own table, or those declared for all sources.
    pub fn times(&self, source: &str) -> &TimeFields {
        self.sources.get(source).unwrap_or(&self.times)
    }

    /// What happens to values with `label`. E-mail addresses and telephones are sent unless the profile says otherwise,
    /// because the server de-duplicates by them; the rest is refused unless the profile says otherwise.
    pub fn policy(&self, label: Label) -> Policy {
        self.policies.get(&label).copied().unwrap_or(match label {
            Label::Email | Label::Phone => Policy::Allow,
            Label::Ssn | Label::PossibleSsn | Label::Card => Policy::Block,
        })
    }
}

#[cfg(test)]
pub(crate) fn test_settings(toml: &str) -> Settings {
    let table = format!("legal_basis = \"6(1)(f)\"\nhash_key_env = \"KEY\"\n{toml}");
    let table: Table = toml::from_str(&table).expect("a valid table");
    table.complete("acme", &|_| Some("test-secret-test-secret".to_owned())).expect("complete settings")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        let table: Table = toml::from_str(toml).expect("a table");
        table.complete("acme", &|_| None).err().unwrap_or_default()
    }

    /// Covers row 122: no legal basis, no enrichment.
    #[test]
    fn the_legal_basis_and_the_key_must_be_given() {
        let found = problems("");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("legal_basis"));
        assert!(found[1].starts_with("hash_key_env or hash_key_file"));
        assert_eq!(problems("legal_basis = \"6(1)(f)\"\nhash_key_env = \"X\"").len(), 1);
    }

    #[test]
    fn everything_wrong_is_listed_and_unknown_keys_are_refused() {
        assert_eq!(problems("freshness_days = 0\nfuture_skew_s = 301\ndefault_tags = [\"\"]").len(), 5);
        assert!(toml::from_str::<Table>("fresness_days = 3").is_err());
        assert!(toml::from_str::<Table>("[personal_data]\nSSN = \"ignore\"").is_err());
    }

    /// Covers row 107, row 108: time-bearing fields are declared, by source where a source has its own table.
    #[test]
    fn times_are_declared_by_source() {
        let settings = test_settings(
            "time_fields = [\"updated\"]\n[sources.crm]\ntime_fields = [\"lastPurchaseDate\"]\n[personal_data]\nSSN = \"mask\"",
        );
        assert_eq!(settings.times("crm").time_fields, ["lastPurchaseDate"]);
        assert_eq!(settings.times("other").time_fields, ["updated"]);
        assert_eq!(settings.policy(Label::Ssn), Policy::Mask);
        assert_eq!(settings.policy(Label::Card), Policy::Block);
        assert_eq!(settings.policy(Label::Email), Policy::Allow);
    }
}
