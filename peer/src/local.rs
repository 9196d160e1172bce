//! The machine's own addresses: what a peer on the same network can reach us at (host candidates, RFC 8445 section
//! 5.1.1.1), and word from the system when they change.
//!
//! Left out: loopback (unless there is nothing else), link-local IPv6 (its scope means nothing to others), interfaces
//! of our own and of containers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::watch::watch;

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    interface: String,
    loopback: bool,
    address: IpAddr,
}

/// The addresses that others may reach `port` at, but those of the interface `card`. Sorted; none when the system does
/// not say.
#[must_use]
pub fn addresses(port: u16, card: Option<&str>) -> Vec<SocketAddr> {
    let all = getifaddrs().map_or_else(|_| Vec::new(), |found| found.filter_map(own).collect());
    choose(all, card)
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

/// Something comes out whenever the addresses may have changed, until the receiver is dropped.
#[must_use]
pub fn changes() -> mpsc::Receiver<()> {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut notices = Notices::new();
        loop {
            tokio::select! {
                () = notices.next() => {}
                () = tell.closed() => return,
            }
            // Full: the last word has not been heard yet, and says the same.
            let _ = tell.try_send(());
        }
    });
    told
}

/// Word of changes from the system; without it, a look every few seconds.
#[derive(Debug)]
struct Notices {
    from: Option<AsyncFd<OwnedFd>>,
}

impl Notices {
    fn new() -> Self {
        let notices = listen().and_then(watch);
        if let Err(error) = &notices {
            tracing::debug!(%error, "no notices of address changes; looking every few seconds");
        }
        Self { from: notices.ok() }
    }

    /// Waits until addresses may have changed.
    async fn next(&mut self) {
        let Some(notices) = &self.from else {
            return tokio::time::sleep(UNTOLD).await;
        };
        // Notices come in bursts: the first one says when to look, the pause lets the rest come.
        let seen = match tokio::time::timeout(TOLD, notices.readable()).await {
            Ok(Ok(mut ready)) => {
                tokio::time::sleep(SETTLE).await;
                drain(notices);
                ready.clear_ready();
                true
            }
            Ok(Err(_)) => false,
            Err(_elapsed) => true,
        };
        if !seen {
            self.from = None;
        }
    }
}

fn own(found: InterfaceAddress) -> Option<Own> {
    if !found.flags.contains(InterfaceFlags::IFF_UP) {
        return None;
    }
    let address = found.address?;
    let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => IpAddr::V4(v4.ip()),
        (None, Some(v6)) => IpAddr::V6(v6.ip()),
        (None, None) => return None,
    };
    Some(Own {
        interface: found.interface_name,
        loopback: found.flags.contains(InterfaceFlags::IFF_LOOPBACK),
        address,
    })
}

fn choose(all: Vec<Own>, card: Option<&str>) -> Vec<IpAddr> {
    let (loopback, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|own| own.loopback);
    let mut chosen = distinct(others.into_iter().filter(|own| offered(own, card)));
    if chosen.is_empty() {
        chosen = distinct(loopback.into_iter());
    }
    chosen
}

fn distinct(own: impl Iterator<Item = Own>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = own.map(|own| own.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn offered(own: &Own, card: Option<&str>) -> bool {
    let link_local = match own.address {
        IpAddr::V4(v4) => v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    let container = CONTAINERS
        .iter()
        .any(|prefix| own.interface.starts_with(prefix));
    !link_local && !container && card != Some(own.interface.as_str())
}

fn listen() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
    Ok(fd)
}

/// What the notices say does not matter: the addresses are read again whole.
fn drain(notices: &AsyncFd<OwnedFd>) {
    let mut buffer = [0; 8192];
    loop {
        match recv(notices.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            // Some were lost because they were too many, which says the same as they would have.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Interfaces of containers and virtual machines, whose addresses are the same on many machines and lead nowhere, and other
/// programs' virtual LAN cards, whose addresses lead into a virtual network.
const CONTAINERS: [&str; 8] = [
    "docker", "br-", "veth", "virbr", "cni", "podman", "lxcbr", "kuguri",
];
/// Between looks when the system gives no notices.
const UNTOLD: Duration = Duration::from_secs(3);
/// Between looks when it does: notices can be lost.
const TOLD: Duration = Duration::from_secs(30);
/// How long notices of one change are let come.
const SETTLE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: &str, address: &str) -> Own {
        Own {
            interface: interface.to_owned(),
            loopback: interface == "lo",
            address: address.parse().expect("an address"),
        }
    }

    #[test]
    fn only_addresses_that_lead_to_us_are_offered() {
        let all = vec![
            own("lo", "127.0.0.1"),
            own("eth0", "fe80::1"),
            own("eth0", "2001:db8::1"),
            own("eth0", "192.0.2.1"),
            own("eth0.5", "192.0.2.1"),
            own("docker0", "172.17.0.1"),
            own("br-12ab", "172.18.0.1"),
            own("lan0", "192.168.30.2"),
            own("kuguri1", "192.168.30.3"),
        ];
        let expected =
            ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().expect("one"));
        assert_eq!(choose(all, Some("lan0")), expected);
    }

    #[test]
    fn loopback_is_offered_when_there_is_nothing_else() {
        let all = vec![own("lo", "127.0.0.1"), own("veth1", "10.0.0.1")];
        let expected = "127.0.0.1".parse::<IpAddr>().expect("one");
        assert_eq!(choose(all, None), [expected]);
    }

    #[test]
    fn the_system_tells_some_address() {
        assert!(addresses(9, None).iter().all(|address| address.port() == 9));
    }
}
