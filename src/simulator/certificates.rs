//! Certificates made at start, good and bad, so that a client's TLS verification can be tried without files.

use std::sync::Arc;

use anyhow::Context as _;
use chrono::{Datelike as _, Days, NaiveDate};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// What is wrong with the certificate of a TLS endpoint, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateKind {
    /// Issued by the simulator's authority for the host it listens on.
    Good,
    /// Its time ended in 2020.
    Expired,
    /// Signed by itself.
    SelfSigned,
    /// Issued by an authority that nobody is told about.
    UnknownCa,
    /// Issued by the simulator's authority for `wrong.example.com`.
    WrongHost,
    /// Its time begins in 2090.
    NotYetValid,
}

impl CertificateKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Good, Self::Expired, Self::SelfSigned, Self::UnknownCa, Self::WrongHost, Self::NotYetValid];

    /// The name used by the control plane, for example `not_yet_valid`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::SelfSigned => "self_signed",
            Self::UnknownCa => "unknown_ca",
            Self::WrongHost => "wrong_host",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

/// The authority that clients are told to trust, and another that they are not.
pub(crate) struct Authorities {
    trusted: Issuer<'static, KeyPair>,
    unknown: Issuer<'static, KeyPair>,
    trusted_pem: String,
    hosts: Vec<String>,
}

impl Authorities {
    /// Makes both. `hosts` are further names of the good certificate, besides `localhost` and the loopback addresses.
    pub(crate) fn generate(hosts: &[String]) -> anyhow::Result<Self> {
        let (trusted, trusted_pem) = authority("Backhaul simulator authority")?;
        let (unknown, _) = authority("Another authority")?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(hosts.iter().cloned());
        Ok(Self { trusted, unknown, trusted_pem, hosts: names })
    }

    /// The trusted authority's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.trusted_pem
    }

    /// A TLS server with a certificate of this kind.
    pub(crate) fn acceptor(&self, kind: CertificateKind) -> anyhow::Result<TlsAcceptor> {
        let key = KeyPair::generate().context("make a certificate's key")?;
        let params = self.leaf(kind)?;
        let certificate = match kind {
            CertificateKind::SelfSigned => params.self_signed(&key),
            CertificateKind::UnknownCa => params.signed_by(&key, &self.unknown),
            _ => params.signed_by(&key, &self.trusted),
        }
        .with_context(|| format!("make the {} certificate", kind.as_str()))?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .with_context(|| format!("use the {} certificate", kind.as_str()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn leaf(&self, kind: CertificateKind) -> anyhow::Result<CertificateParams> {
        let hosts = match kind {
            CertificateKind::WrongHost => vec!["wrong.example.com".to_owned()],
            _ => self.hosts.clone(),
        };
        let mut params = CertificateParams::new(hosts).context("a host name of the good certificate")?;
        params.distinguished_name.push(DnType::CommonName, format!("Backhaul simulator, {}", kind.as_str()));
        params.use_authority_key_identifier_extension = kind != CertificateKind::SelfSigned;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let today = chrono::Utc::now().date_naive();
        let (from, to) = match kind {
            CertificateKind::Expired => (ymd(2019), ymd(2020)),
            CertificateKind::NotYetValid => (ymd(2090), ymd(2091)),
            // Some platforms refuse leaves that live longer than about two years.
            _ => (today - Days::new(2), today + Days::new(365)),
        };
        // The crate `time`, whose type these fields have, is not a dependency: both are made by rcgen's own function.
        params.not_before = date_time_ymd(from.year(), from.month() as u8, from.day() as u8);
        params.not_after = date_time_ymd(to.year(), to.month() as u8, to.day() as u8);
        Ok(params)
    }
}

fn ymd(year: i32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or_default()
}

fn authority(name: &str) -> anyhow::Result<(Issuer<'static, KeyPair>, String)> {
    let key = KeyPair::generate().context("make an authority's key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(2018, 1, 1), date_time_ymd(2099, 12, 31));
    let pem = params.self_signed(&key).with_context(|| format!("make {name:?}"))?.pem();
    Ok((Issuer::new(params, key), pem))
}
