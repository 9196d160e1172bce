//! Packets as bytes: IPv4 (RFC 791) and IPv6 (RFC 8200) with UDP, TCP and ICMP inside. Checksums are verified on the way
//! in and computed on the way out. Remembers nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpProtocol, checksum};

use super::{Body, Packet, Quote};

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Neither IPv4 nor IPv6.
    #[error("not an IP packet")]
    Version,
    /// Shorter than its headers say.
    #[error("cut off: shorter than its headers say")]
    Truncated,
    /// A length in a header contradicts another.
    #[error("a header's length is impossible")]
    Length,
    /// Damaged on the way.
    #[error("wrong {0} checksum")]
    Checksum(&'static str),
}

impl Packet {
    /// The packet that `ip_packet` is; bytes behind its end are ignored.
    ///
    /// # Errors
    /// When it is cut off, contradictory or damaged.
    pub fn parse(ip_packet: &[u8]) -> Result<Self, ParseError> {
        parse(ip_packet, true)
    }

    /// The same as an interface hands it over that leaves checksums to others: those of UDP and TCP are not looked at.
    ///
    /// # Errors
    /// When it is cut off or contradictory.
    pub fn parse_offloaded(ip_packet: &[u8]) -> Result<Self, ParseError> {
        parse(ip_packet, false)
    }

