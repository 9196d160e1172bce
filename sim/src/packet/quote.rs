//! The head of a packet inside an ICMP error, as bytes, and the translation that a NAT owes it (RFC 5508, section 4):
//! the flow in it is rewritten in place and the checksums in it are adjusted, as far as they were quoted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use super::{Flow, Packet, Protocol};

/// An IP header and what was quoted behind it; perhaps less than the packet, perhaps not well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote(Vec<u8>);

impl Quote {
    /// As much of `packet` as an error quotes: the error stays within 576 bytes (RFC 1812, section 4.3.2.3), in IPv6
    /// within 1280 (RFC 4443, section 2.4).
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        let mut bytes = packet.emit();
        bytes.truncate(if packet.is_ipv6() {
            1280 - 48
        } else {
            576 - 28
        });
        Self(bytes)
    }

    /// A quote as it came in an error.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The two ends of the quoted packet, if as much was quoted and its protocol has them.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let layout = self.layout()?;
        let port = |at: Option<usize>| match at {
            Some(at) => Some(u16::from_be_bytes(*self.0.get(at..)?.first_chunk()?)),
            None => Some(0),
        };
        Some(Flow {
            protocol: layout.protocol,
            source: SocketAddr::new(
                self.address(layout.source.clone())?,
                port(layout.source_port)?,
            ),
            destination: SocketAddr::new(
                self.address(layout.destination.clone())?,
                port(layout.destination_port)?,
            ),
        })
    }

    /// Rewrites the sender of the quoted packet; nothing happens where no flow was quoted.
    pub fn set_source(&mut self, endpoint: SocketAddr) {
        if let Some(layout) = self.layout() {
            self.rewrite(&layout, layout.source.clone(), layout.source_port, endpoint);
        }
    }

    /// Rewrites the receiver of the quoted packet.
    pub fn set_destination(&mut self, endpoint: SocketAddr) {
        if let Some(layout) = self.layout() {
            let (address, port) = (layout.destination.clone(), layout.destination_port);
            self.rewrite(&layout, address, port, endpoint);
        }
    }

    fn layout(&self) -> Option<Layout> {
        let (header, protocol, source, destination) = match self.0.first()? >> 4 {
            4 => {
                let later_fragment =
                    u16::from_be_bytes(*self.0.get(6..)?.first_chunk()?) & 0x1fff != 0;
                let header = usize::from(self.0[0] & 0xf) * 4;
                (header >= 20 && !later_fragment).then_some((
                    header,
                    *self.0.get(9)?,
                    12..16,
                    16..20,
                ))?
            }
            6 => (40, *self.0.get(6)?, 8..24, 24..40),
            _ => return None,
        };
        let ends = |protocol, checksum, source_port, destination_port| Layout {
            protocol,
            source,
            destination,
            source_port,
            destination_port,
            checksum: header + checksum,
        };
        let (first, second) = (Some(header), Some(header + 2));
        // Enough must be quoted for the ports or the identifier.
        let icmp_type = *self.0.get(..header + 8)?.get(header)?;
        match (protocol, icmp_type) {
            (17, _) => Some(ends(Protocol::Udp, 6, first, second)),
            (6, _) => Some(ends(Protocol::Tcp, 16, first, second)),
            (1, 8) | (58, 128) => Some(ends(Protocol::Icmp, 2, Some(header + 4), None)),
            (1, 0) | (58, 129) => Some(ends(Protocol::Icmp, 2, None, Some(header + 4))),
            _ => None,
        }
    }

    fn address(&self, range: Range<usize>) -> Option<IpAddr> {
        let bytes = self.0.get(range)?;
        let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into()))
            .ok()
    }

    fn rewrite(
        &mut self,
        layout: &Layout,
        address: Range<usize>,
        port: Option<usize>,
        endpoint: SocketAddr,
    ) {
        match endpoint.ip() {
            IpAddr::V4(ip) if address.len() == 4 => {
                let covered = layout.protocol != Protocol::Icmp;
                self.replace(address.start, &ip.octets(), Some(10), covered, layout);
            }
            IpAddr::V6(ip) if address.len() == 16 => {
                self.replace(address.start, &ip.octets(), None, true, layout);
            }
            // A NAT does not change the family.
            IpAddr::V4(_) | IpAddr::V6(_) => return,
        }
        if let Some(port) = port {
            self.replace(port, &endpoint.port().to_be_bytes(), None, true, layout);
        }
    }

    /// Puts `new` at `at` and adjusts the IP header's checksum (`header`) and, if it is covered, the transport's.
    fn replace(
        &mut self,
        at: usize,
        new: &[u8],
        header: Option<usize>,
        covered: bool,
        layout: &Layout,
    ) {
        let Some(place) = self.0.get_mut(at..at + new.len()) else {
            return;
        };
        let old = place.to_vec();
        place.copy_from_slice(new);
        if let Some(header) = header {
            self.adjust(header, &old, new);
        }
        let unchecked = layout.protocol == Protocol::Udp
            && self.0.get(layout.checksum..layout.checksum + 2) == Some(&[0, 0]);
        if covered && !unchecked {
            self.adjust(layout.checksum, &old, new);
        }
    }

    /// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    fn adjust(&mut self, checksum: usize, old: &[u8], new: &[u8]) {
        let Some(place) = self.0.get_mut(checksum..checksum + 2) else {
            return;
        };
        let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let mut sum = word(place) ^ 0xffff;
        for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
            sum += (word(old) ^ 0xffff) + word(new);
        }
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let [_, _, high, low] = (sum ^ 0xffff).to_be_bytes();
        place.copy_from_slice(&[high, low]);
    }
}

