//! A real HTTP server for tests: answers from a closure and remembers what it was asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    client::{Client, Settings},
    clock::ManualClock,
    profile::{Loader, Profile, Profiles},
};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Counts the requests to this path from 1.
    pub(crate) nth: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn form(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers every request with what `answer` makes of it.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start_async(move |seen| {
            let answer = Arc::clone(&answer);
            async move { answer(&seen) }
        })
        .await
    }

    /// As [`Server::start`], with an answer that may wait.
    pub(crate) async fn start_async<F>(answer: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        let app = Router::new().fallback(move |request: Request| {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let one = {
                    let mut log = log.lock().unwrap();
                    let path = parts.uri.path().to_owned();
                    let nth = log.iter().filter(|seen| seen.path == path).count() + 1;
                    let query = parts.uri.query().unwrap_or_default().to_owned();
                    let method = parts.method.to_string();
                    log.push(Seen { method, path, query, headers: parts.headers, body, nth });
                    log.last().unwrap().clone()
                };
                answer(one).await
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen, task }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests went to a path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path == path).count()
    }
}

pub(crate) fn status(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap().into_response()
}

pub(crate) fn body(status: u16, body: &Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

/// A token reply: `token-<n>` for the nth request.
pub(crate) fn token(n: usize) -> Response {
    body(200, &json!({"access_token": format!("token-{n}"), "token_type": "Bearer", "expires_in": 3600}))
}

/// The path of the default CXone token endpoint.
pub(crate) const TOKEN: &str = "/api/v2/oauth/token";
/// The path of the profile with id `p1`.
pub(crate) const P1: &str = "/api/v2/profiles/p1";

/// A profile of tenant `acme` whose CXone section is at `base`, with more TOML for `[cxone.oauth]` and after it.
pub(crate) fn profile(base: &str, oauth: &str, rest: &str) -> Arc<Profile> {
    let text = format!(
        "[cxone]\nbase_url = \"{base}\"\ninsecure = true\n[cxone.oauth]\nclient_id = \"client-1\"\n\
         client_secret_env = \"SECRET\"\n{oauth}\n{rest}"
    );
    load(&text).unwrap().get("acme").unwrap().clone()
}

/// Loads the profile of tenant `acme`. Every environment variable whose name begins with SECRET is set.
pub(crate) fn load(text: &str) -> Result<Profiles, crate::ProfileErrors> {
    Loader::new()
        .env(|name| name.starts_with("SECRET").then(|| "test-client-secret".to_owned()))
        .from_toml([("acme.toml".to_owned(), text.to_owned())])
}

/// A client whose clock stands at noon of 1 March 2026.
pub(crate) fn client() -> (Client, ManualClock) {
    let clock = ManualClock::new(noon());
    let settings = Settings { clock: Arc::new(clock.clone()), ..Settings::default() };
    (Client::new(settings).unwrap(), clock)
}

pub(crate) fn noon() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-03-01T12:00:00Z").unwrap().to_utc()
}
