//! What Backhaul remembers of a profile between jobs: when its attributes were last written at their source, and which
//! profile it was merged into. Pure; the engine stores it with the step that found it out.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most attributes whose source times are kept for one profile; the oldest times go first.
const TIMES_MAX: usize = 500;

/// The memory of one profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The profile that it was merged into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survivor_profile_id: Option<String>,
    /// Newest source time that was applied, by attribute.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub source_times: BTreeMap<String, DateTime<Utc>>,
}

impl Memory {
    /// Reads what was stored. What cannot be read counts as nothing: a lost time costs at most one older write.
    pub fn read(stored: Option<Value>) -> Self {
        stored.and_then(|stored| serde_json::from_value(stored).ok()).unwrap_or_default()
    }

    /// The stored form.
    pub fn write(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The attributes that a write at the source time `at` may still set. Equal times pass, so that a repetition of the
    /// job that set them does.
    pub fn latest(&self, attributes: Map<String, Value>, at: DateTime<Utc>) -> Map<String, Value> {
        let is_latest = |name: &str| self.source_times.get(name).is_none_or(|known| *known <= at);
        attributes.into_iter().filter(|(name, _)| is_latest(name)).collect()
    }

    /// Notes that the attributes `names` were written with the source time `at`.
    pub fn applied<'n>(&mut self, names: impl IntoIterator<Item = &'n String>, at: DateTime<Utc>) {
        for name in names {
            let known = self.source_times.entry(name.clone()).or_insert(at);
            *known = at.max(*known);
        }
        while self.source_times.len() > TIMES_MAX {
            let oldest = self.source_times.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.source_times.remove(&oldest);
        }
    }

    /// Takes over the times of a profile that was merged into this one.
    pub fn absorb(&mut self, merged: &Memory) {
        for (name, at) in &merged.source_times {
            self.applied([name], *at);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    /// Covers row 127: an older job after a newer one changes nothing; a repetition of the newer one passes.
    #[test]
    fn older_source_times_do_not_pass() {
        let (old, new) = (at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z"));
        let attributes = json!({"tier": "gold", "other": 1}).as_object().cloned().expect("an object");
        let mut memory = Memory::default();
        assert_eq!(memory.latest(attributes.clone(), old).len(), 2);
        memory.applied([&"tier".to_owned()], new);
        assert_eq!(memory.latest(attributes.clone(), old).keys().collect::<Vec<_>>(), ["other"]);
        assert_eq!(memory.latest(attributes, new).len(), 2);
        memory.applied([&"tier".to_owned()], old);
        assert_eq!(memory.source_times["tier"], new);
    }

    /// Covers row 128 as far as what is kept goes.
    #[test]
    fn memories_survive_their_storage_and_are_bounded() {
        let mut memory = Memory { survivor_profile_id: Some("x".into()), ..Memory::default() };
        memory.applied([&"a".to_owned()], at("2026-01-01T00:00:00Z"));
        assert_eq!(Memory::read(Some(memory.write())), memory);
        assert_eq!(Memory::read(None), Memory::default());
        assert_eq!(Memory::read(Some(json!([1]))), Memory::default());
        let names: Vec<String> = (0..600).map(|at| format!("n{at}")).collect();
        memory.applied(&names, at("2026-02-01T00:00:00Z"));
        assert_eq!(memory.source_times.len(), TIMES_MAX);
        assert!(!memory.source_times.contains_key("a"));
        let mut survivor = Memory::default();
        survivor.absorb(&memory);
        assert_eq!(survivor.source_times.len(), TIMES_MAX);
    }
}
