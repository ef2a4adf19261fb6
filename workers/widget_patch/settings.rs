//! What a tenant's connection profile says about widget patches: the table `[kinds.widget-patch]`.

use backhaul_outbound::Profile;
use serde::Deserialize;

/// Name of the table.
pub const SECTION: &str = "widget-patch";

/// The rules of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Actions that a listener may call.
    pub actions: Vec<String>,
    /// Sizes that the tenant's widgets know.
    pub sizes: Vec<String>,
    /// Whether every patch carries the whole document with the gateway's defaults. Off, a patch carries what the job
    /// names and nothing else.
    pub full_document: bool,
    /// Whether the gateway's cache is purged after a change.
    pub purge: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            actions: owned(&["log_to_external", "track_latency"]),
            sizes: owned(&["small", "medium", "large"]),
            full_document: false,
            purge: true,
        }
    }
}

impl Rules {
    /// The rules of a profile: its table, or the defaults.
    ///
    /// # Errors
    /// Everything that is wrong with the table, one line each.
    pub fn of(profile: &Profile) -> Result<Self, Vec<String>> {
        let rules: Self = profile.knobs(SECTION).map_err(|error| vec![error.to_string()])?;
        let problems = rules.problems();
        if problems.is_empty() {
            return Ok(rules);
        }
        Err(problems.iter().map(|problem| format!("{}: kinds.{SECTION}.{problem}", profile.tenant)).collect())
    }

    /// Everything that is wrong with the rules.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for action in self.actions.iter().filter(|action| !is_action(action)) {
            problems.push(format!(
                "actions: {action:?} must be a lower-case letter and then lower-case letters, digits and _, at most 64"
            ));
        }
        for size in self.sizes.iter().filter(|size| !is_name(size, 32)) {
            problems.push(format!("sizes: {size:?} must be a letter and then letters, digits, _ . and -, at most 32"));
        }
        if self.sizes.is_empty() {
            problems.push("sizes: must name at least one size".to_owned());
        }
        problems
    }
}

fn is_action(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|char: char| char.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A letter and then letters, digits, `_`, `.` and `-`.
pub(super) fn is_name(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max
        && text.starts_with(|char: char| char.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_mistakes_are_listed() {
        assert_eq!(Rules::default().problems(), Vec::<String>::new());
        let rules = Rules { actions: vec!["<img onerror=1>".into(), "Eval".into()], sizes: vec![], ..Rules::default() };
        assert_eq!(rules.problems().len(), 3);
    }
}
