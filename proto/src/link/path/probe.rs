//! Probes on the active path: which one is due, and what an answer shows.
//!
//! The link seals a probe as a PING of exactly the wanted size; the other end answers with the id and the size, by whatever
//! path it sends on. The answer proves that the way out is alive and carries that size; it measures the round trip only
//! when it comes back the same way.

use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt;

use super::check::PairId;
use super::liveness::IDLE;
use super::{PathEvent, Paths, Probe};

#[derive(Clone, Copy, Debug)]
pub(super) struct SentProbe {
    pub(super) pair: PairId,
    pub(super) size: usize,
    pub(super) sent: Instant,
}

impl Paths {
    /// The next probe to seal and send, if any.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let active = self.active.as_mut()?;
        let valid = self.checklist.pairs.get_mut(&active.id)?.valid.as_mut()?;
        let id = self.next_probe_id;
        let size = if active.liveness.next_probe() <= now {
            active.liveness.probe_sent(now);
            PING_SIZE
        } else if active.liveness.is_probing() {
            return None;
        } else {
            valid.mtu.poll_probe(id, valid.smoothed_rtt, now)?
        };
        self.next_probe_id += 1;
        self.counters.probes_sent += 1;
        if self.probes.len() >= MAX_PROBES {
            self.probes.pop_first();
        }
        let (pair, sent) = (active.id, now);
        self.probes.insert(id, SentProbe { pair, size, sent });
        let (socket, remote) = pair;
        Some(Probe {
            socket,
            remote,
            id,
            size,
        })
    }

    /// The answer to a [`Probe`] was opened; it came from `from`, or by the relay.
    pub fn handle_probe_answer(
        &mut self,
        id: u64,
        size: usize,
        from: Option<SocketAddr>,
        now: Instant,
    ) {
        let Some(probe) = self
            .probes
            .get(&id)
            .copied()
            .filter(|probe| probe.size == size)
        else {
            return;
        };
        self.probes.remove(&id);
        let idle = self.rng.random_range(IDLE);
        let Some(active) = self
            .active
            .as_mut()
            .filter(|active| active.id == probe.pair)
        else {
            return;
        };
        active.liveness.proved(idle, now);
        let pair = self.checklist.pairs.get_mut(&probe.pair);
        if let Some(valid) = pair.and_then(|pair| pair.valid.as_mut()) {
            // The other end answers on its own best path: only the same way back measures this one.
            if from == Some(probe.pair.1) {
                valid.sample(now.saturating_duration_since(probe.sent), now);
            }
            if let Some(mtu) = valid.mtu.answered(id, size, now) {
                let (socket, remote) = probe.pair;
                self.events.push_back(PathEvent::MtuChanged {
                    socket,
                    remote,
                    mtu,
                });
            }
        }
        self.run(now);
    }
}

/// The size of a probe that asks only whether the path is alive, in bytes of UDP payload.
pub const PING_SIZE: usize = 64;
/// Probes whose answer is awaited.
const MAX_PROBES: usize = 64;
