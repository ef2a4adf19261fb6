//! Certificates, good and bad, over real TLS.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::{ExtraRoots, TlsClass};

/// An authority of our own.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two authorities of one name are another failure: a bad signature.
        params.distinguished_name.push(rcgen::DnType::CommonName, Uuid::new_v4().to_string());
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn roots(&self) -> ExtraRoots {
        ExtraRoots::from_pem(self.0.pem().as_bytes()).unwrap()
    }

    pub(super) fn acceptor(&self, name: &str) -> TlsAcceptor {
        self.acceptor_for(params(name))
    }

    fn acceptor_for(&self, params: CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        acceptor(certificate.der().clone(), &key)
    }
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn acceptor(certificate: rustls::pki_types::CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A TLS server that answers 200 to everything; returns its port.
pub(super) async fn serve(acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 8192];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

async fn get(port: u16, roots: ExtraRoots) -> Result<Reply, CallError> {
    let mut profile = Profile::clone(&crm(&format!("https://127.0.0.1:{port}")));
    profile.crm.as_mut().unwrap().extra_roots = roots;
    let (client, _) = client();
    thread(&client, &profile, Method::PATCH).await
}

fn class(outcome: Result<Reply, CallError>) -> TlsClass {
    match outcome {
        Err(CallError::Tls { class, .. }) => class,
        other => panic!("{other:?}"),
    }
}

/// Covers row 137: what is wrong with a certificate has a name, and is known before a byte of the request is sent.
#[tokio::test]
async fn bad_certificates_have_classes() {
    let authority = Authority::new();
    let trusted = || authority.roots();
    let good = serve(authority.acceptor("127.0.0.1")).await;
    assert_eq!(get(good, trusted()).await.unwrap().status, 200);
    assert_eq!(class(get(good, ExtraRoots::default()).await), TlsClass::UnknownCa);
    assert_eq!(class(get(good, Authority::new().roots()).await), TlsClass::UnknownCa);

    let wrong = serve(authority.acceptor("wrong.example.com")).await;
    assert_eq!(class(get(wrong, trusted()).await), TlsClass::WrongHost);

    let mut expired = params("127.0.0.1");
    (expired.not_before, expired.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
    let expired = serve(authority.acceptor_for(expired)).await;
    assert_eq!(class(get(expired, trusted()).await), TlsClass::Expired);

    let mut early = params("127.0.0.1");
    (early.not_before, early.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    let early = serve(authority.acceptor_for(early)).await;
    assert_eq!(class(get(early, trusted()).await), TlsClass::NotYetValid);

    let key = KeyPair::generate().unwrap();
    let own = params("127.0.0.1").self_signed(&key).unwrap();
    let own = serve(acceptor(own.der().clone(), &key)).await;
    assert_eq!(class(get(own, trusted()).await), TlsClass::SelfSigned);
}

#[tokio::test]
async fn no_tls_at_all_is_a_failed_handshake() {
    let url = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let outcome = get(port, ExtraRoots::default()).await;
    assert!(outcome.as_ref().unwrap_err().before_sending());
    assert_eq!(class(outcome), TlsClass::Handshake);
}
