//! By which way the rendezvous is reached, as far as a node has to know: straight by UDP, or by a carrier that the driver has.
//!
//! The driver chooses the way, because it has the others; here is what it goes by. While a carrier is used, UDP is asked by STUN
//! whether it is answered again.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use crate::rendezvous::client::Way;

/// Whether UDP to the rendezvous is asked, and when it was answered last.
#[derive(Debug)]
pub(super) struct Asking {
    by_udp: bool,
    /// Where it answers STUN.
    servers: Vec<SocketAddr>,
    answered: Option<Instant>,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            by_udp: true,
            servers: Vec::new(),
            answered: None,
        }
    }
}

impl Node {
    /// Since when the rendezvous owes us an answer, or will do if it says nothing. `None` when we are done with it.
    #[must_use]
    pub fn rendezvous_owes_since(&self) -> Option<Instant> {
        self.client.owes_since()
    }

    /// When the rendezvous last answered a question by UDP.
    #[must_use]
    pub const fn udp_answered(&self) -> Option<Instant> {
        self.asking.answered
    }

    pub(super) fn set_way(&mut self, way: Way, ask_by_udp: bool, now: Instant) {
        self.asking.by_udp = ask_by_udp;
        self.client.set_way(way, now);
        self.ask_servers(now);
    }

    /// The rendezvous, known at last, answers STUN at these addresses.
    pub(super) fn set_stun(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        self.asking.servers = servers;
        self.ask_servers(now);
    }

    fn ask_servers(&mut self, now: Instant) {
        let mut servers = self.asking.servers.clone();
        if servers.is_empty() {
            // Nobody has told us; its first port answers in any case.
            servers = self.client.addresses().to_vec();
        }
        let carried = self.client.way() != Way::Udp;
        if !self.asking.by_udp || (self.asking.servers.is_empty() && !carried) {
            servers.clear();
        }
        // A carrier's own address is none that STUN is asked at.
        servers.retain(|server| Way::Carrier(*server) != self.client.way());
        self.observer.set_servers(&servers, now);
        self.observer.set_hasty(carried, now);
    }

    pub(super) const fn note_udp_answer(&mut self, now: Instant) {
        self.asking.answered = Some(now);
    }

    /// What of our address as the rendezvous sees it is one for others: a carrier's far end is none.
    pub(super) fn observed_for_others(&self, observed: SocketAddr) -> Vec<SocketAddr> {
        match self.client.way() {
            Way::Udp if !observed.ip().is_loopback() || self.is_alone() => vec![observed],
            Way::Udp | Way::Closed | Way::Carrier(_) => Vec::new(),
        }
    }

    /// Whether this machine has no network but its own loopback.
    fn is_alone(&self) -> bool {
        let mut own = self.local_addresses.iter();
        own.all(|address| address.ip().is_loopback())
    }
}
