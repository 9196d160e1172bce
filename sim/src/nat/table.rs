//! What a NAT remembers: mappings, their sessions, and every way to find them. Storage only: it enforces no limit and
//! no timer, but finds the oldest and the due without looking at the rest.
//!
//! ```text
//!   (protocol, inside, remote as far as it matters) ──► mapping ◄── (protocol, outside)
//!                                                         │ remote endpoint
//!                                                         ▼
//!                                                       session
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::config::Behavior;
use super::filtering::admits;
use crate::packet::Protocol;

/// Numbers mappings and sessions in the order of their making; never used again.
pub(super) type Id = u64;

/// An inside endpoint's entry.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) key: InsideKey,
    pub(super) outside: SocketAddr,
    pub(super) created: Instant,
    /// When its outside port was given.
    pub(super) bound: Instant,
    pub(super) idle: Idle,
    pub(super) sessions: BTreeMap<SocketAddr, Id>,
    /// A host asked for it: it lives so long, whatever passes, and admits everybody.
    pub(super) granted: Option<Instant>,
    /// A second mapping took its place for new remote endpoints.
    pub(super) retired: bool,
}

/// A remote endpoint of a mapping.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) mapping: Id,
    pub(super) remote: SocketAddr,
    pub(super) idle: Idle,
}

/// What an idle timer needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    pub(super) refreshed: Instant,
    pub(super) replied: bool,
}

/// By what a packet from inside finds its mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InsideKey {
    pub(super) protocol: Protocol,
    pub(super) inside: SocketAddr,
    remote: RemoteKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RemoteKey {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl InsideKey {
    pub(super) const fn new(
        mapping: Behavior,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        let remote = match mapping {
            Behavior::None | Behavior::EndpointIndependent => RemoteKey::Any,
            Behavior::AddressDependent => RemoteKey::Address(remote.ip()),
            Behavior::AddressAndPortDependent => RemoteKey::Endpoint(remote),
        };
        Self {
            protocol,
            inside,
            remote,
        }
    }
}

/// What may fall due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timed {
    Mapping(Id),
    Session(Id),
    /// A mapping's outside port changes.
    Rebinding(Id),
}

/// One inside host's part.
#[derive(Debug, Default)]
pub(super) struct HostEntries {
    pub(super) mappings: BTreeSet<Id>,
    pub(super) sessions: BTreeSet<Id>,
}

/// Everything that is remembered.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) mappings: BTreeMap<Id, Mapping>,
    pub(super) sessions: BTreeMap<Id, Session>,
    by_inside: BTreeMap<InsideKey, Id>,
    /// More than one mapping may have an outside endpoint where ports are overloaded.
    by_outside: BTreeSet<(Protocol, SocketAddr, Id)>,
    /// Which session carries a pair of endpoints: the first one made.
    by_pair: BTreeMap<(Protocol, SocketAddr, SocketAddr), Id>,
    hosts: BTreeMap<IpAddr, HostEntries>,
    /// Not later than the true deadline of what it names, which may be gone.
    due: BinaryHeap<Reverse<(Instant, Timed)>>,
    next: Id,
}

impl Table {
    pub(super) fn find_inside(&self, key: &InsideKey) -> Option<Id> {
        self.by_inside.get(key).copied()
    }

    /// Whose an outside endpoint is; of several the one that knows `remote` best, and then the newest.
    pub(super) fn find_outside(
        &self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
    ) -> Option<Id> {
        let mut all = self.at_outside(protocol, outside).rev();
        let newest = all.next()?;
        if all.next().is_none() {
            return Some(newest);
        }
        let knows = |filtering| {
            self.at_outside(protocol, outside).rev().find(|id| {
                let mapping = self.mappings.get(id);
                mapping.is_some_and(|mapping| admits(filtering, &mapping.sessions, remote))
            })
        };
        knows(Behavior::AddressAndPortDependent)
            .or_else(|| knows(Behavior::AddressDependent))
            .or(Some(newest))
    }

