//! Which addresses an outsider may choose.
//!
//! Figures from the IANA special-purpose address registries (IPv4 and IPv6) and the clouds' documents on their
//! metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What may be done with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// Anybody may name it.
    Public,
    /// Needs an entry that says `private`.
    Private,
    /// This machine; needs an entry that says `private`.
    Loopback,
    /// No entry allows it.
    Never,
}

/// The range of an address and the range's name for messages.
pub(super) fn range_of(address: IpAddr) -> (Range, &'static str) {
    match address {
        IpAddr::V4(address) => range_of_v4(address),
        IpAddr::V6(address) => range_of_v6(address),
    }
}

fn range_of_v4(address: Ipv4Addr) -> (Range, &'static str) {
    match address.octets() {
        // Metadata services that hide in ranges which are otherwise private or public.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => (Range::Never, "cloud metadata"),
        [169, 254, _, _] => (Range::Never, "link-local"),
        [0, _, _, _] => (Range::Never, "this network"),
        [127, _, _, _] => (Range::Loopback, "loopback"),
        [10, _, _, _] | [172, 16..=31, _, _] | [192, 168, _, _] => (Range::Private, "private"),
        [100, 64..=127, _, _] => (Range::Private, "carrier-grade NAT"),
        [198, 18..=19, _, _] => (Range::Private, "benchmarking"),
        [192, 0, 0, _] => (Range::Never, "protocol assignments"),
        [192, 88, 99, _] => (Range::Never, "6to4 relays"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => (Range::Never, "documentation"),
        [224..=239, _, _, _] => (Range::Never, "multicast"),
        [240..=255, _, _, _] => (Range::Never, "reserved"),
        _ => (Range::Public, "public"),
    }
}

fn range_of_v6(address: Ipv6Addr) -> (Range, &'static str) {
    let [a, b, c, d, e, f, g, h] = address.segments();
    match (a, b) {
        _ if address.is_unspecified() => (Range::Never, "unspecified"),
        _ if address.is_loopback() => (Range::Loopback, "loopback"),
        // Mapped, compatible, NAT64 and 6to4 addresses reach the IPv4 address inside them.
        (0, 0) if [c, d, e] == [0, 0, 0] && (f == 0xffff || f == 0) => range_of_v4(embedded(g, h)),
        (0x64, 0xff9b) if [c, d, e, f] == [0, 0, 0, 0] => range_of_v4(embedded(g, h)),
        (0x2002, _) => range_of_v4(embedded(b, c)),
        (0xfd00, 0x0ec2) | (0xfd20, 0x00ce) if h == 0x0254 => (Range::Never, "cloud metadata"),
        (0xfc00..=0xfdff, _) => (Range::Private, "unique local"),
        (0xfe80..=0xfebf, _) => (Range::Never, "link-local"),
        (0x2001, 0..=0x01ff) => (Range::Never, "protocol assignments"),
        (0x2001, 0x0db8) | (0x3fff, 0..=0x0fff) => (Range::Never, "documentation"),
        (0x2000..=0x3fff, _) => (Range::Public, "public"),
        (0xff00..=0xffff, _) => (Range::Never, "multicast"),
        _ => (Range::Never, "not globally routed"),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}
