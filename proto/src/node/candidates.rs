//! Where this node can perhaps be reached, told to every link.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use crate::wire::control::{Candidate, CandidateKind, MAX_CANDIDATES};

impl Node {
    pub(super) fn set_local_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        if self.local_addresses == addresses {
            return;
        }
        let first = self.local_addresses.is_empty();
        self.local_addresses = addresses;
        self.spread_candidates(now);
        if first {
            return self.wish_for_port(now);
        }
        self.wish_for_port(now);
        self.network_changed(now);
    }

    /// The machine's network is another one, or may be: nothing that was found is believed any more.
    pub(super) fn network_changed(&mut self, now: Instant) {
        self.client.network_changed(now);
        self.observer.network_changed(now);
        self.reach_network_changed(now);
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.network_changed(now);
            }
            self.settle_link(index, now);
        }
    }

    pub(super) fn set_reflexive(&mut self, reflexive: Vec<SocketAddr>, now: Instant) {
        if self.reflexive != reflexive {
            self.reflexive = reflexive;
            self.spread_candidates(now);
        }
    }

    pub(super) fn spread_candidates(&mut self, now: Instant) {
        let candidates = self.candidates();
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.set_candidates(&candidates, now);
            }
            self.settle_link(index, now);
        }
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        if self.relay_only {
            return Vec::new();
        }
        let host = self.local_addresses.iter().map(|&address| Candidate {
            kind: CandidateKind::Host,
            address,
        });
        // The main socket's mapping ends before its time: then another socket's is the one to use.
        let rotated: Vec<SocketAddr> = self.rotation.mapped().into_iter().collect();
        let reflexive = if rotated.is_empty() {
            &self.reflexive
        } else {
            &rotated
        };
        let reflexive = reflexive
            .iter()
            .filter(|address| !self.local_addresses.contains(address))
            .map(|&address| Candidate {
                kind: CandidateKind::ServerReflexive,
                address,
            });
        let mapped = self.mapped_address().map(|address| Candidate {
            kind: CandidateKind::Mapped,
            address,
        });
        // Not the first: that is where a search aims, and what the other end's search believes to be our NAT.
        let mut all: Vec<Candidate> = reflexive.chain(mapped).chain(host).collect();
        all.truncate(MAX_CANDIDATES);
        all
    }
}
