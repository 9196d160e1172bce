//! What a hub may ask of a member's machine: an address and an MTU that an ordinary network could have, and nothing that would
//! take the machine's own way to the Internet away from it. Decides only that; knows no link and no card.

use std::net::{IpAddr, Ipv6Addr};

use crate::gateway::subnet::Subnet;
use crate::wire::control::Welcome;

/// What is wrong with a hub's settings: always the hub's fault, said in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// No host of a network has such an address.
    #[error(
        "the hub gave us {0}/{1}, which no host can have; its owner must give it an ordinary network (kuguri serve --address)"
    )]
    Address(IpAddr, u8),
    /// The gateway is not another host of the same network.
    #[error(
        "the hub named {0} as its own address, which is no other host of the network that it gave us; \
         its owner must mend that (kuguri serve --address)"
    )]
    Gateway(IpAddr),
    /// Too small for IPv4, or larger than an Ethernet frame.
    #[error(
        "the hub gave us an MTU of {0}, which is not between 576 and 1500; its owner must mend that"
    )]
    Mtu(u16),
    /// What goes to that network would no longer go where it goes now.
    #[error(
        "the hub's network {0}/{1} contains {2}, which this machine needs outside of it; \
         its owner must give the hub another network (kuguri serve --address)"
    )]
    Overlap(IpAddr, u8, IpAddr),
}

/// Whether a hub's settings can be taken by a machine that has, or needs to reach, the addresses of `underlay` outside of the
/// virtual network.
///
/// # Errors
/// When they cannot; see [`Fault`].
pub(super) fn check(
    welcome: &Welcome,
    underlay: impl Iterator<Item = IpAddr>,
) -> Result<(), Fault> {
    if !MTU.contains(&welcome.mtu) {
        return Err(Fault::Mtu(welcome.mtu));
    }
    let Some((address, prefix)) = welcome.address else {
        // Without a network of its own there is none that a gateway could be in.
        return welcome.gateway.map_or(Ok(()), |it| Err(Fault::Gateway(it)));
    };
    if !is_host(address, prefix) {
        return Err(Fault::Address(address, prefix));
    }
    if let Some(gateway) = welcome.gateway
        && (gateway == address || !contains(address, prefix, gateway) || !is_host(gateway, prefix))
    {
        return Err(Fault::Gateway(gateway));
    }
    let mut underlay = underlay.map(|it| it.to_canonical());
    match underlay.find(|&it| contains(address, prefix, it)) {
        Some(inside) => Err(Fault::Overlap(address, prefix, inside)),
        None => Ok(()),
    }
}

fn is_host(address: IpAddr, prefix: u8) -> bool {
    match address {
        IpAddr::V4(v4) => {
            prefix >= SHORTEST_PREFIX && !v4.is_link_local() && Subnet::new(v4, prefix).is_ok()
        }
        IpAddr::V6(v6) => {
            let special = v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some();
            let first = v6.to_bits() & !mask(prefix) == 0;
            matches!(prefix, SHORTEST_PREFIX..=126) && !special && !first
        }
    }
}

