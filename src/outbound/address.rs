//! The address guard: where Backhaul may connect to when the address came from a payload (row 59, row 141).
//!
//! Three checks, each enough to refuse: the text must be a plain https URL, its host must stand on the tenant's allow
//! list, and every address the name resolves to must be one that an outsider may choose. The vetted addresses are
//! then the only ones a connection is made to, so that a name which resolves differently a moment later wins nothing.

mod ranges;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
};

use url::{Host, Url};

use self::ranges::Range;

/// Longest URL that is looked at, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;
/// Most addresses a name may have.
pub const ADDRESSES_MAX: usize = 64;

/// An entry of an allow list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowHost {
    /// Which hosts.
    pub host: HostPattern,
    /// Private and loopback addresses are allowed. Link-local and metadata addresses never are.
    pub private: bool,
    /// Plain http is allowed. Only for loopback hosts; [`AllowHost::new`] never sets it.
    pub insecure: bool,
}

impl AllowHost {
    /// An entry for a public host.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<Self, &'static str> {
        Ok(Self { host: HostPattern::parse(pattern)?, private: false, insecure: false })
    }
}

/// Hosts of an allow list: one name or address, or all names below a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this name or address.
    Exact(Host<String>),
    /// `*.domain`: every name below it, not the domain itself.
    Below(String),
}

impl HostPattern {
    /// Reads `host`, an address, or `*.domain`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(domain) = text.strip_prefix("*.") {
            return match Host::parse(domain) {
                Ok(Host::Domain(name)) if name == domain.to_ascii_lowercase() && name.contains('.') => {
                    Ok(Self::Below(name))
                }
                Ok(Host::Domain(_)) => Err("after `*.` needs a plain domain of at least two labels"),
                _ => Err("after `*.` needs a domain name"),
            };
        }
        let host = Host::parse(text)
            .map_err(|_| "is no host name or address; write the host alone, without scheme or port")?;
        if let Host::Domain(name) = &host
            && (name.contains('*') || name.ends_with('.'))
        {
            return Err("may use `*` only as `*.domain`, and has no dot at its end");
        }
        Ok(Self::Exact(host))
    }

    /// Whether the pattern names nothing but this machine.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Exact(host) => is_loopback(host),
            Self::Below(_) => false,
        }
    }

    fn matches(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Exact(Host::Domain(name)), Host::Domain(host)) => name == host,
            (Self::Exact(Host::Ipv4(address)), Host::Ipv4(host)) => address == host,
            (Self::Exact(Host::Ipv6(address)), Host::Ipv6(host)) => address == host,
            (Self::Below(domain), Host::Domain(host)) => {
                host.strip_suffix(domain.as_str()).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
            _ => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// Whether a host is `localhost` or a loopback address.
pub fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(name) => name.as_ref() == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Which schemes a target may have.
#[derive(Debug, Clone, Copy)]
pub struct Schemes {
    secure: &'static [&'static str],
    plain: &'static [&'static str],
}

impl Schemes {
    /// `https`; `http` to entries that say `insecure`.
    pub const HTTP: Self = Self { secure: &["https"], plain: &["http"] };
    /// `https` and `wss`; `http` and `ws` to entries that say `insecure`.
    pub const WEBSOCKET: Self = Self { secure: &["https", "wss"], plain: &["http", "ws"] };
}

/// Why a target was refused. Messages quote the host at most, never path or query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No URL, or one that programs read in different ways.
    #[error("the address is not a plain URL: {0}")]
    Malformed(&'static str),
    /// Not https.
    #[error("scheme {0} is not allowed, use https")]
    Scheme(String),
    /// Not on the allow list.
    #[error("host {0} is not on the tenant's allow list")]
    NotListed(String),
    /// The host is, or resolves to, an address that is not allowed.
    #[error("host {host} has the address {address} ({range}), which is not allowed")]
    Address {
        /// The host as it was given.
        host: String,
        /// The address.
        address: IpAddr,
        /// Name of the address range.
        range: &'static str,
    },
    /// The name has no or too many addresses.
    #[error("host {host} has {count} addresses; between 1 and 64 are accepted")]
    AddressCount {
        /// The host as it was given.
        host: String,
        /// How many.
        count: usize,
    },
}

/// Looks names up. The system's resolver in production, a table in tests.
pub trait Resolver: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve(&self, name: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A target whose text passed; its addresses have yet to.
#[derive(Debug, Clone)]
pub struct Checked {
    url: Url,
    private: bool,
    plain: bool,
}

/// A target and the only addresses that may be connected to for it.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// The target.
    pub url: Url,
    /// Vetted addresses with the URL's port, never empty.
    pub addresses: Vec<SocketAddr>,
}

