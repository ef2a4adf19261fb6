//! Reads keys one by one and remembers what was wrong, so that all mistakes come out together.

use std::{collections::BTreeSet, fmt::Display, ops::RangeInclusive};

use ::config::{Config, ConfigError, Value, ValueKind};

use super::problems::Problems;

/// The merged layers, the keys that were asked for and the problems so far.
pub(super) struct Reader<'a> {
    merged: &'a Config,
    known: BTreeSet<&'static str>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(merged: &'a Config) -> Self {
        Self { merged, known: BTreeSet::new(), problems: Vec::new() }
    }

    /// Text. Empty text is a value like any other.
    pub(super) fn text(&mut self, key: &'static str) -> String {
        self.value(key).and_then(|value| self.convert(key, "a string", value.into_string())).unwrap_or_default()
    }

    /// Text, where empty means "not set".
    pub(super) fn optional_text(&mut self, key: &'static str) -> Option<String> {
        let text = self.text(key);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A whole number within `range`. The start of the range stands in for a wrong one.
    pub(super) fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<u64> + PartialOrd + Display + Copy,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number = self.value(key).and_then(|value| self.convert(key, &expected, value.into_uint()));
        match number.map(T::try_from) {
            Some(Ok(number)) if range.contains(&number) => return number,
            Some(_) => self.problem(key, &format!("must be {expected}")),
            None => {}
        }
        *range.start()
    }

    /// A share from 0 to 1.
    pub(super) fn share(&mut self, key: &'static str) -> f64 {
        let expected = "a number from 0 to 1";
        match self.value(key).and_then(|value| self.convert(key, expected, value.into_float())) {
            Some(number) if (0.0..=1.0).contains(&number) => return number,
            Some(_) => self.problem(key, &format!("must be {expected}")),
            None => {}
        }
        0.0
    }

    /// One of the words of `choices`.
    pub(super) fn choice<T: Copy + Default>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> T {
        let text = self.text(key);
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.problem(key, &format!("must be one of {}", names.join(", ")));
        }
        found.unwrap_or_default()
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.choice(key, &[("true", true), ("false", false)])
    }

    /// A list of words: an array in a file, words with commas between them in the environment.
    pub(super) fn words(&mut self, key: &'static str) -> Vec<String> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let words: Option<Vec<String>> = match value.kind {
            ValueKind::Array(items) => items.into_iter().map(|item| item.into_string().ok()).collect(),
            ValueKind::String(text) => Some(text.split(',').map(str::to_owned).collect()),
            _ => None,
        };
        let Some(words) = words else {
            self.problem(key, "must be a list of words");
            return Vec::new();
        };
        words.iter().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    }

    /// Notes that `key` is wrong. `what` must not hold the value of a secret.
    pub(super) fn problem(&mut self, key: &str, what: &str) {
        let variable = key.to_uppercase().replace('.', "__");
        self.problems.push(format!("{key} {what} (BACKHAUL__{variable} in the environment)"));
    }

    /// Ends the reading: keys that nobody asked for are mistakes too.
    pub(super) fn finish(mut self) -> Result<(), Problems> {
        let mut present = Vec::new();
        flatten("", &self.merged.cache, &mut present);
        for key in present.iter().filter(|key| !self.known.contains(key.as_str())) {
            let hint = nearest(key, &self.known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            self.problems.push(format!("{key} is not a setting{hint}"));
        }
        Problems::found(self.problems).map_or(Ok(()), Err)
    }

    fn value(&mut self, key: &'static str) -> Option<Value> {
        self.known.insert(key);
        let value = self.merged.get::<Value>(key).ok();
        if value.is_none() {
            self.problem(key, "is missing");
        }
        value
    }

    /// `config`'s own errors quote the value, which may be a secret, so they are replaced.
    fn convert<T>(&mut self, key: &str, expected: &str, converted: Result<T, ConfigError>) -> Option<T> {
        if converted.is_err() {
            self.problem(key, &format!("must be {expected}"));
        }
        converted.ok()
    }
}

fn flatten(prefix: &str, value: &Value, keys: &mut Vec<String>) {
    let ValueKind::Table(table) = &value.kind else {
        keys.push(prefix.to_owned());
        return;
    };
    let mut names: Vec<&String> = table.keys().collect();
    names.sort();
    for name in names {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        flatten(&key, &table[name], keys);
    }
}

/// The known key that differs least, if it differs little.
fn nearest<'k>(key: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    const DISTANCE_MAX: usize = 3;
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    // The right word in the wrong section is a likely mistake too.
    let far = |candidate: &str| {
        let distance = distance(key, candidate);
        if last(key) == last(candidate) { distance.min(DISTANCE_MAX) } else { distance }
    };
    let near = known.iter().map(|candidate| (far(candidate), *candidate)).min()?;
    (near.0 <= DISTANCE_MAX).then_some(near.1)
}

/// Levenshtein's distance; keys are short.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}
