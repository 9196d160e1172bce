//! A gateway's server for PCP (RFC 6887) and NAT-PMP (RFC 6886): answers datagrams to its inside address, port 5351. Knows
//! the wire formats and what it promised to whom; mappings are made by who asks it.
//!
//! ```text
//!   NAT-PMP  version 0 │ op │ 0 0 │ inside port │ outside port │ lifetime             12 bytes, answer 16 (8 before the ports)
//!   PCP      version 2 │ op │ 0 0 │ lifetime │ client address 16 │ nonce 12 │ protocol │ 0 0 0 │ ports │ address 16
//! ```
//!
//! UPnP is not here: it needs HTTP over TCP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::config::{MappingAnswer, PortMapping};
use super::mapping::{Grant, Mappings};
use crate::packet::Protocol;

/// Where gateways listen.
pub(super) const PORT: u16 = 5351;

/// The server.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Since when it remembers: clients see by it that mappings are lost.
    epoch: Option<Instant>,
    /// The secrets of PCP's clients: nobody else changes their mappings.
    nonces: BTreeMap<(Protocol, SocketAddr), Nonce>,
}

type Nonce = [u8; 12];

/// A wish, as both protocols have it.
struct Wish {
    protocol: Protocol,
    inside: SocketAddr,
    suggested: Option<u16>,
    lifetime: Duration,
}

/// Why there is no mapping; each protocol has its number for it.
#[derive(Clone, Copy)]
enum No {
    Authorized,
    Resources,
}

impl Server {
    /// Everything is forgotten, as after a restart.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The answer to a datagram from a host inside, if it gets one.
    pub(super) fn answer(
        &mut self,
        config: &PortMapping,
        mappings: &mut Mappings,
        client: SocketAddr,
        request: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.epoch.get_or_insert(now);
        match (request.first()?, request.get(1)?) {
            // Answers to somebody else.
            (_, 128..) => None,
            (0, _) if config.nat_pmp => self.nat_pmp(config, mappings, client, request, now),
            (2, _) if config.pcp => self.pcp(config, mappings, client, request, now),
            (_, &op) if config.pcp => Some(self.pcp_refusal(op, UNSUPPORTED_VERSION, now)),
            (_, &op) if config.nat_pmp => Some(self.pmp_head(op, UNSUPPORTED_VERSION, now)),
            _ => None,
        }
    }

    // ---- NAT-PMP

    fn nat_pmp(
        &mut self,
        config: &PortMapping,
        mappings: &mut Mappings,
        client: SocketAddr,
        request: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let op = request[1];
        let protocol = match op {
            0 => return Some(self.pmp_address(config, mappings, now)),
            1 => Protocol::Udp,
            2 => Protocol::Tcp,
            _ => return Some(self.pmp_head(op, PMP_UNSUPPORTED_OPCODE, now)),
        };
        let inside_port = u16_at(request, 4)?;
        let wish = Wish {
            protocol,
            inside: SocketAddr::new(client.ip(), inside_port),
            suggested: u16_at(request, 6).filter(|&port| port != 0),
            lifetime: Duration::from_secs(u32_at(request, 8)?.into()),
        };
        let (result, port, lifetime) = match self.fulfil(config, mappings, &wish, now) {
            Ok((outside, lifetime)) => (SUCCESS, outside.port(), lifetime),
            Err(No::Authorized) => (NOT_AUTHORIZED, 0, 0),
            Err(No::Resources) => (PMP_NO_RESOURCES, 0, 0),
        };
        let mut answer = self.pmp_head(op, result, now);
        answer.extend(inside_port.to_be_bytes());
        answer.extend(port.to_be_bytes());
        answer.extend(lifetime.to_be_bytes());
        Some(answer)
    }

    fn pmp_address(&self, config: &PortMapping, mappings: &Mappings, now: Instant) -> Vec<u8> {
        let outside = mappings.outside().iter().find(|address| address.is_ipv4());
        let Some(&IpAddr::V4(address)) = outside else {
            return self.pmp_head(0, PMP_NETWORK_FAILURE, now);
        };
        let mut answer = self.pmp_head(0, SUCCESS, now);
        answer.extend(said(config, address).octets());
        answer
    }

    fn pmp_head(&self, op: u8, result: u8, now: Instant) -> Vec<u8> {
        let mut answer = vec![0, 128 | op, 0, result];
        answer.extend(self.seconds(now).to_be_bytes());
        answer
    }

    // ---- PCP

    fn pcp(
        &mut self,
        config: &PortMapping,
        mappings: &mut Mappings,
        client: SocketAddr,
        request: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let op = request[1];
        let claimed: &[u8; 16] = request.get(8..)?.first_chunk()?;
        if to_16(client.ip()) != *claimed {
            return Some(self.pcp_refusal(op, PCP_ADDRESS_MISMATCH, now));
        }
        match op {
            0 => Some(self.pcp_head(op, SUCCESS, 0, now)),
            1 => Some(self.pcp_map(config, mappings, client, request, now)),
            _ => Some(self.pcp_refusal(op, PCP_UNSUPPORTED_OPCODE, now)),
        }
    }

