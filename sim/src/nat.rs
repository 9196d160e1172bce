//! A NAT, or without mapping a firewall, between an inside and an outside: decides for each packet whether it passes, and
//! how it looks then (RFC 4787, RFC 5382, RFC 5508). Knows packets and flows; neither links nor where anything is, so the
//! same model runs in the pretended network and as a box between real programs.
//!
//! ```text
//!   inside                    NAT                    outside
//!   10.0.0.2:4000 ── outbound: source rewritten ──► 203.0.113.7:4000
//!   10.0.0.2:4000 ◄─ inbound: destination rewritten ─ who is admitted
//!   10.0.0.3:5000 ── hairpin: 203.0.113.7:4000 ──┐
//!   10.0.0.2:4000 ◄──────────────────────────────┘
//! ```
//!
//! It does not touch the TTL: that is the router's around it. Fragments are put together first; protocols without ports
//! are dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::packet::{Body, Flow, IcmpError, Packet, Protocol, Reassembler};

mod config;
mod filtering;
mod guard;
mod mapping;
mod nat64;
mod portmap;
mod ports;
mod table;

pub use config::{
    Allocation, Behavior, Fragments, Hairpin, IcmpErrors, IdleTimers, Limits, MappingAnswer,
    Nat64Prefix, NatConfig, NatConfigError, NotAPrefix, Overflow, Pooling, PortBlock, PortConfig,
    PortMapping, Preset, Quirks, Refresh, State, Timers, UnknownName, Unsolicited,
};

use mapping::Mappings;

/// A NAT at work.
#[derive(Debug)]
pub struct Nat {
    mappings: Mappings,
    pieces: Reassembler,
    server: portmap::Server,
    drops: BTreeMap<DropReason, u64>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes to the other side, so.
    Forward(Packet),
    /// It came from inside and goes back inside, so.
    Hairpin(Packet),
    /// It ends here.
    Drop(DropReason),
    /// It ends here, and this goes back to where it came from.
    Reply(Packet),
    /// It is a piece of a packet that is not whole yet.
    Held,
}

/// Why a NAT dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// From outside to an endpoint that is nobody's.
    NoMapping,
    /// From outside, by somebody who may not send to this mapping.
    Filtered,
    /// From inside to an outside endpoint of this NAT, which does not hairpin.
    Hairpin,
    /// A limit of entries is reached.
    TableFull,
    /// More new sessions in a second than it bears.
    TooManyNew,
    /// From outside, by somebody who sent what nobody waited for.
    BlockedSource,
    /// All outside ports are taken, or the only acceptable one.
    NoPort,
    /// It has no outside address of the packet's family.
    NoOutsideAddress,
    /// A fragment, which it does not put together.
    Fragment,
    /// An ICMP error, which it lets nobody have.
    IcmpError,
    /// A protocol that cannot be translated.
    Protocol,
    /// An ICMP error about a packet that did not pass here.
    StrayError,
}

/// What a NAT did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Mappings made.
    pub created: u64,
    /// Mappings, and with per-session state sessions, that their timers ended.
    pub expired: u64,
    /// Entries that made room for others.
    pub evicted: u64,
    /// The most mappings at any time.
    pub most_mappings: usize,
    /// The most sessions at any time.
    pub most_sessions: usize,
}

/// One live mapping, as [`Nat::mappings`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapped {
    /// The protocol.
    pub protocol: Protocol,
    /// The inside endpoint.
    pub inside: SocketAddr,
    /// The outside endpoint.
    pub outside: SocketAddr,
}

impl Nat {
    /// A NAT with these outside addresses (a firewall needs none). Everything random in it comes from `seed`.
    ///
    /// # Errors
    /// When options contradict each other.
    pub fn new(config: NatConfig, outside: Vec<IpAddr>, seed: u64) -> Result<Self, NatConfigError> {
        Ok(Self {
            mappings: Mappings::new(config, outside, seed)?,
            pieces: Reassembler::default(),
            server: portmap::Server::default(),
            drops: BTreeMap::new(),
        })
    }

    /// A packet from inside.
    pub fn outbound(&mut self, packet: Packet, now: Instant) -> Verdict {
        if self.config().is_open() {
            return Verdict::Forward(packet);
        }
        self.mappings.expire(now);
        let packet = match self.whole(packet, now) {
            Ok(packet) => packet,
            Err(verdict) => return verdict,
        };
        let verdict = match (&packet.body, packet.flow()) {
            (_, Some(flow)) if self.is_outside(flow.destination.ip()) => {
                self.hairpin(packet, &flow, now)
            }
            (_, Some(flow)) => self.leave(packet, &flow, now),
            (Body::IcmpError { .. }, None) => self.error_outbound(packet),
            (_, None) => Err(DropReason::Protocol),
        };
        self.conclude(verdict)
    }

