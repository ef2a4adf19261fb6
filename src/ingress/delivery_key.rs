//! By what a repetition is known.

use sha2::{Digest, Sha256};

use crate::{event::Reading, signature::Verified};

/// Hash of what names a delivery within its tenant and source.
pub type Key = [u8; 32];

/// The keys of a delivery, the sender's own id first: a redelivery with a new time is known by it. Without an id the
/// event's identity is hashed, each part behind its length, so that no two rows of parts read alike.
///
/// `unsigned_id` is the id of a header that the signature does not cover. Whoever repeats a signed delivery could change
/// it, so that the signature becomes a key as well.
pub fn keys(reading: &Reading, body: Option<&[u8]>, verified: &Verified, unsigned_id: Option<&str>) -> Vec<Key> {
    if let Some(id) = verified.signed_id.as_deref().or(reading.delivery_id.as_deref()) {
        return vec![hash("id", [Some(id.as_bytes())])];
    }
    if let Some(id) = unsigned_id {
        let mut keys = vec![hash("id", [Some(id.as_bytes())])];
        keys.extend(verified.signature.as_deref().map(|signature| hash("signature", [Some(signature)])));
        return keys;
    }
    let parts = reading.identity.iter().map(|part| part.as_deref().map(str::as_bytes));
    vec![hash("identity", parts.chain(body.map(Some)))]
}

/// The key of a body that says nothing of itself.
pub fn of_body(body: &[u8]) -> Key {
    hash("body", [Some(body)])
}

/// An absent part differs from an empty one.
fn hash<'a>(sort: &'a str, parts: impl IntoIterator<Item = Option<&'a [u8]>>) -> Key {
    let mut hash = Sha256::new();
    for part in std::iter::once(Some(sort.as_bytes())).chain(parts) {
        match part {
            None => hash.update([0]),
            Some(part) => {
                hash.update([1]);
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn reading(identity: &[&str], delivery_id: Option<&str>) -> Reading {
        Reading {
            event_type: "e".into(),
            channel: None,
            occurred_at: DateTime::UNIX_EPOCH,
            delivery_id: delivery_id.map(str::to_owned),
            webhook_id: None,
            identity: identity.iter().map(|part| Some((*part).to_owned())).collect(),
        }
    }

    fn plain(identity: &[&str]) -> Vec<Key> {
        keys(&reading(identity, None), None, &Verified { signature: None, signed_id: None }, None)
    }

    /// Covers row 67, row 68, row 70: type, time and id each tell events apart, wherever the borders between them lie.
    #[test]
    fn identities_do_not_run_together() {
        assert_ne!(plain(&["a:b", "c"]), plain(&["a", "b:c"]));
        assert_ne!(plain(&["ab", ""]), plain(&["a", "b"]));
        assert_ne!(plain(&["i1", "created", "t"]), plain(&["i1", "updated", "t"]));
        assert_ne!(plain(&["i1", "created", "t"]), plain(&["i2", "created", "t"]));
        assert_eq!(plain(&["i1", "created", "t"]), plain(&["i1", "created", "t"]));
        let mut absent = reading(&["a", ""], None);
        absent.identity[1] = None;
        assert_ne!(keys(&absent, None, &Verified { signature: None, signed_id: None }, None), plain(&["a", ""]));
    }

    /// Covers row 71: the sender's id counts more than what the event says.
    #[test]
    fn the_senders_id_comes_first() {
        let verified =
            |signed: Option<&str>| Verified { signature: Some(vec![7]), signed_id: signed.map(str::to_owned) };
        let by_body = keys(&reading(&["x"], Some("d1")), None, &verified(None), Some("h1"));
        assert_eq!(by_body, keys(&reading(&["y"], Some("d1")), None, &verified(None), Some("h2")));
        let by_signed = keys(&reading(&["x"], Some("d1")), None, &verified(Some("s1")), None);
        assert_eq!(by_signed, keys(&reading(&["y"], Some("d2")), None, &verified(Some("s1")), None));
        // A header that anybody could change does not make a repetition new.
        let by_header = |id: &str| keys(&reading(&["x"], None), None, &verified(None), Some(id));
        assert_eq!(by_header("h1").len(), 2);
        assert_ne!(by_header("h1")[0], by_header("h2")[0]);
        assert_eq!(by_header("h1")[1], by_header("h2")[1]);
        // An id is never mistaken for an identity that reads alike.
        assert_ne!(keys(&reading(&[], Some("x")), None, &verified(None), None), plain(&["x"]));
        let body = |body: &[u8]| keys(&reading(&["x"], None), Some(body), &verified(None), None);
        assert_ne!(body(b"1"), body(b"2"));
    }
}
