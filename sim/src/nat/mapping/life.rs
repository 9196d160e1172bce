//! A mapping's life: kept by packets, ended by timers, moved to other ports, replaced by a second one.

use std::net::SocketAddr;
use std::time::Instant;

use super::Mappings;
use crate::nat::config::{Behavior, Refresh, State};
use crate::nat::table::{Id, Idle, Timed};
use crate::packet::{Flow, Protocol};

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
}

impl Mappings {
    /// Forgets what is due.
    pub(in crate::nat) fn expire(&mut self, now: Instant) {
        while let Some(due) = self.table.pop_due(now) {
            let Some(deadline) = self.deadline(due) else {
                continue;
            };
            if deadline > now {
                self.table.schedule(due, deadline);
                continue;
            }
            match due {
                Timed::Mapping(id) => {
                    self.expired += 1;
                    self.remove(id);
                }
                Timed::Session(id) => {
                    self.expired += 1;
                    self.remove_session(id);
                }
                Timed::Rebinding(id) => self.rebind(id, now),
            }
        }
    }

    pub(in crate::nat) fn next_due(&self) -> Option<Instant> {
        self.table.next_due()
    }

    /// Every mapping gets another outside port, where there is one; those who may send to it stay the same.
    pub(in crate::nat) fn rebind_all(&mut self, now: Instant) {
        let all: Vec<Id> = self.table.mappings.keys().copied().collect();
        for id in all {
            self.rebind(id, now);
        }
    }

    /// An ICMP error came about what this outside endpoint sent to `remote`.
    pub(in crate::nat) fn end(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
    ) {
        if let Some(id) = self.table.find_outside(protocol, outside, remote) {
            self.remove(id);
        }
    }

    fn rebind(&mut self, id: Id, now: Instant) {
        let Some(mapping) = self.table.mappings.get_mut(&id) else {
            return;
        };
        mapping.bound = now;
        let (key, old) = (mapping.key, mapping.outside);
        let remote = mapping.sessions.keys().next().copied();
        if self.config.mapping != Behavior::None {
            let flow = Flow {
                protocol: key.protocol,
                source: key.inside,
                destination: remote.unwrap_or(old),
            };
            if let Some(port) = self.allocate_port(old.ip(), &flow, now) {
                self.table.move_outside(id, SocketAddr::new(old.ip(), port));
                self.give_back(key.protocol, old, key.inside.ip());
            }
        }
        self.schedule(Timed::Rebinding(id));
    }

    /// Whether new remote endpoints get a second mapping by now.
    pub(super) fn is_due_to_retire(&self, id: Id, now: Instant) -> bool {
        let mapping = self.table.mappings.get(&id);
        let after = self.config.quirks.dual_mapping_after;
        after.zip(mapping).is_some_and(|(after, mapping)| {
            !mapping.retired && now.saturating_duration_since(mapping.created) >= after
        })
    }

    /// Notes that a packet passed, in the mapping and in the session; whichever has the timer lives on.
    pub(super) fn refresh(
        &mut self,
        id: Id,
        remote: SocketAddr,
        direction: Direction,
        now: Instant,
    ) {
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

    pub(super) fn schedule(&mut self, what: Timed) {
        if let Some(at) = self.deadline(what) {
            self.table.schedule(what, at);
        }
    }

    /// When it ends or changes, if nothing more happens; `None` if it is gone or has no timer.
    fn deadline(&self, what: Timed) -> Option<Instant> {
        match what {
            Timed::Mapping(id) => self.end_of_mapping(id),
            Timed::Session(id) => self.end_of_session(id),
            Timed::Rebinding(id) => {
                let mapping = self.table.mappings.get(&id)?;
                mapping.bound.checked_add(self.config.quirks.rebind_every?)
            }
        }
    }

    fn end_of_mapping(&self, id: Id) -> Option<Instant> {
        let (timers, mapping) = (&self.config.timers, self.table.mappings.get(&id)?);
        if mapping.granted.is_some() {
            return mapping.granted;
        }
        let end = timers
            .lifetime
            .and_then(|lifetime| mapping.created.checked_add(lifetime));
        let idle = (timers.state != State::PerSession)
            .then(|| self.idle_end(mapping.key.protocol, &mapping.idle))
            .flatten();
        idle.into_iter().chain(end).min()
    }

    fn end_of_session(&self, id: Id) -> Option<Instant> {
        let session = self.table.sessions.get(&id)?;
        let mapping = self.table.mappings.get(&session.mapping)?;
        let timers = &self.config.timers;
        match (timers.state, timers.filter) {
            (State::PerMapping, _) => None,
            (State::PerFilter, Some(filter)) => session.idle.refreshed.checked_add(filter),
            (State::PerFilter | State::PerSession, _) => {
                self.idle_end(mapping.key.protocol, &session.idle)
            }
        }
    }

    fn idle_end(&self, protocol: Protocol, idle: &Idle) -> Option<Instant> {
        let time = self.config.timers.idle(protocol, idle.replied);
        idle.refreshed.checked_add(time)
    }
}
