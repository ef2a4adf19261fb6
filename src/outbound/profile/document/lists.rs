//! Lists whose members are words or tables.

use std::collections::BTreeSet;

use toml::Value;

use super::Section;

impl<'a> Section<'a> {
    /// A list of words, each once. Empty where the key is missing; one that is there must name something.
    pub(in crate::profile) fn words<T: Clone>(&mut self, key: &str, words: &[(&str, T)]) -> Vec<T> {
        let mut seen = BTreeSet::new();
        let mut meanings = Vec::new();
        let Some(list) = self.list(key) else { return meanings };
        for value in list {
            match words.iter().find(|(word, _)| value.as_str() == Some(word)) {
                Some((word, _)) if !seen.insert(*word) => self.error(key, format!("names `{word}` twice")),
                Some((_, meaning)) => meanings.push(meaning.clone()),
                None => {
                    let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                    self.error(key, format!("must be a list of {}", known.join(", ")));
                }
            }
        }
        if list.is_empty() {
            self.error(key, "must not be empty; leave it out to mean all");
        }
        meanings
    }

    /// A list of at most `entries_max` tables.
    pub(in crate::profile) fn tables(&mut self, key: &str, entries_max: usize) -> Vec<Section<'a>> {
        let list = self.list(key).unwrap_or_default();
        if list.len() > entries_max {
            self.error(key, format!("has {} entries, at most {entries_max} are read", list.len()));
        }
        let mut tables = Vec::new();
        for (index, value) in list.iter().take(entries_max).enumerate() {
            let name = format!("{key}[{index}]");
            match value {
                Value::Table(table) => {
                    let path = self.key(&name);
                    tables.push(Section { document: self.document, path, table, seen: BTreeSet::new() });
                }
                other => self.wrong_type(&name, "a table", other),
            }
        }
        tables
    }
}
