//! Virtual time: owns the network and the programs on its hosts, and jumps from one deadline to the next, so that hours
//! pass in milliseconds. Knows no program but by [`Host`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::network::{HostId, Network};
use crate::packet::{Packet, Reassembler};

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
    /// Programs get whole packets, as from their system.
    pieces: Reassembler,
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
                pieces: Reassembler::default(),
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

    /// How many steps may be taken at one instant before a run gives up; at first a million.
    pub const fn set_step_limit(&mut self, steps: u32) {
        self.step_limit = steps;
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

    /// The network, when all is over.
    #[must_use]
    pub fn into_network(self) -> Network {
        self.network
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
            if let Some(slot) = self.hosts.get_mut(&id)
                && let Some(packet) = slot.pieces.push(packet, false, now)
            {
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::network::Access;

    /// Sends one packet a second to its peer, and counts what comes.
    struct Beacon {
        own: SocketAddr,
        peer: SocketAddr,
        next: Instant,
        due: bool,
        got: u32,
        /// A bug that the run must survive.
        stuck: bool,
    }

    impl Host for Beacon {
        fn handle_packet(&mut self, _: Packet, _: Instant) {
            self.got += 1;
        }

        fn poll_packet(&mut self, _: Instant) -> Option<Packet> {
            std::mem::take(&mut self.due).then(|| Packet::udp(self.own, self.peer, vec![0; 8]))
        }

        fn poll_timeout(&self) -> Option<Instant> {
            Some(self.next)
        }

        fn handle_timeout(&mut self, now: Instant) {
            if !self.stuck && self.next <= now {
                self.due = true;
                self.next = now + Duration::from_secs(1);
            }
        }
    }

    fn pair() -> (Simulation<Beacon>, [HostId; 2]) {
        let start = Instant::now();
        let mut network = Network::new(1, start);
        let ends: [SocketAddr; 2] =
            ["198.51.100.1:1", "198.51.100.2:2"].map(|text| text.parse().expect("an endpoint"));
        let ids = ends.map(|end| {
            let host = network.add_host();
            let access = Access::delay(Duration::from_millis(10));
            network
                .attach(host, Network::INTERNET, &[end.ip()], access)
                .expect("a free address");
            host
        });
        let mut simulation = Simulation::new(network, start);
        for (id, (own, peer)) in ids
            .into_iter()
            .zip([(ends[0], ends[1]), (ends[1], ends[0])])
        {
            let beacon = Beacon {
                own,
                peer,
                next: start,
                due: false,
                got: 0,
                stuck: false,
            };
            simulation.insert(id, beacon);
        }
        (simulation, ids)
    }

    fn got(simulation: &Simulation<Beacon>, id: HostId) -> u32 {
        simulation.host(id).expect("a host").got
    }

    #[test]
    fn an_hour_passes_at_once() {
        let (mut simulation, [a, b]) = pair();
        let end = simulation.now() + Duration::from_hours(1);
        simulation.run_until(end).expect("no spinning");
        assert_eq!(simulation.now(), end);
        // The last ones are on their way.
        assert_eq!((got(&simulation, a), got(&simulation, b)), (3600, 3600));
    }

    #[test]
    fn a_run_stops_where_something_is_found() {
        let (mut simulation, [a, _]) = pair();
        let start = simulation.now();
        let found =
            simulation.run_until_some(start + Duration::from_hours(1), |run| got(run, a) == 3);
        assert_eq!(found, Ok(true));
        assert_eq!(simulation.now(), start + Duration::from_millis(2020));
        let found =
            simulation.run_until_some(start + Duration::from_secs(5), |run| got(run, a) == 99);
        assert_eq!(
            (found, simulation.now()),
            (Ok(false), start + Duration::from_secs(5))
        );
    }

    #[test]
    fn a_change_from_outside_is_seen_at_once_and_removed_hosts_are_silent() {
        let (mut simulation, [a, b]) = pair();
        simulation.host_mut(a).expect("a host").due = true;
        let start = simulation.now();
        simulation.remove(b);
        simulation
            .run_until(start + Duration::from_millis(500))
            .expect("no spinning");
        assert_eq!(got(&simulation, a), 0);
        assert!(!simulation.host(a).expect("a host").due);
    }

    #[test]
    fn a_host_that_stops_the_clock_is_named() {
        let (mut simulation, [_, b]) = pair();
        simulation.set_step_limit(1000);
        simulation.host_mut(b).expect("a host").stuck = true;
        let end = simulation.now() + Duration::from_secs(1);
        let error = simulation.run_until(end).expect_err("it spins");
        assert_eq!(error.host, b);
    }
}