    /// The real packet's bytes. What is larger than an IP packet can be gets a wrong length, as no link carries it.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.emit_ipv4(source, destination, &mut bytes);
            }
            (source, destination) => {
                let mapped = |ip| match ip {
                    IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip),
                    IpAddr::V6(ip) => ip,
                };
                self.emit_ipv6(mapped(source), mapped(destination), &mut bytes);
            }
        }
        bytes
    }

    fn emit_ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, out: &mut Vec<u8>) {
        let mut flags = u16::from(self.dont_fragment) << 14;
        let mut identification = 0;
        if let Body::Fragment {
            identification: id,
            offset,
            more,
            ..
        } = self.body
        {
            flags |= u16::from(more) << 13 | offset & 0x1fff;
            identification = low_half(id);
        }
        out.extend([0x45, 0]);
        out.extend(saturate(self.len()).to_be_bytes());
        out.extend(identification.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend([self.ttl, self.body.protocol(false), 0, 0]);
        out.extend(source.octets());
        out.extend(destination.octets());
        let checksum_of_body = self.body.emit(source.into(), destination.into(), out);
        if !self.dont_fragment && identification == 0 {
            // Someone may still fragment it: packets should differ in this field (RFC 6864, section 5.2).
            out[4..6].copy_from_slice(&checksum_of_body.to_be_bytes());
        }
        let sum = !checksum::data(&out[..20]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn emit_ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, out: &mut Vec<u8>) {
        out.extend([0x60, 0, 0, 0]);
        out.extend(saturate(self.len() - 40).to_be_bytes());
        out.extend([self.body.protocol(true), self.ttl]);
        out.extend(source.octets());
        out.extend(destination.octets());
        if let Body::Fragment {
            identification,
            offset,
            more,
            protocol,
            ..
        } = self.body
        {
            out.extend([protocol, 0]);
            out.extend((offset << 3 | u16::from(more)).to_be_bytes());
            out.extend(identification.to_be_bytes());
        }
        self.body.emit(source.into(), destination.into(), out);
    }
}

impl Body {
    /// The number in the IP header.
    pub(crate) const fn protocol(&self, ipv6: bool) -> u8 {
        match self {
            Self::Udp { .. } => UDP,
            Self::Tcp { .. } => TCP,
            Self::IcmpEcho { .. } | Self::IcmpError { .. } if ipv6 => ICMPV6,
            Self::IcmpEcho { .. } | Self::IcmpError { .. } => ICMP,
            Self::Fragment { .. } if ipv6 => IPV6_FRAGMENT,
            Self::Fragment { protocol, .. } | Self::Other { protocol, .. } => *protocol,
        }
    }

    /// Appends everything behind the IP header; gives the checksum that it wrote.
    fn emit(&self, source: IpAddr, destination: IpAddr, out: &mut Vec<u8>) -> u16 {
        let start = out.len();
        let at = match self {
            Self::Udp {
                source_port,
                destination_port,
                payload,
            } => {
                out.extend(source_port.to_be_bytes());
                out.extend(destination_port.to_be_bytes());
                out.extend(saturate(payload.len() + 8).to_be_bytes());
                out.extend([0, 0]);
                out.extend(payload);
                6
            }
            Self::Tcp {
                source_port,
                destination_port,
                segment,
            } => {
                out.extend(source_port.to_be_bytes());
                out.extend(destination_port.to_be_bytes());
                out.extend(segment);
                16
            }
            Self::IcmpEcho {
                request,
                identifier,
                sequence,
                payload,
            } => {
                let icmp_type = match (source.is_ipv6(), request) {
                    (false, true) => 8,
                    (false, false) => 0,
                    (true, true) => 128,
                    (true, false) => 129,
                };
                out.extend([icmp_type, 0, 0, 0]);
                out.extend(identifier.to_be_bytes());
                out.extend(sequence.to_be_bytes());
                out.extend(payload);
                2
            }
            Self::IcmpError {
                icmp_type,
                code,
                parameter,
                quote,
            } => {
                out.extend([*icmp_type, *code, 0, 0]);
                out.extend(parameter.to_be_bytes());
                out.extend(quote.as_bytes());
                2
            }
            Self::Fragment { payload, .. } | Self::Other { payload, .. } => {
                out.extend(payload);
                return 0;
            }
        };
        seal(
            self.protocol(source.is_ipv6()),
            source,
            destination,
            &mut out[start..],
            at,
        )
    }
}

/// Writes the checksum of `body` at `at`; a body too short to hold one stays as it is.
fn seal(protocol: u8, source: IpAddr, destination: IpAddr, body: &mut [u8], at: usize) -> u16 {
    let Some(place) = body.get_mut(at..at + 2) else {
        return 0;
    };
    place.fill(0);
    let mut sum = !sum(protocol, source, destination, body);
    if protocol == UDP && sum == 0 {
        // RFC 768: zero would mean "not computed".
        sum = 0xffff;
    }
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    sum
}

/// The ones' complement sum of `body` with its pseudo-header, which ICMP over IPv4 has not.
fn sum(protocol: u8, source: IpAddr, destination: IpAddr, body: &[u8]) -> u16 {
    let data = checksum::data(body);
    if protocol == ICMP {
        return data;
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let pseudo = checksum::pseudo_header(
        &source.into(),
        &destination.into(),
        IpProtocol::from(protocol),
        length,
    );
    checksum::combine(&[pseudo, data])
}

fn parse(ip_packet: &[u8], verify: bool) -> Result<Packet, ParseError> {
    match ip_packet.first().ok_or(ParseError::Truncated)? >> 4 {
        4 => parse_ipv4(ip_packet, verify),
        6 => parse_ipv6(ip_packet, verify),
        _ => Err(ParseError::Version),
    }
}

fn parse_ipv4(bytes: &[u8], verify: bool) -> Result<Packet, ParseError> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let (header_len, total_len) = (
        usize::from(header[0] & 0xf) * 4,
        usize::from(u16_at(header, 2)),
    );
    if header_len < 20 || total_len < header_len {
        return Err(ParseError::Length);
    }
    let body = bytes
        .get(header_len..total_len)
        .ok_or(ParseError::Truncated)?;
    if checksum::data(&bytes[..header_len]) != 0xffff {
        return Err(ParseError::Checksum("IPv4"));
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]).into();
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]).into();
    let flags = u16_at(header, 6);
    let (more, offset, protocol) = (flags & 0x2000 != 0, flags & 0x1fff, header[9]);
    let body = if more || offset != 0 {
        Body::Fragment {
            identification: u16_at(header, 4).into(),
            offset,
            more,
            protocol,
            payload: body.to_vec(),
        }
    } else {
        parse_body(protocol, source, destination, body, verify)?
    };
    Ok(Packet {
        source,
        destination,
        ttl: header[8],
        dont_fragment: flags & 0x4000 != 0,
        body,
    })
}

