//! What a tenant's connection profile says about deliveries: the table `[kinds.deliver]`.

use std::collections::BTreeMap;

use backhaul_outbound::{
    Profile,
    address::{self, Schemes},
};
use serde::Deserialize;

/// Name of the table.
const SECTION: &str = "deliver";
/// Longest name of a target: it is part of a bucket's name.
const NAME_BYTES_MAX: usize = 40;

/// The addresses that payloads may name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliverSettings {
    /// Addresses by name.
    pub targets: BTreeMap<String, Target>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Where to. Its host must be on the profile's `[callback] allow_hosts`, which also says whether it may be private.
    pub url: String,
}

impl DeliverSettings {
    /// The settings of a tenant; no targets where its profile names none.
    ///
    /// # Errors
    /// Everything that is wrong with the table, one line each.
    pub fn of(profile: &Profile) -> Result<Self, Vec<String>> {
        let settings: Self = profile.knobs(SECTION).map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        for (name, target) in &settings.targets {
            let at = format!("{}: kinds.{SECTION}.targets.{name}", profile.tenant);
            if plain(name).is_none() {
                problems.push(format!("{at}: the name must be 1 to {NAME_BYTES_MAX} of a-z, 0-9 and hyphen"));
            }
            // One list says where signed requests may go, whoever names the address.
            if let Err(refusal) = address::check(&target.url, &profile.callback.allow_hosts, Schemes::HTTP) {
                problems.push(format!("{at}.url: {refusal}; see [callback] allow_hosts"));
            }
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }
}

/// The name, where it could be a target's.
pub(super) fn plain(name: &str) -> Option<&str> {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    ((1..=NAME_BYTES_MAX).contains(&name.len()) && letters).then_some(name)
}

#[cfg(test)]
mod tests {
    use backhaul_outbound::profile::Loader;

    use super::*;

    /// Covers row 59: a target that the allow list does not know stops the start.
    #[test]
    fn targets_obey_the_allow_list() {
        let toml = "[callback]\nallow_hosts = [\"a.example.com\"]\nsecret_env = \"S\"\n[kinds.deliver.targets]\n\
            good = { url = \"https://a.example.com/in\" }\nBad_name = { url = \"https://a.example.com/\" }\n\
            elsewhere = { url = \"https://b.example.com/\" }\nplain = { url = \"http://a.example.com/\" }\n";
        let loader = Loader::new().env(|_| Some("test-secret-of-some-length".into()));
        let profiles = loader.from_toml([("acme.toml".to_owned(), toml.to_owned())]).expect("a profile");
        let problems = DeliverSettings::of(profiles.get("acme").expect("the tenant")).expect_err("three mistakes");
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.starts_with("acme: kinds.deliver.targets.")));
    }
}
