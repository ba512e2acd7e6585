//! Routes: through which network interface an address is reached.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;
use std::fmt;

/// A route that refuses what it is asked for: `RTF_REJECT` (`include/uapi/linux/route.h`).
const REJECT: u32 = 0x0200;
/// The address is one of this host's own: `RTF_LOCAL` (`include/uapi/linux/ipv6_route.h`).
const LOCAL: u32 = 0x8000_0000;

/// `/proc/net/route` and `/proc/net/ipv6_route`: the main table of IPv4 and all of IPv6.
///
/// Policy routing and other IPv4 tables are not in them.
///
/// # Kernel
/// `net/ipv4/fib_trie.c` `fib_route_seq_show()`, `net/ipv6/ip6_fib.c` `ipv6_route_native_seq_show()` (7.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes(Vec<Route>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    to: IpAddr,
    /// Bits of `to` that count.
    length: u32,
    metric: u32,
    local: bool,
    interface: String,
}

impl Routes {
    /// Reads both files; a line that is not understood is passed over.
    #[must_use]
    pub fn parse(ipv4: &str, ipv6: &str) -> Self {
        let all = ipv4.lines().skip(1).filter_map(ipv4_route).chain(ipv6.lines().filter_map(ipv6_route));
        Self(all.collect())
    }

    /// The interfaces that a default route goes through, whatever its metric.
    #[must_use]
    pub fn default_interfaces(&self) -> BTreeSet<String> {
        self.0.iter().filter(|route| route.length == 0).map(|route| route.interface.clone()).collect()
    }

    /// The interfaces that `address` is reached through: those of the longest prefix, of these the lowest metric. None for
    /// an address of the host's own.
    #[must_use]
    pub fn to(&self, address: IpAddr) -> BTreeSet<String> {
        let reaching = || self.0.iter().filter(|route| route.has(address));
        let Some(best) = reaching().map(|route| (u32::MAX - route.length, route.metric)).min() else {
            return BTreeSet::new();
        };
        let best = reaching().filter(|route| (u32::MAX - route.length, route.metric) == best);
        best.filter(|route| !route.local).map(|route| route.interface.clone()).collect()
    }
}

impl Route {
    fn has(&self, address: IpAddr) -> bool {
        match (self.to, address) {
            (IpAddr::V4(to), IpAddr::V4(address)) => {
                same_prefix(u128::from(to.to_bits()) << 96, u128::from(address.to_bits()) << 96, self.length)
            }
            (IpAddr::V6(to), IpAddr::V6(address)) => same_prefix(to.to_bits(), address.to_bits(), self.length),
            _ => false,
        }
    }
}

fn same_prefix(one: u128, other: u128, length: u32) -> bool {
    (one ^ other).leading_zeros() >= length
}

/// `eno1 0002A8C0 00000000 0001 0 0 100 00FFFFFF …`: addresses are network order, printed as a number of the machine's.
fn ipv4_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, to, _, flags, _, _, metric, mask, ..] = fields[..] else { return None };
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
    if u32::from_str_radix(flags, 16).ok()? & REJECT != 0 || interface == "*" {
        return None;
    }
    Some(Route {
        to: IpAddr::V4(address(to)?),
        length: address(mask)?.to_bits().leading_ones(),
        metric: metric.parse().ok()?,
        local: false,
        interface: interface.to_owned(),
    })
}

/// `DESTINATION LENGTH SOURCE LENGTH GATEWAY METRIC REFCNT USE FLAGS INTERFACE`, all in hexadecimal.
fn ipv6_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [to, length, _, _, _, metric, _, _, flags, interface] = fields[..] else { return None };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let local = flags & LOCAL != 0;
    if flags & REJECT != 0 || (interface == "lo" && !local) {
        return None;
    }
    Some(Route {
        to: IpAddr::V6(Ipv6Addr::from(u128::from_str_radix(to, 16).ok().filter(|_| to.len() == 32)?)),
        length: u32::from_str_radix(length, 16).ok().filter(|length| *length <= 128)?,
        metric: u32::from_str_radix(metric, 16).ok()?,
        local,
        interface: interface.to_owned(),
    })
}

/// Where the ssh connection comes from that a command was typed through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPeer {
    /// The other end.
    pub address: IpAddr,
    /// The interface that a link-local address was given with, `fe80::1%eno1`.
    zone: Option<String>,
}

impl SshPeer {
    /// Reads `SSH_CONNECTION`: the peer's address and port, then this host's. `None` for a connection of the host with
    /// itself.
    #[must_use]
    pub fn parse(connection: &str) -> Option<Self> {
        let words: Vec<&str> = connection.split(' ').collect();
        let [peer, _, own, ..] = words[..] else { return None };
        let (peer, zone) = peer.split_once('%').map_or((peer, None), |(peer, zone)| (peer, Some(zone.to_owned())));
        let address = peer.parse::<IpAddr>().ok()?.to_canonical();
        (peer != own && !address.is_loopback() && !address.is_unspecified()).then_some(Self { address, zone })
    }