fn parse_ipv6(bytes: &[u8], verify: bool) -> Result<Packet, ParseError> {
    let header: &[u8; 40] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let body = bytes
        .get(40..40 + usize::from(u16_at(header, 4)))
        .ok_or(ParseError::Truncated)?;
    let address = |at: usize| -> IpAddr {
        let octets: [u8; 16] = header[at..at + 16]
            .try_into()
            .expect("16 bytes of a header of 40");
        Ipv6Addr::from(octets).into()
    };
    let (source, destination) = (address(8), address(24));
    let body = match (header[6], body.first_chunk::<8>()) {
        (IPV6_FRAGMENT, Some(fragment)) => Body::Fragment {
            identification: u32::from(u16_at(fragment, 4)) << 16 | u32::from(u16_at(fragment, 6)),
            offset: u16_at(fragment, 2) >> 3,
            more: fragment[3] & 1 != 0,
            protocol: fragment[0],
            payload: body[8..].to_vec(),
        },
        (protocol, _) => parse_body(protocol, source, destination, body, verify)?,
    };
    Ok(Packet {
        source,
        destination,
        ttl: header[7],
        dont_fragment: true,
        body,
    })
}

fn parse_body(
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
    verify: bool,
) -> Result<Body, ParseError> {
    let ipv6 = source.is_ipv6();
    match (protocol, ipv6) {
        (UDP, _) => parse_udp(source, destination, bytes, verify),
        (TCP, _) => parse_tcp(source, destination, bytes, verify),
        (ICMP, false) | (ICMPV6, true) => parse_icmp(protocol, source, destination, bytes),
        _ => Ok(Body::Other {
            protocol,
            payload: bytes.to_vec(),
        }),
    }
}

fn parse_udp(
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
    verify: bool,
) -> Result<Body, ParseError> {
    let header: &[u8; 8] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let length = usize::from(u16_at(header, 4));
    if length < 8 || length > bytes.len() {
        return Err(ParseError::Length);
    }
    let datagram = &bytes[..length];
    // RFC 768: zero means that the sender computed none; IPv6 forbids that (RFC 8200, section 8.1).
    let unchecked = u16_at(header, 6) == 0 && source.is_ipv4();
    if verify && !unchecked && sum(UDP, source, destination, datagram) != 0xffff {
        return Err(ParseError::Checksum("UDP"));
    }
    Ok(Body::Udp {
        source_port: u16_at(header, 0),
        destination_port: u16_at(header, 2),
        payload: datagram[8..].to_vec(),
    })
}

fn parse_tcp(
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
    verify: bool,
) -> Result<Body, ParseError> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || header_len > bytes.len() {
        return Err(ParseError::Length);
    }
    if verify && sum(TCP, source, destination, bytes) != 0xffff {
        return Err(ParseError::Checksum("TCP"));
    }
    let mut segment = bytes[4..].to_vec();
    segment[12..14].fill(0);
    Ok(Body::Tcp {
        source_port: u16_at(header, 0),
        destination_port: u16_at(header, 2),
        segment,
    })
}

fn parse_icmp(
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
) -> Result<Body, ParseError> {
    let header: &[u8; 8] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    if sum(protocol, source, destination, bytes) != 0xffff {
        return Err(ParseError::Checksum("ICMP"));
    }
    let echo = |request| Body::IcmpEcho {
        request,
        identifier: u16_at(header, 4),
        sequence: u16_at(header, 6),
        payload: bytes[8..].to_vec(),
    };
    let (icmp_type, code) = (header[0], header[1]);
    Ok(match (protocol, icmp_type, code) {
        (ICMP, 8, 0) | (ICMPV6, 128, 0) => echo(true),
        (ICMP, 0, 0) | (ICMPV6, 129, 0) => echo(false),
        (ICMP, 3 | 11 | 12, _) | (ICMPV6, 1..=4, _) => Body::IcmpError {
            icmp_type,
            code,
            parameter: u32::from(u16_at(header, 4)) << 16 | u32::from(u16_at(header, 6)),
            quote: Quote::from_bytes(bytes[8..].to_vec()),
        },
        _ => Body::Other {
            protocol,
            payload: bytes.to_vec(),
        },
    })
}

