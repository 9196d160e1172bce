//! Virtual time: owns the network and the programs on its hosts, and jumps from one deadline to the next, so that hours
//! pass in milliseconds. Knows no program but by [`Host`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::network::{HostId, Network};
use crate::packet::Packet;

/// A program on a host. After each input its outputs are drained; `now` never goes back.
pub trait Host {
    /// A packet came for it.
    fn handle_packet(&mut self, packet: Packet, now: Instant);

    /// The next packet that it sends.
    fn poll_packet(&mut self, now: Instant) -> Option<Packet>;

    /// When it wants [`Self::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;

    /// Its deadline has come.
    fn handle_timeout(&mut self, now: Instant);
}

impl<H: Host + ?Sized> Host for Box<H> {
    fn handle_packet(&mut self, packet: Packet, now: Instant) {
        (**self).handle_packet(packet, now);
    }

    fn poll_packet(&mut self, now: Instant) -> Option<Packet> {
        (**self).poll_packet(now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (**self).poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        (**self).handle_timeout(now);
    }
}

/// Time does not advance: something wants to act again and again at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time stands still after {steps} steps at one instant; the last one to act was {host}")]
pub struct Spinning {
    /// Who acted last.
    pub host: HostId,
    /// How many steps were taken.
    pub steps: u32,
}

/// A network with programs on its hosts.
#[derive(Debug)]
pub struct Simulation<H> {
    network: Network,
    hosts: BTreeMap<HostId, Slot<H>>,
    /// The deadlines of all hosts, the next one first.
    deadlines: BTreeSet<(Instant, HostId)>,
    /// Hosts that someone may have changed from outside.
    touched: BTreeSet<HostId>,
    now: Instant,
    step_limit: u32,
}

#[derive(Debug)]
struct Slot<H> {
    host: H,
    deadline: Option<Instant>,
}

impl<H: Host> Simulation<H> {
    /// A run that starts now.
    #[must_use]
    pub const fn new(network: Network, now: Instant) -> Self {
        Self {
            network,
            hosts: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            touched: BTreeSet::new(),
            now,
            step_limit: STEP_LIMIT,
        }
    }

    /// Puts a program on a host, in place of the one before, which is given back.
    pub fn insert(&mut self, id: HostId, host: H) -> Option<H> {
        let before = self.remove(id);
        self.hosts.insert(
            id,
            Slot {
                host,
                deadline: None,
            },
        );
        self.touched.insert(id);
        before
    }

    /// Takes the program off a host, as when the machine is switched off.
    pub fn remove(&mut self, id: HostId) -> Option<H> {
        let slot = self.hosts.remove(&id)?;
        if let Some(deadline) = slot.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(slot.host)
    }

    /// The virtual clock.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// What is between the hosts.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// The same, to be changed during the run.
    pub const fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// A program.
    #[must_use]
    pub fn host(&self, id: HostId) -> Option<&H> {
        Some(&self.hosts.get(&id)?.host)
    }

    /// The same, to be told something; its outputs are drained when the run goes on.
    pub fn host_mut(&mut self, id: HostId) -> Option<&mut H> {
        let slot = self.hosts.get_mut(&id)?;
        self.touched.insert(id);
        Some(&mut slot.host)
    }

    /// All programs.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &H)> {
        self.hosts.iter().map(|(&id, slot)| (id, &slot.host))
    }

    /// Lets everything happen until `deadline`, which is the time then.
    ///
    /// # Errors
    /// When time does not advance.
    pub fn run_until(&mut self, deadline: Instant) -> Result<(), Spinning> {
        self.run_until_some(deadline, |_| false).map(|_| ())
    }

    /// Lets everything happen until `found` says so, which is asked after each instant at which anything happened; false
    /// if it has not by `deadline`.
    ///
    /// # Errors
    /// When time does not advance.
    pub fn run_until_some(
        &mut self,
        deadline: Instant,
        mut found: impl FnMut(&Self) -> bool,
    ) -> Result<bool, Spinning> {
        loop {
            self.settle()?;
            if found(self) {
                return Ok(true);
            }
            match self.poll_timeout() {
                Some(next) if next <= deadline => self.now = self.now.max(next),
                _ => {
                    self.now = self.now.max(deadline);
                    return Ok(false);
                }
            }
        }
    }

    /// When anything is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_hosts = self.deadlines.first().map(|&(at, _)| at);
        of_hosts
            .into_iter()
            .chain(self.network.poll_timeout())
            .min()
    }

    /// Everything that is due at this instant, and what follows from it at once.
    fn settle(&mut self) -> Result<(), Spinning> {
        let mut steps = 0;
        while let Some(host) = self.step(&mut steps) {
            steps += 1;
            if steps >= self.step_limit {
                return Err(Spinning { host, steps });
            }
        }
        Ok(())
    }

    /// One input to one host and all that it sends then; `None` when nothing is due any more.
    fn step(&mut self, steps: &mut u32) -> Option<HostId> {
        let now = self.now;
        self.network.handle_timeout(now);
        let id = if let Some((id, packet)) = self.network.poll_packet() {
            if let Some(slot) = self.hosts.get_mut(&id) {
                slot.host.handle_packet(packet, now);
            }
            id
        } else if let Some(id) = self.touched.pop_first() {
            id
        } else {
            let &(at, id) = self.deadlines.first()?;
            if at > now {
                return None;
            }
            self.hosts.get_mut(&id)?.host.handle_timeout(now);
            id
        };
        self.drain(id, steps);
        Some(id)
    }

    fn drain(&mut self, id: HostId, steps: &mut u32) {
        let Some(slot) = self.hosts.get_mut(&id) else {
            return;
        };
        while *steps < self.step_limit
            && let Some(packet) = slot.host.poll_packet(self.now)
        {
            self.network.send(id, packet, self.now);
            *steps += 1;
        }
        let deadline = slot.host.poll_timeout();
        if deadline != slot.deadline {
            if let Some(before) = slot.deadline {
                self.deadlines.remove(&(before, id));
            }
            self.deadlines.extend(deadline.map(|at| (at, id)));
            slot.deadline = deadline;
        }
    }
}

/// Far more than any instant needs.
const STEP_LIMIT: u32 = 1_000_000;
