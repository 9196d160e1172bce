//! What travels through the pretended Internet: one IP packet as a value, with the fields that NATs, firewalls and links
//! look at. Sizes are those of the real packet, and [`Packet::parse`] and [`Packet::emit`] are the real bytes, so that the
//! models run in memory and between real programs alike.
//!
//! ```text
//!   IPv4 20 or IPv6 40 │ UDP 8 │ payload
//!                      │ TCP ports 4 │ the segment behind them, as it is
//!                      │ ICMP 8 │ echo payload, or the quoted head of another packet
//! ```
//!
//! Not kept: IPv4 options, type of service and flow label. Packets with IPv6 extension headers and fragments pass as
//! opaque bytes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

mod bytes;
mod fragment;
mod offload;
mod quote;

pub use bytes::ParseError;
pub use fragment::Reassembler;
pub use quote::Quote;

/// One IP packet, IPv4 or IPv6 by its addresses, which are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it, as its last NAT says.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// How many routers may still forward it (IPv6: hop limit).
    pub ttl: u8,
    /// No router may fragment it; always so in IPv6.
    pub dont_fragment: bool,
    /// What it carries.
    pub body: Body,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A datagram (RFC 768).
    Udp {
        /// The sender's port.
        source_port: u16,
        /// The receiver's port.
        destination_port: u16,
        /// What the application sent.
        payload: Vec<u8>,
    },
    /// A TCP segment (RFC 9293).
    Tcp {
        /// The sender's port.
        source_port: u16,
        /// The receiver's port.
        destination_port: u16,
        /// Everything behind the ports, from the sequence number on. The checksum in it is written by [`Packet::emit`] alone
        /// and read as zero.
        segment: Vec<u8>,
    },
    /// ICMP echo (RFC 792, RFC 4443).
    IcmpEcho {
        /// A request; else a reply.
        request: bool,
        /// Tells one program's pings from another's; NATs translate it like a port (RFC 5508).
        identifier: u16,
        /// Counts the pings.
        sequence: u16,
        /// Comes back unchanged.
        payload: Vec<u8>,
    },
    /// An ICMP error about another packet.
    IcmpError {
        /// The type, of ICMP or ICMPv6 according to the addresses.
        icmp_type: u8,
        /// The code.
        code: u8,
        /// Bytes 4 to 7 of the ICMP header: the next hop's MTU, or a pointer.
        parameter: u32,
        /// The head of the packet that the error is about.
        quote: Quote,
    },
    /// One piece of a fragmented packet.
    Fragment {
        /// The same in all its pieces; 16 bits in IPv4.
        identification: u32,
        /// Where it belongs, in units of 8 bytes.
        offset: u16,
        /// It is not the last one.
        more: bool,
        /// What the whole packet carries, as an IP protocol number.
        protocol: u8,
        /// The piece.
        payload: Vec<u8>,
    },
    /// Anything else.
    Other {
        /// The IP protocol number.
        protocol: u8,
        /// Everything behind the IP header.
        payload: Vec<u8>,
    },
}

/// The protocols that a NAT translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// UDP, by its ports.
    Udp,
    /// TCP, by its ports.
    Tcp,
    /// ICMP echo, by its identifier.
    Icmp,
}

/// The two ends of a packet, as a NAT sees them. An ICMP echo identifier stands in the port of the side that asks
/// (the source of a request, the destination of a reply); the other side's port is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The protocol.
    pub protocol: Protocol,
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
}

