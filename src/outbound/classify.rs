//! What an outcome means for the job: one pure function, and the switches of it that profiles set.

#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};

use crate::{
    call::{CallError, Reply},
    retry_after,
};

/// The switches of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRules {
    /// Statuses that may pass. Default 408, 425, 502, 503, 504.
    pub statuses: Vec<u16>,
    /// Whether 500 (and an unlisted status from 506) may pass. CXone and CRM yes, Genesys no.
    pub retry_500: bool,
    /// Statuses that mean that somebody else changed the resource. Default 409, 412, 428.
    pub conflict: Vec<u16>,
    /// The headers that tell of the rate limit.
    pub rate_headers: RateHeaders,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            statuses: vec![408, 425, 502, 503, 504],
            retry_500: true,
            conflict: vec![409, 412, 428],
            rate_headers: RateHeaders::None,
        }
    }
}

/// A family of rate limit headers. Retry-After is always read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateHeaders {
    /// None.
    None,
    /// Genesys: `inin-ratelimit-count`, `-allowed`, `-reset` (seconds).
    Inin,
    /// `x-rate-limit`, `x-rate-limit-remaining`, `ratelimit-reset`, as Zendesk sends them.
    XRateLimit,
}

/// Header names of a family; `None` where the family has no such header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateHeaderNames {
    /// Requests used in the window.
    pub used: Option<&'static str>,
    /// Requests allowed in the window.
    pub allowed: Option<&'static str>,
    /// Seconds until the window ends.
    pub reset_s: Option<&'static str>,
}

impl RateHeaders {
    pub(crate) const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("inin", Self::Inin), ("x-rate-limit", Self::XRateLimit)];

    /// The names of the family's headers.
    pub fn names(self) -> RateHeaderNames {
        match self {
            Self::None => RateHeaderNames { used: None, allowed: None, reset_s: None },
            Self::Inin => RateHeaderNames {
                used: Some("inin-ratelimit-count"),
                allowed: Some("inin-ratelimit-allowed"),
                reset_s: Some("inin-ratelimit-reset"),
            },
            Self::XRateLimit => {
                RateHeaderNames { used: None, allowed: Some("x-rate-limit"), reset_s: Some("ratelimit-reset") }
            }
        }
    }
}

/// What an outcome means. Codes are stable `snake_case` words that dead letters are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// 2xx. The caller still has to read what the body says; 202 is only "accepted".
    Ok,
    /// Trying again cannot help.
    Permanent {
        /// Why.
        code: &'static str,
    },
    /// The credential does not work. With `until` the job waits and no attempt is consumed; without, a person must
    /// change scopes, roles or keys: dead letter.
    AuthBlocked {
        /// Why.
        code: &'static str,
        /// End of the credential's pause.
        until: Option<DateTime<Utc>>,
    },
    /// Somebody else changed the resource: read again and decide.
    Conflict,
    /// The bucket is closed; no attempt is consumed.
    Throttled {
        /// `provider/class`, or `provider/token` where the token endpoint is meant.
        bucket: String,
        /// When it opens.
        until: DateTime<Utc>,
    },
    /// May pass; costs an attempt.
    Transient {
        /// Why.
        code: &'static str,
        /// The upstream's Retry-After.
        not_before: Option<DateTime<Utc>>,
    },
    /// The upstream may have acted: read back and compare before sending again.
    Ambiguous {
        /// Why.
        code: &'static str,
    },
}

/// Classifies the outcome of a call. Pure: the same arguments give the same class.
pub fn classify(outcome: Result<&Reply, &CallError>, rules: &RetryRules, now: DateTime<Utc>) -> Class {
    match outcome {
        Ok(reply) => classify_reply(reply, rules, now),
        Err(error) => classify_error(error),
    }
}

fn classify_reply(reply: &Reply, rules: &RetryRules, now: DateTime<Utc>) -> Class {
    let status = reply.status;
    // The profile's lists come first: a listed status means what the profile says.
    if rules.conflict.contains(&status) {
        return Class::Conflict;
    }
    if rules.statuses.contains(&status) {
        return Class::Transient { code: transient_code(status), not_before: reply.retry_after(now) };
    }
    match status {
        200..=299 => Class::Ok,
        401 => Class::AuthBlocked { code: "auth_blocked", until: None },
        403 => Class::AuthBlocked { code: "forbidden", until: None },
        429 => Class::Throttled { bucket: reply.bucket.clone(), until: throttled_until(reply, rules, now) },
        500 | 506..=599 if rules.retry_500 => {
            Class::Transient { code: "upstream_error", not_before: reply.retry_after(now) }
        }
        _ => Class::Permanent { code: permanent_code(status) },
    }
}

fn throttled_until(reply: &Reply, rules: &RetryRules, now: DateTime<Utc>) -> DateTime<Utc> {
    if let Some(value) = reply.headers.get(reqwest::header::RETRY_AFTER) {
        return retry_after::at_least(retry_after::parse(value.as_bytes(), now), now);
    }
    let reset_s = reply.rate_limit(rules.rate_headers).reset_s.filter(|&seconds| seconds > 0);
    let wait = reset_s.map_or(retry_after::WAIT_UNNAMED, std::time::Duration::from_secs);
    now + wait.clamp(retry_after::WAIT_MIN, retry_after::WAIT_MAX)
}

fn classify_error(error: &CallError) -> Class {
    match error {
        CallError::Unconfigured(_) => Class::Permanent { code: "unconfigured" },
        CallError::BadParameter { .. } => Class::Permanent { code: "invalid_id" },
        CallError::AddressNotAllowed(_) => Class::Permanent { code: "address_not_allowed" },
        CallError::AuthBlocked { until, .. } => Class::AuthBlocked { code: "auth_blocked", until: *until },
        CallError::ScopeMissing { .. } => Class::AuthBlocked { code: "scope_missing", until: None },
        CallError::TokenThrottled { bucket, until } => Class::Throttled { bucket: bucket.clone(), until: *until },
        CallError::TokenUnavailable { not_before, .. } => {
            Class::Transient { code: "token_unavailable", not_before: *not_before }
        }
        CallError::DiscoveryUnavailable { not_before, .. } => {
            Class::Transient { code: "discovery_unavailable", not_before: *not_before }
        }
        CallError::Connect { .. } => Class::Transient { code: "connect_failed", not_before: None },
        CallError::Tls { .. } => Class::Transient { code: "tls_failed", not_before: None },
        CallError::Ambiguous { timed_out, replay_safe, .. } => {
            let code = if *timed_out { "timed_out" } else { "connection_lost" };
            if *replay_safe { Class::Transient { code, not_before: None } } else { Class::Ambiguous { code } }
        }
        // The write may well stand; only its reply is unusable. A read would be as large the next time.
        CallError::BodyTooLarge { replay_safe: false, .. } => Class::Ambiguous { code: "body_too_large" },
        CallError::BodyTooLarge { replay_safe: true, .. } => Class::Permanent { code: "body_too_large" },
        CallError::Redirect { .. } => Class::Permanent { code: "redirected" },
    }
}

fn transient_code(status: u16) -> &'static str {
    match status {
        408 => "upstream_timeout",
        425 => "too_early",
        502..=504 => "upstream_unavailable",
        _ => "upstream_error",
    }
}

fn permanent_code(status: u16) -> &'static str {
    match status {
        300..=399 => "redirected",
        404 => "not_found",
        405 => "method_not_allowed",
        410 => "gone",
        413 => "payload_too_large",
        400 | 415 | 422 => "rejected",
        500..=599 => "upstream_error",
        _ => "unexpected_status",
    }
}