    /// The mappings with this outside endpoint, the oldest first.
    pub(super) fn at_outside(
        &self,
        protocol: Protocol,
        outside: SocketAddr,
    ) -> impl DoubleEndedIterator<Item = Id> + '_ {
        let range = (protocol, outside, 0)..=(protocol, outside, Id::MAX);
        self.by_outside.range(range).map(|&(_, _, id)| id)
    }

    /// Gives a mapping another outside endpoint; its sessions stay.
    pub(super) fn move_outside(&mut self, id: Id, outside: SocketAddr) {
        if let Some(mapping) = self.mappings.get_mut(&id) {
            let protocol = mapping.key.protocol;
            self.by_outside.remove(&(protocol, mapping.outside, id));
            mapping.outside = outside;
            self.by_outside.insert((protocol, outside, id));
        }
    }

    /// From now on its inside endpoint finds it by its sessions alone.
    pub(super) fn retire(&mut self, id: Id) {
        if let Some(mapping) = self.mappings.get_mut(&id) {
            mapping.retired = true;
            self.by_inside.remove(&mapping.key);
        }
    }

    /// The mapping that a packet from `remote` to `inside` used last time.
    pub(super) fn find_pair(
        &self,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Option<Id> {
        let session = self.by_pair.get(&(protocol, inside, remote))?;
        Some(self.sessions.get(session)?.mapping)
    }

    pub(super) fn host(&self, host: IpAddr) -> Option<&HostEntries> {
        self.hosts.get(&host)
    }

    pub(super) fn insert_mapping(
        &mut self,
        key: InsideKey,
        outside: SocketAddr,
        now: Instant,
    ) -> Id {
        let id = self.next_id();
        self.by_inside.insert(key, id);
        self.by_outside.insert((key.protocol, outside, id));
        self.hosts
            .entry(key.inside.ip())
            .or_default()
            .mappings
            .insert(id);
        let mapping = Mapping {
            key,
            outside,
            created: now,
            bound: now,
            idle: Idle::new(now),
            sessions: BTreeMap::new(),
            granted: None,
            retired: false,
        };
        self.mappings.insert(id, mapping);
        id
    }

    /// A session of a mapping that is there.
    pub(super) fn insert_session(&mut self, mapping: Id, remote: SocketAddr, now: Instant) -> Id {
        let id = self.next_id();
        if let Some(owner) = self.mappings.get_mut(&mapping) {
            owner.sessions.insert(remote, id);
            let InsideKey {
                protocol, inside, ..
            } = owner.key;
            self.hosts
                .entry(inside.ip())
                .or_default()
                .sessions
                .insert(id);
            self.by_pair.entry((protocol, inside, remote)).or_insert(id);
            let idle = Idle::new(now);
            self.sessions.insert(
                id,
                Session {
                    mapping,
                    remote,
                    idle,
                },
            );
        }
        id
    }

    /// Removes a mapping with its sessions.
    pub(super) fn remove_mapping(&mut self, id: Id) -> Option<Mapping> {
        let sessions = &self.mappings.get(&id)?.sessions;
        for session in sessions.values().copied().collect::<Vec<_>>() {
            self.remove_session(session);
        }
        let mapping = self.mappings.remove(&id)?;
        if !mapping.retired {
            self.by_inside.remove(&mapping.key);
        }
        self.by_outside
            .remove(&(mapping.key.protocol, mapping.outside, id));
        let host = mapping.key.inside.ip();
        if let Some(entries) = self.hosts.get_mut(&host) {
            entries.mappings.remove(&id);
            if entries.mappings.is_empty() {
                self.hosts.remove(&host);
            }
        }
        Some(mapping)
    }

    /// Removes a session; gives its mapping.
    pub(super) fn remove_session(&mut self, id: Id) -> Option<Id> {
        let session = self.sessions.remove(&id)?;
        let mapping = self.mappings.get_mut(&session.mapping)?;
        mapping.sessions.remove(&session.remote);
        let InsideKey {
            protocol, inside, ..
        } = mapping.key;
        if let Some(entries) = self.hosts.get_mut(&inside.ip()) {
            entries.sessions.remove(&id);
        }
        let pair = (protocol, inside, session.remote);
        if self.by_pair.get(&pair) == Some(&id) {
            self.by_pair.remove(&pair);
        }
        Some(session.mapping)
    }

    pub(super) fn schedule(&mut self, what: Timed, at: Instant) {
        self.due.push(Reverse((at, what)));
        if self.due.len() > 8 * (self.mappings.len() + self.sessions.len()) + 1024 {
            self.forget_gone();
        }
    }

    /// Where entries come and go faster than their timers, those of the gone ones must not pile up.
    fn forget_gone(&mut self) {
        let (mappings, sessions) = (&self.mappings, &self.sessions);
        self.due.retain(|Reverse((_, what))| match what {
            Timed::Mapping(id) | Timed::Rebinding(id) => mappings.contains_key(id),
            Timed::Session(id) => sessions.contains_key(id),
        });
    }

    /// How many timers are kept.
    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.due.len()
    }

    /// What may be due by now.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timed> {
        let Reverse((at, what)) = *self.due.peek()?;
        (at <= now).then(|| {
            self.due.pop();
            what
        })
    }

    /// Nothing falls due before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    const fn next_id(&mut self) -> Id {
        self.next += 1;
        self.next
    }
}

impl Idle {
    const fn new(now: Instant) -> Self {
        Self {
            refreshed: now,
            replied: false,
        }
    }
}