    /// A packet from outside.
    pub fn inbound(&mut self, packet: Packet, now: Instant) -> Verdict {
        if self.config().is_open() {
            return Verdict::Forward(packet);
        }
        self.mappings.expire(now);
        let packet = match self.whole(packet, now) {
            Ok(packet) => packet,
            Err(verdict) => return verdict,
        };
        let verdict = match (&packet.body, packet.flow()) {
            (_, Some(flow)) => self.enter(packet, &flow, now),
            (Body::IcmpError { .. }, None) => self.error_inbound(packet).map(Verdict::Forward),
            (_, None) => Err(DropReason::Protocol),
        };
        self.conclude(verdict)
    }

    /// The answer to a packet from inside to the gateway itself, if it has a service for it: PCP and NAT-PMP.
    pub fn serve(&mut self, packet: &Packet, now: Instant) -> Option<Packet> {
        let config = self.config().port_mapping.clone()?;
        let (Body::Udp { payload, .. }, Some(flow)) = (&packet.body, packet.flow()) else {
            return None;
        };
        if flow.destination.port() != portmap::PORT {
            return None;
        }
        self.mappings.expire(now);
        let answer = self
            .server
            .answer(&config, &mut self.mappings, flow.source, payload, now)?;
        Some(Packet::udp(flow.destination, flow.source, answer))
    }

