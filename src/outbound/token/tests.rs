//! Tokens against a real token endpoint, with a clock that tests turn.

mod life;
mod pause;
mod proof;
mod sharing;

use std::{sync::Arc, time::Duration};

use axum::{http::HeaderValue, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::sync::Barrier;

use crate::{
    call::{Call, CallError, Reply},
    classify::{Class, classify},
    client::Client,
    profile::Profile,
    test_server::{P1, Seen, Server, TOKEN, body, client, load, noon, profile, status, token},
};

const MINUTE: Duration = Duration::from_secs(60);

async fn get(client: &Client, profile: &Profile) -> Result<Reply, CallError> {
    let provider = profile.cxone.as_ref().unwrap();
    client.send(&profile.tenant, provider, Call::get("profile", "profiles").params(&[("profileId", "p1")])).await
}

/// A server that gives tokens of the given reply and accepts every call.
async fn granting(reply: serde_json::Value) -> Server {
    Server::start(move |seen| if seen.path == TOKEN { body(200, &reply) } else { status(204) }).await
}

fn token_or(seen: &Seen, other: impl Fn(&Seen) -> Response) -> Response {
    if seen.path == TOKEN { token(seen.nth) } else { other(seen) }
}

fn throttled(retry_after: &'static str) -> Response {
    let mut reply = status(429);
    reply.headers_mut().insert("retry-after", HeaderValue::from_static(retry_after));
    reply
}
