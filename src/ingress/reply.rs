//! Answers to senders: short, in JSON, and about nothing but the request.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::event::Problem;

/// Why a request got no 2xx. The text of each is all that a caller learns; the rest is in the log, under the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No signature of a live secret, an old one, or no such tenant.
    Unauthenticated,
    /// No bearer token, or another one.
    Unauthorized,
    /// Not JSON.
    NotJson(String),
    /// JSON of the wrong shape.
    WrongShape(Vec<Problem>),
    /// Too large.
    TooLarge(usize),
    /// Not JSON by its own account, or in an encoding that is not read.
    MediaType(&'static str),
    /// The body did not arrive in time.
    Slow,
    /// The body broke off.
    Broken,
    /// No such path.
    NotFound,
    /// Another method.
    Method,
    /// A parameter of the request is missing or wrong.
    BadRequest(String),
    /// Come back later.
    Busy {
        /// Why, as a stable word.
        code: &'static str,
        /// After how many seconds.
        retry_after_s: u64,
    },
    /// An upstream could not be worked with.
    Upstream {
        /// The job's failure code.
        code: String,
    },
    /// A mistake of ours.
    Internal,
}

impl Refusal {
    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated | Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotJson(_) | Self::Broken | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::WrongShape(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream { .. } => StatusCode::BAD_GATEWAY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Its stable word.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated | Self::Unauthorized => "unauthenticated",
            Self::NotJson(_) => "not_json",
            Self::WrongShape(_) => "wrong_shape",
            Self::TooLarge(_) => "too_large",
            Self::MediaType(_) => "unsupported_media_type",
            Self::Slow => "too_slow",
            Self::Broken => "body_broken",
            Self::NotFound => "not_found",
            Self::Method => "method_not_allowed",
            Self::BadRequest(_) => "bad_request",
            Self::Busy { code, .. } => code,
            Self::Upstream { .. } => "upstream_failed",
            Self::Internal => "internal",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Unauthenticated => "the delivery is not signed as it should be".to_owned(),
            Self::Unauthorized => "this address needs the bearer token of the settings".to_owned(),
            Self::NotJson(what) | Self::BadRequest(what) => what.clone(),
            Self::WrongShape(_) => "the body does not have the shape of an event".to_owned(),
            Self::TooLarge(bytes_max) => format!("the body has more than {bytes_max} bytes"),
            Self::MediaType(what) => (*what).to_owned(),
            Self::Slow => "the body did not arrive in time".to_owned(),
            Self::Broken => "the body broke off".to_owned(),
            Self::NotFound => "there is nothing here".to_owned(),
            Self::Method => "this address takes another method".to_owned(),
            Self::Busy { .. } => "come back later".to_owned(),
            Self::Upstream { code } => format!("the job is a dead letter: {code}"),
            Self::Internal => "something went wrong here; quote the id".to_owned(),
        }
    }

    /// The answer, with the id under which the log tells more.
    pub(crate) fn respond(&self, id: Uuid) -> Response {
        let mut error = json!({"code": self.code(), "message": self.message(), "id": id});
        if let Self::WrongShape(problems) = self {
            error["problems"] = json!(problems);
        }
        let mut response = respond(self.status(), &json!({ "error": error }));
        let headers = response.headers_mut();
        match self {
            Self::Busy { retry_after_s, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Self::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Signature"));
            }
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body would be read as the next request.
            Self::TooLarge(_) | Self::Slow | Self::Broken => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// A JSON answer.
pub(crate) fn respond(status: StatusCode, body: &Value) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, json, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 194: a caller learns a code and an id.
    #[test]
    fn answers_are_generic() {
        let response = Refusal::Internal.respond(Uuid::nil());
        assert_eq!(response.status(), 500);
        let busy = Refusal::Busy { code: "queue_full", retry_after_s: 5 }.respond(Uuid::nil());
        assert_eq!(busy.status(), 503);
        assert_eq!(busy.headers()["retry-after"], "5");
    }
}
