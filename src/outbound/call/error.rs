//! How a call can end without an answer.

use chrono::{DateTime, Utc};

use crate::{address::Refusal, tls::TlsClass};

/// Why there is no answer to a call. Messages carry no secret and no parameter's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The profile or the call lacks something. Nothing was sent.
    #[error("{0}")]
    Unconfigured(String),
    /// A path parameter does not match its pattern (row 15). Nothing was sent.
    #[error("parameter {name} {reason}")]
    BadParameter {
        /// The placeholder's name.
        name: String,
        /// What is wrong with its value.
        reason: &'static str,
    },
    /// The address guard refused the target. Nothing was sent.
    #[error("address_not_allowed: {0}")]
    AddressNotAllowed(Refusal),
    /// The credential does not work. With `until`, the token endpoint refused it and it is paused until then; without,
    /// the API refused a fresh token.
    #[error("authentication is blocked: {detail}")]
    AuthBlocked {
        /// End of the pause.
        until: Option<DateTime<Utc>>,
        /// What the upstream said.
        detail: String,
    },
    /// The token lacks scopes that the profile requires. No business call was made.
    #[error("the token lacks the scopes {}", missing.join(" "))]
    ScopeMissing {
        /// The scopes that were not granted.
        missing: Vec<String>,
    },
    /// The token endpoint refuses more traffic. No business call was made.
    #[error("the token endpoint is throttled until {until}")]
    TokenThrottled {
        /// `provider/token`.
        bucket: String,
        /// When it may be asked again.
        until: DateTime<Utc>,
    },
    /// The token endpoint did not answer usefully. No business call was made.
    #[error("no token: {detail}")]
    TokenUnavailable {
        /// What happened.
        detail: String,
        /// The endpoint's Retry-After.
        not_before: Option<DateTime<Utc>>,
    },
    /// The document that names the API's host did not answer usefully. No business call was made.
    #[error("the API's host is not known: {detail}")]
    DiscoveryUnavailable {
        /// What happened.
        detail: String,
        /// The document's Retry-After.
        not_before: Option<DateTime<Utc>>,
    },
    /// Name resolution or connection failed, before any byte of the request was sent.
    #[error("could not connect: {detail}")]
    Connect {
        /// What happened.
        detail: String,
    },
    /// TLS failed, before any byte of the request was sent.
    #[error("TLS failed ({class}): {detail}")]
    Tls {
        /// In what way.
        class: TlsClass,
        /// What happened.
        detail: String,
    },
    /// A timeout or reset after sending: the upstream may have acted.
    #[error("no complete reply: {detail}")]
    Ambiguous {
        /// What happened.
        detail: String,
        /// The total deadline passed.
        timed_out: bool,
        /// The call may be repeated without harm.
        replay_safe: bool,
    },
    /// A successful reply whose body exceeds the cap.
    #[error("the reply with status {status} has a body over {limit_bytes} bytes")]
    BodyTooLarge {
        /// The reply's status.
        status: u16,
        /// The cap.
        limit_bytes: usize,
        /// The call may be repeated without harm.
        replay_safe: bool,
    },
    /// A redirect, which is never followed.
    #[error("the upstream answered {status}; redirects are not followed")]
    Redirect {
        /// The reply's status.
        status: u16,
    },
}

impl CallError {
    /// Whether nothing of the business call can have reached the upstream.
    pub fn before_sending(&self) -> bool {
        match self {
            Self::Unconfigured(_)
            | Self::BadParameter { .. }
            | Self::AddressNotAllowed(_)
            | Self::ScopeMissing { .. }
            | Self::TokenThrottled { .. }
            | Self::TokenUnavailable { .. }
            | Self::DiscoveryUnavailable { .. }
            | Self::Connect { .. }
            | Self::Tls { .. } => true,
            // A 401 says that the upstream did not act.
            Self::AuthBlocked { .. } => true,
            Self::Ambiguous { .. } | Self::BodyTooLarge { .. } | Self::Redirect { .. } => false,
        }
    }

    /// Status of the upstream's answer, where one arrived.
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::BodyTooLarge { status, .. } | Self::Redirect { status } => Some(*status),
            Self::AuthBlocked { until: None, .. } => Some(401),
            Self::Unconfigured(_)
            | Self::BadParameter { .. }
            | Self::AddressNotAllowed(_)
            | Self::AuthBlocked { until: Some(_), .. }
            | Self::ScopeMissing { .. }
            | Self::TokenThrottled { .. }
            | Self::TokenUnavailable { .. }
            | Self::DiscoveryUnavailable { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Ambiguous { .. } => None,
        }
    }
}
