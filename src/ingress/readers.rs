//! Bodies on their way, of senders that have not proved who they are yet. There is always room for one more: the one that
//! has taken longest makes it. A sender that means it is done within milliseconds, so slow strangers cut off each other.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// The bodies that are being read.
#[derive(Debug)]
pub(crate) struct Readers {
    bodies_max: usize,
    next: AtomicU64,
    /// Oldest first.
    reading: Mutex<BTreeMap<u64, CancellationToken>>,
}

/// One of them. It leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    readers: &'a Readers,
    number: u64,
    /// Says that others need the room.
    pub(crate) crowded_out: CancellationToken,
}

impl Readers {
    /// Room for `bodies_max` bodies at once, at least one.
    pub(crate) fn new(bodies_max: usize) -> Self {
        Self { bodies_max: bodies_max.max(1), next: AtomicU64::new(0), reading: Mutex::default() }
    }

    /// Begins a body, and ends the oldest where there are too many.
    pub(crate) fn enter(&self) -> Reader<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let crowded_out = CancellationToken::new();
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        while reading.len() >= self.bodies_max
            && let Some((_, oldest)) = reading.pop_first()
        {
            oldest.cancel();
        }
        reading.insert(number, crowded_out.clone());
        Reader { readers: self, number, crowded_out }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.readers.reading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 211: whoever comes finds room, and what is done makes room without an end of others.
    #[test]
    fn the_oldest_makes_room() {
        let readers = Readers::new(2);
        let (first, second) = (readers.enter(), readers.enter());
        assert!(!first.crowded_out.is_cancelled());
        let third = readers.enter();
        assert!(first.crowded_out.is_cancelled() && !second.crowded_out.is_cancelled());
        drop((first, second));
        let fourth = readers.enter();
        assert!(!third.crowded_out.is_cancelled() && !fourth.crowded_out.is_cancelled());
    }
}
