//! Makes inputs of seeds: JSON is changed as a document, everything also as bytes.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

/// Texts that have meant trouble to somebody.
const WORDS: [&str; 44] = [
    "",
    " ",
    "\u{0}",
    "\n",
    "\u{7f}",
    "\u{202e}",
    "\u{feff}",
    "é",
    "😀",
    "ｊavascript:",
    "javascript:alert(1)",
    "expression(1)",
    "url(data:x)",
    "@import 'x'",
    "</script>",
    "'; drop table x; --",
    "../..",
    "%2e%2e%2f",
    "\\",
    "*",
    "{x}",
    "a.b",
    "[0]",
    "[99999]",
    "$ref",
    "__proto__",
    "constructor",
    "ann@example.com",
    "@b.c",
    "123-45-6789",
    "123456789",
    "4111 1111 1111 1111",
    "+1 (555) 123-4567",
    "2026-02-30T00:00:00Z",
    "2026-03-01T12:00:00+01:00",
    "2026-03-01 12:00:00Z",
    "0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e",
    "https://a.example:443",
    "https://[::1]",
    "http://0x7f000001/",
    "W/\"x\"",
    "#fff",
    "1e999",
    "-0",
];

/// Makes one input after another.
pub(super) struct Mutator<'s> {
    rng: StdRng,
    seeds: &'s [Vec<u8>],
    documents: Vec<Value>,
}

impl<'s> Mutator<'s> {
    pub(super) fn new(rng: StdRng, seeds: &'s [Vec<u8>]) -> Self {
        assert!(!seeds.is_empty(), "there is nothing to begin with");
        let documents = seeds.iter().filter_map(|seed| serde_json::from_slice(seed).ok()).collect();
        Self { rng, seeds, documents }
    }

    /// The next input.
    pub(super) fn next(&mut self) -> Vec<u8> {
        let structured = !self.documents.is_empty() && self.rng.random_ratio(4, 5);
        if !structured {
            let mut bytes = self.seeds.choose(&mut self.rng).cloned().unwrap_or_default();
            for _ in 0..self.rng.random_range(1..=4) {
                self.change_bytes(&mut bytes);
            }
            return bytes;
        }
        let mut document = self.documents.choose(&mut self.rng).cloned().unwrap_or_default();
        for _ in 0..self.rng.random_range(1..=3) {
            self.change(&mut document, 0);
        }
        document.to_string().into_bytes()
    }

    fn change_bytes(&mut self, bytes: &mut Vec<u8>) {
        let at = self.rng.random_range(0..=bytes.len());
        let to = self.rng.random_range(at..=bytes.len().min(at + 16));
        match self.rng.random_range(0..6) {
            0 => drop(bytes.drain(at..to)),
            1 => {
                let word = self.word();
                bytes.splice(at..at, word.into_bytes());
            }
            2 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(to..to, again);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << self.rng.random_range(0..8),
            4 => bytes.insert(at, self.rng.random()),
            _ => {
                let other = self.seeds.choose(&mut self.rng).cloned().unwrap_or_default();
                let from = self.rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }

    /// Changes one place of a document: here, or further down.
    fn change(&mut self, value: &mut Value, depth: u32) {
        let down = self.rng.random_ratio(4, 5) || depth == 0;
        match value {
            Value::Object(members) if down && !members.is_empty() => {
                let at = self.rng.random_range(0..members.len());
                if let Some((_, inner)) = members.iter_mut().nth(at) {
                    self.change(inner, depth + 1);
                }
            }
            Value::Array(items) if down && !items.is_empty() => {
                let at = self.rng.random_range(0..items.len());
                self.change(&mut items[at], depth + 1);
            }
            Value::Object(members) if self.rng.random_ratio(1, 2) => self.change_members(members),
            Value::Array(items) if self.rng.random_ratio(1, 2) => {
                let again = items.choose(&mut self.rng).cloned().unwrap_or_default();
                let times = if self.rng.random_ratio(1, 20) { 200 } else { 1 };
                items.extend(std::iter::repeat_n(again, times));
            }
            Value::String(text) if self.rng.random_ratio(1, 2) => {
                let mut bytes = std::mem::take(text).into_bytes();
                self.change_bytes(&mut bytes);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            other => *other = self.value(),
        }
    }

    fn change_members(&mut self, members: &mut Map<String, Value>) {
        let names: Vec<String> = members.keys().cloned().collect();
        let name = names.choose(&mut self.rng).cloned().unwrap_or_default();
        match self.rng.random_range(0..3) {
            0 => drop(members.remove(&name)),
            1 => {
                let value = members.remove(&name).unwrap_or_default();
                members.insert(self.word(), value);
            }
            _ => drop(members.insert(self.word(), self.value())),
        }
    }

    fn value(&mut self) -> Value {
        match self.rng.random_range(0..12) {
            0 => Value::Null,
            1 => json!(self.rng.random::<bool>()),
            2 => json!(self.rng.random::<i64>()),
            3 => json!(u64::MAX),
            4 => json!(f64::MAX),
            5 => json!(self.rng.random_range(-2..300)),
            6 => json!({}),
            7 => json!([]),
            8 => {
                let levels = self.rng.random_range(1..8);
                (0..levels).fold(json!(self.word()), |inner, level| {
                    if level % 2 == 0 { json!({ "n": inner }) } else { json!([inner]) }
                })
            }
            // A part of a seed in another place.
            9 => {
                let document = self.documents.choose(&mut self.rng).cloned().unwrap_or_default();
                let members = document.as_object().cloned().unwrap_or_default();
                let values: Vec<Value> = members.into_iter().map(|(_, value)| value).collect();
                values.choose(&mut self.rng).cloned().unwrap_or_default()
            }
            _ => json!(self.word()),
        }
    }

    fn word(&mut self) -> String {
        let word = WORDS.choose(&mut self.rng).copied().unwrap_or_default();
        let times = if self.rng.random_ratio(1, 20) { self.rng.random_range(2..3_000) } else { 1 };
        word.repeat(times)
    }
}
