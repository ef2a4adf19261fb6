//! Real sockets on the loopback interface, with certificates made for the occasion.

use std::net::{IpAddr, SocketAddr};

use backhaul_outbound::{
    address::{self, AllowHost, SystemResolver},
    profile::ProbeProfile,
    tls::{ExtraRoots, client_config},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;

const ALLOWED: &str = "https://shop.example.com";

/// An authority that the probe trusts and one that it does not.
struct Authorities {
    trusted: Issuer<'static, KeyPair>,
    unknown: Issuer<'static, KeyPair>,
    tls: Arc<ClientConfig>,
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = params.self_signed(&key).expect("an authority").pem();
    (Issuer::new(params, key), pem)
}

impl Authorities {
    fn new() -> Self {
        let (trusted, pem) = authority("Trusted in this test");
        let (unknown, _) = authority("Unknown to everybody");
        let roots = ExtraRoots::from_pem(pem.as_bytes()).expect("an authority");
        Self { trusted, unknown, tls: client_config(&roots).expect("a TLS configuration") }
    }

    /// The acceptor of a server whose certificate has the fault.
    fn acceptor(&self, fault: Fault) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let host = if fault == Fault::WrongHost { "wrong.example.com" } else { "127.0.0.1" };
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
        params.distinguished_name.push(DnType::CommonName, "A server of this test");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = match fault {
            Fault::Expired => (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1)),
            Fault::NotYetValid => (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1)),
            _ => (date_time_ymd(2020, 1, 1), date_time_ymd(2089, 1, 1)),
        };
        let certificate = match fault {
            Fault::SelfSigned => params.self_signed(&key),
            Fault::UnknownCa => params.signed_by(&key, &self.unknown),
            _ => params.signed_by(&key, &self.trusted),
        }
        .expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], key)
            .expect("a server configuration");
        TlsAcceptor::from(Arc::new(config))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Expired,
    NotYetValid,
    SelfSigned,
    UnknownCa,
    WrongHost,
}

/// What the server does after TLS.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Upgrades allowed origins, refuses others with 403, answers messages.
    Polite,
    /// Upgrades everybody and says nothing more.
    Silent,
    /// Upgrades, then closes when it is spoken to.
    ClosesOnMessage,
    /// Reads the request and hangs up.
    HangsUp,
    /// Answers the request with this text.
    Answers(&'static str),
    /// Accepts the connection and never says a word, not even TLS.
    Mute,
}

async fn serve(acceptor: TlsAcceptor, manner: Manner) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if matches!(manner, Manner::Mute) {
                // Ends when the probe closes its end, which is part of what is tested.
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            behave(stream, manner).await;
        }
    });
    (address, task)
}

async fn behave<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, manner: Manner) {
    if let Manner::HangsUp | Manner::Answers(_) = manner {
        let mut request = [0; 2_048];
        let _ = stream.read(&mut request).await;
        if let Manner::Answers(answer) = manner {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        return;
    }
    #[expect(clippy::result_large_err, reason = "the library's callback has this type")]
    let judge = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let allowed = request.headers().get("origin").is_some_and(|origin| origin == ALLOWED);
        assert_eq!(request.headers()["user-agent"], "Probe/1", "the user agent is sent");
        if allowed || matches!(manner, Manner::Silent) {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = tungstenite::http::StatusCode::FORBIDDEN;
        Err(refusal)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, judge).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        match manner {
            Manner::Polite if message.is_text() => drop(socket.send(Message::text("welcome")).await),
            Manner::ClosesOnMessage if message.is_text() => drop(socket.close(None).await),
            _ => {}
        }
    }
}

fn profile() -> ProbeProfile {
    let loopback = AllowHost { private: true, ..AllowHost::new("127.0.0.1").expect("a pattern") };
    let local = AllowHost { private: true, ..AllowHost::new("localhost").expect("a pattern") };
    ProbeProfile { allow_hosts: vec![loopback, local], ..ProbeProfile::default() }
}

fn a_knock(tls: &Arc<ClientConfig>) -> Knock<'_> {
    Knock {
        origin: ALLOWED,
        user_agent: "Probe/1",
        first_message: None,
        tls,
        deadline: Duration::from_secs(5),
        now: DateTime::UNIX_EPOCH,
    }
}

fn at(url: &str) -> Checked {
    super::super::socket(url, &profile()).expect("an allowed address")
}

async fn probe(address: SocketAddr, knock_as: &Knock<'_>) -> Result<Opened, ProbeError> {
    knock(at(&format!("https://{address}/p?x=1")), knock_as, &SystemResolver).await
}

/// Covers row 33, row 134, row 143: a good server opens, and the latency is a duration of the monotonic clock.
#[tokio::test]
async fn a_good_server_opens() {
    let authorities = Authorities::new();
    let (address, _server) = serve(authorities.acceptor(Fault::None), Manner::Polite).await;
    let opened = probe(address, &a_knock(&authorities.tls)).await.expect("it opens");
    assert_eq!(opened.answered, None);
    assert!(opened.latency < Duration::from_secs(5));
}

/// Covers row 137: each fault of a certificate has a class of its own.
#[tokio::test]
async fn certificate_faults_have_classes_of_their_own() {
    let authorities = Authorities::new();
    for (fault, code) in [
        (Fault::Expired, "probe_tls_expired"),
        (Fault::NotYetValid, "probe_tls_not_yet_valid"),
        (Fault::SelfSigned, "probe_tls_self_signed"),
        (Fault::UnknownCa, "probe_tls_unknown_ca"),
        (Fault::WrongHost, "probe_tls_wrong_host"),
    ] {
        let (address, _server) = serve(authorities.acceptor(fault), Manner::Polite).await;
        let error = probe(address, &a_knock(&authorities.tls)).await.expect_err("a faulty certificate");
        assert_eq!(error.code(), code, "{fault:?}: {error}");
    }
}

