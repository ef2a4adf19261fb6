//! What is logged, down to the finest level, when everything goes wrong.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::test_server::body;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Covers row 11: no slice of eight characters of a secret or a token, in logs, errors and `Debug` output.
#[tokio::test]
async fn no_part_of_a_secret_is_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    const ACCESS: &str = "access-QmFja2hhdWw-token";
    let echo = json!({"error": "invalid_client", "error_description": "test-client-secret access-QmFja2hhdWw-token"});
    let server = Server::start(move |seen| match (seen.path.as_str(), seen.nth) {
        (TOKEN, 1 | 2) => body(200, &json!({"access_token": ACCESS, "expires_in": 3600})),
        (TOKEN, _) => body(401, &echo),
        (_, 1) => status(200),
        _ => body(401, &echo),
    })
    .await;
    let (client, clock) = client();
    let mut texts = Vec::new();
    for oauth in ["auth = \"basic\"", "auth = \"body\"", "auth = \"json_key\""] {
        let profile = profile(&server.url, oauth, "");
        for _ in 0..3 {
            let call = Call::get("profile", "profiles").params(P1_PARAMS);
            let outcome = client.send("acme", profile.cxone.as_ref().unwrap(), call).await;
            texts
                .push(outcome.map_or_else(|error| format!("{error} {error:?}"), |reply| format!("{:?}", reply.status)));
            clock.advance(Duration::from_secs(61));
        }
        texts.push(format!("{profile:?} {client:?}"));
    }
    assert!(server.count(TOKEN) >= 3 && server.count(P1) >= 2);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("credential_refused") && log.contains("outbound"), "the log was captured: {log}");
    texts.push(log);
    for text in &texts {
        for secret in ["test-client-secret", ACCESS] {
            for start in 0..=secret.len() - 8 {
                let slice = &secret[start..start + 8];
                assert!(!text.contains(slice), "{slice:?} in {text}");
            }
        }
    }
}

/// A 403 and a second 401 are for a person to mend: both are alerts, once a call, and other refusals are none.
#[tokio::test]
async fn what_only_a_person_can_mend_is_an_alert() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start(|seen| match (seen.path.as_str(), seen.nth) {
        (TOKEN, nth) => token(nth),
        (_, 1) => status(403),
        (_, 2 | 3) => status(401),
        _ => status(404),
    })
    .await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    for _ in 0..3 {
        let call = Call::get("profile", "profiles").params(P1_PARAMS);
        drop(client.send("acme", profile.cxone.as_ref().unwrap(), call).await);
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let alerts: Vec<&str> = log.lines().filter(|line| line.contains("alert=")).collect();
    assert_eq!(alerts.len(), 2, "{log}");
    assert!(alerts[0].contains("alert=\"forbidden\"") && alerts[0].contains("tenant=\"acme\""), "{log}");
    assert!(alerts[1].contains("alert=\"auth_blocked\"") && alerts[1].contains("endpoint=\"profile\""), "{log}");
}
