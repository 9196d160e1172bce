//! What passed on a segment, for a listener on the wire. Keeps packets; [`crate::pcap`] makes a file of them.

use std::time::Duration;

use crate::packet::Packet;

/// One packet as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Since the network's start.
    pub at: Duration,
    /// As it was there.
    pub packet: Packet,
}

/// Packets up to a limit; later ones are counted only.
#[derive(Debug)]
pub struct Capture {
    limit: usize,
    packets: Vec<Captured>,
    missed: u64,
}

impl Capture {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            packets: Vec::new(),
            missed: 0,
        }
    }

    pub(super) fn push(&mut self, at: Duration, packet: &Packet) {
        if self.packets.len() < self.limit {
            let packet = packet.clone();
            self.packets.push(Captured { at, packet });
        } else {
            self.missed += 1;
        }
    }

    /// What was kept, in order.
    #[must_use]
    pub fn packets(&self) -> &[Captured] {
        &self.packets
    }

    /// How many came after the limit was reached.
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}
