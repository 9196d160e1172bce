//! Mappings and sessions: made, found, admitted. Works on flows, knows no packets; so it translates UDP, TCP and ICMP echo
//! alike.
//!
//! ```text
//!   packet out ─► session known? ─no─► room? ─► mapping by inside key ─none─► port ─► mapping ─► session
//!   packet in  ─► mapping by outside endpoint ─► filter ─► inside endpoint
//! ```
//!
//! `life`: timers, and what changes while a mapping lives. `room`: limits. `grant`: mappings that hosts asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::DropReason;
use super::config::{Behavior, NatConfig, NatConfigError, Pooling, State, Unsolicited};
use super::filtering::admits;
use super::guard::Guard;
use super::ports::{PortPool, Wanted};
use super::table::{Id, InsideKey, Mapping, Table, Timed};
use crate::packet::{Flow, Protocol};

mod grant;
mod life;
mod room;

pub(super) use grant::Grant;

use life::Direction;

/// What one NAT remembers and how it decides.
#[derive(Debug)]
pub(super) struct Mappings {
    config: NatConfig,
    outside: Vec<IpAddr>,
    table: Table,
    pools: BTreeMap<(Protocol, IpAddr), PortPool>,
    guard: Guard,
    rng: StdRng,
    pub(super) created: u64,
    pub(super) expired: u64,
    pub(super) evicted: u64,
    pub(super) most: usize,
    pub(super) most_sessions: usize,
}

impl Mappings {
    pub(super) fn new(
        config: NatConfig,
        outside: Vec<IpAddr>,
        seed: u64,
    ) -> Result<Self, NatConfigError> {
        config.validate()?;
        if config.mapping != Behavior::None && outside.is_empty() {
            return Err(NatConfigError::NoOutsideAddress);
        }
        Ok(Self {
            config,
            outside,
            table: Table::default(),
            pools: BTreeMap::new(),
            guard: Guard::default(),
            rng: StdRng::seed_from_u64(seed),
            created: 0,
            expired: 0,
            evicted: 0,
            most: 0,
            most_sessions: 0,
        })
    }

    pub(super) const fn config(&self) -> &NatConfig {
        &self.config
    }

    pub(super) fn outside(&self) -> &[IpAddr] {
        &self.outside
    }

