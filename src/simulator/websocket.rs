//! The chat endpoint that a handshake probe opens: any path that ends in `/webchat`. A segment before it picks a
//! misbehaviour, so that a channel's own address says what its probe will meet.

use std::time::Duration;

use axum::{
    extract::{
        FromRequestParts as _, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    http::header,
    response::Response,
};
use serde_json::{Value, json};

use crate::{app::App, listener::Connection, locked::locked, pipeline::Received, reply::Reply, settings::Settings};

/// Longest a socket stays open, and longest a mute request is held.
const OPEN_MAX: Duration = Duration::from_secs(300);
/// Largest message taken.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What the endpoint does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Behaviour {
    /// Upgrade, subject to the origin policy, and answer messages.
    Normal,
    /// Upgrade whatever the origin.
    AnyOrigin,
    /// Upgrade and never answer a message.
    Silent,
    /// Upgrade and close at once.
    CloseAfter,
    /// Never answer the request.
    Mute,
    /// Drop the connection instead of answering.
    CloseBefore,
    /// Answer with this status.
    Refuse(u16),
    /// Answer 301.
    Redirect,
}

fn behaviour(path: &str) -> Behaviour {
    path.split('/')
        .find_map(|segment| match segment {
            "any-origin" => Some(Behaviour::AnyOrigin),
            "silent" => Some(Behaviour::Silent),
            "close-after" => Some(Behaviour::CloseAfter),
            "mute" => Some(Behaviour::Mute),
            "close-before" => Some(Behaviour::CloseBefore),
            "redirect" => Some(Behaviour::Redirect),
            _ => {
                let status = segment.strip_prefix("refuse-")?.parse().ok()?;
                (400..=599).contains(&status).then_some(Behaviour::Refuse(status))
            }
        })
        .unwrap_or(Behaviour::Normal)
}

/// The response, or nothing where the endpoint is not to answer (see [`no_answer`]).
pub(crate) async fn answer(
    app: &App,
    settings: &Settings,
    received: &mut Received,
    connection: &Connection,
) -> Option<Response> {
    let behaviour = behaviour(&received.path);
    match behaviour {
        Behaviour::Mute | Behaviour::CloseBefore => return None,
        Behaviour::Refuse(status) => {
            return Some(Reply::error(status, "refused", "this address refuses to upgrade").into_response());
        }
        Behaviour::Redirect => {
            let reply = Reply::empty(301).with_header(header::LOCATION, "/elsewhere/webchat");
            return Some(reply.into_response());
        }
        Behaviour::Normal | Behaviour::AnyOrigin | Behaviour::Silent | Behaviour::CloseAfter => {}
    }
    if behaviour != Behaviour::AnyOrigin && !origin_is_allowed(app, settings, received) {
        return Some(Reply::error(403, "origin_not_allowed", "the Origin may not open a chat here").into_response());
    }
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut received.parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(_) => return Some(Reply::error(426, "upgrade_required", "open a WebSocket here").into_response()),
    };
    let answer = match (&behaviour, settings.socket.answer_messages) {
        (Behaviour::Silent, _) | (_, false) => None,
        _ => Some(settings.socket.answer.clone()),
    };
    let connection = connection.clone();
    let response = upgrade.max_message_size(MESSAGE_BYTES_MAX).on_upgrade(move |socket| async move {
        tokio::select! {
            () = connection.closed() => {}
            _ = tokio::time::timeout(OPEN_MAX, converse(socket, behaviour, answer)) => {}
        }
    });
    Some(response)
}

/// Leaves the client without an answer: drops the connection at once, or holds it until the client goes.
pub(crate) async fn no_answer(received: &Received, connection: &Connection) -> Response {
    if behaviour(&received.path) == Behaviour::Mute {
        // Resolves early when the simulator stops; a client that leaves ends this future with its connection.
        let _ = tokio::time::timeout(OPEN_MAX, connection.closed()).await;
    }
    connection.cut();
    Reply::empty(500).into_response()
}

fn origin_is_allowed(app: &App, settings: &Settings, received: &Received) -> bool {
    if !settings.socket.enforce_origin {
        return true;
    }
    let Some(origin) = received.parts.headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let origin = origin.to_ascii_lowercase();
    settings.socket.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(&origin))
        || locked(&app.world).channel_origins.contains(&origin)
}

/// Answers text messages until the client closes.
async fn converse(mut socket: WebSocket, behaviour: Behaviour, answer: Option<Option<String>>) {
    if behaviour == Behaviour::CloseAfter {
        let frame = CloseFrame { code: 1013, reason: "try again later".into() };
        // The client may be gone already, which is as good.
        let _ = socket.send(Message::Close(Some(frame))).await;
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Text(text) = message else { continue };
        let Some(answer) = &answer else { continue };
        let answer = answer.clone().unwrap_or_else(|| session_response(&text));
        if socket.send(Message::text(answer)).await.is_err() {
            return;
        }
    }
}

/// What a web-messaging server says to `configureSession`, and an acknowledgement of anything else.
fn session_response(text: &str) -> String {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    let class = match message.get("action").and_then(Value::as_str) {
        Some("configureSession") => "SessionResponse",
        _ => "Acknowledgement",
    };
    json!({"type": "response", "class": class, "code": 200, "body": {"connected": true}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_picks_the_behaviour() {
        assert_eq!(behaviour("/webchat"), Behaviour::Normal);
        assert_eq!(behaviour("/p/refuse-503/webchat"), Behaviour::Refuse(503));
        assert_eq!(behaviour("/refuse-9999/webchat"), Behaviour::Normal);
        assert_eq!(behaviour("/mute/webchat"), Behaviour::Mute);
    }
}
