//! What `[kinds.handshake]` of a connection profile may say. How the socket is probed is said in `[probe]`.

use backhaul_outbound::Profile;
use serde::Deserialize;

use crate::api::audit::Via;

/// The table's name below `[kinds]`.
const SECTION: &str = "handshake";

/// The tenant's rules for channels. Every member has a default, so the table may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandshakeSettings {
    /// Create a channel that does not exist, with the payload's `channelId` as its external id.
    pub create_missing: bool,
    /// Publish the channel after it was written: for platforms that edit drafts.
    pub publish: bool,
    /// The event that the health webhook listens for.
    pub health_event: String,
    /// Send the tenant's webhook secret with the registration, so that deliveries can be verified.
    pub send_secret: bool,
    /// How the audit query travels.
    pub audit_via: Via,
    /// The service whose trail is asked for, where queries are transactions.
    pub audit_service: String,
    /// How far the window reaches beyond our clock, in seconds: the platform stamps what the job has just changed with
    /// its own, which may be ahead.
    pub audit_ahead_s: u32,
    /// Most pages of one audit query.
    pub audit_pages_max: usize,
    /// Most entries of one audit query.
    pub audit_entries_max: usize,
}

impl Default for HandshakeSettings {
    fn default() -> Self {
        Self {
            create_missing: false,
            publish: false,
            health_event: "routing:conversation:analytic".to_owned(),
            send_secret: true,
            audit_via: Via::Get,
            audit_service: "WebDeployments".to_owned(),
            audit_ahead_s: 60,
            audit_pages_max: 200,
            audit_entries_max: 20_000,
        }
    }
}

impl HandshakeSettings {
    /// The settings of a tenant; the defaults where its profile says nothing about channels.
    ///
    /// # Errors
    /// Everything that is wrong with the table, one line each.
    pub fn of(profile: &Profile) -> Result<Self, Vec<String>> {
        let settings: Self = profile.knobs(SECTION).map_err(|error| vec![error.to_string()])?;
        let problems = settings.problems();
        if problems.is_empty() {
            return Ok(settings);
        }
        Err(problems.iter().map(|problem| format!("{}: kinds.{SECTION}.{problem}", profile.tenant)).collect())
    }

    /// Everything that is wrong with the settings and that types cannot say.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.health_event.is_empty() || self.health_event.len() > 256 {
            problems.push("health_event: must have 1 to 256 bytes".to_owned());
        }
        if self.audit_service.is_empty() || self.audit_service.len() > 128 {
            problems.push("audit_service: must have 1 to 128 bytes".to_owned());
        }
        if self.audit_ahead_s > 300 {
            problems.push(format!("audit_ahead_s: {} is not from 0 to 300", self.audit_ahead_s));
        }
        if !(1..=200).contains(&self.audit_pages_max) {
            problems.push(format!("audit_pages_max: {} is not from 1 to 200", self.audit_pages_max));
        }
        if !(1..=20_000).contains(&self.audit_entries_max) {
            problems.push(format!("audit_entries_max: {} is not from 1 to 20000", self.audit_entries_max));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_mistakes_are_listed() {
        assert_eq!(HandshakeSettings::default().problems(), Vec::<String>::new());
        let settings = HandshakeSettings {
            health_event: String::new(),
            audit_service: String::new(),
            audit_ahead_s: 301,
            audit_pages_max: 201,
            audit_entries_max: 0,
            ..HandshakeSettings::default()
        };
        assert_eq!(settings.problems().len(), 5);
        for (word, via) in [("post", Via::Post), ("async_query", Via::AsyncQuery)] {
            let read = serde_json::from_value::<HandshakeSettings>(serde_json::json!({ "audit_via": word }));
            assert_eq!(read.expect("settings").audit_via, via);
        }
        assert!(serde_json::from_value::<HandshakeSettings>(serde_json::json!({"create": true})).is_err());
    }
}
