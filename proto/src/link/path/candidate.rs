//! Which of the addresses that a peer names are worth a check, and which could turn us against a stranger.

use std::net::{IpAddr, SocketAddr};

use crate::wire::control::{Candidate, CandidateKind};

/// A range of addresses: the first and the length of its prefix in bits.
pub type Prefix = (IpAddr, u8);

/// Whether a datagram may be sent to `address` at all: a peer could have chosen it.
///
/// `local` are our own candidates: loopback is plausible only when we have nothing else, and an address family only when
/// we have an address of it. `refused` are ranges that never lead to a peer, first of all the virtual network itself.
pub(super) fn is_plausible(address: SocketAddr, local: &[Candidate], refused: &[Prefix]) -> bool {
    let ip = address.ip();
    let impossible = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240,
        // A link-local address means nothing without the name of an interface.
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    let ours = |c: &Candidate| c.kind == CandidateKind::Host && c.address == address;
    address.port() != 0
        && !impossible
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && (!ip.is_loopback() || local.iter().all(|c| c.address.ip().is_loopback()))
        && (local.is_empty() || local.iter().any(|c| c.address.is_ipv4() == ip.is_ipv4()))
        && !local.iter().any(ours)
        && !is_refused(ip, refused)
}

/// Whether no path may lead to `ip`, even when datagrams come from there.
pub(super) fn is_refused(ip: IpAddr, refused: &[Prefix]) -> bool {
    refused.iter().any(|&prefix| contains(prefix, ip))
}

/// The candidates of a peer's list that are to be checked, in its order, each address once.
pub(super) fn filter(
    remote: &[Candidate],
    local: &[Candidate],
    refused: &[Prefix],
) -> Vec<Candidate> {
    let only_loopback = remote.iter().all(|c| c.address.ip().is_loopback());
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in remote {
        let known = kept.iter().any(|c| c.address == candidate.address);
        let loopback = candidate.address.ip().is_loopback() && !only_loopback;
        if !known && !loopback && is_plausible(candidate.address, local, refused) {
            kept.push(*candidate);
        }
    }
    kept
}

fn contains((network, length): Prefix, ip: IpAddr) -> bool {
    let (network, ip, bits) = match (network, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128u32),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let free = bits.saturating_sub(u32::from(length));
    network.checked_shr(free).unwrap_or(0) == ip.checked_shr(free).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: &str) -> Candidate {
        Candidate {
            kind: CandidateKind::Host,
            address: address.parse().expect("an address"),
        }
    }

    fn kept(remote: &[&str], local: &[&str]) -> Vec<String> {
        let list = |texts: &[&str]| texts.iter().map(|text| host(text)).collect::<Vec<_>>();
        let refused = [
            ("10.77.0.0".parse().expect("an address"), 16),
            ("fd77::".parse().expect("an address"), 64),
        ];
        filter(&list(remote), &list(local), &refused)
            .iter()
            .map(|c| c.address.to_string())
            .collect()
    }

    #[test]
    fn what_leads_to_no_peer_is_refused() {
        let local = ["192.168.1.2:7", "[2001:db8::2]:7"];
        let refused = [
            "0.0.0.0:5",
            "0.1.2.3:5",
            "255.255.255.255:5",
            "224.0.0.1:5",
            "240.0.0.1:5",
            "127.0.0.1:5",
            "192.168.1.3:0",
            "[::]:5",
            "[ff02::1]:5",
            "[::1]:5",
            "[fe80::1]:5",
            "[::ffff:192.0.2.1]:5",
            "10.77.3.4:5",
            "[fd77::9]:5",
            "192.168.1.2:7",
        ];
        for address in refused {
            assert!(
                kept(&[address, "192.0.2.1:5"], &local) == ["192.0.2.1:5"],
                "{address}"
            );
        }
        let fine = [
            "192.168.1.2:8",
            "10.78.0.1:5",
            "[fd77:0:0:1::9]:5",
            "[2001:db8::1]:5",
        ];
        assert_eq!(kept(&fine, &local), fine);
        assert_eq!(
            kept(&["192.0.2.1:5", "192.0.2.1:5"], &local),
            ["192.0.2.1:5"]
        );
    }

    #[test]
    fn loopback_is_for_two_that_have_nothing_else() {
        assert_eq!(kept(&["127.0.0.2:5"], &["127.0.0.1:5"]), ["127.0.0.2:5"]);
        assert!(kept(&["127.0.0.2:5"], &["127.0.0.1:5", "192.168.1.2:5"]).is_empty());
        assert_eq!(
            kept(&["127.0.0.2:5", "192.0.2.1:5"], &["127.0.0.1:5"]),
            ["192.0.2.1:5"]
        );
    }

    #[test]
    fn a_family_that_we_lack_is_not_tried() {
        assert!(kept(&["[2001:db8::1]:5"], &["192.168.1.2:5"]).is_empty());
        assert_eq!(
            kept(&["[2001:db8::1]:5"], &[]).len(),
            1,
            "unless we know nothing of ourselves"
        );
    }
}