impl Packet {
    /// A datagram with the usual TTL that may not be fragmented. Both addresses must be of one family.
    #[must_use]
    pub const fn udp(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Self {
        let body = Body::Udp {
            source_port: source.port(),
            destination_port: destination.port(),
            payload,
        };
        Self::new(source.ip(), destination.ip(), body)
    }

    /// A packet with the usual TTL that may not be fragmented.
    #[must_use]
    pub const fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            source,
            destination,
            ttl: DEFAULT_TTL,
            dont_fragment: true,
            body,
        }
    }

    /// The same packet with another TTL, for openers that shall die on the way.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Whether it is an IPv6 packet.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Its size in bytes, IP header included: what an MTU limits.
    #[must_use]
    pub fn len(&self) -> usize {
        let header = if self.is_ipv6() { 40 } else { 20 };
        header
            + match &self.body {
                Body::Udp { payload, .. } | Body::IcmpEcho { payload, .. } => 8 + payload.len(),
                Body::Tcp { segment, .. } => 4 + segment.len(),
                Body::IcmpError { quote, .. } => 8 + quote.as_bytes().len(),
                Body::Fragment { payload, .. } if self.is_ipv6() => 8 + payload.len(),
                Body::Fragment { payload, .. } | Body::Other { payload, .. } => payload.len(),
            }
    }

    /// Never: there is always a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Its two ends, if it is of a protocol that has them.
    #[must_use]
    pub const fn flow(&self) -> Option<Flow> {
        let (protocol, source_port, destination_port) = match self.body {
            Body::Udp {
                source_port,
                destination_port,
                ..
            } => (Protocol::Udp, source_port, destination_port),
            Body::Tcp {
                source_port,
                destination_port,
                ..
            } => (Protocol::Tcp, source_port, destination_port),
            Body::IcmpEcho {
                request: true,
                identifier,
                ..
            } => (Protocol::Icmp, identifier, 0),
            Body::IcmpEcho { identifier, .. } => (Protocol::Icmp, 0, identifier),
            Body::IcmpError { .. } | Body::Fragment { .. } | Body::Other { .. } => return None,
        };
        Some(Flow {
            protocol,
            source: SocketAddr::new(self.source, source_port),
            destination: SocketAddr::new(self.destination, destination_port),
        })
    }

    /// What a NAT does on the way out.
    pub const fn set_source(&mut self, endpoint: SocketAddr) {
        self.source = endpoint.ip();
        match &mut self.body {
            Body::Udp { source_port, .. } | Body::Tcp { source_port, .. } => {
                *source_port = endpoint.port();
            }
            Body::IcmpEcho {
                request: true,
                identifier,
                ..
            } => *identifier = endpoint.port(),
            Body::IcmpEcho { .. }
            | Body::IcmpError { .. }
            | Body::Fragment { .. }
            | Body::Other { .. } => {}
        }
    }

    /// What a NAT does on the way in.
    pub const fn set_destination(&mut self, endpoint: SocketAddr) {
        self.destination = endpoint.ip();
        match &mut self.body {
            Body::Udp {
                destination_port, ..
            }
            | Body::Tcp {
                destination_port, ..
            } => *destination_port = endpoint.port(),
            Body::IcmpEcho {
                request: false,
                identifier,
                ..
            } => *identifier = endpoint.port(),
            Body::IcmpEcho { .. }
            | Body::IcmpError { .. }
            | Body::Fragment { .. }
            | Body::Other { .. } => {}
        }
    }

    /// The next hop's MTU, if this is an error that tells one (RFC 1191, RFC 8201).
    #[must_use]
    pub fn reported_mtu(&self) -> Option<usize> {
        let Body::IcmpError {
            icmp_type,
            code,
            parameter,
            ..
        } = self.body
        else {
            return None;
        };
        match (self.is_ipv6(), icmp_type, code) {
            (false, 3, 4) => usize::try_from(parameter & 0xffff).ok(),
            (true, 2, _) => usize::try_from(parameter).ok(),
            _ => None,
        }
    }

    /// The error that `reporter` sends about this packet; `None` where none may be sent: about another error
    /// (RFC 1122, section 3.2.2), or when the reporter has no address of the packet's family.
    #[must_use]
    pub fn error(&self, reporter: IpAddr, error: IcmpError) -> Option<Self> {
        let about_an_error = matches!(self.body, Body::IcmpError { .. });
        if about_an_error || reporter.is_ipv6() != self.is_ipv6() {
            return None;
        }
        let (icmp_type, code, parameter) = error.on_the_wire(self.is_ipv6());
        let quote = Quote::of(self);
        let body = Body::IcmpError {
            icmp_type,
            code,
            parameter,
            quote,
        };
        Some(Self::new(reporter, self.source, body))
    }
}

/// The errors that routers report here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Larger than the next hop's MTU, which is told.
    TooBig {
        /// In bytes.
        mtu: u16,
    },
    /// Its TTL ran out.
    TimeExceeded,
    /// Nobody is there.
    HostUnreachable,
    /// Nobody listens there.
    PortUnreachable,
    /// A rule forbids it.
    Prohibited,
}

impl IcmpError {
    /// Type, code and parameter (RFC 792, RFC 1191, RFC 1812; RFC 4443).
    fn on_the_wire(self, ipv6: bool) -> (u8, u8, u32) {
        match (self, ipv6) {
            (Self::TooBig { mtu }, false) => (3, 4, mtu.into()),
            (Self::TooBig { mtu }, true) => (2, 0, mtu.into()),
            (Self::TimeExceeded, false) => (11, 0, 0),
            (Self::TimeExceeded, true) => (3, 0, 0),
            (Self::HostUnreachable, false) => (3, 1, 0),
            (Self::HostUnreachable, true) => (1, 3, 0),
            (Self::PortUnreachable, false) => (3, 3, 0),
            (Self::PortUnreachable, true) => (1, 4, 0),
            (Self::Prohibited, false) => (3, 13, 0),
            (Self::Prohibited, true) => (1, 1, 0),
        }
    }
}

impl fmt::Display for Packet {
    /// One short line: protocol, ends, size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination, len) = (self.source, self.destination, self.len());
        match (&self.body, self.flow()) {
            (_, Some(flow)) => write!(
                f,
                "{} {} > {} {len} B",
                flow.protocol, flow.source, flow.destination
            ),
            (
                Body::IcmpError {
                    icmp_type, code, ..
                },
                None,
            ) => {
                write!(
                    f,
                    "icmp error {icmp_type}/{code} {source} > {destination} {len} B"
                )
            }
            (Body::Fragment { protocol, .. }, None) => {
                write!(f, "fragment of {protocol} {source} > {destination} {len} B")
            }
            (Body::Other { protocol, .. }, None) => {
                write!(f, "protocol {protocol} {source} > {destination} {len} B")
            }
            (Body::Udp { .. } | Body::Tcp { .. } | Body::IcmpEcho { .. }, None) => Ok(()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmp => "icmp",
        })
    }
}

/// What common systems send with.
pub const DEFAULT_TTL: u8 = 64;
