//! Mappings and sessions through their lives: made, found, refreshed, limited, expired. Works on flows, knows no packets;
//! so it translates UDP, TCP and ICMP echo alike.
//!
//! ```text
//!   packet out ─► session known? ─no─► room? ─► mapping by inside key ─none─► port ─► mapping ─► session
//!   packet in  ─► mapping by outside endpoint ─► filter ─► inside endpoint
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::DropReason;
use super::config::{Behavior, NatConfig, NatConfigError, Overflow, Pooling, Refresh, State};
use super::filtering::admits;
use super::ports::PortPool;
use super::table::{Id, Idle, InsideKey, Table, Timed};
use crate::packet::{Flow, Protocol};

/// What one NAT remembers and how it decides.
#[derive(Debug)]
pub(super) struct Mappings {
    config: NatConfig,
    outside: Vec<IpAddr>,
    table: Table,
    pools: BTreeMap<(Protocol, IpAddr), PortPool>,
    rng: StdRng,
    pub(super) created: u64,
    pub(super) expired: u64,
    pub(super) evicted: u64,
    pub(super) most: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
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
            rng: StdRng::seed_from_u64(seed),
            created: 0,
            expired: 0,
            evicted: 0,
            most: 0,
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
    }

    /// The outside endpoint by which this flow leaves, made if there is none.
    pub(super) fn outbound(&mut self, flow: &Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        let id = match self.mapping_of(flow.protocol, flow.source, flow.destination) {
            Some(id) if self.has_session(id, flow.destination) => id,
            _ => self.open(flow, now)?,
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
        let id = self
            .table
            .find_outside(protocol, outside)
            .ok_or(DropReason::NoMapping)?;
        let mapping = self.table.mappings.get(&id).ok_or(DropReason::NoMapping)?;
        let inside = mapping.key.inside;
        if !admits(self.config.filtering, &mapping.sessions, remote) {
            return Err(DropReason::Filtered);
        }
        if self.config.timers.state == State::PerSession && !mapping.sessions.contains_key(&remote)
        {
            self.make_room_for_session(inside.ip())?;
            if !self.table.mappings.contains_key(&id) {
                return Err(DropReason::TableFull);
            }
            self.insert_session(id, remote, now);
        }
        self.refresh(id, remote, Direction::In, now);
        Ok(inside)
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

    /// The inside endpoint behind an outside one; changes nothing.
    pub(super) fn inside_of(&self, protocol: Protocol, outside: SocketAddr) -> Option<SocketAddr> {
        let id = self.table.find_outside(protocol, outside)?;
        Some(self.table.mappings.get(&id)?.key.inside)
    }

    /// Forgets what is due.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(due) = self.table.pop_due(now) {
            let Some(deadline) = self.deadline(due) else {
                continue;
            };
            if deadline > now {
                self.table.schedule(due, deadline);
                continue;
            }
            self.expired += 1;
            match due {
                Timed::Mapping(id) => self.remove(id),
                Timed::Session(id) => self.remove_session(id),
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.table.next_due()
    }

    fn mapping_of(&self, protocol: Protocol, inside: SocketAddr, remote: SocketAddr) -> Option<Id> {
        let by_pair = if self.config.reuse_inbound {
            self.table.find_pair(protocol, inside, remote)
        } else {
            None
        };
        let key = || InsideKey::new(self.config.mapping, protocol, inside, remote);
        by_pair.or_else(|| self.table.find_inside(&key()))
    }

    fn has_session(&self, id: Id, remote: SocketAddr) -> bool {
        let mapping = self.table.mappings.get(&id);
        mapping.is_some_and(|mapping| mapping.sessions.contains_key(&remote))
    }

    /// A new session from inside, and its mapping if there is none.
    fn open(&mut self, flow: &Flow, now: Instant) -> Result<Id, DropReason> {
        self.make_room_for_session(flow.source.ip())?;
        let key = InsideKey::new(
            self.config.mapping,
            flow.protocol,
            flow.source,
            flow.destination,
        );
        let id = match self.table.find_inside(&key) {
            Some(id) => id,
            None => self.map(key, now)?,
        };
        self.insert_session(id, flow.destination, now);
        Ok(id)
    }

    fn map(&mut self, key: InsideKey, now: Instant) -> Result<Id, DropReason> {
        self.make_room_for_mapping(key.inside.ip())?;
        let outside = self.allocate(key.protocol, key.inside)?;
        let id = self.table.insert_mapping(key, outside, now);
        self.created += 1;
        self.most = self.most.max(self.len());
        self.schedule(Timed::Mapping(id));
        Ok(id)
    }

    fn allocate(
        &mut self,
        protocol: Protocol,
        inside: SocketAddr,
    ) -> Result<SocketAddr, DropReason> {
        if self.config.mapping == Behavior::None {
            return Ok(inside);
        }
        let address = self.pool_address(inside.ip())?;
        let (config, rng) = (&self.config.ports, &mut self.rng);
        let pool = self
            .pools
            .entry((protocol, address))
            .or_insert_with(|| PortPool::new(config, rng));
        let port = pool
            .allocate(inside.port(), config, rng)
            .ok_or(DropReason::NoPort)?;
        Ok(SocketAddr::new(address, port))
    }

    /// Paired: the address of the host's other mappings, else any of the family.
    fn pool_address(&mut self, host: IpAddr) -> Result<IpAddr, DropReason> {
        if self.config.pooling == Pooling::Paired
            && let Some(entries) = self.table.host(host)
            && let Some(mapping) = entries
                .mappings
                .first()
                .and_then(|id| self.table.mappings.get(id))
        {
            return Ok(mapping.outside.ip());
        }
        let same_family = |address: &&IpAddr| address.is_ipv6() == host.is_ipv6();
        let count = self.outside.iter().filter(same_family).count();
        let chosen = match count {
            0 => return Err(DropReason::NoOutsideAddress),
            1 => 0,
            _ => self.rng.random_range(0..count),
        };
        let address = self.outside.iter().filter(same_family).nth(chosen);
        address.copied().ok_or(DropReason::NoOutsideAddress)
    }

    fn make_room_for_mapping(&mut self, host: IpAddr) -> Result<(), DropReason> {
        let limits = &self.config.limits;
        let (total, per_host) = (limits.mappings, limits.mappings_per_host);
        let own = self.table.host(host).map(|entries| &entries.mappings);
        let oldest_own = own
            .filter(|own| own.len() >= per_host)
            .and_then(|own| own.first())
            .copied();
        let oldest = || {
            (self.len() >= total)
                .then(|| self.table.mappings.keys().next().copied())
                .flatten()
        };
        if let Some(id) = oldest_own.or_else(oldest) {
            self.evict()?;
            self.remove(id);
        }
        Ok(())
    }

    fn make_room_for_session(&mut self, host: IpAddr) -> Result<(), DropReason> {
        let limits = &self.config.limits;
        let (total, per_host) = (limits.sessions, limits.sessions_per_host);
        let own = self.table.host(host).map(|entries| &entries.sessions);
        let oldest_own = own
            .filter(|own| own.len() >= per_host)
            .and_then(|own| own.first())
            .copied();
        let oldest = || {
            (self.sessions() >= total)
                .then(|| self.table.sessions.keys().next().copied())
                .flatten()
        };
        if let Some(id) = oldest_own.or_else(oldest) {
            self.evict()?;
            self.remove_session(id);
        }
        Ok(())
    }

    const fn evict(&mut self) -> Result<(), DropReason> {
        match self.config.limits.overflow {
            Overflow::Refuse => Err(DropReason::TableFull),
            Overflow::EvictOldest => {
                self.evicted += 1;
                Ok(())
            }
        }
    }

    fn insert_session(&mut self, mapping: Id, remote: SocketAddr, now: Instant) {
        let id = self.table.insert_session(mapping, remote, now);
        if self.config.timers.state == State::PerSession {
            self.schedule(Timed::Session(id));
        }
    }

    fn remove(&mut self, id: Id) {
        if let Some(mapping) = self.table.remove_mapping(id) {
            let pool = (mapping.key.protocol, mapping.outside.ip());
            if let Some(pool) = self.pools.get_mut(&pool) {
                pool.release(mapping.outside.port());
            }
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
                .is_some_and(|mapping| mapping.sessions.is_empty())
        {
            self.remove(id);
        }
    }

    /// Notes that a packet passed, in the mapping and in the session; whichever has the timer lives on.
    fn refresh(&mut self, id: Id, remote: SocketAddr, direction: Direction, now: Instant) {
        let refreshes = matches!(
            (self.config.timers.refresh, direction),
            (Refresh::Both, _) | (Refresh::Out, Direction::Out) | (Refresh::In, Direction::In)
        );
        let note = |idle: &mut Idle| {
            let first_reply = direction == Direction::In && !idle.replied;
            idle.replied |= first_reply;
            if refreshes {
                idle.refreshed = now;
            }
            first_reply
        };
        let Some(mapping) = self.table.mappings.get_mut(&id) else {
            return;
        };
        let mut changed = note(&mut mapping.idle);
        let session = mapping.sessions.get(&remote).copied();
        if let Some(session) = session.and_then(|id| self.table.sessions.get_mut(&id)) {
            changed |= note(&mut session.idle);
        }
        // The timer for mappings with replies may be the shorter one.
        if changed {
            self.schedule(Timed::Mapping(id));
            if let Some(session) = session {
                self.schedule(Timed::Session(session));
            }
        }
    }

    fn schedule(&mut self, what: Timed) {
        if let Some(at) = self.deadline(what) {
            self.table.schedule(what, at);
        }
    }

    /// When it ends, if nothing more happens; `None` if it is gone or has no timer.
    fn deadline(&self, what: Timed) -> Option<Instant> {
        let timers = &self.config.timers;
        let idle_end = |protocol, idle: &Idle| {
            idle.refreshed
                .checked_add(timers.idle(protocol, idle.replied))
        };
        match (what, timers.state) {
            (Timed::Mapping(id), state) => {
                let mapping = self.table.mappings.get(&id)?;
                let end = timers
                    .lifetime
                    .and_then(|lifetime| mapping.created.checked_add(lifetime));
                let idle = (state == State::PerMapping)
                    .then(|| idle_end(mapping.key.protocol, &mapping.idle))
                    .flatten();
                idle.into_iter().chain(end).min()
            }
            (Timed::Session(id), State::PerSession) => {
                let session = self.table.sessions.get(&id)?;
                let mapping = self.table.mappings.get(&session.mapping)?;
                idle_end(mapping.key.protocol, &session.idle)
            }
            (Timed::Session(_), State::PerMapping) => None,
        }
    }
}
