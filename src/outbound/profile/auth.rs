//! How calls to a provider are authenticated.

use std::time::Duration;

use url::Url;

use crate::redact::Secret;

/// How calls to a provider are authenticated.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A token endpoint.
    OAuth(Box<OAuth>),
    /// A fixed bearer token.
    Bearer(Secret),
}

/// A client of a token endpoint.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// Where tokens come from.
    pub token_url: TokenUrl,
    /// How the client proves itself there.
    pub auth: ClientAuth,
    /// Client id, or access key id.
    pub client_id: String,
    /// Client secret, or access key secret.
    pub client_secret: Secret,
    /// The grant asked for.
    pub grant: Grant,
    /// Scopes this client needs, sorted and without duplicates. A reply that lists scopes must list these.
    pub scopes: Vec<String>,
    /// Whether `scope` is sent with the token request.
    pub send_scope: bool,
    /// How long before its end a token is renewed; never more than half its life.
    pub margin: Duration,
    /// Form-encode id and secret before base64 in the Basic header, as RFC 6749 2.3.1 asks.
    pub encode_basic: bool,
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenUrl {
    /// The endpoint itself.
    Fixed(Url),
    /// An OpenID configuration whose `token_endpoint` is the endpoint.
    Discovery(Url),
}

impl TokenUrl {
    /// The URL that stands in the profile.
    pub fn url(&self) -> &Url {
        match self {
            Self::Fixed(url) | Self::Discovery(url) => url,
        }
    }
}

/// How a client proves itself to the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// `Authorization: Basic`.
    Basic,
    /// `client_id` and `client_secret` in the form.
    Body,
    /// A JSON body of `accessKeyId` and `accessKeySecret`.
    JsonKey,
}

/// The OAuth grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// `client_credentials`.
    ClientCredentials,
    /// `password`, which CXone access keys use.
    Password {
        /// User name, or access key id.
        username: String,
        /// Password, or access key secret.
        password: Secret,
    },
}

words!(ClientAuth { Basic = "basic", Body = "body", JsonKey = "json_key" });
