//! Keyed hashes of payloads for the audit trail.
//!
//! An unkeyed hash of personal data can be reversed by trying, and equal data of two tenants would hash alike. So the
//! key is bound to the tenant, and what is hashed is the canonical JSON of RFC 8785.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// Shortest accepted key in bytes: that of the hash's security level.
pub const KEY_BYTES_MIN: usize = 16;

/// A tenant's key with the name under which audit events refer to it.
#[derive(Clone)]
pub struct HashKey {
    id: String,
    key: [u8; 32],
}

impl HashKey {
    /// Derives the key of `tenant` from `secret`, so that tenants that were given one secret still differ. Fails where
    /// the secret is shorter than [`KEY_BYTES_MIN`].
    pub fn derive(tenant: &str, id: &str, secret: &[u8]) -> Result<Self, String> {
        if secret.len() < KEY_BYTES_MIN {
            return Err(format!("the hash key has {} bytes, fewer than {KEY_BYTES_MIN}", secret.len()));
        }
        let mut label = b"backhaul payload hash 1\0".to_vec();
        label.extend_from_slice(tenant.as_bytes());
        Ok(Self { id: id.to_owned(), key: hmac(secret, &label) })
    }

    /// A key that is nobody's, for settings under which nothing is hashed.
    pub(crate) fn of_nobody() -> Self {
        Self { id: String::new(), key: [0; 32] }
    }

    /// The key's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lower-case hexadecimal HMAC-SHA-256 of the canonical JSON of `value`. Integers beyond 2^53, which RFC 8785
    /// would round, count as their decimal text. Fails only for numbers that JSON cannot hold.
    pub fn hash(&self, value: &Value) -> Result<String, String> {
        let canonical = serde_json_canonicalizer::to_vec(&exact(value)).map_err(|error| error.to_string())?;
        Ok(hmac(&self.key, &canonical).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HashKey").field("id", &self.id).finish_non_exhaustive()
    }
}

fn exact(value: &Value) -> Value {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if whole.is_some_and(|whole| whole > EXACT_MAX) { Value::String(number.to_string()) } else { value.clone() }
        }
        Value::Array(items) => Value::Array(items.iter().map(exact).collect()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, member)| (name.clone(), exact(member))).collect())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(tenant: &str) -> HashKey {
        HashKey::derive(tenant, "k1", b"test-secret-of-32-bytes-or-more!").expect("long enough")
    }

    /// Covers row 120: nested members count, the order of members does not.
    #[test]
    fn hashes_cover_nested_members_and_not_their_order() {
        let one = json!({"profileId": "p", "attributes": {"loyalty_tier": "gold", "a": 1}});
        let changed = json!({"profileId": "p", "attributes": {"loyalty_tier": "silver", "a": 1}});
        let reordered: Value =
            serde_json::from_str(r#"{"attributes":{"a":1,"loyalty_tier":"gold"},"profileId":"p"}"#).expect("JSON");
        assert_ne!(key("t").hash(&one), key("t").hash(&changed));
        assert_eq!(key("t").hash(&one), key("t").hash(&reordered));
        let (large, larger) = (json!({"n": 9_007_199_254_740_993_u64}), json!({"n": 9_007_199_254_740_992_u64}));
        assert_ne!(key("t").hash(&large), key("t").hash(&larger));
    }

    /// Covers row 121.
    #[test]
    fn tenants_hash_the_same_data_differently() {
        let data = json!({"a": 1});
        assert_ne!(key("one").hash(&data), key("two").hash(&data));
        assert!(HashKey::derive("one", "k1", b"short").is_err());
        assert!(!format!("{:?}", key("one")).contains("test-secret"));
    }
}
