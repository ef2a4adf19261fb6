//! One attempt to open a WebSocket, under one deadline for everything.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use backhaul_outbound::{
    address::{Checked, PinError, Pinned, Resolver},
    retry_after,
    tls::TlsClass,
};
use chrono::{DateTime, Utc};
use futures::{SinkExt as _, StreamExt as _};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use super::outcome::{Opened, ProbeError};

/// Largest message that is read while the probe waits for an answer.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Most messages that are read while it waits: pings and greetings may come first, a stream of them is no answer.
const MESSAGES_MAX: usize = 16;

/// What the probe was doing when it ended, in the order of doing it.
const DOING: [&str; 5] =
    ["resolving the name", "connecting", "agreeing on TLS", "asking for the upgrade", "waiting for an answer"];

/// What to say at the door.
#[derive(Debug, Clone, Copy)]
pub struct Knock<'a> {
    /// Sent as `Origin`.
    pub origin: &'a str,
    /// Sent as `User-Agent`.
    pub user_agent: &'a str,
    /// A text that has to be answered.
    pub first_message: Option<&'a str>,
    /// Whom to trust.
    pub tls: &'a Arc<ClientConfig>,
    /// For name resolution, TCP, TLS, the upgrade and the answer together.
    pub deadline: Duration,
    /// Now, for a Retry-After.
    pub now: DateTime<Utc>,
}

/// Opens the socket and closes it again. `Ok` with `answered: Some(false)` is an open socket that stayed silent.
///
/// # Errors
/// As [`ProbeError`]; at the latest when the deadline passes, with the connection closed.
pub async fn knock(target: Checked, knock: &Knock<'_>, resolver: &dyn Resolver) -> Result<Opened, ProbeError> {
    let progress = Progress { started: Instant::now(), stage: AtomicUsize::new(0), upgraded: Mutex::new(None) };
    // Dropping the future closes the connection, wherever it stands.
    match tokio::time::timeout(knock.deadline, open(target, knock, resolver, &progress)).await {
        Ok(ended) => ended,
        // The upgrade was in time; only the answer was not.
        Err(_) => match *progress.upgraded.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(latency) => Ok(Opened { latency, answered: knock.first_message.map(|_| false) }),
            None => Err(ProbeError::Timeout { doing: progress.doing(), limit: knock.deadline }),
        },
    }
}

/// How far a probe has come, readable after its future was dropped.
struct Progress {
    started: Instant,
    stage: AtomicUsize,
    upgraded: Mutex<Option<Duration>>,
}

impl Progress {
    fn enter(&self, stage: usize) {
        self.stage.store(stage, Ordering::Relaxed);
    }

    fn doing(&self) -> &'static str {
        DOING[self.stage.load(Ordering::Relaxed)]
    }

    fn upgraded(&self) -> Duration {
        let latency = self.started.elapsed();
        *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(latency);
        latency
    }

    fn closed(&self) -> ProbeError {
        ProbeError::ClosedEarly { doing: self.doing() }
    }
}

async fn open(
    target: Checked,
    knock: &Knock<'_>,
    resolver: &dyn Resolver,
    progress: &Progress,
) -> Result<Opened, ProbeError> {
    let pinned = target.pin(resolver).await.map_err(|error| match error {
        PinError::Refused(refusal) => ProbeError::AddressNotAllowed(refusal),
        PinError::Lookup(error) => {
            ProbeError::Unreachable { doing: progress.doing(), detail: error.kind().to_string() }
        }
    })?;
    progress.enter(1);
    let stream = connect(&pinned, progress).await?;
    if pinned.url.scheme() == "ws" {
        return upgrade(&pinned, stream, knock, progress).await;
    }
    progress.enter(2);
    let stream = encrypt(&pinned, stream, knock, progress).await?;
    upgrade(&pinned, stream, knock, progress).await
}

async fn connect(pinned: &Pinned, progress: &Progress) -> Result<TcpStream, ProbeError> {
    let mut last = io::ErrorKind::AddrNotAvailable;
    for address in &pinned.addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.kind(),
        }
    }
    Err(ProbeError::Unreachable { doing: progress.doing(), detail: last.to_string() })
}

async fn encrypt(
    pinned: &Pinned,
    stream: TcpStream,
    knock: &Knock<'_>,
    progress: &Progress,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ProbeError> {
    let failed = |class, detail: &dyn std::fmt::Display| ProbeError::Tls { class, detail: detail.to_string() };
    // Brackets belong to the URL, not to the address.
    let host = pinned.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| failed(TlsClass::WrongHost, &error))?;
    TlsConnector::from(Arc::clone(knock.tls)).connect(name, stream).await.map_err(|error| {
        match TlsClass::find(&error) {
            Some(class) => failed(class, &error),
            None => progress.closed(),
        }
    })
}

async fn upgrade<S>(pinned: &Pinned, stream: S, knock: &Knock<'_>, progress: &Progress) -> Result<Opened, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    progress.enter(3);
    let protocol = |error: &dyn std::fmt::Display| ProbeError::Protocol { detail: error.to_string() };
    let mut request = pinned.url.as_str().into_client_request().map_err(|error| protocol(&error))?;
    for (name, text) in [(header::ORIGIN, knock.origin), (header::USER_AGENT, knock.user_agent)] {
        let value = HeaderValue::from_str(text).map_err(|error| protocol(&error))?;
        request.headers_mut().insert(name, value);
    }
    let limits =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(limits))
        .await
        .map_err(|error| refused(&error, knock.now, progress))?;
    let latency = progress.upgraded();
    let Some(first_message) = knock.first_message else {
        // The server need not be told politely, but its log is then quiet.
        let _ = socket.close(None).await;
        return Ok(Opened { latency, answered: None });
    };
    progress.enter(4);
    ask(&mut socket, first_message, progress).await?;
    let _ = socket.close(None).await;
    Ok(Opened { latency, answered: Some(true) })
}

/// Sends the message and returns as soon as anything that is a message comes back.
async fn ask<S>(socket: &mut WebSocketStream<S>, text: &str, progress: &Progress) -> Result<(), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.send(Message::text(text)).await.map_err(|_| progress.closed())?;
    for _ in 0..MESSAGES_MAX {
        match socket.next().await {
            Some(Ok(Message::Text(_) | Message::Binary(_))) => return Ok(()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(progress.closed()),
            Some(Err(tungstenite::Error::Protocol(error))) => {
                return Err(ProbeError::Protocol { detail: error.to_string() });
            }
            Some(Err(_)) => return Err(progress.closed()),
        }
    }
    Err(ProbeError::Protocol { detail: "nothing but control frames".to_owned() })
}

fn refused(error: &tungstenite::Error, now: DateTime<Utc>, progress: &Progress) -> ProbeError {
    match error {
        tungstenite::Error::Http(response) => {
            let not_before = response.headers().get(header::RETRY_AFTER);
            let not_before =
                not_before.map(|value| retry_after::at_least(retry_after::parse(value.as_bytes(), now), now));
            ProbeError::Answered { status: response.status().as_u16(), not_before }
        }
        tungstenite::Error::Io(error) => match TlsClass::find(error) {
            Some(class) => ProbeError::Tls { class, detail: error.to_string() },
            None => progress.closed(),
        },
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::HandshakeIncomplete) => progress.closed(),
        other => ProbeError::Protocol { detail: other.to_string() },
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