/// Where things are in the quoted bytes.
struct Layout {
    protocol: Protocol,
    source: Range<usize>,
    destination: Range<usize>,
    source_port: Option<usize>,
    destination_port: Option<usize>,
    checksum: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Body;
    use super::*;

    fn endpoint(text: &str) -> SocketAddr {
        text.parse().expect("an endpoint")
    }

    /// What was quoted, whole, must be as if the rewritten packet had been quoted.
    fn check(packet: &Packet, source: SocketAddr, destination: SocketAddr) {
        let mut quote = Quote::of(packet);
        assert_eq!(quote.flow(), packet.flow());
        quote.set_source(source);
        quote.set_destination(destination);
        let mut rewritten = packet.clone();
        rewritten.set_source(source);
        rewritten.set_destination(destination);
        assert_eq!(quote.as_bytes(), rewritten.emit());
    }

    #[test]
    fn a_rewritten_quote_is_a_quote_of_the_rewritten_packet() {
        let (a, b) = (endpoint("10.0.0.2:1234"), endpoint("198.51.100.7:80"));
        let (c, d) = (endpoint("203.0.113.9:61000"), endpoint("198.51.100.8:443"));
        check(&Packet::udp(a, b, b"hello".to_vec()), c, d);
        let (v6, w6) = (
            endpoint("[2001:db8::1]:1234"),
            endpoint("[2001:db8::2]:5678"),
        );
        let (x6, y6) = (endpoint("[2001:db8::3]:1"), endpoint("[2001:db8::4]:2"));
        check(&Packet::udp(v6, w6, vec![1, 2, 3]), x6, y6);
        for (from, to, source, destination) in [(a, b, c, d), (v6, w6, x6, y6)] {
            for request in [true, false] {
                let body = Body::IcmpEcho {
                    request,
                    identifier: 9,
                    sequence: 1,
                    payload: vec![5; 9],
                };
                check(&Packet::new(from.ip(), to.ip(), body), source, destination);
            }
            let mut segment = vec![0; 36];
            segment[8] = 5 << 4;
            let body = Body::Tcp {
                source_port: from.port(),
                destination_port: to.port(),
                segment,
            };
            check(&Packet::new(from.ip(), to.ip(), body), source, destination);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0u8..8, protocol in 0usize..4) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0xf;
            }
            for at in [6, 9] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = [17, 6, 1, 58][protocol];
                }
            }
            let mut quote = Quote::from_bytes(bytes);
            let _ = quote.flow();
            quote.set_source(endpoint("203.0.113.9:61000"));
            quote.set_destination(endpoint("[2001:db8::3]:1"));
        }
    }
}
