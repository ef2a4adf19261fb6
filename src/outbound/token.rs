//! OAuth tokens (A1): one refresh at a time for each credential, renewed before they end, and a pause for credentials
//! that the token endpoint refuses.

mod request;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use reqwest::header::HeaderValue;
use url::Url;

use self::request::Outcome;
use crate::{
    call::CallError,
    clock::Clock,
    discovery,
    exchange::Exchange,
    profile::{Auth, ClientAuth, Grant, OAuth, Provider},
    redact::Secret,
};

/// First pause of a credential that was refused; doubles with every further refusal.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
/// The window of the token endpoint's own limit.
const WINDOW: Duration = Duration::from_secs(60);

/// A bearer token as it is sent.
#[derive(Clone)]
pub(crate) struct Token {
    /// Distinguishes tokens of one credential; `None` for a fixed one.
    serial: Option<u64>,
    header: HeaderValue,
    /// On the monotonic clock.
    use_until: Duration,
}

impl Token {
    /// A token that never ends; `None` where it cannot stand in a header.
    pub(crate) fn fixed(secret: &Secret) -> Option<Self> {
        Some(Self { serial: None, header: bearer(secret.expose())?, use_until: Duration::MAX })
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// Whether a new one can be had.
    pub(crate) fn renewable(&self) -> bool {
        self.serial.is_some()
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    // Keeps it out of every `Debug` output on the way.
    header.set_sensitive(true);
    Some(header)
}

/// What makes two credentials the same: A1's key. Scopes and user name are part of it, the secret is not.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    tenant: String,
    token_url: Url,
    client_id: String,
    auth: ClientAuth,
    username: Option<String>,
    scopes: Vec<String>,
}

impl Key {
    fn new(tenant: &str, oauth: &OAuth) -> Self {
        let username = match &oauth.grant {
            Grant::ClientCredentials => None,
            Grant::Password { username, .. } => Some(username.clone()),
        };
        Self {
            tenant: tenant.to_owned(),
            token_url: oauth.token_url.url().clone(),
            client_id: oauth.client_id.clone(),
            auth: oauth.auth,
            username,
            scopes: oauth.scopes.clone(),
        }
    }
}

/// The tokens of all credentials. Bounded by the number of profiles.
pub(crate) struct Tokens {
    clock: Arc<dyn Clock>,
    credentials: Mutex<HashMap<Key, Arc<Credential>>>,
}

/// One credential's token and history.
#[derive(Default)]
struct Credential {
    current: RwLock<Option<Token>>,
    /// Finished token requests. Whoever waited through one shares its failure instead of repeating it.
    finished: AtomicU64,
    /// Held during a token request: this lock is what makes refreshes single-flight.
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    serial: u64,
    last_failure: Option<CallError>,
    strikes: u32,
    pause: Option<Pause>,
    /// Times of recent requests, oldest first, at most the limit.
    recent: VecDeque<Duration>,
    discovered: Option<(Url, Duration)>,
}

/// No token request before this time.
struct Pause {
    /// On the monotonic clock.
    until: Duration,
    why: Why,
}

enum Why {
    Refused(String),
    ScopeMissing(Vec<String>),
    Throttled,
}

impl Tokens {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, credentials: Mutex::default() }
    }

    /// A valid token, from memory or from the token endpoint.
    pub(crate) async fn get(
        &self,
        exchange: &Exchange,
        tenant: &str,
        provider: &Provider,
        oauth: &OAuth,
    ) -> Result<Token, CallError> {
        let credential = self.credential(Key::new(tenant, oauth));
        let finished = credential.finished.load(Ordering::Acquire);
        if let Some(token) = self.valid(&credential) {
            return Ok(token);
        }
        let mut state = credential.state.lock().await;
        if let Some(token) = self.valid(&credential) {
            return Ok(token);
        }
        if credential.finished.load(Ordering::Acquire) != finished
            && let Some(failure) = &state.last_failure
        {
            return Err(failure.clone());
        }
        self.check_pause(&state, provider)?;
        self.take_slot(&mut state, provider)?;
        let outcome = self.request(exchange, provider, oauth, &mut state).await;
        let result = self.settle(&mut state, outcome, tenant, provider, oauth);
        match &result {
            Ok(token) => {
                *credential.current.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                state.last_failure = None;
            }
            Err(failure) => state.last_failure = Some(failure.clone()),
        }
        credential.finished.fetch_add(1, Ordering::Release);
        result
    }

    /// Drops the credential's token if it is still the one that was sent. Another call may have renewed it meanwhile.
    pub(crate) fn invalidate(&self, tenant: &str, provider: &Provider, sent: &Token) {
        let Auth::OAuth(oauth) = &provider.oauth else { return };
        let credential = self.credential(Key::new(tenant, oauth));
        let mut current = credential.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|token| token.serial == sent.serial) {
            *current = None;
        }
    }

    fn credential(&self, key: Key) -> Arc<Credential> {
        let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(credentials.entry(key).or_default())
    }

    fn valid(&self, credential: &Credential) -> Option<Token> {
        let current = credential.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|token| self.clock.elapsed() < token.use_until).cloned()
    }

    fn check_pause(&self, state: &State, provider: &Provider) -> Result<(), CallError> {
        let Some(pause) = state.pause.as_ref().filter(|pause| self.clock.elapsed() < pause.until) else {
            return Ok(());
        };
        let until = self.calendar(pause.until);
        Err(match &pause.why {
            Why::Refused(detail) => CallError::AuthBlocked { until: Some(until), detail: detail.clone() },
            Why::ScopeMissing(missing) => CallError::ScopeMissing { missing: missing.clone() },
            Why::Throttled => CallError::TokenThrottled { bucket: provider.bucket("token"), until },
        })
    }

    /// The token endpoint's own limiter, per credential and process.
    fn take_slot(&self, state: &mut State, provider: &Provider) -> Result<(), CallError> {
        let Some(&limit) = provider.buckets.get("token") else { return Ok(()) };
        let now = self.clock.elapsed();
        while state.recent.front().is_some_and(|&at| now.saturating_sub(at) >= WINDOW) {
            state.recent.pop_front();
        }
        if let Some(&oldest) = state.recent.front()
            && state.recent.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
        {
            let until = self.calendar(oldest + WINDOW);
            return Err(CallError::TokenThrottled { bucket: provider.bucket("token"), until });
        }
        state.recent.push_back(now);
        Ok(())
    }

    async fn request(&self, exchange: &Exchange, provider: &Provider, oauth: &OAuth, state: &mut State) -> Outcome {
        let known = state.discovered.as_ref().filter(|(_, until)| self.clock.elapsed() < *until);
        let url = match known {
            Some((url, _)) => url.clone(),
            None => match request::endpoint(exchange, provider, &oauth.token_url).await {
                Ok(url) => url,
                Err(outcome) => return outcome,
            },
        };
        let outcome = request::fetch(exchange, provider, oauth, url.clone(), self.clock.now()).await;
        // An endpoint that refuses may have moved: the next try asks the discovery document again.
        let believed = !matches!(outcome, Outcome::Refused(_));
        state.discovered = believed.then(|| (url, self.clock.elapsed() + discovery::LIFE));
        outcome
    }

    /// Turns the endpoint's answer into a token, or into a failure and perhaps a pause.
    fn settle(
        &self,
        state: &mut State,
        outcome: Outcome,
        tenant: &str,
        provider: &Provider,
        oauth: &OAuth,
    ) -> Result<Token, CallError> {
        match outcome {
            Outcome::Granted { header, life, asked_at } => {
                let margin = oauth.margin.min(life / 2);
                let use_until = asked_at.saturating_add(life - margin);
                state.serial += 1;
                (state.strikes, state.pause) = (0, None);
                Ok(Token { serial: Some(state.serial), header, use_until })
            }
            Outcome::ScopeMissing(missing) => {
                self.strike(state, Why::ScopeMissing(missing.clone()));
                let missing_scopes = missing.join(" ");
                tracing::error!(
                    alert = "scope_missing",
                    tenant,
                    provider = provider.name,
                    missing_scopes,
                    "the token endpoint did not grant the scopes of the profile"
                );
                Err(CallError::ScopeMissing { missing })
            }
            Outcome::Refused(detail) => {
                let until = self.strike(state, Why::Refused(detail.clone()));
                tracing::error!(alert = "credential_refused", tenant, provider = provider.name, %until, detail,
                    "the token endpoint refuses the credential; it is paused");
                Err(CallError::AuthBlocked { until: Some(until), detail })
            }
            Outcome::Throttled(until) => {
                let wait = (until - self.clock.now()).to_std().unwrap_or_default();
                state.pause = Some(Pause { until: self.clock.elapsed() + wait, why: Why::Throttled });
                Err(CallError::TokenThrottled { bucket: provider.bucket("token"), until })
            }
            Outcome::Unavailable { detail, not_before } => Err(CallError::TokenUnavailable { detail, not_before }),
            Outcome::Failed(error) => Err(error),
        }
    }

    /// Pauses the credential: 60 s, then twice as long each time, at most 15 minutes.
    fn strike(&self, state: &mut State, why: Why) -> DateTime<Utc> {
        let pause = PAUSE_MIN.saturating_mul(1 << state.strikes.min(8)).min(PAUSE_MAX);
        state.strikes = state.strikes.saturating_add(1);
        let until = self.clock.elapsed() + pause;
        state.pause = Some(Pause { until, why });
        self.calendar(until)
    }

    /// A time of the monotonic clock on the wall clock.
    fn calendar(&self, at: Duration) -> DateTime<Utc> {
        self.clock.now() + at.saturating_sub(self.clock.elapsed())
    }
}