    /// The interfaces that it is reached through.
    #[must_use]
    pub fn interfaces(&self, routes: &Routes) -> BTreeSet<String> {
        self.zone.as_ref().map_or_else(|| routes.to(self.address), |zone| BTreeSet::from([zone.clone()]))
    }
}

impl fmt::Display for SshPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(address: &str) -> String {
        format!("{:08X}", u32::from_ne_bytes(address.parse::<Ipv4Addr>().unwrap().octets()))
    }

    fn ipv4(routes: &[(&str, &str, &str, u32, &str)]) -> String {
        let line = |(interface, to, mask, metric, flags): &(&str, &str, &str, u32, &str)| {
            format!("{interface}\t{}\t00000000\t{flags}\t0\t0\t{metric}\t{}\t0\t0\t0\n", hex(to), hex(mask))
        };
        format!("Iface\tDestination\n{}", routes.iter().map(line).collect::<String>())
    }

    fn through(routes: &Routes, address: &str) -> Vec<String> {
        routes.to(address.parse().unwrap()).into_iter().collect()
    }

    #[test]
    fn the_longest_prefix_wins_and_then_the_lowest_metric() {
        let text = ipv4(&[
            ("eno1", "0.0.0.0", "0.0.0.0", 100, "0003"),
            ("eno2", "10.0.0.0", "255.0.0.0", 0, "0003"),
            ("eno3", "10.1.0.0", "255.255.0.0", 200, "0001"),
            ("eno4", "10.1.0.0", "255.255.0.0", 100, "0001"),
            ("*", "10.1.2.0", "255.255.255.0", 0, "0201"),
        ]);
        let routes = Routes::parse(&text, "");
        assert_eq!(through(&routes, "192.0.2.1"), ["eno1"]);
        assert_eq!(through(&routes, "10.2.0.1"), ["eno2"]);
        assert_eq!(through(&routes, "10.1.0.1"), ["eno4"]);
        assert_eq!(routes.default_interfaces().into_iter().collect::<Vec<_>>(), ["eno1"]);
        assert_eq!(through(&routes, "2001:db8::1"), [""; 0], "no IPv6 at all");
    }

    #[test]
    fn ipv6_has_its_own_table_and_the_hosts_own_addresses_in_it() {
        let zero = "0".repeat(32);
        let line = |to: &str, length: &str, flags: &str, interface: &str| {
            format!("{to:0<32} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {interface:>8}\n")
        };
        let text = [
            line("", "00", "00000003", "eno1"),
            line("20010db8", "20", "00000001", "eno2"),
            line("20010db8000000000000000000000007", "80", "80200001", "eno2"),
            line("", "00", "00200200", "lo"),
        ];
        let routes = Routes::parse("", &text.concat());
        assert_eq!(through(&routes, "2001:db8::8"), ["eno2"]);
        assert_eq!(through(&routes, "2001:db8::7"), [""; 0], "its own address");
        assert_eq!(through(&routes, "2620::1"), ["eno1"]);
        assert_eq!(through(&routes, "192.0.2.1"), [""; 0]);
        assert_eq!(routes.default_interfaces().len(), 1);
    }

    #[test]
    fn a_peer_is_the_other_end_of_the_connection() {
        let peer = |text: &str| SshPeer::parse(text).map(|peer| (peer.address.to_string(), peer.zone));
        assert_eq!(peer("192.0.2.7 50000 192.0.2.1 22"), Some(("192.0.2.7".into(), None)));
        assert_eq!(peer("::ffff:192.0.2.7 50000 ::ffff:192.0.2.1 22"), Some(("192.0.2.7".into(), None)));
        assert_eq!(peer("fe80::1%eno1 50000 fe80::2%eno1 22"), Some(("fe80::1".into(), Some("eno1".into()))));
        for own in ["127.0.0.1 5 127.0.0.1 22", "::1 5 ::1 22", "192.0.2.1 5 192.0.2.1 22", "UNKNOWN 65535 x 22", ""] {
            assert_eq!(peer(own), None, "{own}");
        }
        let zone = SshPeer::parse("fe80::1%eno1 50000 fe80::2%eno1 22").unwrap();
        assert!(zone.interfaces(&Routes::default()).contains("eno1"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(one in "(\\PC|\t|\n){0,80}", other in "([0-9a-f]{0,33} ){0,11}[a-z]{0,4}\n") {
            let routes = Routes::parse(&format!("\n{one}"), &other);
            drop(routes.to("192.0.2.1".parse().unwrap()));
            drop(SshPeer::parse(&one));
        }
    }
}
