//! What `[kinds.crm-sync]` of a connection profile may say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the member that is wrong and what it may hold.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=100_000).contains(&self.text_units_max) {
            return Err(format!("text_units_max is {}; it may be 1 to 100000", self.text_units_max));
        }
        if !(1..=1_000).contains(&self.chunk) {
            return Err(format!("chunk is {}; it may be 1 to 1000", self.chunk));
        }
        for (member, status) in [("merged_status", &self.merged_status), ("reopened_status", &self.reopened_status)] {
            if status.is_empty() || status.len() > 64 {
                return Err(format!("{member} must have 1 to 64 bytes"));
            }
        }
        Ok(())
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