    /// Forgets what is due. Nobody must call it: every packet does the same first.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.mappings.expire(now);
    }

    /// When something may be due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.mappings.next_due()
    }

    /// Forgets every mapping and all that was granted, as a reboot does; the epoch of PCP and NAT-PMP begins anew.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.server.reset();
        self.pieces = Reassembler::default();
    }

    /// Every mapping gets another outside port, while those who may send to it stay the same.
    pub fn rebind(&mut self, now: Instant) {
        self.mappings.rebind_all(now);
    }

    /// Another behaviour from now on, with nothing remembered.
    ///
    /// # Errors
    /// When options contradict each other.
    pub fn replace(&mut self, config: NatConfig, seed: u64) -> Result<(), NatConfigError> {
        *self = Self::new(config, self.outside().to_vec(), seed)?;
        Ok(())
    }

    /// What it was told.
    #[must_use]
    pub const fn config(&self) -> &NatConfig {
        self.mappings.config()
    }

    /// Its outside addresses.
    #[must_use]
    pub fn outside(&self) -> &[IpAddr] {
        self.mappings.outside()
    }

    /// The mappings that live, the oldest first; those that are due count until the next packet or
    /// [`Self::handle_timeout`].
    pub fn mappings(&self) -> impl Iterator<Item = Mapped> + '_ {
        self.mappings
            .iter()
            .map(|(protocol, inside, outside)| Mapped {
                protocol,
                inside,
                outside,
            })
    }

    /// How many mappings live.
    #[must_use]
    pub fn mapping_count(&self) -> usize {
        self.mappings.len()
    }

    /// How many pairs of a mapping and a remote endpoint are remembered.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.mappings.sessions()
    }

    /// What it did so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        Counters {
            created: self.mappings.created,
            expired: self.mappings.expired,
            evicted: self.mappings.evicted,
            most_mappings: self.mappings.most,
            most_sessions: self.mappings.most_sessions,
        }
    }

    /// How many packets it dropped, by reason.
    #[must_use]
    pub const fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    /// The packet, once all pieces of it are here.
    fn whole(&mut self, packet: Packet, now: Instant) -> Result<Packet, Verdict> {
        if !matches!(packet.body, Body::Fragment { .. }) {
            return Ok(packet);
        }
        let in_order = match self.config().fragments {
            Fragments::Drop => return Err(self.conclude(Err(DropReason::Fragment))),
            Fragments::InOrder => true,
            Fragments::AnyOrder => false,
        };
        self.pieces.push(packet, in_order, now).ok_or(Verdict::Held)
    }

    fn leave(
        &mut self,
        mut packet: Packet,
        flow: &Flow,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        packet.dont_fragment &= !self.config().clear_dont_fragment || packet.is_ipv6();
        let to_ipv4 = self
            .config()
            .nat64
            .and_then(|prefix| nat64::to_ipv4(prefix, flow));
        if let Some(flow) = to_ipv4 {
            if self.is_outside(flow.destination.ip()) {
                return Err(DropReason::Hairpin);
            }
            let source = self.mappings.outbound(&flow, now)?;
            let packet = nat64::leave(packet, source, flow.destination.ip());
            return Ok(Verdict::Forward(packet));
        }
        packet.set_source(self.mappings.outbound(flow, now)?);
        Ok(Verdict::Forward(packet))
    }

    fn enter(
        &mut self,
        mut packet: Packet,
        flow: &Flow,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let inside = self
            .mappings
            .inbound(flow.protocol, flow.destination, flow.source, now);
        match (inside, self.config().nat64) {
            (Ok(inside), Some(prefix)) if inside.is_ipv6() && !packet.is_ipv6() => {
                let packet = nat64::enter(prefix, packet, inside);
                packet.map(Verdict::Forward).ok_or(DropReason::Protocol)
            }
            (Ok(inside), _) => {
                packet.set_destination(inside);
                Ok(Verdict::Forward(packet))
            }
            (Err(reason), _) => self.unsolicited(&packet, flow, reason, now),
        }
    }

    /// RFC 4787, section 6: both halves of the way through the NAT. Filters see the sender's outside endpoint.
    fn hairpin(
        &mut self,
        mut packet: Packet,
        flow: &Flow,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let mode = self.config().hairpin;
        if mode == Hairpin::None {
            return Err(DropReason::Hairpin);
        }
        let sender = self.mappings.outbound(flow, now)?;
        let inside = self
            .mappings
            .inbound(flow.protocol, flow.destination, sender, now)?;
        if mode == Hairpin::ExternalSource {
            packet.set_source(sender);
        }
        packet.set_destination(inside);
        Ok(Verdict::Hairpin(packet))
    }

    /// RFC 5508, section 4.2: an error from inside about a packet that came in is about that packet as it was outside.
    fn error_outbound(&mut self, mut packet: Packet) -> Result<Verdict, DropReason> {
        let Body::IcmpError { quote, .. } = &mut packet.body else {
            return Err(DropReason::Protocol);
        };
        let about = quote.flow().ok_or(DropReason::StrayError)?;
        let outside = self
            .mappings
            .outside_of(about.protocol, about.destination, about.source);
        let outside = outside.ok_or(DropReason::StrayError)?;
        quote.set_destination(outside);
        if self.config().mapping != Behavior::None {
            packet.source = outside.ip();
        }
        if self.is_outside(packet.destination) {
            return self.error_inbound(packet).map(Verdict::Hairpin);
        }
        Ok(Verdict::Forward(packet))
    }

    /// RFC 5508, section 4.1: an error from outside about a packet that left is about that packet as it was inside.
    /// Filters do not apply, and nothing is kept alive by it.
    fn error_inbound(&mut self, mut packet: Packet) -> Result<Packet, DropReason> {
        if self.config().icmp_errors == IcmpErrors::Drop {
            return Err(DropReason::IcmpError);
        }
        let Body::IcmpError { quote, .. } = &mut packet.body else {
            return Err(DropReason::Protocol);
        };
        let about = quote.flow().ok_or(DropReason::StrayError)?;
        let inside = self
            .mappings
            .inside_of(about.protocol, about.source, about.destination);
        let inside = inside.ok_or(DropReason::StrayError)?;
        quote.set_source(inside);
        if self.config().icmp_errors == IcmpErrors::EndMapping {
            self.mappings
                .end(about.protocol, about.source, about.destination);
        }
        if let (Some(prefix), true) = (self.config().nat64, inside.is_ipv6() && !packet.is_ipv6()) {
            let error = nat64::error(prefix, &packet, inside, about.destination);
            return error.ok_or(DropReason::Protocol);
        }
        packet.destination = inside.ip();
        Ok(packet)
    }

    fn unsolicited(
        &mut self,
        packet: &Packet,
        flow: &Flow,
        reason: DropReason,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        if matches!(reason, DropReason::NoMapping | DropReason::Filtered) {
            self.mappings
                .note_unsolicited(flow.protocol, flow.destination, flow.source, now);
        }
        let reply = match self.config().unsolicited {
            Unsolicited::Icmp => packet.error(packet.destination, IcmpError::PortUnreachable),
            Unsolicited::Drop | Unsolicited::Poison | Unsolicited::BlockSource(_) => None,
        };
        let reply = reply.ok_or(reason)?;
        *self.drops.entry(reason).or_default() += 1;
        Ok(Verdict::Reply(reply))
    }

    fn is_outside(&self, address: IpAddr) -> bool {
        self.config().mapping != Behavior::None && self.outside().contains(&address)
    }

    fn conclude(&mut self, verdict: Result<Verdict, DropReason>) -> Verdict {
        verdict.unwrap_or_else(|reason| {
            *self.drops.entry(reason).or_default() += 1;
            Verdict::Drop(reason)
        })
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMapping => "no mapping",
            Self::Filtered => "filtered",
            Self::Hairpin => "no hairpin",
            Self::TableFull => "table full",
            Self::TooManyNew => "too many new sessions a second",
            Self::BlockedSource => "blocked source",
            Self::IcmpError => "ICMP error",
            Self::NoPort => "no port free",
            Self::NoOutsideAddress => "no outside address of its family",
            Self::Fragment => "fragment",
            Self::Protocol => "untranslatable protocol",
            Self::StrayError => "error about an unknown flow",
        })
    }
}

#[cfg(test)]
mod tests;
