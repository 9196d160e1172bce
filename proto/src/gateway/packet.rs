//! IP packets inside Ethernet frames: bytes ↔ values, without memory (RFC 791, RFC 8200).
//!
//! ```text
//!   destination MAC  source MAC  type │ IPv4 or IPv6 header (options and extensions skipped) │ payload
//!   ◀──────────── 14 ───────────────▶   ◀────────────── 20 or 40 in what we write ─────────▶
//! ```
//!
//! Everything here is checked before it is believed: lengths, versions, header checksums. It knows no flow and no rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ethernet::MacAddr;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// EtherType of IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub(super) const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub(super) const IPV6: u16 = 0x86dd;
/// Protocol numbers (IANA).
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// A frame or packet that is not what its headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet")]
pub(super) struct Malformed;

/// An Ethernet frame taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) to: MacAddr,
    pub(super) from: MacAddr,
    pub(super) kind: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = frame.split_first_chunk::<ETHERNET>().ok_or(Malformed)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, high, low] = *header;
        Ok(Self {
            to: MacAddr([a, b, c, d, e, f]),
            from: MacAddr([g, h, i, j, k, l]),
            kind: u16::from_be_bytes([high, low]),
            payload,
        })
    }
}

/// An IP packet taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What the payload is: [`TCP`] and so on.
    pub(super) protocol: u8,
    /// Time to live, or hop limit.
    pub(super) ttl: u8,
    pub(super) dont_fragment: bool,
    /// When this is a part of a packet.
    pub(super) part: Option<Part>,
    pub(super) payload: &'a [u8],
    /// Header and payload, without what Ethernet has padded: what an ICMP error quotes.
    pub(super) whole: &'a [u8],
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) ident: u32,
    /// In bytes.
    pub(super) offset: usize,
    pub(super) more: bool,
}

impl<'a> Packet<'a> {
    /// The packet in a frame of that type; `None` when the type is no IP.
    pub(super) fn parse(kind: u16, payload: &'a [u8]) -> Option<Result<Self, Malformed>> {
        match kind {
            IPV4 => Some(Self::parse_v4(payload)),
            IPV6 => Some(Self::parse_v6(payload)),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Malformed)?;
        let header_len = usize::from(header[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < 20 || total < header_len {
            return Err(Malformed);
        }
        let whole = bytes.get(..total).ok_or(Malformed)?;
        let (head, payload) = whole.split_at(header_len);
        if fold(sum(head)) != 0xffff {
            return Err(Malformed);
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let (offset, more) = (usize::from(fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
        Ok(Self {
            source: v4(&header[12..16])?,
            destination: v4(&header[16..20])?,
            protocol: header[9],
            ttl: header[8],
            dont_fragment: fragment & 0x4000 != 0,
            part: (offset != 0 || more).then(|| Part {
                ident: u32::from(u16::from_be_bytes([header[4], header[5]])),
                offset,
                more,
            }),
            payload,
            whole,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 {
            return Err(Malformed);
        }
        let whole = bytes.get(..40 + length).ok_or(Malformed)?;
        let mut packet = Self {
            source: v6(&header[8..24])?,
            destination: v6(&header[24..40])?,
            protocol: header[6],
            ttl: header[7],
            dont_fragment: true,
            part: None,
            payload: &whole[40..],
            whole,
        };
        packet.skip_extensions()?;
        Ok(packet)
    }

    /// Hop-by-hop and destination options say nothing to us; routing headers are refused (RFC 5095).
    fn skip_extensions(&mut self) -> Result<(), Malformed> {
        for _ in 0..MAX_EXTENSIONS {
            match (self.protocol, self.part) {
                (0 | 60, None) => {
                    let &[next, units] = self.payload.first_chunk().ok_or(Malformed)?;
                    let length = 8 + usize::from(units) * 8;
                    self.payload = self.payload.get(length..).ok_or(Malformed)?;
                    self.protocol = next;
                }
                (43, _) => return Err(Malformed),
                (44, None) => {
                    let &[next, _, high, low, a, b, c, d] =
                        self.payload.first_chunk().ok_or(Malformed)?;
                    let offset = u16::from_be_bytes([high, low]);
                    self.part = Some(Part {
                        ident: u32::from_be_bytes([a, b, c, d]),
                        offset: usize::from(offset & !7),
                        more: offset & 1 != 0,
                    });
                    self.payload = &self.payload[8..];
                    self.protocol = next;
                }
                _ => return Ok(()),
            }
        }
        Err(Malformed)
    }
}

/// What stands before the payload of a packet that we send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) to: MacAddr,
    pub(super) from: MacAddr,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// For IPv4: what fragments of one packet share.
    pub(super) ident: u16,
    pub(super) dont_fragment: bool,
}

impl Header {
    /// Bytes of the frame before the payload.
    pub(super) const fn len(&self) -> usize {
        ETHERNET + if self.source.is_ipv4() { 20 } else { 40 }
    }

    /// Writes it to the beginning of `frame`, whose rest is the payload.
    pub(super) fn write(&self, frame: &mut [u8], part: Option<Part>) {
        frame[0..6].copy_from_slice(&self.to.0);
        frame[6..12].copy_from_slice(&self.from.0);
        let length = frame.len();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
                self.write_v4(&mut frame[ETHERNET..], source, destination, length, part);
            }
            (source, destination) => {
                frame[12..14].copy_from_slice(&IPV6.to_be_bytes());
                self.write_v6(&mut frame[ETHERNET..], source, destination, length);
            }
        }
    }

    fn write_v4(
        &self,
        bytes: &mut [u8],
        source: Ipv4Addr,
        destination: Ipv4Addr,
        frame_len: usize,
        part: Option<Part>,
    ) {
        let total = low16(frame_len - ETHERNET);
        let mut fragment = if self.dont_fragment { 0x4000 } else { 0 };
        if let Some(Part { offset, more, .. }) = part {
            fragment = low16(offset / 8) | if more { 0x2000 } else { 0 };
        }
        bytes[0..2].copy_from_slice(&[0x45, 0]);
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.ident.to_be_bytes());
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[8..12].copy_from_slice(&[self.ttl, self.protocol, 0, 0]);
        bytes[12..16].copy_from_slice(&source.octets());
        bytes[16..20].copy_from_slice(&destination.octets());
        let checksum = !fold(sum(&bytes[..20]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn write_v6(&self, bytes: &mut [u8], source: IpAddr, destination: IpAddr, frame_len: usize) {
        let length = low16(frame_len - ETHERNET - 40);
        bytes[0..4].copy_from_slice(&[0x60, 0, 0, 0]);
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes[6..8].copy_from_slice(&[self.protocol, self.ttl]);
        bytes[8..24].copy_from_slice(&as_v6(source).octets());
        bytes[24..40].copy_from_slice(&as_v6(destination).octets());
    }

    /// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
    pub(super) fn pseudo_sum(&self, length: usize) -> u64 {
        pseudo_sum(self.source, self.destination, self.protocol, length)
    }
}

/// The sum of the pseudo-header of a payload of `length` bytes.
pub(super) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum(&source.octets()) + sum(&destination.octets())
        }
        (source, destination) => sum(&as_v6(source).octets()) + sum(&as_v6(destination).octets()),
    };
    addresses + u64::from(protocol) + u64::try_from(length).unwrap_or(u64::MAX >> 1)
}

/// Whether the checksum in a payload is right, together with its pseudo-header.
pub(super) fn verify(packet: &Packet<'_>) -> bool {
    let pseudo = pseudo_sum(
        packet.source,
        packet.destination,
        packet.protocol,
        packet.payload.len(),
    );
    fold(pseudo + sum(packet.payload)) == 0xffff
}

/// The sum of 16-bit words (RFC 1071), not folded yet: 32 bits at a time, so the compiler can take several at once.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    for (at, byte) in rest.iter().enumerate() {
        total += u64::from(*byte) << (24 - 8 * at);
    }
    // Whole words were counted as 32 bits: fold their halves together.
    (total >> 32) + (total & 0xffff_ffff)
}

/// The sum folded to 16 bits, not yet complemented.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The lowest 16 bits; callers have bounded the number.
pub(super) fn low16(number: usize) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(u16::MAX)
}

