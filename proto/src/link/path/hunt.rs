//! The search as a part of the link's paths: what it is told, what of it goes out, which sockets stay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::search::{Grant, Outcome, Output};
use super::{PathEvent, Paths};
use crate::traversal::{Plan, SearchCounters};
use crate::wire::control::{Candidate, CandidateKind, NatClass, Search as SearchMessage};
use crate::wire::stun;
use crate::{SocketId, Transmit};

impl Paths {
    /// The NAT before us is of this class.
    pub fn set_class(&mut self, class: NatClass, now: Instant) {
        self.class = class;
        if self.search.set_ours(class) && self.active.is_none() {
            self.exchange.local_changed(now);
            self.run(now);
        }
    }

    /// Whether packets that are to die on their way may be sent: there are NATs that end a mapping for it (against RFC 4787,
    /// REQ-10).
    pub fn set_may_open(&mut self, may_open: bool) {
        self.may_open = may_open;
        self.openers.clear();
    }

    /// The host lets the search run that [`PathEvent::WantSearch`] asked for.
    pub fn grant(&mut self, grant: Grant, now: Instant) {
        let keep = now + KEEP;
        self.extra
            .extend(grant.sockets.iter().map(|&(id, _)| (id, keep)));
        self.search.granted(grant, now);
        self.run(now);
    }

    /// The host does not let it run now.
    pub fn refuse_search(&mut self, now: Instant) {
        self.search.refused(now);
        self.run(now);
    }

    /// The other end says something about a search; `half_round_trip` is how long it was on its way.
    pub fn handle_search(
        &mut self,
        message: &SearchMessage,
        half_round_trip: Duration,
        now: Instant,
    ) {
        // The other end may still search when our way to it is found: it is helped as long as it asks.
        if self.active.is_none() || matches!(message, SearchMessage::Opened { .. }) {
            self.search.handle_message(message, half_round_trip, now);
        }
        self.run(now);
    }

    /// The search that runs is too much for our network: half the packets from now on.
    pub fn ease_search(&mut self) {
        self.search.ease();
    }

    /// What searches of this link have used.
    #[must_use]
    pub const fn search_counters(&self) -> SearchCounters {
        self.search.counters()
    }

    /// What leads through the two NATs, as far as they are known.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.search.plan()
    }

    /// Whether a search runs now.
    #[must_use]
    pub const fn is_searching(&self) -> bool {
        self.search.is_running()
    }

    /// The NAT before the other end, as it says.
    #[must_use]
    pub const fn remote_class(&self) -> NatClass {
        self.search.theirs()
    }

    /// A round begins at `start`: our NATs are opened before, so that nothing meets a closed one.
    pub(super) fn prepare_round(
        &mut self,
        theirs: NatClass,
        candidates: &[Candidate],
        start: Instant,
        now: Instant,
    ) {
        let outside = |candidate: &&Candidate| candidate.kind != CandidateKind::Host;
        if start > now && self.active.is_none() && self.may_open {
            self.openers.clear();
            let towards = candidates.iter().filter(outside).take(MAX_OPENERS);
            for candidate in towards {
                let by = self
                    .sockets
                    .iter()
                    .map(|&socket| (socket, candidate.address));
                self.openers.extend(by);
            }
        }
        let reflexive = candidates.iter().find(|candidate| {
            candidate.kind == CandidateKind::ServerReflexive && candidate.address.is_ipv4()
        });
        let target = reflexive.map(|candidate| candidate.address);
        self.search.round_begins(theirs, target, start);
    }

    /// The next packet of a search.
    pub(super) fn poll_search(&mut self, now: Instant) -> Option<Transmit> {
        match self.search.poll(now)? {
            Output::Check(socket, to, ttl, transaction) => {
                Some(self.check((socket, to), transaction, ttl))
            }
            Output::Ask(socket, server, transaction) => {
                let contents = stun::encode_probe(transaction, stun::Change::default());
                Some(Transmit {
                    socket,
                    ..Transmit::datagram(server, contents)
                })
            }
        }
    }

    /// What time brings to the search, and what it wants.
    pub(super) fn tend_search(&mut self, now: Instant) {
        self.search.handle_timeout(self.active.is_some(), now);
        while let Some(outcome) = self.search.poll_outcome() {
            self.events.push_back(match outcome {
                Outcome::Want(sockets) => PathEvent::WantSearch { sockets },
                Outcome::Say(message) => PathEvent::Say(message),
                Outcome::Ended(entries) => PathEvent::SearchEnded { entries },
            });
        }
        let unneeded: Vec<SocketId> = self
            .extra
            .iter()
            .filter(|&&(socket, keep)| keep <= now && self.is_unneeded(socket))
            .map(|&(socket, _)| socket)
            .collect();
        if !unneeded.is_empty() {
            self.extra.retain(|(socket, _)| !unneeded.contains(socket));
            self.checklist
                .pairs
                .retain(|(socket, _), _| !unneeded.contains(socket));
            self.events.push_back(PathEvent::Unneeded(unneeded));
        }
    }

    pub(super) fn next_of_search(&self) -> Option<Instant> {
        let search = self.search.next();
        let release = self
            .extra
            .iter()
            .filter(|&&(socket, _)| self.is_unneeded(socket))
            .map(|&(_, keep)| keep)
            .min();
        search.into_iter().chain(release).min()
    }

    /// A probe of the search is answered: there is a path that no candidate named.
    pub(super) fn found_by_search(
        &mut self,
        id: (SocketId, SocketAddr),
        sent: Instant,
        now: Instant,
    ) {
        self.checklist.found(
            id,
            CandidateKind::Predicted,
            now.saturating_duration_since(sent),
            now,
        );
    }

    fn is_unneeded(&self, socket: SocketId) -> bool {
        let has_path = self
            .checklist
            .pairs
            .iter()
            .any(|(id, pair)| id.0 == socket && pair.valid.is_some());
        !has_path && !self.search.uses(socket)
    }
}

/// Openers of one round.
const MAX_OPENERS: usize = 4;
/// How long a socket is kept at least: answers may be on their way.
const KEEP: Duration = Duration::from_secs(3);
