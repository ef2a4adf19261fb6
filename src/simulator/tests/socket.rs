use std::{io, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        CertificateError, ClientConfig, Error as TlsError, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

use super::support::{rig, rig_with};
use crate::{CertificateKind, SimOptions, Simulator};

const WAIT: Duration = Duration::from_secs(10);

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn open(sim: &Simulator, path: &str, origin: Option<&str>) -> Result<Socket, tungstenite::Error> {
    let tcp = TcpStream::connect(sim.address()).await.expect("a connection");
    let mut request = format!("ws://{}{path}", sim.address()).into_client_request().expect("a request");
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().expect("a header"));
    }
    timeout(WAIT, client_async(request, tcp)).await.expect("an answer in time").map(|(socket, _)| socket)
}

fn status(outcome: Result<Socket, tungstenite::Error>) -> u16 {
    match outcome {
        Ok(_) => 101,
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("no HTTP answer: {other}"),
    }
}

/// What rows 138, 139 and 140 need of the other side.
#[tokio::test]
async fn the_endpoint_has_an_origin_policy_and_answers() {
    let rig = rig().await;
    assert_eq!(status(open(&rig.sim, "/webchat", None).await), 101);
    assert_eq!(status(open(&rig.sim, "/p/webchat?x=1", Some("https://SHOP.example.com")).await), 101);
    assert_eq!(status(open(&rig.sim, "/webchat", Some("https://evil.example")).await), 403);
    assert_eq!(status(open(&rig.sim, "/any-origin/webchat", Some("https://evil.example")).await), 101);
    let origins = json!({"webchatSettings": {"corsAllowedOrigins": ["https://new.example"]}});
    rig.control(Method::PATCH, "/_sim/documents/channels/acme/c1", &origins).await;
    assert_eq!(status(open(&rig.sim, "/webchat", Some("https://new.example")).await), 101);
    rig.control(Method::PATCH, "/_sim/settings", &json!({"socket": {"enforce_origin": false}})).await;
    assert_eq!(status(open(&rig.sim, "/webchat", Some("https://evil.example")).await), 101);

    let mut socket = open(&rig.sim, "/webchat", None).await.expect("open");
    socket.send(Message::text(r#"{"action":"configureSession"}"#)).await.expect("sent");
    let answer = timeout(WAIT, socket.next()).await.expect("in time").expect("an answer").expect("a message");
    let answer: Value = serde_json::from_str(answer.to_text().expect("text")).expect("JSON");
    assert_eq!(answer["class"], "SessionResponse");
    rig.control(Method::PATCH, "/_sim/settings", &json!({"socket": {"answer": "hello"}})).await;
    let mut socket = open(&rig.sim, "/webchat", None).await.expect("open");
    socket.send(Message::text("x")).await.expect("sent");
    let answer = timeout(WAIT, socket.next()).await.expect("in time").expect("an answer").expect("a message");
    assert_eq!(answer.to_text().expect("text"), "hello");
}

#[tokio::test]
async fn the_path_picks_a_misbehaviour() {
    let rig = rig().await;
    assert_eq!(status(open(&rig.sim, "/refuse-503/webchat", None).await), 503);
    assert_eq!(status(open(&rig.sim, "/redirect/webchat", None).await), 301);
    assert!(matches!(open(&rig.sim, "/close-before/webchat", None).await, Err(error) if !is_http(&error)));
    let mut closing = open(&rig.sim, "/close-after/webchat", None).await.expect("open");
    let first = timeout(WAIT, closing.next()).await.expect("in time").expect("a frame").expect("a message");
    assert!(first.is_close());
    let mut silent = open(&rig.sim, "/silent/webchat", None).await.expect("open");
    silent.send(Message::text("hello?")).await.expect("sent");
    silent.send(Message::Ping(vec![1].into())).await.expect("sent");
    let next = timeout(WAIT, silent.next()).await.expect("in time").expect("a frame").expect("a message");
    assert!(next.is_pong(), "the answer to the ping is the first and only one");
    assert_eq!(rig.http.get(rig.url("/webchat")).send().await.expect("an answer").status(), 426);
    let rule = json!({"name": "full", "match": {"path_contains": "webchat"}, "then": {"status": 503}});
    rig.control(Method::POST, "/_sim/faults", &rule).await;
    assert_eq!(status(open(&rig.sim, "/webchat", None).await), 503);
}

fn is_http(error: &tungstenite::Error) -> bool {
    matches!(error, tungstenite::Error::Http(_))
}

/// A TLS connection that trusts the simulator's authority, or the reason there is none.
async fn connect(
    sim: &Simulator,
    kind: CertificateKind,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, TlsError> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(sim.ca_pem().as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let endpoint = sim.tls_endpoints().iter().find(|endpoint| endpoint.kind == kind).expect("an endpoint");
    let tcp = TcpStream::connect(endpoint.address).await.expect("a connection");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let attempt = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    timeout(WAIT, attempt).await.expect("in time").map_err(tls_error)
}

fn tls_error(error: io::Error) -> TlsError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    inner.cloned().unwrap_or_else(|| TlsError::General(error.to_string()))
}

/// What row 137 needs of the other side: certificates that are each wrong in one way.
#[tokio::test]
async fn each_certificate_is_wrong_in_its_own_way() {
    let file = std::env::temp_dir().join(format!("backhaul-simulator-ca-{}.pem", uuid::Uuid::new_v4()));
    let rig = rig_with(SimOptions { ca_file: Some(file.clone()), ..SimOptions::default() }).await;
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), rig.sim.ca_pem());
    std::fs::remove_file(&file).expect("removed");
    let good = connect(&rig.sim, CertificateKind::Good).await.expect("a good certificate");
    let (mut socket, _) = client_async("wss://127.0.0.1/webchat", good).await.expect("an upgrade over TLS");
    socket.send(Message::text("x")).await.expect("sent");
    assert!(timeout(WAIT, socket.next()).await.expect("in time").expect("an answer").is_ok());

    use CertificateError as Bad;
    for kind in CertificateKind::ALL.into_iter().skip(1) {
        let Err(TlsError::InvalidCertificate(error)) = connect(&rig.sim, kind).await else {
            panic!("{} was accepted", kind.as_str());
        };
        let as_expected = match kind {
            CertificateKind::Expired => matches!(error, Bad::Expired | Bad::ExpiredContext { .. }),
            CertificateKind::NotYetValid => matches!(error, Bad::NotValidYet | Bad::NotValidYetContext { .. }),
            CertificateKind::WrongHost => matches!(error, Bad::NotValidForName | Bad::NotValidForNameContext { .. }),
            _ => matches!(error, Bad::UnknownIssuer),
        };
        assert!(as_expected, "{}: {error:?}", kind.as_str());
    }
    let (_, health) = rig.get("/_sim/health").await;
    assert_eq!(health["tls"].as_object().map(serde_json::Map::len), Some(6));
    let pem = rig.http.get(rig.url("/_sim/ca.pem")).send().await.expect("an answer").text().await.expect("text");
    assert_eq!(pem, rig.sim.ca_pem());
}

/// What row 136 needs of the other side: somebody who accepts and never says a word.
#[tokio::test]
async fn the_mute_listener_says_nothing() {
    let rig = rig_with(SimOptions::default()).await;
    let address = rig.sim.mute_address().expect("an address");
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(100), socket.read(&mut byte)).await.is_err(), "nothing comes");
    rig.sim.stop().await;
    let ended = timeout(WAIT, socket.read(&mut byte)).await.expect("it ends with the server");
    assert!(matches!(ended, Ok(0) | Err(_)));
}
