//! Where the headers of a frame are, when it is TCP or UDP over IP; VLAN tags may stand before.
//!
//! ```text
//!   0         14 (18, 22)     + 20…60 or 40       + 20…60 or 8         end      (Ethernet's padding)
//!   │ Ethernet │ IPv4 or IPv6 │    TCP or UDP      │     payload      │
//!              network        transport            payload            end
//! ```
//!
//! Fragments of IP, IPv6 with extension headers and everything else have no layout here: nobody may cut or join them.

use crate::wire::ethernet;

/// The offsets of a frame's parts, in bytes from its start; each within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// IPv4 or IPv6.
    pub version: Version,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the IP header starts.
    pub network: usize,
    /// Where the TCP or UDP header starts.
    pub transport: usize,
    /// Where its payload starts.
    pub payload: usize,
    /// Where the IP packet ends.
    pub end: usize,
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// What IP carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// As IP names it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where in its header the checksum is.
    #[must_use]
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl Layout {
    /// The layout of a frame; `None` when it is not TCP or UDP over IP, or its lengths contradict each other.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (network, version) = network(frame)?;
        let (transport, end, protocol) = match version {
            Version::V4 => ipv4(frame, network)?,
            Version::V6 => ipv6(frame, network)?,
        };
        let protocol = Protocol::of(protocol)?;
        let header = match protocol {
            Protocol::Tcp => usize::from(frame.get(transport + 12)? >> 4) * 4,
            Protocol::Udp => UDP_HEADER,
        };
        let shortest = match protocol {
            Protocol::Tcp => TCP_HEADER,
            Protocol::Udp => UDP_HEADER,
        };
        let payload = transport + header;
        (header >= shortest && payload <= end && end <= frame.len()).then_some(Self {
            version,
            protocol,
            network,
            transport,
            payload,
            end,
        })
    }
}

/// Behind the addresses, and behind VLAN tags (IEEE 802.1Q and 802.1ad), of which there may be two.
fn network(frame: &[u8]) -> Option<(usize, Version)> {
    let mut at = ethernet::HEADER - 2;
    for _ in 0..=MAX_TAGS {
        match word(frame, at)? {
            0x0800 => return Some((at + 2, Version::V4)),
            0x86dd => return Some((at + 2, Version::V6)),
            0x8100 | 0x88a8 => at += 4,
            _ => return None,
        }
    }
    None
}

fn ipv4(frame: &[u8], network: usize) -> Option<(usize, usize, u8)> {
    let first = *frame.get(network)?;
    let header = usize::from(first & 0xf) * 4;
    let length = usize::from(word(frame, network + 2)?);
    let fragment = word(frame, network + 6)? & 0x3fff;
    if first >> 4 != 4 || header < IPV4_HEADER || fragment != 0 {
        return None;
    }
    Some((network + header, network + length, *frame.get(network + 9)?))
}

fn ipv6(frame: &[u8], network: usize) -> Option<(usize, usize, u8)> {
    let first = *frame.get(network)?;
    let length = usize::from(word(frame, network + 4)?);
    let transport = network + IPV6_HEADER;
    (first >> 4 == 6).then_some((transport, transport + length, *frame.get(network + 6)?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}

/// Bytes of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// VLAN tags that are looked behind.
const MAX_TAGS: usize = 2;
/// Bytes of all headers together at most: Ethernet with two tags, IPv4 and TCP with all options.
pub const MAX_HEADERS: usize = 22 + 60 + 60;

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;
    use proptest::prelude::*;

    use super::super::split::tests::{tagged, tcp4, udp6};
    use super::*;

    #[test]
    fn frames_of_all_kinds_have_the_layout_that_they_are_made_with() {
        let tcp = Layout::parse(&tcp4(&[1; 10], 0)).expect("TCP");
        assert_eq!(
            (tcp.network, tcp.transport, tcp.payload, tcp.end),
            (14, 34, 66, 76)
        );
        let tagged = Layout::parse(&tagged(&tcp4(&[1; 10], 0))).expect("TCP");
        assert_eq!((tagged.network, tagged.end), (18, 80));
        let udp = Layout::parse(&udp6(&[1; 10])).expect("UDP");
        assert_eq!((udp.transport, udp.payload, udp.end), (54, 62, 72));
    }

    #[test]
    fn padding_is_behind_the_end_and_fragments_have_no_layout() {
        let mut frame = tcp4(&[1; 10], 0);
        frame.extend([0; 20]);
        assert_eq!(Layout::parse(&frame).map(|layout| layout.end), Some(76));
        frame[20] = 0x20;
        assert_eq!(Layout::parse(&frame), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_have_offsets_in_order_within_them(mut bytes: Vec<u8>, like in 0..3_usize) {
            let start = [tcp4(&[], 0), udp6(&[]), vec![]][like].clone();
            for (to, from) in bytes.iter_mut().zip(&start[..start.len().min(14)]) {
                *to = *from;
            }
            if let Some(layout) = Layout::parse(&bytes) {
                prop_assert!(layout.network < layout.transport && layout.transport < layout.payload);
                prop_assert!(layout.payload <= layout.end && layout.end <= bytes.len());
                prop_assert!(layout.payload <= MAX_HEADERS);
            }
        }

        #[test]
        fn agrees_with_another_decoder(payload in prop::collection::vec(any::<u8>(), 0..100), which in 0..3_usize) {
            let frame = [tcp4(&payload, 3), udp6(&payload), tagged(&tcp4(&payload, 3))][which].clone();
            let layout = Layout::parse(&frame).expect("well made");
            let other = SlicedPacket::from_ethernet(&frame).expect("well made");
            let transport = other.transport.expect("TCP or UDP");
            let found = match &transport {
                etherparse::TransportSlice::Tcp(tcp) => tcp.payload(),
                etherparse::TransportSlice::Udp(udp) => udp.payload(),
                etherparse::TransportSlice::Icmpv4(_)
                | etherparse::TransportSlice::Icmpv6(_)
                | etherparse::TransportSlice::Igmp(_) => &[],
            };
            prop_assert_eq!(&frame[layout.payload..layout.end], found);
        }
    }
}
