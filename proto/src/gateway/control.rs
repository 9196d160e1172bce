//! ICMP and ICMPv6 messages: bytes ↔ values (RFC 792, RFC 4443), for errors and echo.

use std::net::IpAddr;

use super::out::{Out, put_checksum};
use super::packet::{ICMP, ICMPV6, Malformed, Packet};
use crate::wire::ethernet::MacAddr;

/// Why a packet did not get through, in both versions' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No way to the network.
    Network,
    /// No way to the host, or no answer.
    Host,
    /// Nobody at that port.
    Port,
    /// Forbidden.
    Prohibited,
    /// Too large for a path with this MTU.
    TooLarge(u16),
    /// It has passed too many hosts.
    TimeExceeded,
    /// A fragment's packet was not completed in time.
    Other(u8, u8),
}

impl Unreachable {
    /// Type, code and the last two bytes of the header (RFC 1191).
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (3, 0, 0),
            Self::Host => (3, 1, 0),
            Self::Port => (3, 3, 0),
            Self::Prohibited => (3, 13, 0),
            Self::TooLarge(mtu) => (3, 4, u32::from(mtu)),
            Self::TimeExceeded => (11, 0, 0),
            Self::Other(kind, code) => (kind, code, 0),
        }
    }

    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (1, 0, 0),
            Self::Host => (1, 3, 0),
            Self::Port => (1, 4, 0),
            Self::Prohibited => (1, 1, 0),
            Self::TooLarge(mtu) => (2, 0, u32::from(mtu)),
            Self::TimeExceeded => (3, 0, 0),
            Self::Other(kind, code) => (kind, code, 0),
        }
    }

    /// What an error that the host's kernel got means.
    #[must_use]
    pub const fn from_wire(v6: bool, kind: u8, code: u8, mtu: u16) -> Self {
        match (v6, kind, code) {
            (false, 3, 0) | (true, 1, 0) => Self::Network,
            (false, 3, 1) | (true, 1, 3) => Self::Host,
            (false, 3, 3) | (true, 1, 4) => Self::Port,
            (false, 3, 9 | 10 | 13) | (true, 1, 1) => Self::Prohibited,
            (false, 3, 4) | (true, 2, _) => Self::TooLarge(mtu),
            (false, 11, 0) | (true, 3, 0) => Self::TimeExceeded,
            _ => Self::Other(kind, code),
        }
    }
}

/// Sends an error about a packet, from `source`, to the station that sent it.
pub(super) fn send_error(
    out: &mut Out,
    to: MacAddr,
    source: IpAddr,
    station: IpAddr,
    error: Unreachable,
    quote: &[u8],
) {
    let v4 = station.is_ipv4();
    let (kind, code, rest) = if v4 { error.v4() } else { error.v6() };
    // RFC 1812, section 4.3.2.3, and RFC 4443, section 3: as much of the packet as fits.
    let most = if v4 { QUOTE_V4 } else { QUOTE_V6 };
    let quote = quote.get(..most).unwrap_or(quote);
    let protocol = if v4 { ICMP } else { ICMPV6 };
    let header = out.header(to, source, station, protocol);
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    finish(&header, &mut message, v4);
    out.send(&header, &message);
}

/// An echo message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo<'a> {
    pub(super) request: bool,
    pub(super) ident: u16,
    pub(super) sequence: u16,
    pub(super) data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// The echo message in a packet; `None` when it is another message.
    pub(super) fn parse(packet: &Packet<'a>) -> Result<Option<Self>, Malformed> {
        let bytes = packet.payload;
        let header: &[u8; 8] = bytes.first_chunk().ok_or(Malformed)?;
        let whole = if packet.protocol == ICMP {
            super::packet::fold(super::packet::sum(bytes)) == 0xffff
        } else {
            super::packet::verify(packet)
        };
        if !whole {
            return Err(Malformed);
        }
        let request = match (packet.protocol, header[0], header[1]) {
            (ICMP, 8, 0) | (ICMPV6, 128, 0) => true,
            (ICMP, 0, 0) | (ICMPV6, 129, 0) => false,
            _ => return Ok(None),
        };
        Ok(Some(Self {
            request,
            ident: u16::from_be_bytes([header[4], header[5]]),
            sequence: u16::from_be_bytes([header[6], header[7]]),
            data: &bytes[8..],
        }))
    }

    /// The message's bytes; its checksum is not there yet.
    pub(super) fn bytes(&self, v4: bool) -> Vec<u8> {
        let kind = match (v4, self.request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend(self.ident.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.data);
        bytes
    }

    /// Sends it to a station.
    pub(super) fn send(&self, out: &mut Out, to: MacAddr, source: IpAddr, station: IpAddr) {
        let v4 = station.is_ipv4();
        let protocol = if v4 { ICMP } else { ICMPV6 };
        let mut header = out.header(to, source, station, protocol);
        header.dont_fragment = false;
        let mut message = self.bytes(v4);
        finish(&header, &mut message, v4);
        out.send(&header, &message);
    }
}

/// The checksum; only IPv6's covers the addresses.
fn finish(header: &super::packet::Header, message: &mut [u8], v4: bool) {
    if v4 {
        let checksum = !super::packet::fold(super::packet::sum(message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    } else {
        put_checksum(header, message, 2);
    }
}

/// Bytes of the packet that an error quotes: the whole error has at most 576.
const QUOTE_V4: usize = 548;
/// The same: at most 1280.
const QUOTE_V6: usize = 1232;