    fn pcp_map(
        &mut self,
        config: &PortMapping,
        mappings: &mut Mappings,
        client: SocketAddr,
        request: &[u8],
        now: Instant,
    ) -> Vec<u8> {
        let refuse = |server: &Self, result| {
            let mut answer = server.pcp_refusal(1, result, now);
            answer.extend(request.get(24..60).unwrap_or_default());
            answer
        };
        let Some(map) = request.get(24..60).and_then(<[u8]>::first_chunk::<36>) else {
            return self.pcp_refusal(1, PCP_MALFORMED, now);
        };
        if request.get(60).is_some_and(|&option| option < 128) {
            return refuse(self, PCP_UNSUPPORTED_OPTION);
        }
        let protocol = match map[12] {
            17 => Protocol::Udp,
            6 => Protocol::Tcp,
            _ => return refuse(self, PCP_UNSUPPORTED_PROTOCOL),
        };
        let port = |at| u16::from_be_bytes([map[at], map[at + 1]]);
        let wish = Wish {
            protocol,
            inside: SocketAddr::new(client.ip(), port(16)),
            suggested: Some(port(18)).filter(|&port| port != 0),
            lifetime: Duration::from_secs(u32_at(request, 4).unwrap_or(0).into()),
        };
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&map[..12]);
        let key = (protocol, wish.inside);
        if self.nonces.get(&key).is_some_and(|known| *known != nonce) {
            return refuse(self, NOT_AUTHORIZED);
        }
        match self.fulfil(config, mappings, &wish, now) {
            Ok((outside, lifetime)) => {
                self.note_nonce(key, nonce, lifetime);
                let mut answer = self.pcp_head(1, SUCCESS, lifetime, now);
                answer.extend(&map[..18]);
                answer.extend(outside.port().to_be_bytes());
                answer.extend(to_16(outside.ip()));
                answer
            }
            Err(No::Authorized) => refuse(self, NOT_AUTHORIZED),
            Err(No::Resources) => refuse(self, PCP_NO_RESOURCES),
        }
    }

    fn note_nonce(&mut self, key: (Protocol, SocketAddr), nonce: Nonce, lifetime: u32) {
        if lifetime == 0 {
            self.nonces.remove(&key);
            return;
        }
        if self.nonces.len() >= MOST_CLIENTS {
            self.nonces.pop_first();
        }
        self.nonces.insert(key, nonce);
    }

    fn pcp_refusal(&self, op: u8, result: u8, now: Instant) -> Vec<u8> {
        self.pcp_head(op, result, REFUSAL_HOLDS, now)
    }

    fn pcp_head(&self, op: u8, result: u8, lifetime: u32, now: Instant) -> Vec<u8> {
        let mut answer = vec![2, 128 | op, 0, result];
        answer.extend(lifetime.to_be_bytes());
        answer.extend(self.seconds(now).to_be_bytes());
        answer.extend([0; 12]);
        answer
    }

    // ---- both

    /// Makes, prolongs or ends the mapping: what it says of it, and the lifetime in seconds.
    fn fulfil(
        &self,
        config: &PortMapping,
        mappings: &mut Mappings,
        wish: &Wish,
        now: Instant,
    ) -> Result<(SocketAddr, u32), No> {
        if config.answer == MappingAnswer::Refuses {
            return Err(No::Authorized);
        }
        let lifetime = wish.lifetime.min(config.longest);
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        if seconds == 0 {
            mappings.revoke(wish.protocol, wish.inside);
            return Ok((SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), 0));
        }
        let grant = Grant {
            protocol: wish.protocol,
            inside: wish.inside,
            suggested: wish.suggested,
            until: now.checked_add(lifetime).unwrap_or(now),
        };
        let mut outside = mappings.grant(&grant, now).map_err(|_| No::Resources)?;
        match config.answer {
            MappingAnswer::Works | MappingAnswer::Refuses => {}
            MappingAnswer::MapsNothing => mappings.revoke(wish.protocol, wish.inside),
            MappingAnswer::WrongPort => outside.set_port(outside.port() ^ 1),
            MappingAnswer::WrongAddress => {
                if let IpAddr::V4(address) = outside.ip() {
                    outside.set_ip(said(config, address).into());
                }
            }
        }
        Ok((outside, seconds))
    }

    fn seconds(&self, now: Instant) -> u32 {
        let epoch = self
            .epoch
            .map_or(Duration::ZERO, |epoch| now.saturating_duration_since(epoch));
        u32::try_from(epoch.as_secs()).unwrap_or(u32::MAX)
    }
}

/// The outside address as it names it.
fn said(config: &PortMapping, address: Ipv4Addr) -> Ipv4Addr {
    match config.answer {
        MappingAnswer::WrongAddress => Ipv4Addr::from_bits(address.to_bits() ^ 1),
        MappingAnswer::Works
        | MappingAnswer::Refuses
        | MappingAnswer::MapsNothing
        | MappingAnswer::WrongPort => address,
    }
}

fn to_16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Both protocols.
const SUCCESS: u8 = 0;
const UNSUPPORTED_VERSION: u8 = 1;
const NOT_AUTHORIZED: u8 = 2;
/// RFC 6886, section 3.5.
const PMP_NETWORK_FAILURE: u8 = 3;
const PMP_NO_RESOURCES: u8 = 4;
const PMP_UNSUPPORTED_OPCODE: u8 = 5;
/// RFC 6887, section 7.4.
const PCP_MALFORMED: u8 = 3;
const PCP_UNSUPPORTED_OPCODE: u8 = 4;
const PCP_UNSUPPORTED_OPTION: u8 = 5;
const PCP_NO_RESOURCES: u8 = 8;
const PCP_UNSUPPORTED_PROTOCOL: u8 = 9;
const PCP_ADDRESS_MISMATCH: u8 = 12;
/// How many seconds a refusal holds.
const REFUSAL_HOLDS: u32 = 30;
/// More hosts with more ports than a home has.
const MOST_CLIENTS: usize = 4096;

#[cfg(test)]
mod tests;
