//! Which secret a webhook was registered with. Upstreams never show it, so the database remembers a mark of it.

use std::time::Duration;

use backhaul_engine::Store;
use backhaul_outbound::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What sets these hashes apart from the signatures that are made with the same secret.
const DOMAIN: &str = "backhaul: the secret of a registered webhook, 1";

/// A hash under the secret itself: who reads it learns nothing but whether two registrations used one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark(Vec<u8>);

impl Mark {
    /// The mark of `secret` for one webhook: an address of an upstream, and the id there. A webhook that somebody
    /// deleted and made anew, and one at another upstream, have marks of their own.
    pub(super) fn new(secret: &Secret, tenant: &str, source: &str, list: &str, id: &str) -> Option<Self> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
        for part in [DOMAIN, tenant, source, list, id] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        Some(Self(mac.finalize().into_bytes().to_vec()))
    }

    /// The mark of the last registration, if any.
    pub(super) async fn load(
        store: &Store,
        tenant: &str,
        source: &str,
        timeout: Duration,
    ) -> Result<Option<Self>, String> {
        let asked = sqlx::query_scalar::<_, Option<Vec<u8>>>("select backhaul.registration_mark($1, $2)");
        let asked = asked.bind(tenant).bind(source).fetch_one(store);
        Ok(within(timeout, asked).await?.map(Self))
    }

    /// Remembers it.
    pub(super) async fn save(
        &self,
        store: &Store,
        tenant: &str,
        source: &str,
        timeout: Duration,
    ) -> Result<(), String> {
        let said = sqlx::query("select backhaul.remember_registration($1, $2, $3)");
        let said = said.bind(tenant).bind(source).bind(&self.0).execute(store);
        within(timeout, said).await.map(drop)
    }
}

async fn within<T>(timeout: Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer.map_err(|error| format!("the store: {error}")),
        Err(_) => Err(format!("the store gave no answer within {} ms", timeout.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_webhook_and_each_secret_has_its_own_mark() {
        let mark = |secret: &str, tenant, source, list, id| Mark::new(&Secret::new(secret), tenant, source, list, id);
        let one = mark("s1", "acme", "threads", "https://a.example/w", "7");
        assert!(one.is_some() && one == mark("s1", "acme", "threads", "https://a.example/w", "7"));
        for other in [
            mark("s2", "acme", "threads", "https://a.example/w", "7"),
            mark("s1", "acmet", "hreads", "https://a.example/w", "7"),
            mark("s1", "acme", "threads", "https://b.example/w", "7"),
            mark("s1", "acme", "threads", "https://a.example/w", "8"),
        ] {
            assert_ne!(one, other);
        }
    }
}
