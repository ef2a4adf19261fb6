//! The guard against the corpus of hostile addresses.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Resolves every name to the same addresses.
struct Fixed(Vec<IpAddr>);

impl Resolver for Fixed {
    fn resolve(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let found = self.0.clone();
        Box::pin(async move { Ok(found) })
    }
}

struct Case<'a> {
    line: usize,
    verdict: &'a str,
    allow: Vec<AllowHost>,
    url: String,
    resolver: Fixed,
}

fn corpus() -> Vec<Case<'static>> {
    let text = include_str!("../corpus/addresses.txt");
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')).map(parse).collect()
}

fn parse((index, text): (usize, &'static str)) -> Case<'static> {
    let line = index + 1;
    let fields: Vec<&str> = text.split('|').map(str::trim).collect();
    let (verdict, allow, url) = match fields[..] {
        [verdict, allow, url] | [verdict, allow, url, _] => (verdict, allow, url),
        _ => panic!("line {line} has {} fields", fields.len()),
    };
    let allow = if allow == "-" { Vec::new() } else { allow.split(' ').map(entry).collect() };
    let url = url.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r");
    let resolved = fields.get(3).copied().unwrap_or("-");
    let resolved = resolved.split(' ').filter(|address| *address != "-");
    let resolver = Fixed(resolved.map(|address| address.parse().unwrap_or_else(|_| panic!("line {line}"))).collect());
    Case { line, verdict, allow, url, resolver }
}

fn entry(text: &str) -> AllowHost {
    let mut words = text.split('+');
    let mut entry = AllowHost::new(words.next().unwrap()).unwrap();
    for word in words {
        match word {
            "private" => entry.private = true,
            "insecure" => entry.insecure = true,
            other => panic!("{other}"),
        }
    }
    entry
}

fn verdict(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed(_) => "malformed",
        Refusal::Scheme(_) => "scheme",
        Refusal::NotListed(_) => "not_listed",
        Refusal::Address { .. } => "address",
        Refusal::AddressCount { .. } => "address_count",
    }
}

async fn pin(case: &Case<'_>, schemes: Schemes) -> Result<Pinned, Refusal> {
    match check(&case.url, &case.allow, schemes)?.pin(&case.resolver).await {
        Ok(pinned) => Ok(pinned),
        Err(PinError::Refused(refusal)) => Err(refusal),
        Err(PinError::Lookup(error)) => panic!("line {}: {error}", case.line),
    }
}

/// Covers row 59.
#[tokio::test]
async fn the_corpus_gets_its_verdicts() {
    let mut wrong = Vec::new();
    for case in corpus() {
        let outcome = pin(&case, Schemes::HTTP).await;
        let found = outcome.as_ref().map_or_else(verdict, |_| "allow");
        if found != case.verdict {
            wrong.push(format!("line {}: {:?} is {found}, not {}: {outcome:?}", case.line, case.url, case.verdict));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Covers row 141: the probe's targets pass the same guard, over its own schemes.
#[tokio::test]
async fn the_probe_is_as_strict() {
    for case in corpus() {
        let https = pin(&case, Schemes::WEBSOCKET).await;
        assert_eq!(https.as_ref().map_or_else(verdict, |_| "allow"), case.verdict, "line {}", case.line);
        let Some(rest) = case.url.strip_prefix("https://") else { continue };
        let wss = Case { url: format!("wss://{rest}"), ..case };
        let found = pin(&wss, Schemes::WEBSOCKET).await;
        assert_eq!(found.as_ref().map_or_else(verdict, |_| "allow"), wss.verdict, "line {}", wss.line);
        assert!(pin(&wss, Schemes::HTTP).await.is_err(), "line {}", wss.line);
    }
}

/// Covers row 59: a name that resolves to a good address once and to a bad one later.
#[tokio::test]
async fn the_vetted_addresses_are_the_ones_to_connect_to() {
    struct Rebinding(AtomicUsize);
    impl Resolver for Rebinding {
        fn resolve(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
            let nth = self.0.fetch_add(1, Ordering::Relaxed);
            let address = if nth == 0 { [93, 184, 215, 14] } else { [169, 254, 169, 254] };
            Box::pin(async move { Ok(vec![IpAddr::from(address)]) })
        }
    }
    let resolver = Rebinding(AtomicUsize::new(0));
    let allow = [AllowHost::new("rebind.example.com").unwrap()];
    let checked = || check("https://rebind.example.com:8443/x", &allow, Schemes::HTTP).unwrap();
    let pinned = checked().pin(&resolver).await.unwrap();
    assert_eq!(pinned.addresses, [SocketAddr::from(([93, 184, 215, 14], 8443))]);
    assert_eq!(resolver.0.load(Ordering::Relaxed), 1);
    assert!(matches!(checked().pin(&resolver).await, Err(PinError::Refused(Refusal::Address { .. }))));
}

#[tokio::test]
async fn a_name_with_too_many_addresses_is_refused() {
    let resolver = Fixed(vec![IpAddr::from([93, 184, 215, 14]); ADDRESSES_MAX + 1]);
    let checked = check("https://a.example.com/", &[AllowHost::new("a.example.com").unwrap()], Schemes::HTTP).unwrap();
    assert!(matches!(checked.pin(&resolver).await, Err(PinError::Refused(Refusal::AddressCount { count: 65, .. }))));
}

#[test]
fn patterns_are_checked() {
    for text in [
        "",
        "*",
        "*.",
        "*.com",
        "*.10.0.0.1",
        "a.*.com",
        "*a.com",
        "https://a.com",
        "a.com:443",
        "a.com/",
        "a.com.",
        "a b",
    ] {
        assert!(HostPattern::parse(text).is_err(), "{text:?}");
    }
    for text in ["hooks.example.com", "localhost", "10.0.0.1", "[::1]", "*.example.com"] {
        assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn long_urls_are_refused() {
    let url = format!("https://a.example.com/{}", "a".repeat(URL_BYTES_MAX));
    let refusal = check(&url, &[AllowHost::new("a.example.com").unwrap()], Schemes::HTTP).unwrap_err();
    assert_eq!(verdict(&refusal), "malformed");
}
