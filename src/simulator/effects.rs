//! The ledger of effects: what was really changed, under which idempotency key, and how often. It is what a test
//! reads to say that each effect was applied exactly once.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;

use crate::clock::rfc3339;

/// Stands between the parts of a row's key. No path, header or tenant can hold a line feed.
const SEPARATOR: char = '\n';

/// What a handler reports when it changed something.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    /// Kind and id, for example `profiles/0b51…`.
    pub(crate) resource: String,
    /// What was done, for example `profile.patch`.
    pub(crate) what: &'static str,
    /// More about it, for example the names of the attributes.
    pub(crate) detail: Option<String>,
}

/// One row of the ledger.
#[derive(Debug, Clone, Serialize)]
pub struct EffectRow {
    /// Tenant of the token.
    pub tenant: String,
    /// Kind and id of the resource.
    pub resource: String,
    /// What was done.
    pub what: &'static str,
    /// The `Idempotency-Key`, or `body:` and the body's fingerprint where none was sent.
    pub key: String,
    /// Whether `key` is an idempotency key.
    pub keyed: bool,
    /// How often it was applied; above 1 is a duplicate.
    pub count: u64,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// RFC 3339 time of the first application.
    pub first_at: String,
    /// RFC 3339 time of the last application.
    pub last_at: String,
}

/// Totals of the ledger; they include rows that have left it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EffectTotals {
    /// Applications of any effect.
    pub applied: u64,
    /// Different (resource, what, key).
    pub distinct: u64,
    /// Applications beyond the first of an effect with an idempotency key.
    pub duplicates: u64,
    /// Applications beyond the first of the same body without a key; they may be meant.
    pub repeated_without_key: u64,
    /// Rows that left the ledger because it was full; a repeat of one of them would count as new.
    pub evicted: u64,
}

/// A row's key in the map holds its tenant, resource, what and key, so that each text is in memory once.
#[derive(Debug)]
struct Row {
    what: &'static str,
    keyed: bool,
    count: u64,
    detail: Option<String>,
    first_ms: i64,
    last_ms: i64,
}

/// The ledger, oldest rows first.
#[derive(Debug)]
pub(crate) struct Effects {
    rows: HashMap<Arc<str>, Row>,
    order: VecDeque<Arc<str>>,
    rows_max: usize,
    totals: EffectTotals,
}

/// Which rows to list.
#[derive(Debug, Default)]
pub(crate) struct EffectFilter<'a> {
    pub(crate) tenant: Option<&'a str>,
    pub(crate) resource: Option<&'a str>,
    pub(crate) what: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) duplicates_only: bool,
}

impl Effects {
    pub(crate) fn new(rows_max: usize) -> Self {
        Self { rows: HashMap::new(), order: VecDeque::new(), rows_max, totals: EffectTotals::default() }
    }

    /// Writes one application down. Answers whether the same effect had been applied before.
    pub(crate) fn apply(
        &mut self,
        tenant: &str,
        effect: Effect,
        key: Option<&str>,
        fingerprint: u64,
        now_ms: i64,
    ) -> bool {
        let keyed = key.is_some();
        let key = key.map_or_else(|| format!("body:{fingerprint:016x}"), str::to_owned);
        let id = format!("{tenant}{SEPARATOR}{}{SEPARATOR}{key}{SEPARATOR}{}", effect.resource, effect.what);
        self.totals.applied += 1;
        if let Some(row) = self.rows.get_mut(id.as_str()) {
            row.count += 1;
            row.last_ms = now_ms;
            if keyed {
                self.totals.duplicates += 1;
            } else {
                self.totals.repeated_without_key += 1;
            }
            return true;
        }
        if self.rows.len() >= self.rows_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.rows.remove(&oldest);
            self.totals.evicted += 1;
        }
        self.totals.distinct += 1;
        let id: Arc<str> = id.into();
        self.order.push_back(id.clone());
        let Effect { what, detail, .. } = effect;
        self.rows.insert(id, Row { what, keyed, count: 1, detail, first_ms: now_ms, last_ms: now_ms });
        false
    }

    pub(crate) fn totals(&self) -> EffectTotals {
        self.totals
    }

    /// The newest `limit` rows that agree, oldest first.
    pub(crate) fn list(&self, filter: &EffectFilter<'_>, limit: usize) -> Vec<EffectRow> {
        let agrees = |row: &EffectRow| {
            filter.tenant.is_none_or(|tenant| row.tenant == tenant)
                && filter.resource.is_none_or(|resource| row.resource == resource)
                && filter.what.is_none_or(|what| row.what == what)
                && filter.key.is_none_or(|key| row.key == key)
                && (!filter.duplicates_only || row.count > 1)
        };
        let shown = |id: &Arc<str>| self.rows.get(id).map(|row| row.show(id));
        let mut rows: Vec<EffectRow> = self.order.iter().rev().filter_map(shown).filter(agrees).take(limit).collect();
        rows.reverse();
        rows
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.rows_max);
    }
}

impl Row {
    fn show(&self, id: &str) -> EffectRow {
        let mut parts = id.split(SEPARATOR).map(str::to_owned);
        EffectRow {
            tenant: parts.next().unwrap_or_default(),
            resource: parts.next().unwrap_or_default(),
            key: parts.next().unwrap_or_default(),
            what: self.what,
            keyed: self.keyed,
            count: self.count,
            detail: self.detail.clone(),
            first_at: rfc3339(self.first_ms),
            last_at: rfc3339(self.last_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(id: &str) -> Effect {
        Effect { resource: format!("profiles/{id}"), what: "profile.patch", detail: None }
    }

    #[test]
    fn the_same_key_twice_is_a_duplicate() {
        let mut effects = Effects::new(10);
        assert!(!effects.apply("acme", patch("p1"), Some("k1"), 1, 0));
        assert!(!effects.apply("acme", patch("p1"), Some("k2"), 1, 0));
        assert!(!effects.apply("acme", patch("p2"), Some("k1"), 1, 0));
        assert!(effects.apply("acme", patch("p1"), Some("k1"), 1, 5));
        let totals = effects.totals();
        assert_eq!((totals.applied, totals.distinct, totals.duplicates), (4, 3, 1));
        let filter = EffectFilter { duplicates_only: true, ..EffectFilter::default() };
        let rows = effects.list(&filter, 10);
        assert_eq!((rows.len(), rows[0].count, rows[0].resource.as_str()), (1, 2, "profiles/p1"));
    }

    #[test]
    fn a_full_ledger_keeps_its_totals() {
        let mut effects = Effects::new(2);
        for id in ["a", "b", "c"] {
            effects.apply("acme", patch(id), None, 7, 0);
        }
        assert_eq!((effects.totals().distinct, effects.totals().evicted), (3, 1));
        assert_eq!(effects.list(&EffectFilter::default(), 10).len(), 2);
    }
}