fn v4(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| Malformed)?;
    Ok(IpAddr::V4(bytes.into()))
}

fn v6(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| Malformed)?;
    Ok(IpAddr::V6(bytes.into()))
}

const fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Extension headers of one packet that are looked at.
const MAX_EXTENSIONS: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr};

    use super::*;

    fn header(source: [u8; 4], destination: [u8; 4], ttl: u8) -> Header {
        Header {
            to: MacAddr([2; 6]),
            from: MacAddr([4; 6]),
            source: IpAddr::from(source),
            destination: IpAddr::from(destination),
            protocol: UDP,
            ttl,
            ident: 7,
            dont_fragment: true,
        }
    }

    proptest! {
        #[test]
        fn smoltcp_reads_what_is_written(source: [u8; 4], destination: [u8; 4], ttl in 1u8.., payload: Vec<u8>) {
            let header = header(source, destination, ttl);
            let mut frame = vec![0; header.len()];
            frame.extend(&payload);
            header.write(&mut frame, None);
            let packet = Ipv4Packet::new_checked(&frame[ETHERNET..]).expect("whole");
            let repr = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default());
            prop_assert_eq!(repr, Ok(Ipv4Repr {
                src_addr: source.into(),
                dst_addr: destination.into(),
                next_header: IpProtocol::Udp,
                payload_len: payload.len(),
                hop_limit: ttl,
            }));
            let parsed = Packet::parse(IPV4, &frame[ETHERNET..]).expect("IP").expect("right");
            prop_assert_eq!(parsed.payload, payload);
            prop_assert!(parsed.part.is_none() && parsed.dont_fragment);
        }

        #[test]
        fn any_bytes_are_read_or_refused(v4: bool, bytes: Vec<u8>) {
            let kind = if v4 { IPV4 } else { IPV6 };
            if let Some(Ok(packet)) = Packet::parse(kind, &bytes) {
                prop_assert!(packet.whole.len() <= bytes.len());
                prop_assert!(packet.payload.len() < packet.whole.len());
            }
        }

        #[test]
        fn the_sum_is_that_of_rfc_1071(bytes: Vec<u8>) {
            let slow: u64 = bytes
                .chunks(2)
                .map(|pair| u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0)))
                .sum();
            prop_assert_eq!(fold(sum(&bytes)), fold(slow));
        }
    }
}