fn contains(address: IpAddr, prefix: u8, other: IpAddr) -> bool {
    match (address, other) {
        (IpAddr::V4(v4), IpAddr::V4(other)) => {
            Subnet::new(v4, prefix).is_ok_and(|subnet| subnet.contains(other))
        }
        (IpAddr::V6(v6), IpAddr::V6(other)) => same_network(v6, prefix, other),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn same_network(address: Ipv6Addr, prefix: u8, other: Ipv6Addr) -> bool {
    (address.to_bits() ^ other.to_bits()) & mask(prefix) == 0
}

fn mask(prefix: u8) -> u128 {
    u128::MAX
        .checked_shr(u32::from(prefix))
        .map_or(u128::MAX, |host| !host)
}

/// From the smallest that every IPv4 network carries (RFC 791) to an ordinary Ethernet's.
const MTU: std::ops::RangeInclusive<u16> = 576..=1500;
/// A shorter one would take a large part of the Internet away from the machine.
const SHORTEST_PREFIX: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn welcome(address: &str, prefix: u8) -> Welcome {
        Welcome {
            hub_name: "office".into(),
            address: Some((ip(address), prefix)),
            gateway: None,
            mtu: 1500,
            features: 0,
        }
    }

    fn verdict(welcome: &Welcome) -> Result<(), Fault> {
        let underlay = ["192.168.1.10", "203.0.113.10", "2001:db8:1::5"];
        check(welcome, underlay.map(ip).into_iter())
    }

    #[test]
    fn an_ordinary_network_is_taken() {
        let good = Welcome {
            gateway: Some(ip("192.168.30.1")),
            ..welcome("192.168.30.10", 24)
        };
        assert_eq!(verdict(&good), Ok(()));
        for (address, prefix) in [
            ("10.0.0.2", 8),
            ("172.16.0.2", 30),
            ("fd00::2", 64),
            ("fd00::2", 126),
        ] {
            assert_eq!(verdict(&welcome(address, prefix)), Ok(()), "{address}");
        }
        let nothing = Welcome {
            address: None,
            ..good
        };
        assert_eq!(verdict(&nothing), Err(Fault::Gateway(ip("192.168.30.1"))));
        let bridged = Welcome {
            gateway: None,
            ..nothing
        };
        assert_eq!(verdict(&bridged), Ok(()));
    }

    #[test]
    fn what_no_host_can_have_is_the_hubs_fault() {
        for (address, prefix) in [
            ("192.168.30.10", 0),
            ("10.1.2.3", 7),
            ("192.168.30.10", 31),
            ("192.168.30.10", 32),
            ("192.168.30.10", 255),
            ("192.168.30.0", 24),
            ("192.168.30.255", 24),
            ("0.0.0.0", 8),
            ("127.0.0.1", 8),
            ("169.254.7.7", 16),
            ("224.0.0.5", 24),
            ("255.255.255.255", 24),
            ("::1", 64),
            ("::", 64),
            ("fe80::2", 64),
            ("ff02::1", 64),
            ("fd00::", 64),
            ("fd00::2", 0),
            ("fd00::2", 127),
            ("::ffff:10.0.0.2", 104),
        ] {
            let fault = Fault::Address(ip(address), prefix);
            assert_eq!(verdict(&welcome(address, prefix)), Err(fault));
        }
    }

    #[test]
    fn the_mtu_and_the_gateway_must_fit_too() {
        for mtu in [0, 250, 575, 1501, 9000, u16::MAX] {
            let welcome = Welcome {
                mtu,
                ..welcome("10.9.0.2", 24)
            };
            assert_eq!(verdict(&welcome), Err(Fault::Mtu(mtu)));
        }
        for gateway in ["10.9.0.2", "10.9.1.1", "10.9.0.0", "10.9.0.255", "fd00::1"] {
            let welcome = Welcome {
                gateway: Some(ip(gateway)),
                ..welcome("10.9.0.2", 24)
            };
            assert_eq!(verdict(&welcome), Err(Fault::Gateway(ip(gateway))));
        }
    }

    #[test]
    fn the_way_to_the_internet_stays_the_machines_own() {
        for (address, prefix, inside) in [
            ("192.168.1.77", 24, "192.168.1.10"),
            ("192.200.0.1", 8, "192.168.1.10"),
            ("203.0.113.200", 24, "203.0.113.10"),
            ("2001:db8:1::77", 64, "2001:db8:1::5"),
        ] {
            let fault = Fault::Overlap(ip(address), prefix, ip(inside));
            assert!(fault.to_string().contains(inside));
            assert_eq!(verdict(&welcome(address, prefix)), Err(fault));
        }
    }

    proptest! {
        /// Whatever is taken, the underlay's addresses stay outside, and the address is none for many.
        #[test]
        fn nothing_dangerous_is_taken(address: IpAddr, prefix: u8, mtu: u16, underlay: Vec<IpAddr>) {
            let welcome = Welcome { hub_name: String::new(), address: Some((address, prefix)), gateway: None, mtu, features: 0 };
            if check(&welcome, underlay.iter().copied()).is_ok() {
                prop_assert!(prefix >= 8 && (576..=1500).contains(&mtu));
                prop_assert!(!address.is_multicast() && !address.is_loopback() && !address.is_unspecified());
                prop_assert!(underlay.iter().all(|it| !contains(address, prefix, *it)));
                prop_assert!(contains(address, prefix, address));
            }
        }
    }
}
