//! DHCP messages: bytes ↔ values (RFC 2131, section 2; RFC 2132; RFC 3442), without memory.
//!
//! ```text
//!   op htype hlen hops │ xid │ secs flags │ ciaddr yiaddr siaddr giaddr │ chaddr 16 │ sname 64 │ file 128 │ cookie │ options
//! ```

use std::net::Ipv4Addr;

use crate::gateway::packet::Malformed;
use crate::wire::ethernet::MacAddr;

/// Kinds of messages (RFC 2132, section 9.6).
pub(super) const DISCOVER: u8 = 1;
pub(super) const OFFER: u8 = 2;
pub(super) const REQUEST: u8 = 3;
pub(super) const DECLINE: u8 = 4;
pub(super) const ACK: u8 = 5;
pub(super) const NAK: u8 = 6;
pub(super) const RELEASE: u8 = 7;
pub(super) const INFORM: u8 = 8;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) kind: u8,
    pub(super) xid: [u8; 4],
    pub(super) secs: [u8; 2],
    /// It cannot get a packet to its own address yet.
    pub(super) broadcast: bool,
    /// `ciaddr`: an address that it uses already.
    pub(super) own: Ipv4Addr,
    /// `giaddr`: it asks through another.
    pub(super) relay: Ipv4Addr,
    pub(super) mac: MacAddr,
    /// Option 61, or else nothing.
    pub(super) client: Vec<u8>,
    /// Option 12.
    pub(super) host_name: String,
    /// Option 50.
    pub(super) wanted: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
}

impl Question {
    /// The message that is the payload of a datagram to port 67.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, options) = bytes.split_first_chunk::<240>().ok_or(Malformed)?;
        let right = header[..3] == [1, 1, 6] && header[236..] == COOKIE;
        if !right {
            return Err(Malformed);
        }
        let address =
            |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        let mut question = Self {
            kind: 0,
            xid: [header[4], header[5], header[6], header[7]],
            secs: [header[8], header[9]],
            broadcast: header[10] & 0x80 != 0,
            own: address(12),
            relay: address(24),
            mac: MacAddr([
                header[28], header[29], header[30], header[31], header[32], header[33],
            ]),
            client: Vec::new(),
            host_name: String::new(),
            wanted: None,
            server: None,
        };
        question.take_options(options)?;
        if question.kind == 0 || question.mac.is_group() || question.mac == MacAddr([0; 6]) {
            return Err(Malformed);
        }
        Ok(question)
    }

    fn take_options(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        loop {
            let Some((&code, rest)) = bytes.split_first() else {
                return Ok(()); // An end that is missing is forgiven.
            };
            bytes = match code {
                0 => rest,
                255 => return Ok(()),
                _ => {
                    let (&length, rest) = rest.split_first().ok_or(Malformed)?;
                    let (value, rest) = rest
                        .split_at_checked(usize::from(length))
                        .ok_or(Malformed)?;
                    self.take_option(code, value)?;
                    rest
                }
            };
        }
    }

    fn take_option(&mut self, code: u8, value: &[u8]) -> Result<(), Malformed> {
        match code {
            12 => self.host_name = printable(value),
            50 => self.wanted = Some(address(value)?),
            53 => {
                self.kind = *value
                    .first()
                    .filter(|_| value.len() == 1)
                    .ok_or(Malformed)?
            }
            54 => self.server = Some(address(value)?),
            61 => self.client = value.to_vec(),
            _ => {}
        }
        Ok(())
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: u8,
    /// `yiaddr`.
    pub(super) address: Ipv4Addr,
    pub(super) options: Vec<(u8, Vec<u8>)>,
}

impl Answer {
    /// Its bytes, as the answer to `question`.
    pub(super) fn bytes(&self, question: &Question) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&question.xid);
        bytes[10] = if question.broadcast { 0x80 } else { 0 };
        if matches!(self.kind, ACK) {
            bytes[12..16].copy_from_slice(&question.own.octets());
        }
        bytes[16..20].copy_from_slice(&self.address.octets());
        bytes[28..34].copy_from_slice(&question.mac.0);
        bytes[236..240].copy_from_slice(&COOKIE);
        bytes.extend([53, 1, self.kind]);
        for (code, value) in &self.options {
            // RFC 3396: what is longer comes in pieces.
            for piece in value.chunks(255) {
                bytes.push(*code);
                bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
                bytes.extend(piece);
            }
        }
        // RFC 6842: who says who it is hears it again.
        if !question.client.is_empty() {
            bytes.push(61);
            bytes.push(u8::try_from(question.client.len()).unwrap_or(u8::MAX));
            bytes.extend(question.client.iter().take(255));
        }
        bytes.push(255);
        if bytes.len() < SMALLEST {
            bytes.resize(SMALLEST, 0);
        }
        bytes
    }
}

/// Option 121: each network by the bytes that its prefix needs, and the router there (RFC 3442).
pub(super) fn classless_routes(routes: &[(Ipv4Addr, u8)], router: Ipv4Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (network, prefix) in routes {
        let needed = usize::from(prefix.div_ceil(8)).min(4);
        bytes.push(*prefix);
        bytes.extend(&network.octets()[..needed]);
        bytes.extend(router.octets());
    }
    bytes
}

fn address(value: &[u8]) -> Result<Ipv4Addr, Malformed> {
    let octets: [u8; 4] = value.try_into().map_err(|_| Malformed)?;
    Ok(octets.into())
}

/// A name from outside, fit for a log.
fn printable(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_NAME)
        .collect()
}

/// RFC 2131, section 3.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Bytes of a BOOTP message, which some clients want at least (RFC 951).
const SMALLEST: usize = 300;
/// Characters of a host's name.
const LONGEST_NAME: usize = 63;
