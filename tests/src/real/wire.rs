//! What ordinary programs see of a network: ICMP echo (RFC 792) and how an interface stands. Everything is to be called on
//! a thread on the machine that it is about.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};

/// Pings until there is an answer, for so long at most; whether one came.
///
/// # Panics
/// When the machine allows no pings.
#[must_use]
pub fn answers(target: Ipv4Addr, limit: Duration) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))
        .or_else(|_| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))
        .expect("the world's root may ping");
    socket.set_read_timeout(Some(RETRY)).expect("not zero");
    let address = SocketAddrV4::new(target, 0).into();
    let identifier: u16 = rand::random();
    let end = Instant::now() + limit;
    while Instant::now() < end {
        // While there is no way to the target it is as good as lost.
        let _ = socket.send_to(&echo_request(identifier), &address);
        let mut buffer = [0; 2048];
        while let Ok(length) = (&socket).read(&mut buffer) {
            if is_reply(&buffer[..length]) {
                return true;
            }
        }
    }
    false
}

/// type 8, code 0, checksum, identifier, sequence, text.
fn echo_request(identifier: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(PING_TEXT);
    let sum = packet.chunks(2).fold(0u32, |sum, pair| {
        let sum = sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        (sum & 0xffff) + (sum >> 16)
    });
    let [_, _, high, low] = (!sum).to_be_bytes();
    packet[2..4].copy_from_slice(&[high, low]);
    packet
}

/// A raw socket gives the reply with its IP header.
fn is_reply(packet: &[u8]) -> bool {
    let icmp = match packet.first() {
        Some(first) if first >> 4 == 4 => packet.get(usize::from(first & 15) * 4..),
        _ => Some(packet),
    };
    icmp.is_some_and(|icmp| icmp.first() == Some(&0) && icmp.get(8..) == Some(PING_TEXT))
}

/// What a ping has in it.
pub const PING_TEXT: &[u8] = b"Kuguri claims: nobody may read this ping";
const RETRY: Duration = Duration::from_millis(20);

/// An interface as it stands now: its index, whether it is up, its addresses; `None` when there is none of that name.
#[must_use]
pub fn interface(name: &str) -> Option<Interface> {
    let index = if_nametoindex(name).ok()?;
    let mut found = Interface {
        index,
        up: false,
        ipv4: Vec::new(),
        link_local: None,
    };
    for entry in getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == name)
    {
        found.up |= entry.flags.contains(InterfaceFlags::IFF_UP);
        let Some(address) = entry.address else {
            continue;
        };
        found
            .ipv4
            .extend(address.as_sockaddr_in().map(|v4| v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| v6.ip());
        found.link_local = found
            .link_local
            .or_else(|| v6.filter(Ipv6Addr::is_unicast_link_local));
    }
    Some(found)
}

/// How an interface stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel gives a new one to every new interface.
    pub index: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its IPv6 address of the link.
    pub link_local: Option<Ipv6Addr>,
}
