//! Certificates: whom we trust, and what exactly is wrong when we do not.

mod verifier;

use std::{fmt, io, path::Path, sync::Arc};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};

pub use self::verifier::SelfSigned;

/// Authorities trusted beside the platform's, from a profile's `ca_file`. Verification itself is never turned off.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ExtraRoots(Arc<Vec<CertificateDer<'static>>>);

impl ExtraRoots {
    /// Reads PEM text.
    ///
    /// # Errors
    /// The text holds no certificate, or something that is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("is not PEM: {error}"))?;
        if certificates.is_empty() {
            return Err("holds no certificate".to_owned());
        }
        let mut store = rustls::RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| format!("holds an unusable certificate: {error}"))?;
        }
        Ok(Self(Arc::new(certificates)))
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or as [`ExtraRoots::from_pem`].
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let pem = std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        Self::from_pem(&pem).map_err(|what| format!("{} {what}", path.display()))
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

impl fmt::Debug for ExtraRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExtraRoots({} certificates)", self.0.len())
    }
}

/// A TLS configuration that verifies against the platform's authorities and `extra`. Reading the platform's store
/// takes tens of milliseconds: keep the result.
///
/// # Errors
/// The TLS library refuses the authorities.
pub fn client_config(extra: &ExtraRoots) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier::NamingVerifier::new(extra, &provider)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What is wrong with a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsClass {
    /// The certificate's time is over.
    Expired,
    /// The certificate's time has not come.
    NotYetValid,
    /// The certificate is signed by itself and nobody trusts it.
    SelfSigned,
    /// The certificate is signed by somebody nobody trusts.
    UnknownCa,
    /// The certificate is for another name.
    WrongHost,
    /// The certificate was revoked.
    Revoked,
    /// The certificate is unusable in another way.
    BadCertificate,
    /// The handshake failed before certificates mattered: no TLS there, or no common version.
    Handshake,
}

impl TlsClass {
    /// The class of a TLS error.
    pub fn of(error: &rustls::Error) -> Self {
        use rustls::CertificateError as Certificate;
        let rustls::Error::InvalidCertificate(certificate) = error else {
            return Self::Handshake;
        };
        match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => Self::Expired,
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => Self::NotYetValid,
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => Self::WrongHost,
            Certificate::UnknownIssuer => Self::UnknownCa,
            Certificate::Revoked => Self::Revoked,
            Certificate::Other(other) if other.0.is::<SelfSigned>() => Self::SelfSigned,
            _ => Self::BadCertificate,
        }
    }

    /// Finds a TLS error among the causes of `error`.
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of(tls));
            }
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                // `io::Error::source` skips the error it wraps.
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// The class as a stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::SelfSigned => "self_signed",
            Self::UnknownCa => "unknown_ca",
            Self::WrongHost => "wrong_host",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::Handshake => "handshake",
        }
    }
}

impl fmt::Display for TlsClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
