//! The client against real servers, well behaved and not.

mod deliver;
mod logs;
mod tls;

use std::sync::Arc;

use axum::http::HeaderValue as AxumValue;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::*;
use crate::{
    classify::{Class, classify},
    profile::Profile,
    test_server::{P1, Server, TOKEN, client, load, noon, profile, status, token},
};

const P1_PARAMS: &[(&str, &str)] = &[("profileId", "p1")];

fn crm(base: &str) -> Arc<Profile> {
    let text = format!("[crm]\nbase_url = \"{base}\"\ninsecure = true\ntoken_env = \"SECRET\"");
    load(&text).unwrap().get("acme").unwrap().clone()
}

async fn thread(client: &Client, profile: &Profile, method: Method) -> Result<Reply, CallError> {
    let call = Call::new(method, "thread", "threads").params(&[("threadId", "t1")]);
    client.send("acme", profile.crm.as_ref().unwrap(), call).await
}

/// Accepts connections and hands each, with its request read, to `answer`.
async fn raw<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            tokio::spawn(answer(stream));
        }
    });
    url
}

#[tokio::test]
async fn a_call_carries_what_it_should() {
    let server = Server::start(|seen| if seen.path == TOKEN { token(1) } else { status(200) }).await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    let body = json!({"a": 1});
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let call = Call::new(Method::PATCH, "profile", "profiles")
        .params(P1_PARAMS)
        .query(&[("a b", "c&d")])
        .header(header::IF_MATCH, HeaderValue::from_static("W/\"1\""))
        .json(&body)
        .traceparent(Some(traceparent));
    let reply = client.send("acme", profile.cxone.as_ref().unwrap(), call).await.unwrap();
    let seen = server.seen().pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.query.as_str()), ("PATCH", P1, "a+b=c%26d"));
    assert_eq!(seen.header("authorization"), "Bearer token-1");
    assert_eq!((seen.header("content-type"), seen.header("accept")), ("application/json", "application/json"));
    assert_eq!((seen.header("if-match"), seen.header("traceparent")), ("W/\"1\"", traceparent));
    assert_eq!(seen.header("x-request-id"), reply.request_id);
    assert_eq!(Uuid::parse_str(&reply.request_id).unwrap().get_version_num(), 4);
    assert_eq!(&seen.body[..], br#"{"a":1}"#);
    assert_eq!(seen.header("accept-encoding"), "");
    assert_eq!((reply.status, reply.bucket.as_str()), (200, "cxone/profiles"));
}

#[tokio::test]
async fn the_clients_own_headers_cannot_be_set() {
    let server = Server::start(|_| status(200)).await;
    let (client, _) = client();
    let profile = crm(&server.url);
    for name in ["authorization", "traceparent", "x-request-id", "host", "content-length"] {
        let name = HeaderName::from_static(name);
        let call = Call::get("threads", "threads").header(name, HeaderValue::from_static("x"));
        let failure = client.send("acme", profile.crm.as_ref().unwrap(), call).await.unwrap_err();
        assert!(matches!(failure, CallError::Unconfigured(_)), "{failure}");
    }
    assert!(server.seen().is_empty());
}

#[test]
fn only_well_formed_trace_contexts_travel() {
    assert!(is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    for text in [
        "",
        "x",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
    ] {
        assert!(!is_traceparent(text), "{text:?}");
    }
}

/// Covers row 15: nothing is sent for an id that is none, not even a token request.
#[tokio::test]
async fn a_hostile_id_sends_nothing() {
    let server = Server::start(|_| status(200)).await;
    let (client, _) = client();
    let profile = profile(&server.url, "", "");
    for id in ["..%2F..%2F..%2Fwebhooks", "../webhooks", ".."] {
        let call = Call::get("profile", "profiles");
        let params = [("profileId", id)];
        let outcome = client.send("acme", profile.cxone.as_ref().unwrap(), call.params(&params)).await;
        assert!(matches!(&outcome, Err(CallError::BadParameter { name, .. }) if name == "profileId"));
        let class = classify(outcome.as_ref(), &profile.cxone.as_ref().unwrap().retry, noon());
        assert_eq!(class, Class::Permanent { code: "invalid_id" });
        assert!(!outcome.unwrap_err().to_string().contains("webhooks"));
    }
    assert!(server.seen().is_empty());
}

/// Covers row 14: a server that accepts and says nothing is given up after 15 s, and may have acted.
#[tokio::test]
async fn a_silent_server_is_given_up_after_15_s() {
    assert_eq!((CONNECT_TIMEOUT, TOTAL_TIMEOUT), (Duration::from_secs(5), Duration::from_secs(15)));
    let asked = Arc::new(Notify::new());
    let signal = Arc::clone(&asked);
    let url = raw(move |stream| {
        signal.notify_one();
        async move {
            let _open = stream;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (client, _) = client();
    let profile = crm(&url);
    let call = tokio::spawn(async move { thread(&client, &profile, Method::PATCH).await });
    tokio::time::timeout(Duration::from_secs(60), asked.notified()).await.unwrap();
    // In real time: a paused clock would need a feature of tokio that makes every dependency compile twice.
    let failure = tokio::time::timeout(Duration::from_secs(60), call).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(failure, CallError::Ambiguous { timed_out: true, replay_safe: false, .. }), "{failure}");
}

/// Covers row 14: an endless body is cut at 1 MiB. What it means depends on who asked.
#[tokio::test]
async fn an_endless_body_is_cut() {
    assert_eq!(BODY_BYTES_MAX, 1 << 20);
    let url = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let (client, _) = client();
    let profile = crm(&url);
    let cut = |replay_safe| CallError::BodyTooLarge { status: 200, limit_bytes: 1 << 20, replay_safe };
    assert_eq!(thread(&client, &profile, Method::GET).await.unwrap_err(), cut(true));
    assert_eq!(thread(&client, &profile, Method::PATCH).await.unwrap_err(), cut(false));
}

/// The status of a failure counts even when its body is endless or breaks off.
#[tokio::test]
async fn the_body_of_a_failure_does_not_hide_its_status() {
    let url = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9999999\r\n\r\n").await;
        let _ = stream.write_all(&[b'x'; 100]).await;
    })
    .await;
    let (client, _) = client();
    let reply = thread(&client, &crm(&url), Method::PATCH).await.unwrap();
    assert_eq!(reply.status, 503);
    let url = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 9999999\r\n\r\n").await;
        while stream.write_all(&[b'x'; 0x4000]).await.is_ok() {}
    })
    .await;
    let reply = thread(&client, &crm(&url), Method::PATCH).await.unwrap();
    assert_eq!((reply.status, reply.body.len()), (400, 1 << 20));
}

