//! What the host knows of the network that it is in: its addresses, its networks, its resolvers, its domain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Every address of this machine but loopback's.
#[must_use]
pub fn own_addresses() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    let mut own: Vec<IpAddr> = all
        .filter(|found| !found.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|found| {
            let address = found.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}

/// The IPv4 networks that this machine is in: those of its interfaces that are up, but loopback, those that lead to one
/// host only, and `except`, the interface of a virtual LAN card.
#[must_use]
pub fn networks(except: &[(Ipv4Addr, u8)]) -> Vec<(Ipv4Addr, u8)> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    let mut networks: Vec<(Ipv4Addr, u8)> = all
        .filter(|found| {
            found.flags.contains(InterfaceFlags::IFF_UP)
                && !found.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter_map(|found| {
            let address = found.address?.as_sockaddr_in()?.ip();
            let mask = found.netmask?.as_sockaddr_in()?.ip().to_bits();
            let prefix = u8::try_from(mask.leading_ones()).ok()?;
            let network = Ipv4Addr::from_bits(address.to_bits() & mask);
            let usable = (1..=30).contains(&prefix) && !address.is_link_local();
            usable.then_some((network, prefix))
        })
        .filter(|network| !except.iter().any(|other| overlap(*network, *other)))
        .collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// The resolvers of /etc/resolv.conf, in order; at most three, as resolv.conf(5) has it.
#[must_use]
pub fn resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    parse_resolvers(&text)
}

/// The domain of this machine, as its resolver has it; empty when it has none.
#[must_use]
pub fn domain() -> String {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    parse_domain(&text)
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("nameserver")?;
        let word = rest.split_whitespace().next()?;
        // A scope, as in fe80::1%eth0, means nothing without its interface.
        word.parse::<IpAddr>().ok()
    });
    addresses
        .take(3)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

fn parse_domain(text: &str) -> String {
    let word = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let first = words.next()?;
        matches!(name, "domain" | "search").then(|| first.trim_end_matches('.').to_owned())
    };
    let found = text.lines().filter_map(word).next_back();
    found
        .filter(|domain| domain.len() <= LONGEST_DOMAIN && domain != ".")
        .unwrap_or_default()
}

const fn overlap((a, a_prefix): (Ipv4Addr, u8), (b, b_prefix): (Ipv4Addr, u8)) -> bool {
    let shorter = if a_prefix < b_prefix {
        a_prefix
    } else {
        b_prefix
    };
    let mask = match u32::MAX.checked_shr(shorter as u32) {
        Some(host) => !host,
        None => u32::MAX,
    };
    a.to_bits() & mask == b.to_bits() & mask
}

/// Where the system keeps them.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Bytes of a domain's name (RFC 1035, section 2.3.4).
const LONGEST_DOMAIN: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_its_page_says() {
        let text = "# mine\nnameserver 192.0.2.53\nnameserver\t::1 # local\nnameserver fe80::1%eth0\nnameserver x\n\
                    domain a.example\nsearch office.example. other.example\nnameserver 192.0.2.54\nnameserver 192.0.2.55";
        let expected = ["192.0.2.53:53", "[::1]:53", "192.0.2.54:53"];
        assert_eq!(
            parse_resolvers(text)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            expected
        );
        assert_eq!(parse_domain(text), "office.example");
        assert_eq!(parse_domain(""), "");
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let net = |text: &str, prefix| (text.parse::<Ipv4Addr>().expect("one"), prefix);
        assert!(overlap(net("192.168.0.0", 16), net("192.168.30.0", 24)));
        assert!(!overlap(net("192.168.1.0", 24), net("192.168.30.0", 24)));
        assert!(overlap(net("0.0.0.0", 0), net("192.168.30.0", 24)));
    }
}
