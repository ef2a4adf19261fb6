//! Web origins: who may open a channel's widget.

use url::{Host, Url};

/// Longest origin: a host name has at most 253 bytes.
const BYTES_MAX: usize = 270;

/// The one spelling of an https origin that browsers send: lower case, without the default port.
///
/// Anything that is more or less than scheme, host and optional port is refused, and so is every host that two
/// programs could read in different ways: an origin is a security boundary, not an address to be lenient with.
///
/// # Errors
/// What is wrong, without the value.
pub fn normalise(text: &str) -> Result<String, &'static str> {
    if text.len() > BYTES_MAX {
        return Err("is longer than 270 bytes");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds white space, control or non-ASCII characters; write international names as xn--");
    }
    if text.contains('*') {
        return Err("holds a wildcard; list every origin");
    }
    let lower = text.to_ascii_lowercase();
    let Some(authority) = lower.strip_prefix("https://") else {
        return Err("must begin with https://");
    };
    if authority.contains('@') {
        return Err("holds a user name or password");
    }
    if authority.contains(['/', '?', '#', '\\']) {
        return Err("must be scheme, host and optional port only, without path, query or fragment");
    }
    let url = Url::parse(&lower).map_err(|_| "is no URL with a host")?;
    let host = url.host().ok_or("has no host")?;
    if let Host::Domain(name) = &host
        && !name.split('.').all(is_label)
    {
        return Err("has a host that is no plain name");
    }
    let host = host.to_string();
    let port = authority.strip_prefix(host.as_str()).ok_or("has a host in an unusual form")?;
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(format!("https://{host}")),
        Some("443") => Ok(format!("https://{host}")),
        Some(digits) if digits.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == digits) => {
            Ok(format!("https://{host}:{digits}"))
        }
        _ => Err("has a port that is no number from 1 to 65535"),
    }
}

/// Letters, digits, hyphens inside, and underscores, which DNS names of services have.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 144: every line of the corpus, which anybody can extend.
    #[test]
    fn the_corpus_is_judged_line_by_line() {
        let (mut accepted, mut refused) = (0, 0);
        for (number, line) in include_str!("corpus/origins.txt").lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (verdict, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let mut next = || texts.next().and_then(Result::ok);
            let place = format!("line {} of origins.txt: {line}", number + 1);
            match (verdict, next(), next()) {
                ("accept", Some(given), Some(sent)) => {
                    accepted += 1;
                    assert_eq!(normalise(&given), Ok(sent.clone()), "{place}");
                    assert_eq!(normalise(&sent), Ok(sent), "{place}: what is sent is accepted as it is");
                }
                ("refuse", Some(given), None) => {
                    refused += 1;
                    let refusal = normalise(&given).expect_err(&place);
                    assert!(given.is_empty() || !refusal.contains(&given), "{place}: the value is repeated");
                }
                _ => panic!("{place}: write `accept \"given\" \"sent\"` or `refuse \"given\"`"),
            }
        }
        assert!(accepted >= 12 && refused >= 60, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn lengths_are_bounded() {
        let label = "a".repeat(63);
        assert!(normalise(&format!("https://{label}.{label}.{label}.com")).is_ok());
        assert!(normalise(&format!("https://{}.com", "a".repeat(64))).is_err());
        assert!(normalise(&format!("https://{}", "a.".repeat(200))).is_err());
    }
}
