//! The platform's certificate verification, with one more distinction in its errors.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::Verifier;

use super::ExtraRoots;

/// The cause of a refusal: issuer and subject of the certificate are the same, and nobody trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is self-signed")]
pub struct SelfSigned;

/// Asks the platform's verifier, and tells a self-signed certificate from one of an unknown authority: operators mend
/// the two in different ways.
pub(super) struct NamingVerifier {
    inner: Arc<dyn ServerCertVerifier>,
}

impl NamingVerifier {
    pub(super) fn new(extra: &ExtraRoots, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let roots = extra.certificates().iter().cloned();
        let inner: Arc<dyn ServerCertVerifier> = match Verifier::new_with_extra_roots(roots, Arc::clone(provider)) {
            Ok(verifier) => Arc::new(verifier),
            Err(error) if extra.certificates().is_empty() => {
                // A container without a certificate store can still talk to loopback hosts. Every TLS connection fails
                // as from an unknown authority, and this line says why.
                tracing::warn!(%error, "the platform has no certificate store; install ca-certificates or set ca_file");
                Arc::new(NoRoots { provider: Arc::clone(provider) })
            }
            Err(error) => return Err(error),
        };
        Ok(Self { inner })
    }
}

impl fmt::Debug for NamingVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamingVerifier")
    }
}

impl ServerCertVerifier for NamingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map_err(|error| {
            match error {
                Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_self_issued(end_entity) => {
                    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(SelfSigned))))
                }
                other => other,
            }
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Trusts nobody.
#[derive(Debug)]
struct NoRoots {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NoRoots {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate names itself as its issuer. An unreadable one does not.
fn is_self_issued(certificate: &[u8]) -> bool {
    let names = || {
        let (tbs, _) = element(element(certificate)?.0)?;
        let mut rest = tbs;
        // TBSCertificate: [0] version (optional), serialNumber, signature, issuer, validity, subject.
        if rest.first() == Some(&0xa0) {
            rest = element(rest)?.1;
        }
        let rest = element(element(rest)?.1)?.1;
        let (issuer, rest) = element(rest)?;
        let (subject, _) = element(element(rest)?.1)?;
        Some((issuer, subject))
    };
    names().is_some_and(|(issuer, subject)| issuer == subject)
}

/// Splits DER into the content of its first element and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Four bytes of length are more than any certificate needs.
        let bytes = rest.get(..usize::from(first & 0x7f)).filter(|bytes| bytes.len() <= 4)?;
        (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), &rest[bytes.len()..])
    };
    rest.split_at_checked(length)
}
