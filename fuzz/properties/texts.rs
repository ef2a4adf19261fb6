//! Small grammars: headers, colours, origins, addresses, paths, timetables.

use backhaul_engine::Timetable;
use backhaul_outbound::{
    address::{self, AllowHost, Schemes},
    path::Template,
    retry_after::{self, RetryAfter},
};
use backhaul_workers::{css, origins, safe_text};
use chrono::{DateTime, TimeDelta, Utc};
use url::{Host, Url};

use super::{made_of, text};

/// Any moment will do.
fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00.5Z".parse().expect("a time")
}

/// Whatever the header says, the wait is from one second to an hour.
pub(super) fn retry_after(bytes: &[u8]) {
    let (least, most) = (now() + TimeDelta::seconds(1), now() + TimeDelta::hours(1));
    let parsed = retry_after::parse(bytes, now());
    if let RetryAfter::At(at) = parsed {
        assert!((least..=most).contains(&at), "{at}");
    }
    assert!(retry_after::at_least(parsed, now()) >= least);
}

/// No accepted style value can end its declaration, open another one, fetch anything or run anything.
pub(super) fn theme(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if css::colour(text).is_ok() {
        assert_colour(text);
    }
    if css::font(text).is_ok() {
        assert_font(text);
    }
    if css::radius(text).is_ok() {
        assert_radius(text);
    }
    if safe_text::check(text).is_ok() {
        assert_harmless(text);
    }
}

pub(super) fn assert_colour(text: &str) {
    assert!(text.len() <= 64);
    let body = match text.strip_prefix('#') {
        Some(digits) => {
            return assert!([3, 4, 6, 8].contains(&digits.len()) && made_of(digits, |it| it.is_ascii_hexdigit()));
        }
        None => text,
    };
    let open = body.find('(').expect("a function");
    assert!(["rgb", "rgba", "hsl", "hsla"].contains(&body[..open].to_ascii_lowercase().as_str()));
    let arguments = body[open + 1..].strip_suffix(')').expect("a closed function");
    let numbers = arguments.replace("deg", "");
    assert!(made_of(&numbers, |it| it.is_ascii_digit() || " ,./%".contains(it)), "{text:?}");
}

pub(super) fn assert_font(text: &str) {
    assert!(text.chars().count() <= 256);
    assert!(made_of(text, |it| it.is_alphanumeric() || " ,-_'\"".contains(it)), "{text:?}");
    assert_eq!(text.matches('"').count() % 2, 0, "{text:?}");
    assert_eq!(text.matches('\'').count() % 2, 0, "{text:?}");
}

pub(super) fn assert_radius(text: &str) {
    let unit = text.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.');
    assert!(["px", "em", "rem", "%"].contains(&unit.to_ascii_lowercase().as_str()), "{text:?}");
    let amount: f64 = text[..text.len() - unit.len()].parse().expect("a number");
    assert!((0.0..=1_000.0).contains(&amount));
}

pub(super) fn assert_harmless(text: &str) {
    assert!(!text.contains(['<', '>', '"', '\\', ';', '{', '}', '`', '\n', '\r', '\t', '\0']), "{text:?}");
    let mut tight = text.trim().to_lowercase();
    while tight.contains(" :") || tight.contains(" (") {
        tight = tight.replace(" :", ":").replace(" (", "(");
    }
    for word in ["javascript:", "vbscript:", "data:text", "expression(", "url("] {
        assert!(!tight.starts_with(word), "{text:?}");
    }
}

/// An accepted origin is one: what a browser sends as `Origin`, and accepted as it is sent.
pub(super) fn origin(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(origin) = origins::normalise(text) else { return };
    assert_eq!(origins::normalise(&origin).as_deref(), Ok(origin.as_str()));
    let url = Url::parse(&origin).expect("a URL");
    assert_eq!(url.origin().ascii_serialization(), origin);
    assert!(url.scheme() == "https" && url.path() == "/" && url.query().is_none() && url.fragment().is_none());
    assert!(url.username().is_empty() && url.password().is_none() && !origin.contains('*'));
}

/// An accepted address is on the list, encrypted or this machine's own, and no private one that is not said to be.
pub(super) fn address(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let listed =
        |host: &str, private, insecure| AllowHost { private, insecure, ..AllowHost::new(host).expect("a host") };
    let allow = [
        listed("hooks.example.com", false, false),
        listed("*.example.org", false, false),
        listed("10.0.0.1", false, false),
        listed("169.254.169.254", false, false),
        listed("127.0.0.1", true, true),
    ];
    let Ok(checked) = address::check(text, &allow, Schemes::HTTP) else { return };
    let url = checked.url();
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    match url.host().expect("a host") {
        Host::Domain(name) => {
            let below = name.strip_suffix(".example.org").is_some_and(|label| !label.is_empty());
            assert!((name == "hooks.example.com" || below) && url.scheme() == "https", "{url}");
        }
        Host::Ipv4(address) => assert!(address.is_loopback() && ["http", "https"].contains(&url.scheme()), "{url}"),
        Host::Ipv6(_) => panic!("{url} is on no list"),
    }
}

/// A filled template keeps its host and its number of segments, whatever fills it.
pub(super) fn path_template(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (template, value) = text.split_once('\n').unwrap_or(("/threads/{threadId}/x", text));
    let Ok(parsed) = Template::parse(template) else { return };
    let base = Url::parse("https://crm.example.com/api/v1").expect("a URL");
    let names: Vec<&str> = parsed.names().collect();
    let params: Vec<(&str, &str)> = names.iter().map(|name| (*name, value)).collect();
    let Ok(url) = parsed.fill(&base, &params) else { return };
    assert_eq!(
        (url.scheme(), url.host_str(), url.query(), url.fragment()),
        ("https", Some("crm.example.com"), None, None)
    );
    assert!(url.path().starts_with("/api/v1/"), "{url}");
    let segments = |path: &str| path.split('/').count();
    assert_eq!(segments(url.path()), segments("/api/v1") + segments(template) - 1, "{url}");
}

/// Occurrences go forward.
pub(super) fn timetable(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (cron, zone) = text.split_once('\n').unwrap_or((text, "Europe/Berlin"));
    let Ok(timetable) = Timetable::parse(cron, zone) else { return };
    let mut at = now();
    for _ in 0..3 {
        let Ok(next) = timetable.next(at) else { return };
        assert!(next > at, "{next} is not after {at}");
        at = next;
    }
}