    pub(super) fn len(&self) -> usize {
        self.table.mappings.len()
    }

    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.table.timers()
    }

    pub(super) fn sessions(&self) -> usize {
        self.table.sessions.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Protocol, SocketAddr, SocketAddr)> + '_ {
        let mappings = self.table.mappings.values();
        mappings.map(|mapping| (mapping.key.protocol, mapping.key.inside, mapping.outside))
    }

    /// Forgets everything, as a reboot does; sequences of ports go on.
    pub(super) fn clear(&mut self) {
        while let Some((&id, _)) = self.table.mappings.first_key_value() {
            self.remove(id);
        }
        self.guard.clear();
    }

    /// The outside endpoint by which this flow leaves, made if there is none.
    pub(super) fn outbound(&mut self, flow: &Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        let id = match self.mapping_of(flow.protocol, flow.source, flow.destination) {
            Some(id) if self.has_session(id, flow.destination) => id,
            known => self.open(known, flow, now)?,
        };
        self.refresh(id, flow.destination, Direction::Out, now);
        let mapping = self.table.mappings.get(&id);
        Ok(mapping.ok_or(DropReason::TableFull)?.outside)
    }

    /// The inside endpoint for which this flow is, if it is admitted. `remote` is who sends as the filter sees it.
    pub(super) fn inbound(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        if self.guard.is_blocked(remote.ip(), now) {
            return Err(DropReason::BlockedSource);
        }
        let id = self
            .table
            .find_outside(protocol, outside, remote)
            .ok_or(DropReason::NoMapping)?;
        let mapping = self.table.mappings.get(&id).ok_or(DropReason::NoMapping)?;
        let inside = mapping.key.inside;
        if !self.admits(mapping, remote) {
            return Err(DropReason::Filtered);
        }
        if self.config.timers.state == State::PerSession && !mapping.sessions.contains_key(&remote)
        {
            self.make_room_for_session(inside.ip(), now)?;
            if !self.table.mappings.contains_key(&id) {
                return Err(DropReason::TableFull);
            }
            self.insert_session(id, remote, now);
        }
        self.refresh(id, remote, Direction::In, now);
        Ok(inside)
    }

    /// What a packet that nobody waited for leaves behind.
    pub(super) fn note_unsolicited(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        match self.config.unsolicited {
            Unsolicited::Drop | Unsolicited::Icmp => {}
            Unsolicited::Poison if self.outside.contains(&outside.ip()) => {
                let time = self.config.timers.idle(protocol, false);
                self.guard.poison((protocol, outside, remote), time, now);
            }
            Unsolicited::Poison => {}
            Unsolicited::BlockSource(time) => self.guard.block(remote.ip(), time, now),
        }
    }

    /// The outside endpoint of a flow that left before; changes nothing.
    pub(super) fn outside_of(
        &self,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let id = self.mapping_of(protocol, inside, remote)?;
        Some(self.table.mappings.get(&id)?.outside)
    }

    /// The inside endpoint behind an outside one that sent to `remote`; changes nothing.
    pub(super) fn inside_of(
        &self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let id = self.table.find_outside(protocol, outside, remote)?;
        Some(self.table.mappings.get(&id)?.key.inside)
    }

    /// Who was once asked for is admitted; to a retired mapping nobody else is.
    fn admits(&self, mapping: &Mapping, remote: SocketAddr) -> bool {
        let filtering = match (mapping.granted, mapping.retired) {
            (Some(_), _) => Behavior::None,
            (None, true) => Behavior::AddressAndPortDependent,
            (None, false) => self.config.filtering,
        };
        admits(filtering, &mapping.sessions, remote)
    }

    /// First the mapping that this pair uses already, where it may not be the one of its kind; then one that a host asked
    /// for; then the one of its kind.
    fn mapping_of(&self, protocol: Protocol, inside: SocketAddr, remote: SocketAddr) -> Option<Id> {
        let config = &self.config;
        let by_pair = (config.reuse_inbound || config.quirks.dual_mapping_after.is_some())
            .then(|| self.table.find_pair(protocol, inside, remote))
            .flatten();
        let find = |behavior| {
            let key = InsideKey::new(behavior, protocol, inside, remote);
            self.table.find_inside(&key)
        };
        let diverted = || {
            (config.unsolicited == Unsolicited::Poison)
                .then(|| find(Behavior::AddressAndPortDependent))
                .flatten()
        };
        let granted = || {
            config
                .port_mapping
                .is_some()
                .then(|| find(Behavior::EndpointIndependent))
                .flatten()
        };
        by_pair
            .or_else(diverted)
            .or_else(granted)
            .or_else(|| find(config.mapping))
    }

    fn has_session(&self, id: Id, remote: SocketAddr) -> bool {
        let mapping = self.table.mappings.get(&id);
        mapping.is_some_and(|mapping| mapping.sessions.contains_key(&remote))
    }

    /// A new session from inside, and its mapping if there is none that it may use.
    fn open(&mut self, known: Option<Id>, flow: &Flow, now: Instant) -> Result<Id, DropReason> {
        self.make_room_for_session(flow.source.ip(), now)?;
        // Making room may have cost the mapping its life.
        let known = known.filter(|id| self.table.mappings.contains_key(id));
        let poisoned = known.is_some_and(|id| self.is_poisoned(id, flow, now));
        let id = match known {
            Some(id) if self.is_due_to_retire(id, now) => {
                self.table.retire(id);
                self.map(self.config.mapping, flow, now)?
            }
            Some(id) if !poisoned => id,
            Some(_) => self.map(Behavior::AddressAndPortDependent, flow, now)?,
            None => self.map(self.config.mapping, flow, now)?,
        };
        self.insert_session(id, flow.destination, now);
        Ok(id)
    }

    fn is_poisoned(&self, id: Id, flow: &Flow, now: Instant) -> bool {
        let mapping = self.table.mappings.get(&id);
        mapping.is_some_and(|mapping| {
            let ends = (flow.protocol, mapping.outside, flow.destination);
            self.guard.is_poisoned(&ends, now)
        })
    }

    fn map(&mut self, behavior: Behavior, flow: &Flow, now: Instant) -> Result<Id, DropReason> {
        let key = InsideKey::new(behavior, flow.protocol, flow.source, flow.destination);
        self.make_room_for_mapping(key.inside.ip())?;
        let outside = self.allocate(flow, now)?;
        Ok(self.insert_mapping(key, outside, now))
    }

    fn insert_mapping(&mut self, key: InsideKey, outside: SocketAddr, now: Instant) -> Id {
        let id = self.table.insert_mapping(key, outside, now);
        self.created += 1;
        self.most = self.most.max(self.len());
        self.schedule(Timed::Mapping(id));
        self.schedule(Timed::Rebinding(id));
        id
    }

    fn allocate(&mut self, flow: &Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        if self.config.mapping == Behavior::None {
            return Ok(flow.source);
        }
        let address = self.pool_address(flow.source.ip(), flow.destination.is_ipv6())?;
        let port = self.allocate_port(address, flow, now);
        Ok(SocketAddr::new(address, port.ok_or(DropReason::NoPort)?))
    }

    fn allocate_port(&mut self, address: IpAddr, flow: &Flow, now: Instant) -> Option<u16> {
        let (config, rng) = (&self.config.ports, &mut self.rng);
        let (table, guard) = (&self.table, &self.guard);
        let endpoint = |port| SocketAddr::new(address, port);
        let shareable = |port| {
            let mut sharing = table.at_outside(flow.protocol, endpoint(port));
            let meets = |id| {
                let mapping: Option<&Mapping> = table.mappings.get(&id);
                mapping.is_some_and(|mapping| mapping.sessions.contains_key(&flow.destination))
            };
            config.overloading && !sharing.any(meets)
        };
        let barred =
            |port| guard.is_poisoned(&(flow.protocol, endpoint(port), flow.destination), now);
        let wanted = Wanted {
            inside: (flow.source.ip(), flow.source.port()),
            shareable: &shareable,
            barred: &barred,
        };
        self.pools
            .entry((flow.protocol, address))
            .or_insert_with(|| PortPool::new(config, rng))
            .allocate(&wanted, config, rng, now)
    }

    /// Paired: the address of the host's other mappings, else any of the family.
    fn pool_address(&mut self, host: IpAddr, ipv6: bool) -> Result<IpAddr, DropReason> {
        if self.config.pooling == Pooling::Paired
            && let Some(entries) = self.table.host(host)
            && let Some(mapping) = entries
                .mappings
                .first()
                .and_then(|id| self.table.mappings.get(id))
        {
            return Ok(mapping.outside.ip());
        }
        let same_family = |address: &&IpAddr| address.is_ipv6() == ipv6;
        let count = self.outside.iter().filter(same_family).count();
        let chosen = match count {
            0 => return Err(DropReason::NoOutsideAddress),
            1 => 0,
            _ => self.rng.random_range(0..count),
        };
        let address = self.outside.iter().filter(same_family).nth(chosen);
        address.copied().ok_or(DropReason::NoOutsideAddress)
    }

    fn insert_session(&mut self, mapping: Id, remote: SocketAddr, now: Instant) {
        let id = self.table.insert_session(mapping, remote, now);
        self.most_sessions = self.most_sessions.max(self.sessions());
        if self.config.timers.state != State::PerMapping {
            self.schedule(Timed::Session(id));
        }
    }

    fn remove(&mut self, id: Id) {
        let Some(mapping) = self.table.remove_mapping(id) else {
            return;
        };
        let (protocol, outside) = (mapping.key.protocol, mapping.outside);
        self.give_back(protocol, outside, mapping.key.inside.ip());
    }

    /// A port is free again when the last mapping that shares it is gone.
    fn give_back(&mut self, protocol: Protocol, outside: SocketAddr, host: IpAddr) {
        let shared = self.table.at_outside(protocol, outside).next().is_some();
        if let Some(pool) = self.pools.get_mut(&(protocol, outside.ip()))
            && !shared
        {
            pool.release(outside.port(), host);
        }
    }

    /// With state per session a mapping ends with its last one.
    fn remove_session(&mut self, id: Id) {
        let mapping = self.table.remove_session(id);
        if self.config.timers.state == State::PerSession
            && let Some(id) = mapping
            && self
                .table
                .mappings
                .get(&id)
                .is_some_and(|mapping| mapping.sessions.is_empty() && mapping.granted.is_none())
        {
            self.remove(id);
        }
    }
}
