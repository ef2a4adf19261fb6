//! From a channel's webchat URL to the URL of its socket. Pure.

use backhaul_outbound::{address, profile::ProbeProfile};
use url::Url;

/// The socket's URL for a channel: https becomes wss, the profile's path is appended to the channel's, the query
/// stays. With a `url_template` the channel lends its host and port only.
///
/// # Errors
/// The address guard refuses the channel's URL or the socket's. Plain text passes only to a loopback host whose entry
/// in the profile says `insecure`.
pub fn socket(webchat_url: &str, profile: &ProbeProfile) -> Result<address::Checked, address::Refusal> {
    let channel = address::check(webchat_url, &profile.allow_hosts, address::Schemes::WEBSOCKET)?.url().clone();
    let text = match &profile.url_template {
        Some(template) => template.replace("{host}", &authority(&channel)),
        None => joined(channel, &profile.path),
    };
    let (scheme, rest) = text.split_once("://").unwrap_or(("", &text));
    let scheme = match scheme {
        "https" => "wss",
        "http" => "ws",
        other => other,
    };
    address::check(&format!("{scheme}://{rest}"), &profile.allow_hosts, address::Schemes::WEBSOCKET)
}

/// Host and explicit port.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn joined(mut url: Url, path: &str) -> String {
    let path = path.trim_matches('/');
    if !path.is_empty() {
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
    }
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use backhaul_outbound::address::{AllowHost, Refusal};

    use super::*;

    fn profile() -> ProbeProfile {
        let allow = |pattern: &str| AllowHost::new(pattern).expect("a pattern");
        let local = AllowHost { private: true, insecure: true, ..allow("127.0.0.1") };
        ProbeProfile { allow_hosts: vec![allow("h"), allow("*.example.com"), local], ..ProbeProfile::default() }
    }

    fn url(webchat_url: &str) -> Result<String, Refusal> {
        socket(webchat_url, &profile()).map(|checked| checked.url().to_string())
    }

    /// Covers row 133, row 134, row 135: https and wss end at wss, paths are joined, queries stay.
    #[test]
    fn urls_are_mapped_by_a_parser() {
        for (given, socket) in [
            ("https://h", "wss://h/webchat"),
            ("wss://h", "wss://h/webchat"),
            ("https://h/", "wss://h/webchat"),
            ("https://h/p?x=1", "wss://h/p/webchat?x=1"),
            ("https://h/p/", "wss://h/p/webchat"),
            ("https://h:8443/p", "wss://h:8443/p/webchat"),
            ("HTTPS://Chat.Example.com", "wss://chat.example.com/webchat"),
            ("http://127.0.0.1:8080/sim", "ws://127.0.0.1:8080/sim/webchat"),
        ] {
            assert_eq!(url(given).as_deref(), Ok(socket), "{given}");
        }
    }

    /// Covers row 133: clear text needs the profile's word and a loopback host.
    #[test]
    fn clear_text_is_refused() {
        for given in ["http://h", "ws://h", "http://chat.example.com/webchat"] {
            assert!(matches!(url(given), Err(Refusal::Scheme(_))), "{given}");
        }
        let mut strict = profile();
        strict.allow_hosts[2].insecure = false;
        assert!(matches!(socket("http://127.0.0.1:8080", &strict), Err(Refusal::Scheme(_))));
        assert!(matches!(url("ftp://h"), Err(Refusal::Scheme(_))));
    }

    /// Covers row 141: addresses and hosts that the tenant did not list are refused.
    #[test]
    fn hosts_must_be_listed() {
        assert!(matches!(url("https://169.254.169.254"), Err(Refusal::NotListed(_))));
        let mut lenient = profile();
        lenient.allow_hosts.push(AllowHost { private: true, ..AllowHost::new("169.254.169.254").expect("a pattern") });
        assert!(matches!(socket("https://169.254.169.254", &lenient), Err(Refusal::Address { .. })));
        assert!(matches!(url("https://user@h"), Err(Refusal::Malformed(_))));
        assert!(matches!(socket("https://h", &ProbeProfile::default()), Err(Refusal::NotListed(_))));
    }

    #[test]
    fn a_template_replaces_path_and_host() {
        let template = |text: &str| ProbeProfile { url_template: Some(text.to_owned()), ..profile() };
        let made = |text: &str| socket("https://h:8443/p", &template(text)).map(|checked| checked.url().to_string());
        assert_eq!(made("wss://{host}/v1?deploymentId=d").as_deref(), Ok("wss://h:8443/v1?deploymentId=d"));
        assert_eq!(made("wss://ws.example.com/v1").as_deref(), Ok("wss://ws.example.com/v1"));
        assert!(matches!(made("wss://elsewhere.example.net/v1"), Err(Refusal::NotListed(_))));
    }
}
