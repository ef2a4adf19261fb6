//! By what a repetition is known.

use sha2::{Digest, Sha256};

use crate::{event::Reading, signature::Verified};

/// Hash of what names a delivery within its tenant and source.
pub type Key = [u8; 32];

/// By what a repetition of one delivery is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Any of them tells a repetition.
    pub all: Vec<Key>,
    /// The one of them that anybody could have changed. A repetition that is known by another one does not bring it
    /// along.
    pub unsigned_id: Option<Key>,
}

impl From<Key> for Keys {
    fn from(key: Key) -> Self {
        Self { all: vec![key], unsigned_id: None }
    }
}

/// The keys of a delivery, the sender's own id first: a redelivery with a new time is known by it. Without an id the
/// event's identity is hashed, each part behind its length, so that no two rows of parts read alike.
///
/// `unsigned_id` is the id of a header that the signature does not cover. Whoever repeats a signed delivery can change it
/// or leave it out, and with it what the delivery is called: so the signature is a key as well. An id that is signed,
/// itself or in the body, comes with every repetition of the same bytes and needs no second key.
pub fn keys(reading: &Reading, body: Option<&[u8]>, verified: &Verified, unsigned_id: Option<&str>) -> Keys {
    if let Some(id) = verified.signed_id.as_deref().or(reading.delivery_id.as_deref()) {
        return hash("id", [Some(id.as_bytes())]).into();
    }
    let unsigned_id = unsigned_id.map(|id| hash("id", [Some(id.as_bytes())]));
    let name = unsigned_id.unwrap_or_else(|| {
        let parts = reading.identity.iter().map(|part| part.as_deref().map(str::as_bytes));
        hash("identity", parts.chain(body.map(Some)))
    });
    let signature = verified.signature.as_deref().map(|signature| hash("signature", [Some(signature)]));
    Keys { all: std::iter::once(name).chain(signature).collect(), unsigned_id }
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

    fn plain(identity: &[&str]) -> Keys {
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
        // A header that anybody could change or leave out does not make a repetition new.
        let by_header = |id| keys(&reading(&["x"], None), None, &verified(None), id);
        let (one, other, bare) = (by_header(Some("h1")), by_header(Some("h2")), by_header(None));
        assert_eq!([&one, &other, &bare].map(|keys| keys.all.len()), [2, 2, 2]);
        assert!(one.all[0] != other.all[0] && one.all[0] != bare.all[0]);
        assert!(one.all[1] == other.all[1] && one.all[1] == bare.all[1]);
        assert_eq!((one.unsigned_id, bare.unsigned_id), (Some(one.all[0]), None));
        assert_eq!((by_body.unsigned_id, by_signed.unsigned_id), (None, None));
        // An id is never mistaken for an identity that reads alike.
        assert_ne!(keys(&reading(&[], Some("x")), None, &verified(None), None), plain(&["x"]));
        let body = |body: &[u8]| keys(&reading(&["x"], None), Some(body), &verified(None), None);
        assert_ne!(body(b"1"), body(b"2"));
    }
}
