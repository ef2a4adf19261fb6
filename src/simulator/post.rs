//! One HTTP/1.1 POST over a connection of its own. The simulator posts to loopback only, where this is all it takes;
//! an HTTP client would be the largest dependency of the crate.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::http::Uri;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest one exchange may take.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// Bytes of the answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of the answer's body that are handed on.
const SHOWN_BYTES_MAX: usize = 1024;

/// Posts and answers the status and the beginning of the body.
pub(crate) async fn post(uri: &Uri, headers: &[(String, String)], body: &[u8]) -> anyhow::Result<(u16, String)> {
    tokio::time::timeout(EXCHANGE_MAX, exchange(uri, headers, body)).await.context("no answer within 10 s")?
}

async fn exchange(uri: &Uri, headers: &[(String, String)], body: &[u8]) -> anyhow::Result<(u16, String)> {
    let host = uri.host().context("the URL has no host")?;
    let port = uri.port_u16().unwrap_or(80);
    let address = (host.trim_matches(['[', ']']), port);
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connect to {host}:{port}"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await.context("send")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.context("read the answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
    ensure!(head.starts_with("HTTP/1.") && status.is_some(), "the answer is not HTTP");
    let mut shown = body.to_owned();
    shown.truncate(shown.floor_char_boundary(SHOWN_BYTES_MAX));
    Ok((status.unwrap_or_default(), shown))
}