/// Why a target could not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The guard refused an address.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The name could not be looked up.
    #[error("the host's name could not be resolved: {0}")]
    Lookup(#[source] io::Error),
}

/// Checks the text of a target against an allow list. Nothing is resolved yet. An address that stands in the URL
/// itself is checked here, so that a payload can be refused when it is accepted.
///
/// # Errors
/// Why the target is refused.
pub fn check(text: &str, allow: &[AllowHost], schemes: Schemes) -> Result<Checked, Refusal> {
    let url = parse_plain(text)?;
    // `parse_plain` returns only URLs with a host.
    let Some(host) = url.host() else {
        return Err(Refusal::Malformed("it has no host"));
    };
    let Some(entry) = allow.iter().find(|entry| entry.host.matches(&host)) else {
        return Err(Refusal::NotListed(host.to_string()));
    };
    let plain = schemes.plain.contains(&url.scheme());
    if !(schemes.secure.contains(&url.scheme()) || plain && entry.insecure && is_loopback(&host)) {
        return Err(Refusal::Scheme(url.scheme().to_owned()));
    }
    let address = match host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
    };
    let checked = Checked { private: entry.private, plain, url: url.clone() };
    if let Some(address) = address {
        checked.vet(address)?;
    }
    Ok(checked)
}

impl Checked {
    /// The target's URL. Do not connect to it; [`Checked::pin`] it first.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether its host may have private and loopback addresses.
    pub fn may_be_private(&self) -> bool {
        self.private
    }

    /// Resolves the target's host and vets every address. One bad address refuses the whole target: names that mix
    /// good and bad addresses are how a guard that picks the good one is got around.
    ///
    /// # Errors
    /// The lookup failed or an address is refused.
    pub async fn pin(self, resolver: &dyn Resolver) -> Result<Pinned, PinError> {
        let found = match self.url.host() {
            Some(Host::Domain(name)) => resolver.resolve(name.to_owned()).await.map_err(PinError::Lookup)?,
            Some(Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            None => Vec::new(),
        };
        if found.is_empty() || found.len() > ADDRESSES_MAX {
            return Err(Refusal::AddressCount { host: self.host(), count: found.len() }.into());
        }
        let port = self.port();
        let mut addresses = Vec::with_capacity(found.len());
        for address in found {
            self.vet(address)?;
            addresses.push(SocketAddr::new(address, port));
        }
        Ok(Pinned { url: self.url, addresses })
    }

    /// A name of which the text has passed, for connections over https.
    pub(crate) fn name(name: &str, private: bool) -> Result<Self, Refusal> {
        let url = parse_plain(&format!("https://{name}/"))?;
        Ok(Self { url, private, plain: false })
    }

    fn vet(&self, address: IpAddr) -> Result<(), Refusal> {
        let (range, name) = ranges::range_of(address);
        let allowed = match range {
            Range::Public => !self.plain,
            Range::Private => self.private && !self.plain,
            Range::Loopback => self.private,
            Range::Never => false,
        };
        if allowed { Ok(()) } else { Err(Refusal::Address { host: self.host(), address, range: name }) }
    }

    fn host(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    fn port(&self) -> u16 {
        // `Url` knows the default ports of all four schemes.
        self.url.port_or_known_default().unwrap_or(443)
    }
}

/// Parses a URL and refuses whatever two programs could read differently.
fn parse_plain(text: &str) -> Result<Url, Refusal> {
    if text.len() > URL_BYTES_MAX {
        return Err(Refusal::Malformed("it is longer than 2048 bytes"));
    }
    // The URL standard drops tabs and line breaks and turns backslashes to slashes; other parsers do neither.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err(Refusal::Malformed("it holds white space, control characters or backslashes"));
    }
    let url = Url::parse(text).map_err(|_| Refusal::Malformed("it cannot be parsed"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::Malformed("it holds a user name or password"));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Refusal::Malformed("it has no host"))?;
    if url.port() == Some(0) {
        return Err(Refusal::Malformed("port 0 cannot be connected to"));
    }
    // Hexadecimal, octal, short and percent-encoded hosts parse to something else than what stands there.
    let Some((_, rest)) = text.split_once("://") else {
        return Err(Refusal::Malformed("it has no `//` before its host"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let written = match authority.strip_prefix('[') {
        Some(_) => authority.split_inclusive(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if authority.contains('@') || !written.eq_ignore_ascii_case(host) {
        return Err(Refusal::Malformed("its host is not in plain form"));
    }
    Ok(url)
}