/// Covers row 136: one deadline covers everything, and the connection is closed when it passes.
#[tokio::test]
async fn a_mute_server_times_out_and_is_left() {
    let authorities = Authorities::new();
    let (address, server) = serve(authorities.acceptor(Fault::None), Manner::Mute).await;
    let limit = Duration::from_millis(200);
    let error = probe(address, &Knock { deadline: limit, ..a_knock(&authorities.tls) }).await.expect_err("silence");
    assert_eq!(error, ProbeError::Timeout { doing: "agreeing on TLS", limit });
    let left = tokio::time::timeout(Duration::from_secs(10), server).await;
    assert!(left.is_ok(), "the server still waits for the probe");
}

/// Covers row 139: a foreign origin is refused by a server that enforces its policy, and let in by one that does not.
#[tokio::test]
async fn the_origin_is_sent() {
    let authorities = Authorities::new();
    let foreign = Knock { origin: "https://foreign-origin.invalid", ..a_knock(&authorities.tls) };
    let (strict, _server) = serve(authorities.acceptor(Fault::None), Manner::Polite).await;
    let error = probe(strict, &foreign).await.expect_err("refused");
    assert_eq!(error, ProbeError::Answered { status: 403, not_before: None });
    assert!(error.is_refusal());
    let (lax, _server) = serve(authorities.acceptor(Fault::None), Manner::Silent).await;
    assert!(probe(lax, &foreign).await.is_ok(), "a lax server opens for anybody");
}

/// Covers row 140: a socket that stays silent is open, and known to be silent.
#[tokio::test]
async fn a_first_message_wants_an_answer() {
    let authorities = Authorities::new();
    let knock = |deadline_ms| Knock {
        first_message: Some(r#"{"action":"configureSession"}"#),
        deadline: Duration::from_millis(deadline_ms),
        ..a_knock(&authorities.tls)
    };
    let (polite, _server) = serve(authorities.acceptor(Fault::None), Manner::Polite).await;
    assert_eq!(probe(polite, &knock(5_000)).await.expect("it opens").answered, Some(true));
    let (silent, _server) = serve(authorities.acceptor(Fault::None), Manner::Silent).await;
    assert_eq!(probe(silent, &knock(2_000)).await.expect("it opens").answered, Some(false));
    let (rude, _server) = serve(authorities.acceptor(Fault::None), Manner::ClosesOnMessage).await;
    let error = probe(rude, &knock(5_000)).await.expect_err("closed");
    assert_eq!(error, ProbeError::ClosedEarly { doing: "waiting for an answer" });
}

/// Covers row 138, row 141: answers are classified, redirects are not followed, and a closed connection ends the
/// probe at once instead of at its deadline.
#[tokio::test]
async fn other_answers_are_classified_at_once() {
    let authorities = Authorities::new();
    for (manner, code) in [
        (Manner::Answers("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"), "probe_forbidden"),
        (Manner::Answers("HTTP/1.1 503 Busy\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n"), "probe_unavailable"),
        (Manner::Answers("HTTP/1.1 301 Moved\r\nlocation: https://evil.example/\r\n\r\n"), "probe_redirected"),
        (Manner::Answers("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), "probe_refused"),
        (Manner::Answers("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "probe_protocol"),
        (Manner::Answers("SSH-2.0-OpenSSH\r\n\r\n"), "probe_protocol"),
        (Manner::HangsUp, "probe_closed_early"),
    ] {
        let (address, _server) = serve(authorities.acceptor(Fault::None), manner).await;
        // With a deadline this long, only an immediate end passes the outer limit.
        let patient = Knock { deadline: Duration::from_secs(3_600), ..a_knock(&authorities.tls) };
        let ended = tokio::time::timeout(Duration::from_secs(10), probe(address, &patient)).await.expect("at once");
        let error = ended.expect_err("no upgrade");
        assert_eq!(error.code(), code, "{manner:?}: {error}");
        if code == "probe_unavailable" {
            let at = DateTime::UNIX_EPOCH + Duration::from_secs(30);
            assert!(matches!(error, ProbeError::Answered { not_before: Some(named), .. } if named == at));
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let authorities = Authorities::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = probe(address, &a_knock(&authorities.tls)).await.expect_err("nobody");
    assert_eq!(error.code(), "probe_unreachable");
    assert!(error.may_pass());
}

/// A resolver with one answer.
struct Always(IpAddr);

impl Resolver for Always {
    fn resolve(&self, _: String) -> std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let answer = vec![self.0];
        Box::pin(async move { Ok(answer) })
    }
}

/// Covers row 141: a listed name that resolves to an address nobody may name is refused before a connection.
#[tokio::test]
async fn names_that_resolve_to_metadata_are_refused() {
    let authorities = Authorities::new();
    let metadata = Always(IpAddr::from([169, 254, 169, 254]));
    let error = knock(at("https://localhost"), &a_knock(&authorities.tls), &metadata).await.expect_err("refused");
    assert!(matches!(error, ProbeError::AddressNotAllowed(address::Refusal::Address { .. })));
    assert_eq!(error.code(), "address_not_allowed");
}
