//! What `[kinds.crm-sync]` of a connection profile may say.

use std::collections::BTreeMap;

use backhaul_outbound::Profile;
use serde::{Deserialize, Serialize};

/// The table's name below `[kinds]`.
const SECTION: &str = "crm-sync";
/// Most messages of one thread that are taken, whatever the profile says. The difference of two such threads is
/// computed in well under a second.
pub const MESSAGES_MAX: usize = 50_000;
/// Most participants of one thread that are taken.
pub const PARTICIPANTS_MAX: usize = 5_000;

/// The tenant's rules for threads. Every member has a default, so the table may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrmSyncSettings {
    /// Form of thread, message, participant and author ids.
    pub id_pattern: IdPattern,
    /// Source role -> role of the CRM, besides the three that map to themselves, for example `BOT = "SYSTEM"`.
    pub roles: BTreeMap<String, Role>,
    /// Longest text in UTF-16 units, as the CRM's validator counts.
    pub text_units_max: usize,
    /// What happens to a longer text.
    pub over_length: OverLength,
    /// Most messages, participants, or both added, changed and removed by one request.
    pub chunk: usize,
    /// Status a child gets when its thread is merged into another.
    pub merged_status: String,
    /// Status a merged child gets when it is split off again.
    pub reopened_status: String,
}

/// Which ids are accepted. Either form fits into one path segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdPattern {
    /// `[A-Za-z0-9_-]{1,128}`, which includes every UUID.
    Token,
    /// Thread ids are UUIDs in the 8-4-4-4-12 form; other ids stay tokens, since the CRM only asks that they be text.
    Uuid,
}

/// What to do with a text that is longer than the CRM takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// The job becomes a dead letter; other threads flow on.
    Reject,
    /// The text is cut at a character boundary.
    Truncate,
}

/// A participant's role as the CRM names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// The person who wrote in.
    Customer,
    /// Somebody of the contact centre.
    Agent,
    /// A machine.
    System,
}

impl Default for CrmSyncSettings {
    fn default() -> Self {
        Self {
            id_pattern: IdPattern::Token,
            roles: BTreeMap::new(),
            text_units_max: 5_000,
            over_length: OverLength::Reject,
            chunk: 100,
            merged_status: "MERGED".to_owned(),
            reopened_status: "OPEN".to_owned(),
        }
    }
}

impl CrmSyncSettings {
    /// The settings of a tenant; the defaults where its profile says nothing about threads.
    ///
    /// # Errors
    /// Everything that is wrong with the table, one line each.
    pub fn of(profile: &Profile) -> Result<Self, Vec<String>> {
        let mut settings: Self = profile.knobs(SECTION).map_err(|error| vec![error.to_string()])?;
        let problems = settings.problems();
        if problems.is_empty() {
            if profile.crm.as_ref().is_some_and(|crm| crm.record.is_some()) {
                // A flat record is written as a whole, so that parts would only write it more often.
                settings.chunk = usize::MAX;
            }
            return Ok(settings);
        }
        Err(problems.iter().map(|problem| format!("{}: kinds.{SECTION}.{problem}", profile.tenant)).collect())
    }

    /// Everything that is wrong with the settings and that types cannot say.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=100_000).contains(&self.text_units_max) {
            problems.push(format!("text_units_max: {} is not from 1 to 100000", self.text_units_max));
        }
        if !(1..=1_000).contains(&self.chunk) {
            problems.push(format!("chunk: {} is not from 1 to 1000", self.chunk));
        }
        for (member, status) in [("merged_status", &self.merged_status), ("reopened_status", &self.reopened_status)] {
            if status.is_empty() || status.len() > 64 {
                problems.push(format!("{member}: must have 1 to 64 bytes"));
            }
        }
        problems
    }

    /// The CRM's role for a source's role: the profile's map first, then the three names that map to themselves.
    pub(crate) fn role(&self, source: &str) -> Option<Role> {
        self.roles.get(source).copied().or(match source {
            "CUSTOMER" => Some(Role::Customer),
            "AGENT" => Some(Role::Agent),
            "SYSTEM" => Some(Role::System),
            _ => None,
        })
    }
}

impl Role {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "CUSTOMER",
            Self::Agent => "AGENT",
            Self::System => "SYSTEM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_mistakes_are_listed() {
        assert_eq!(CrmSyncSettings::default().problems(), Vec::<String>::new());
        let settings =
            CrmSyncSettings { text_units_max: 0, chunk: 0, merged_status: String::new(), ..CrmSyncSettings::default() };
        assert_eq!(settings.problems().len(), 3);
        let read: CrmSyncSettings = serde_json::from_value(serde_json::json!({
            "id_pattern": "uuid", "roles": {"BOT": "SYSTEM"}, "over_length": "truncate"}))
        .expect("settings");
        assert_eq!(read.role("BOT"), Some(Role::System));
        assert_eq!(read.role("customer"), None, "roles are compared as they are written");
        assert!(serde_json::from_value::<CrmSyncSettings>(serde_json::json!({"role": {}})).is_err());
    }
}
