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
    /// Where it answers STUN beside its own address.
    stun: Vec<SocketAddr>,
    answered: Option<Instant>,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            by_udp: true,
            stun: Vec::new(),
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

    /// The rendezvous answers STUN at these addresses, too.
    pub(super) fn set_stun(&mut self, stun: Vec<SocketAddr>, now: Instant) {
        self.asking.stun = stun;
        self.ask_servers(now);
    }

    fn ask_servers(&mut self, now: Instant) {
        let way = self.client.way();
        self.observer.set_hasty(way != Way::Udp, now);
        if !self.asking.by_udp {
            return self.observer.set_servers(&[], now);
        }
        let stun = self.asking.stun.clone();
        if way == Way::Udp {
            return self.set_stun_servers(&stun, now);
        }
        // Only whether it answers; what our NAT is like, nobody needs to know now.
        let known = self.client.addresses().iter().copied();
        let servers: Vec<SocketAddr> = known.chain(stun).collect();
        self.observer.set_servers(&servers, now);
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
