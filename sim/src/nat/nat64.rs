//! IPv6-only hosts to IPv4 and back (RFC 6146, as far as datagrams, segments and echo go): the same packet with the other
//! family's header. Remembers nothing.
//!
//! ```text
//!   2001:db8::2 ─► 64:ff9b::c633:6401        203.0.113.7 ─► 198.51.100.1
//!   2001:db8::2 ◄─ 64:ff9b::c633:6401        203.0.113.7 ◄─ 198.51.100.1
//! ```

use std::net::{IpAddr, SocketAddr};

use super::config::Nat64Prefix;
use crate::packet::{Body, Flow, IcmpError, Packet};

/// The flow of a packet from inside as it goes on, if it goes to IPv4 by this prefix.
pub(super) fn to_ipv4(prefix: Nat64Prefix, flow: &Flow) -> Option<Flow> {
    let embedded = prefix.extract(flow.destination.ip())?;
    Some(Flow {
        destination: SocketAddr::new(embedded.into(), flow.destination.port()),
        ..*flow
    })
}

/// The packet with IPv4 ends; `source` is its outside endpoint.
pub(super) fn leave(mut packet: Packet, source: SocketAddr, destination: IpAddr) -> Packet {
    // RFC 7915, section 5.1: what every IPv6 link carries may be fragmented.
    packet.dont_fragment = packet.len() - HEADERS_DIFFER > 1260;
    packet.set_source(source);
    packet.destination = destination;
    packet
}

/// The packet with IPv6 ends; `inside` is for whom it is.
pub(super) fn enter(prefix: Nat64Prefix, mut packet: Packet, inside: SocketAddr) -> Option<Packet> {
    packet.source = embed(prefix, packet.source)?;
    packet.set_destination(inside);
    packet.dont_fragment = true;
    Some(packet)
}

/// An error from IPv4 about a packet of this host to `remote`, as the host understands it (RFC 7915, section 4.2). What it
/// quotes is made anew: both ends and nothing more.
pub(super) fn error(
    prefix: Nat64Prefix,
    packet: &Packet,
    inside: SocketAddr,
    remote: SocketAddr,
) -> Option<Packet> {
    let Body::IcmpError {
        icmp_type, code, ..
    } = packet.body
    else {
        return None;
    };
    let mtu = packet.reported_mtu().map(|mtu| mtu + HEADERS_DIFFER);
    let error = match (icmp_type, code, mtu) {
        (3, 4, Some(mtu)) => IcmpError::TooBig {
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        },
        (3, 3, _) => IcmpError::PortUnreachable,
        (3, 9 | 10 | 13, _) => IcmpError::Prohibited,
        (3, ..) => IcmpError::HostUnreachable,
        (11, ..) => IcmpError::TimeExceeded,
        _ => return None,
    };
    let far = SocketAddr::new(embed(prefix, remote.ip())?, remote.port());
    let about = Packet::udp(inside, far, Vec::new());
    about.error(embed(prefix, packet.source)?, error)
}

fn embed(prefix: Nat64Prefix, address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(prefix.embed(address).into()),
        IpAddr::V6(_) => None,
    }
}

/// An IPv6 header is longer by as much.
const HEADERS_DIFFER: usize = 20;
