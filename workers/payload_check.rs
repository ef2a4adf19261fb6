//! Payloads looked at before they are enqueued: what a worker would refuse at once, found out without asking anybody.
//!
//! The queue takes any object as a payload, because producers that speak only SQL must not wait for a program. Who has
//! this program can know better, and a mistake is mended more easily in the file that it came from than in a thousand
//! dead letters.

use std::fmt;

use backhaul_engine::{Failure, Job};
use backhaul_outbound::Profile;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    crm_sync::settings::CrmSyncSettings,
    enrichment::settings::Settings,
    problem::{Problem, Problems},
    widget_patch::settings::Rules,
};

/// What one tenant demands of payloads beside their shape.
pub struct Demands<'a> {
    /// The tenant's connection profile. Without it, only what no tenant would take is refused.
    pub profile: Option<&'a Profile>,
    /// The time against which the ages of data are measured.
    pub now: DateTime<Utc>,
    pub(crate) widget_rules: Rules,
    pub(crate) crm_sync: CrmSyncSettings,
    pub(crate) enrichment: Option<Settings>,
}

impl<'a> Demands<'a> {
    /// Those of a profile, or the built-in ones. `variables` answers environment variables. What is wrong in a profile
    /// is not told here: it stops the workers.
    pub fn of(profile: Option<&'a Profile>, now: DateTime<Utc>, variables: &dyn Fn(&str) -> Option<String>) -> Self {
        let enrichment = profile.and_then(|profile| Settings::of(profile, variables).ok().flatten());
        Self {
            profile,
            now,
            widget_rules: profile.and_then(|profile| Rules::of(profile).ok()).unwrap_or_default(),
            crm_sync: profile.and_then(|profile| CrmSyncSettings::of(profile).ok()).unwrap_or_default(),
            enrichment,
        }
    }
}

/// Why a payload would become a dead letter. It never holds a value of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The failure code of that dead letter.
    pub code: &'static str,
    /// What is wrong, each with its JSON pointer.
    pub problems: Vec<Problem>,
}

impl Unfit {
    pub(crate) fn new(code: &'static str, problems: &Problems) -> Self {
        Self { code, problems: problems.list().to_vec() }
    }

    /// One failure, which an attempt would have met at once, at the place that it is about.
    pub(crate) fn at(pointer: &str, failure: &Failure) -> Self {
        let message = match failure {
            Failure::Permanent(cause) => cause.message.clone(),
            _ => String::new(),
        };
        Self::one(failure.code(), pointer, message)
    }

    pub(crate) fn one(code: &'static str, pointer: &str, message: String) -> Self {
        Self { code, problems: vec![Problem { pointer: pointer.to_owned(), message }] }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code)?;
        for (index, Problem { pointer, message }) in self.problems.iter().enumerate() {
            let place = if pointer.is_empty() { "(document)" } else { pointer };
            write!(formatter, "{} {place}: {message}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// A kind that can say of a payload that no attempt would get anywhere with it.
pub trait Checked: Job {
    /// Checks a payload as an attempt would before its first call.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn check_payload(payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit>;
}

#[cfg(test)]
mod tests {
    use backhaul_outbound::profile::Loader;
    use serde_json::json;

    use super::*;

    fn check(kind: &str, payload: &Value, demands: &Demands<'_>) -> Result<(), String> {
        crate::check_payload(kind, payload, demands).map_err(|unfit| unfit.to_string())
    }

    #[test]
    fn what_no_tenant_takes_is_refused_without_a_profile() {
        let demands = Demands::of(None, DateTime::UNIX_EPOCH, &|_| None);
        for kind in crate::kinds() {
            let said = check(kind.kind, &json!({}), &demands).expect_err(kind.kind);
            assert!(said.contains("payload"), "{said}");
        }
        let said = check("enrichment", &json!({"profileID": "secret@example.com"}), &demands).expect_err("refused");
        assert!(said.starts_with("invalid_payload: "), "{said}");
        assert!(said.contains("/profileId") && !said.contains("secret@"), "{said}");
        let said = check("deliver", &json!({"event": {}}), &demands).expect_err("refused");
        assert!(said.contains("target"), "{said}");
        assert_eq!(check("nobody-knows-it", &json!({}), &demands), Ok(()), "what is not known is not judged");
    }

    /// A tenant's own rules count where its profile is at hand; without it, what they decide is left to the workers.
    #[test]
    fn the_tenants_rules_count_where_they_are_known() {
        let social = json!({"profileId": "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e", "attributes": {"ssn": "123-45-6789"},
                            "mergeStrategy": "OVERWRITE", "sourceSystem": "crm"});
        let unknown = Demands::of(None, DateTime::UNIX_EPOCH, &|_| None);
        assert_eq!(check("enrichment", &social, &unknown), Ok(()));
        let secret = |_: &str| Some("test-secret-test-secret".to_owned());
        let toml = "[callback]\nallow_hosts = [\"a.example.com\"]\nsecret_env = \"S\"\n\
            [kinds.deliver.targets.analytics]\nurl = \"https://a.example.com/in\"\n\
            [kinds.enrichment]\nlegal_basis = \"6(1)(f)\"\nhash_key_env = \"K\"\n";
        let profiles =
            Loader::new().env(secret).from_toml([("acme.toml".to_owned(), toml.to_owned())]).expect("a profile");
        let known = Demands::of(profiles.get("acme").map(AsRef::as_ref), DateTime::UNIX_EPOCH, &secret);
        let said = check("enrichment", &social, &known).expect_err("refused");
        assert!(said.starts_with("personal_data_blocked") && !said.contains("6789"), "{said}");
        let elsewhere = json!({"target": "elsewhere", "event": {}});
        assert_eq!(check("deliver", &elsewhere, &unknown), Ok(()));
        assert!(check("deliver", &elsewhere, &known).expect_err("refused").starts_with("target_unknown: /target"));
        assert_eq!(check("deliver", &json!({"target": "analytics", "event": {}}), &known), Ok(()));
    }
}
