//! How a probe can end, and what each end means for the job.

use std::time::Duration;

use backhaul_engine::Failure;
use backhaul_outbound::{address::Refusal, tls::TlsClass};
use chrono::{DateTime, Utc};

/// The socket opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// From name resolution to the upgrade, by the monotonic clock.
    pub latency: Duration,
    /// Whether the configured first message was answered; `None` where none is configured.
    pub answered: Option<bool>,
}

/// The socket did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The address guard refused an address of the host.
    #[error("{0}")]
    AddressNotAllowed(Refusal),
    /// The name does not resolve, or nobody accepts a connection.
    #[error("could not connect while it was {doing}: {detail}")]
    Unreachable {
        /// What the probe was doing.
        doing: &'static str,
        /// The operating system's word.
        detail: String,
    },
    /// The total deadline passed.
    #[error("nothing within {} ms while it was {doing}", limit.as_millis())]
    Timeout {
        /// What the probe was doing.
        doing: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// Certificate or TLS failure.
    #[error("TLS failed ({class}): {detail}")]
    Tls {
        /// In what way.
        class: TlsClass,
        /// The library's word.
        detail: String,
    },
    /// An answer other than 101.
    #[error("the server answered {status} instead of upgrading")]
    Answered {
        /// HTTP status.
        status: u16,
        /// Its Retry-After, clamped.
        not_before: Option<DateTime<Utc>>,
    },
    /// The connection ended before the upgrade was done, or before the first message was answered.
    #[error("the connection was closed while the probe was {doing}")]
    ClosedEarly {
        /// What the probe was doing.
        doing: &'static str,
    },
    /// An upgrade that breaks the protocol.
    #[error("the upgrade breaks the WebSocket protocol: {detail}")]
    Protocol {
        /// In what way.
        detail: String,
    },
}

impl ProbeError {
    /// The stable failure code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AddressNotAllowed(_) => "address_not_allowed",
            Self::Unreachable { .. } => "probe_unreachable",
            Self::Timeout { .. } => "probe_timeout",
            Self::Tls { class, .. } => match class {
                TlsClass::Expired => "probe_tls_expired",
                TlsClass::NotYetValid => "probe_tls_not_yet_valid",
                TlsClass::SelfSigned => "probe_tls_self_signed",
                TlsClass::UnknownCa => "probe_tls_unknown_ca",
                TlsClass::WrongHost => "probe_tls_wrong_host",
                TlsClass::Revoked => "probe_tls_revoked",
                TlsClass::BadCertificate => "probe_tls_bad_certificate",
                TlsClass::Handshake => "probe_tls_handshake",
            },
            Self::Answered { status, .. } => match status {
                300..=399 => "probe_redirected",
                401 | 403 => "probe_forbidden",
                404 | 410 => "probe_not_found",
                408 | 425 | 429 | 500..=599 => "probe_unavailable",
                _ => "probe_refused",
            },
            Self::ClosedEarly { .. } => "probe_closed_early",
            Self::Protocol { .. } => "probe_protocol",
        }
    }

    /// Whether trying again may help. Certificates, redirects and refusals stay until somebody mends them.
    pub fn may_pass(&self) -> bool {
        matches!(self.code(), "probe_unreachable" | "probe_timeout" | "probe_unavailable" | "probe_closed_early")
    }

    /// Whether the server turned the visitor away, as it must for a foreign origin.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Answered { status, .. } => (400..500).contains(status) && !self.may_pass(),
            // Some servers hang up on a foreign origin instead of answering.
            Self::ClosedEarly { .. } => true,
            _ => false,
        }
    }
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        let code = error.code();
        let failure = if error.may_pass() { Self::transient(code, &error) } else { Self::permanent(code, &error) };
        match error {
            ProbeError::Answered { status, not_before } => failure.with_status(status).not_before(not_before),
            _ => failure,
        }
    }
}

/// Every code that a probe can fail with.
pub const CODES: &[&str] = &[
    "address_not_allowed",
    "channel_without_url",
    "invalid_payload",
    "origin_policy_not_enforced",
    "probe_closed_early",
    "probe_degraded",
    "probe_forbidden",
    "probe_not_found",
    "probe_origin_missing",
    "probe_protocol",
    "probe_redirected",
    "probe_refused",
    "probe_timeout",
    "probe_tls_bad_certificate",
    "probe_tls_expired",
    "probe_tls_handshake",
    "probe_tls_not_yet_valid",
    "probe_tls_revoked",
    "probe_tls_self_signed",
    "probe_tls_unknown_ca",
    "probe_tls_wrong_host",
    "probe_unavailable",
    "probe_unreachable",
];

/// The end of a job whose probe failed with `code`, which may have been stored as text.
pub fn ended(code: &str, message: impl std::fmt::Display) -> Failure {
    Failure::permanent(known_code(code), message)
}

/// The stable word for a code that was stored as text.
fn known_code(code: &str) -> &'static str {
    CODES.iter().find(|known| **known == code).copied().unwrap_or("probe_failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 138: refusals are permanent, overload is not.
    #[test]
    fn http_answers_are_classified() {
        for (status, code, may_pass, refusal) in [
            (200, "probe_refused", false, false),
            (301, "probe_redirected", false, false),
            (400, "probe_refused", false, true),
            (403, "probe_forbidden", false, true),
            (404, "probe_not_found", false, true),
            (429, "probe_unavailable", true, false),
            (500, "probe_unavailable", true, false),
            (503, "probe_unavailable", true, false),
        ] {
            let error = ProbeError::Answered { status, not_before: None };
            assert_eq!((error.code(), error.may_pass(), error.is_refusal()), (code, may_pass, refusal), "{status}");
            assert_eq!(known_code(code), code);
        }
        let at = Some(DateTime::UNIX_EPOCH);
        let failure = Failure::from(ProbeError::Answered { status: 503, not_before: at });
        assert!(
            matches!(failure, Failure::Transient { not_before, cause } if not_before == at && cause.http_status == Some(503))
        );
    }

    /// Covers row 137: every certificate trouble has a code of its own, and none of them passes by itself.
    #[test]
    fn certificate_troubles_are_told_apart() {
        let classes = [
            TlsClass::Expired,
            TlsClass::NotYetValid,
            TlsClass::SelfSigned,
            TlsClass::UnknownCa,
            TlsClass::WrongHost,
            TlsClass::Revoked,
            TlsClass::BadCertificate,
            TlsClass::Handshake,
        ];
        let codes: std::collections::HashSet<&str> = classes
            .iter()
            .map(|&class| {
                let error = ProbeError::Tls { class, detail: String::new() };
                assert!(!error.may_pass() && !error.is_refusal());
                assert_eq!(known_code(error.code()), error.code());
                error.code()
            })
            .collect();
        assert_eq!(codes.len(), classes.len());
        for code in ["invalid_payload", "probe_origin_missing", "channel_without_url", "origin_policy_not_enforced"] {
            assert_eq!(known_code(code), code, "what is found out before a socket is opened keeps its name too");
        }
        assert_eq!(known_code("something_else"), "probe_failed");
    }
}
