//! Where a provider's API is: at an address, or where a document says.

use url::{Host, Url};

use super::document::Section;
use crate::address::{AllowHost, HostPattern, is_loopback};

/// Scheme, host, port and path prefix that endpoint templates are appended to.
#[derive(Debug, Clone)]
pub enum BaseUrl {
    /// The address itself.
    Fixed(Url),
    /// A document that names it.
    Discovery(Box<Discovery>),
}

/// A document whose `api_endpoint` is the base URL, such as CXone's `/.well-known/cxone-configuration`.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The document, with its query.
    pub url: Url,
    /// The hosts it may name: its own, and those that the profile lists. Whoever forges the document gets no token
    /// sent anywhere else.
    pub allow_hosts: Vec<AllowHost>,
}

impl BaseUrl {
    /// The host, where the profile itself names it.
    pub fn fixed_host(&self) -> Option<&str> {
        match self {
            Self::Fixed(url) => url.host_str(),
            Self::Discovery(_) => None,
        }
    }

    /// The document, where one names the host.
    pub fn discovery(&self) -> Option<&Discovery> {
        match self {
            Self::Fixed(_) => None,
            Self::Discovery(discovery) => Some(discovery),
        }
    }
}

/// Reads `base_url`, or `discovery` with its `allow_hosts`.
pub(super) fn read(section: &mut Section<'_>, insecure: bool) -> Option<BaseUrl> {
    let fixed = section.url("base_url", insecure).map(BaseUrl::Fixed);
    let document = section.url_with_query("discovery", insecure);
    let mut allow_hosts = section.allow_hosts();
    if !section.has("discovery") {
        section.missing("base_url", "is not set; no call is made to a guessed host");
        if section.has("allow_hosts") {
            section.error("allow_hosts", "is used with discovery only");
        }
        return fixed;
    }
    if section.has("base_url") {
        section.error("discovery", "and base_url are both set; keep one");
    }
    let url = document?;
    let host = url.host()?.to_owned();
    let plain = insecure && is_loopback(&host);
    let host = HostPattern::Exact(match host {
        Host::Domain(name) => Host::Domain(name.to_ascii_lowercase()),
        address => address,
    });
    // The document's own host stands in the profile, so its addresses are as good as any other's there.
    allow_hosts.push(AllowHost { host, private: true, insecure: plain });
    Some(BaseUrl::Discovery(Box::new(Discovery { url, allow_hosts })))
}
