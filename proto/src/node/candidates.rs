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
            return;
        }
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
        let host = self.local_addresses.iter().map(|&address| Candidate {
            kind: CandidateKind::Host,
            address,
        });
        let reflexive = self
            .reflexive
            .iter()
            .filter(|address| !self.local_addresses.contains(address))
            .map(|&address| Candidate {
                kind: CandidateKind::ServerReflexive,
                address,
            });
        reflexive.chain(host).take(MAX_CANDIDATES).collect()
    }
}