/// The big-endian field at `at`, which the fixed header holds.
const fn u16_at<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

const fn low_half(value: u32) -> u16 {
    let [_, _, high, low] = value.to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..200)
    }

    fn body() -> impl Strategy<Value = Body> {
        let ports = (any::<u16>(), any::<u16>());
        prop_oneof![
            (ports, payload()).prop_map(|((source_port, destination_port), payload)| Body::Udp {
                source_port,
                destination_port,
                payload
            }),
            (ports, payload()).prop_map(|((source_port, destination_port), payload)| {
                let mut segment = vec![0; 16];
                segment[8] = 5 << 4;
                segment.extend(payload);
                Body::Tcp {
                    source_port,
                    destination_port,
                    segment,
                }
            }),
            (any::<bool>(), ports, payload()).prop_map(
                |(request, (identifier, sequence), payload)| Body::IcmpEcho {
                    request,
                    identifier,
                    sequence,
                    payload
                }
            ),
            (1u8..=3, any::<u8>(), any::<u32>(), payload()).prop_map(
                |(icmp_type, code, parameter, quote)| Body::IcmpError {
                    icmp_type: if icmp_type == 1 { 3 } else { icmp_type },
                    code,
                    parameter,
                    quote: Quote::from_bytes(quote)
                }
            ),
            (
                1u32..0xffff,
                1u16..0x1fff,
                any::<bool>(),
                prop_oneof![Just(TCP), Just(UDP)],
                payload()
            )
                .prop_map(|(identification, offset, more, protocol, payload)| {
                    Body::Fragment {
                        identification,
                        offset,
                        more,
                        protocol,
                        payload,
                    }
                }),
            payload().prop_map(|payload| Body::Other {
                protocol: 132,
                payload
            }),
        ]
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let addresses = prop_oneof![
            any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (a.into(), b.into())),
        ];
        (addresses, any::<u8>(), any::<bool>(), body()).prop_map(
            |((source, destination), ttl, dont_fragment, mut body): ((IpAddr, IpAddr), _, _, _)| {
                if let (Body::IcmpError { icmp_type, .. }, false) = (&mut body, source.is_ipv6()) {
                    *icmp_type = if *icmp_type == 2 { 11 } else { 3 };
                }
                Packet {
                    source,
                    destination,
                    ttl,
                    dont_fragment: dont_fragment || source.is_ipv6(),
                    body,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed_back(packet in packet()) {
            let bytes = packet.emit();
            prop_assert_eq!(bytes.len(), packet.len());
            prop_assert_eq!(Packet::parse(&bytes), Ok(packet));
        }

        #[test]
        fn an_independent_decoder_agrees(packet in packet()) {
            let bytes = packet.emit();
            let sliced = SlicedPacket::from_ip(&bytes).expect("etherparse takes it");
            match sliced.net.expect("an IP packet") {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    prop_assert_eq!(IpAddr::from(header.source_addr()), packet.source);
                    prop_assert_eq!(IpAddr::from(header.destination_addr()), packet.destination);
                    prop_assert_eq!(header.ttl(), packet.ttl);
                    prop_assert_eq!(header.dont_fragment(), packet.dont_fragment);
                    prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                }
                NetSlice::Ipv6(ip) => {
                    prop_assert_eq!(IpAddr::from(ip.header().source_addr()), packet.source);
                    prop_assert_eq!(IpAddr::from(ip.header().destination_addr()), packet.destination);
                    prop_assert_eq!(ip.header().hop_limit(), packet.ttl);
                }
                NetSlice::Arp(_) => prop_assert!(false, "not ARP"),
            }
            match (sliced.transport, packet.flow(), packet.source, packet.destination) {
                (Some(TransportSlice::Udp(udp)), Some(flow), IpAddr::V4(a), IpAddr::V4(b)) => {
                    prop_assert_eq!((udp.source_port(), udp.destination_port()), (flow.source.port(), flow.destination.port()));
                    let right = udp.to_header().calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload());
                    prop_assert_eq!(Ok(udp.checksum()), right);
                }
                (Some(TransportSlice::Udp(udp)), Some(_), IpAddr::V6(a), IpAddr::V6(b)) => {
                    let right = udp.to_header().calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload());
                    prop_assert_eq!(Ok(udp.checksum()), right);
                }
                (Some(TransportSlice::Tcp(tcp)), Some(flow), IpAddr::V4(a), IpAddr::V4(b)) => {
                    prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (flow.source.port(), flow.destination.port()));
                    prop_assert_eq!(Ok(tcp.checksum()), tcp.calc_checksum_ipv4(a.octets(), b.octets()));
                }
                (Some(TransportSlice::Tcp(tcp)), Some(_), IpAddr::V6(a), IpAddr::V6(b)) => {
                    prop_assert_eq!(Ok(tcp.checksum()), tcp.calc_checksum_ipv6(a.octets(), b.octets()));
                }
                (Some(TransportSlice::Icmpv6(icmp)), _, IpAddr::V6(a), IpAddr::V6(b)) => {
                    prop_assert!(icmp.is_checksum_valid(a.octets(), b.octets()));
                }
                // It does not keep the parameter of errors.
                (Some(TransportSlice::Icmpv4(_)), None, _, _) => {}
                (Some(TransportSlice::Icmpv4(icmp)), Some(_), _, _) => {
                    let right = icmp.icmp_type().calc_checksum(icmp.payload());
                    prop_assert_eq!(icmp.checksum(), right);
                }
                (None, _, _, _) => prop_assert!(packet.flow().is_none(), "not seen by the decoder"),
                (other, _, _, _) => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn what_an_independent_encoder_writes_is_parsed(a: [u8; 4], b: [u8; 4], ttl: u8, ports: (u16, u16), payload in payload()) {
            let mut bytes = Vec::new();
            let builder = PacketBuilder::ipv4(a, b, ttl).udp(ports.0, ports.1);
            builder.write(&mut bytes, &payload).expect("small");
            let packet = Packet::parse(&bytes).expect("a good packet");
            prop_assert_eq!((packet.source, packet.destination), (a.into(), b.into()));
            let (source_port, destination_port) = ports;
            prop_assert_eq!(packet.body, Body::Udp { source_port, destination_port, payload });
        }

        #[test]
        fn a_flipped_bit_is_noticed(packet in packet(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = packet.emit();
            let covered = match packet.body {
                Body::Udp { .. } | Body::Tcp { .. } | Body::IcmpEcho { .. } => bytes.len(),
                Body::IcmpError { .. } | Body::Fragment { .. } | Body::Other { .. } => 20,
            };
            let at = at.index(covered);
            bytes[at] ^= 1 << bit;
            if !packet.is_ipv6() {
                // One bit may turn a checksum into "not computed" or the packet into a protocol that is not checked.
                let parsed = Packet::parse(&bytes);
                prop_assert!(parsed.is_err() || parsed.as_ref() != Ok(&packet));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0u8..16) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0xf;
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = (packet.emit(), packet.flow(), packet.to_string());
            }
        }

        #[test]
        fn damaged_packets_never_panic_and_parsed_ones_are_stable(packet in packet(), cut: prop::sample::Index, at: prop::sample::Index, byte: u8) {
            let mut bytes = packet.emit();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(parsed) = Packet::parse(&bytes) {
                prop_assert_eq!(Packet::parse(&parsed.emit()), Ok(parsed));
            }
        }
    }
}
