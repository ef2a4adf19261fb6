//! Fingerprints of bodies.

use std::hash::{DefaultHasher, Hasher as _};

/// 64 bits with fixed keys: equal for equal bodies within a run. A cryptographic hash would cost more than the rest
/// of a request in an unoptimised build, and nobody attacks a simulator.
pub(crate) fn fingerprint(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}