/// Covers row 14: a redirect is permanent, and nobody follows it with the bearer token.
#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(|_| status(200)).await;
    let target = AxumValue::from_str(&elsewhere.url).unwrap();
    let server = Server::start(move |seen| {
        let code = [301, 302, 303, 307, 308][(seen.nth - 1) % 5];
        let mut reply = status(code);
        reply.headers_mut().insert("location", target.clone());
        reply
    })
    .await;
    let (client, _) = client();
    let profile = crm(&server.url);
    for code in [301, 302, 303, 307, 308] {
        let outcome = thread(&client, &profile, Method::GET).await;
        assert_eq!(outcome.clone().unwrap_err(), CallError::Redirect { status: code });
        let class = classify(outcome.as_ref(), &profile.crm.as_ref().unwrap().retry, noon());
        assert_eq!(class, Class::Permanent { code: "redirected" });
    }
    assert!(elsewhere.seen().is_empty());
}

/// Covers row 32: a connection that drops after the request was sent leaves the outcome open; a GET may be repeated.
#[tokio::test]
async fn a_dropped_connection_is_ambiguous() {
    let url = raw(|stream| async move { drop(stream) }).await;
    let (client, _) = client();
    let profile = crm(&url);
    let failure = thread(&client, &profile, Method::PATCH).await.unwrap_err();
    assert!(matches!(failure, CallError::Ambiguous { timed_out: false, replay_safe: false, .. }), "{failure}");
    let failure = thread(&client, &profile, Method::GET).await.unwrap_err();
    assert!(matches!(failure, CallError::Ambiguous { timed_out: false, replay_safe: true, .. }), "{failure}");
}

/// Covers row 32: a success whose body breaks off is as open.
#[tokio::test]
async fn a_success_that_breaks_off_is_ambiguous() {
    let url = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":").await;
    })
    .await;
    let (client, _) = client();
    let failure = thread(&client, &crm(&url), Method::PATCH).await.unwrap_err();
    assert!(matches!(failure, CallError::Ambiguous { timed_out: false, replay_safe: false, .. }), "{failure}");
}

/// Covers row 26: a refused connection sent nothing.
#[tokio::test]
async fn a_refused_connection_is_before_sending() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (client, _) = client();
    let failure = thread(&client, &crm(&url), Method::PATCH).await.unwrap_err();
    assert!(matches!(failure, CallError::Connect { .. }) && failure.before_sending(), "{failure}");
    assert!(!failure.to_string().contains("threads"), "no path in messages: {failure}");
}

/// Covers row 143: latency is monotonic; a wall clock that goes back an hour changes nothing.
#[tokio::test]
async fn latency_ignores_the_wall_clock() {
    let clock = crate::clock::ManualClock::new(noon());
    let hand = clock.clone();
    let server = Server::start(move |_| {
        hand.advance(Duration::from_millis(250));
        hand.set_wall(noon() - chrono::TimeDelta::hours(1));
        status(200)
    })
    .await;
    let client = Client::new(Settings { clock: Arc::new(clock), ..Settings::default() }).unwrap();
    let reply = thread(&client, &crm(&server.url), Method::GET).await.unwrap();
    assert_eq!(reply.latency, Duration::from_millis(250));
}

#[tokio::test]
async fn an_unknown_endpoint_is_unconfigured() {
    let (client, _) = client();
    let profile = crm("http://127.0.0.1:9");
    let call = Call::get("nothing", "threads");
    let failure = client.send("acme", profile.crm.as_ref().unwrap(), call).await.unwrap_err();
    assert_eq!(failure, CallError::Unconfigured("crm has no endpoint `nothing`".to_owned()));
}
