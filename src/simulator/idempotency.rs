//! The first answer of every `Idempotency-Key`, so that a repeat gets it again and changes nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::reply::Reply;

/// What a key is to the store.
#[derive(Debug)]
pub(crate) enum Known {
    /// Not seen, or seen only with answers that changed nothing.
    No,
    /// Seen with the same body: the first answer.
    Replay(Reply),
    /// Seen with another body.
    OtherBody,
}

#[derive(Debug)]
struct Stored {
    fingerprint: u64,
    reply: Reply,
}

/// Answers by (tenant, method, path, key), bounded in number and bytes; the oldest go first.
#[derive(Debug)]
pub(crate) struct Idempotency {
    stored: HashMap<Arc<str>, Stored>,
    order: VecDeque<Arc<str>>,
    bytes: usize,
    keys_max: usize,
    bytes_max: usize,
    evicted: u64,
}

impl Idempotency {
    pub(crate) fn new(keys_max: usize, bytes_max: usize) -> Self {
        Self { stored: HashMap::new(), order: VecDeque::new(), bytes: 0, keys_max, bytes_max, evicted: 0 }
    }

    /// The scope of a key: the same key on another resource is another request.
    pub(crate) fn scope(tenant: &str, method: &str, path: &str, key: &str) -> String {
        format!("{tenant}\n{method}\n{path}\n{key}")
    }

    pub(crate) fn look_up(&self, scope: &str, fingerprint: u64) -> Known {
        match self.stored.get(scope) {
            None => Known::No,
            Some(stored) if stored.fingerprint == fingerprint => Known::Replay(stored.reply.clone()),
            Some(_) => Known::OtherBody,
        }
    }

    /// Remembers an answer. Only answers of applied requests belong here: an error must be open to another try.
    pub(crate) fn store(&mut self, scope: String, fingerprint: u64, reply: Reply) {
        let scope: Arc<str> = scope.into();
        self.bytes += scope.len() + reply.bytes();
        if let Some(former) = self.stored.insert(scope.clone(), Stored { fingerprint, reply }) {
            self.bytes -= scope.len() + former.reply.bytes();
        } else {
            self.order.push_back(scope);
        }
        while self.stored.len() > self.keys_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.stored.remove(&oldest) {
                self.bytes -= oldest.len() + gone.reply.bytes();
                self.evicted += 1;
            }
        }
    }

    /// Keys forgotten for want of room; a repeat of one of them is applied again.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.keys_max, self.bytes_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_its_body() {
        let mut store = Idempotency::new(10, 10_000);
        let scope = Idempotency::scope("acme", "PATCH", "/p", "k");
        assert!(matches!(store.look_up(&scope, 1), Known::No));
        store.store(scope.clone(), 1, Reply::empty(200));
        assert!(matches!(store.look_up(&scope, 1), Known::Replay(reply) if reply.status == 200));
        assert!(matches!(store.look_up(&scope, 2), Known::OtherBody));
    }

    #[test]
    fn the_store_stays_within_its_bounds() {
        let mut store = Idempotency::new(2, 10_000);
        for key in ["a", "b", "c"] {
            store.store(key.to_owned(), 1, Reply::empty(200));
        }
        assert_eq!((store.stored.len(), store.evicted()), (2, 1));
        assert!(matches!(store.look_up("a", 1), Known::No));
        let mut small = Idempotency::new(100, 50);
        small.store("x".repeat(40), 1, Reply::empty(200));
        small.store("y".repeat(40), 1, Reply::empty(200));
        assert_eq!(small.stored.len(), 1);
    }
}
