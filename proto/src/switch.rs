//! The virtual Ethernet switch: to which port does this frame go (IEEE 802.1D, clause 7).
//!
//! ```text
//!   frame from port A ─▶ learn (source is behind A) ─▶ destination known? ─▶ its port
//!                                                          │ no, or a group
//!                                                          ▼
//!                                                    storm limit ─▶ flood: every port but A
//! ```
//!
//! It knows ports by number and stations by MAC address; of IP it knows nothing, and of what a port is (a virtual LAN card,
//! a member's link, the gateway) neither. It holds no frame: what does not go out at once is dropped (REQUIREMENTS A24).
//!
//! **Ageing** is exact for every answer (an entry that is too old is as good as absent) and lazy for memory: the entry itself
//! goes with the next sweep, at [`Switch::poll_timeout`]. Until then it still counts against the limits.
//!
//! **Reserved group addresses** (01:80:C2:00:00:0x) are flooded like any group, as a plain hub does: the switch takes no
//! part in spanning tree, and so bridges at two of its ports see each other's BPDUs and break a loop that leads through it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::bucket::{Bucket, Rate};
use crate::wire::ethernet::{MacAddr, addresses};

pub mod fib;
mod storm;
mod table;

pub use fib::{Fib, PortNumber, Tick};
pub use storm::StormLimit;
pub use table::Row;
use table::{Learnt, Table};

/// A port's number, chosen by whoever adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A switch's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a silent station is remembered (802.1D, 7.9.2: 300 s, from 10 s to 1,000,000 s).
    pub ageing_time: Duration,
    /// Stations remembered in all.
    pub max_stations: usize,
    /// Stations remembered behind one port, so that no port can fill the table for the others.
    pub max_stations_per_port: usize,
    /// The limit on frames that go to many; `None` turns it off.
    pub storm_limit: Option<StormLimit>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ageing_time: Duration::from_secs(300),
            max_stations: 65_536,
            max_stations_per_port: 4_096,
            storm_limit: Some(StormLimit::default()),
        }
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// To this port alone.
    To(PortId),
    /// To every port of [`Switch::flood_ports`].
    Flood,
    /// Nowhere.
    Filtered(Filtered),
}

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Filtered {
    /// It came from a port that the switch does not have.
    #[error("no such port")]
    UnknownPort,
    /// It is shorter than an Ethernet header.
    #[error("shorter than an Ethernet header")]
    Short,
    /// Its source is a group, which no station is.
    #[error("source address is a group")]
    GroupSource,
    /// Its destination is behind the port that it came from.
    #[error("destination is behind the same port")]
    SamePort,
    /// Its source, or its port, sends too much to many.
    #[error("too many frames for many stations")]
    Storm,
}

/// What the switch has done since its start, in frames and stations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Frames to one port.
    pub forwarded: u64,
    /// Frames to many ports.
    pub flooded: u64,
    /// [`Filtered::UnknownPort`].
    pub filtered_unknown_port: u64,
    /// [`Filtered::Short`].
    pub filtered_short: u64,
    /// [`Filtered::GroupSource`].
    pub filtered_group_source: u64,
    /// [`Filtered::SamePort`].
    pub filtered_same_port: u64,
    /// [`Filtered::Storm`].
    pub filtered_storm: u64,
    /// Stations learnt.
    pub learnt: u64,
    /// Stations that were behind one port and then behind another.
    pub moved: u64,
    /// Stations forgotten for their silence.
    pub aged: u64,
    /// Frames whose source was not learnt, or not moved, because a limit was reached.
    pub not_learnt: u64,
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    config: Config,
    ports: BTreeSet<PortId>,
    table: Table,
    counters: Counters,
}

impl Switch {
    /// A switch without ports; `rng` keys the hash of its table.
    #[must_use]
    pub fn new(config: Config, rng: &mut impl Rng) -> Self {
        Self {
            config,
            ports: BTreeSet::new(),
            table: Table::new(&config, rng),
            counters: Counters::default(),
        }
    }

    /// Adds a port; one that is there stays as it is.
    pub fn add_port(&mut self, port: PortId, now: Instant) {
        if self.ports.insert(port) {
            self.table.add_port(port, Bucket::full(now));
        }
    }

    /// Removes a port and forgets every station behind it.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.table.remove_port(port);
    }

    /// Says where a frame from port `from` goes, and learns from it.
    #[must_use = "the frame has not gone anywhere yet"]
    pub fn forward(&mut self, from: PortId, frame: &[u8], now: Instant) -> Forwarding {
        let forwarding = self
            .decide(from, frame, now)
            .unwrap_or_else(Forwarding::Filtered);
        *self.counter(forwarding) += 1;
        forwarding
    }

    /// Forgets the stations that have been silent for too long; the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.counters.aged += self.table.sweep(now);
    }

    /// When to call [`Self::handle_timeout`]: only to free memory, so late is harmless. `None` while nothing is learnt.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.table.next_sweep()
    }

    /// The ports that a flooded frame goes to, in order: all but the one that it came from.
    pub fn flood_ports(&self, from: PortId) -> impl Iterator<Item = PortId> + '_ {
        self.ports.iter().copied().filter(move |port| *port != from)
    }

    /// All ports, in order.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.ports.iter().copied()
    }

    /// The port that a station is behind, if it was heard within the ageing time.
    #[must_use]
    pub fn port_of(&self, mac: MacAddr, now: Instant) -> Option<PortId> {
        self.table.port_of(mac, now)
    }

    /// The stations heard within the ageing time, by address.
    #[must_use]
    pub fn table(&self, now: Instant) -> Vec<Row> {
        self.table.rows(now)
    }

    /// The forwarding table for those who read it without the switch; kept up to date from the first call on. What is not
    /// in it, or is heard from elsewhere than it says, is to be given to [`Self::forward`].
    pub fn fib(&mut self, now: Instant) -> Arc<Fib> {
        self.table.fib(now)
    }

    /// The number that [`Fib`] has for a port.
    #[must_use]
    pub fn number(&self, port: PortId) -> Option<PortNumber> {
        self.table.number(port).filter(|number| *number != 0)
    }

    /// What the switch has done.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The steps of 802.1D, 7.7 and 7.8, in the order in which a frame meets them.
    fn decide(&mut self, from: PortId, frame: &[u8], now: Instant) -> Result<Forwarding, Filtered> {
        if !self.ports.contains(&from) {
            return Err(Filtered::UnknownPort);
        }
        let (destination, source) = addresses(frame).ok_or(Filtered::Short)?;
        if source.is_group() {
            return Err(Filtered::GroupSource);
        }
        self.learn(source, from, now);
        match self.known_port(destination, now) {
            Some(port) if port == from => Err(Filtered::SamePort),
            Some(port) => Ok(Forwarding::To(port)),
            None => self.flood(source, from, now),
        }
    }

    fn learn(&mut self, source: MacAddr, from: PortId, now: Instant) {
        match self.table.learn(source, from, now) {
            Learnt::Known => {}
            Learnt::New => self.counters.learnt += 1,
            Learnt::Moved => self.counters.moved += 1,
            Learnt::NoRoom => self.counters.not_learnt += 1,
        }
    }

    fn known_port(&self, destination: MacAddr, now: Instant) -> Option<PortId> {
        if destination.is_group() {
            None
        } else {
            self.table.port_of(destination, now)
        }
    }

    /// Broadcast, multicast and unknown unicast (BUM), as far as the storm limit lets it.
    fn flood(
        &mut self,
        source: MacAddr,
        from: PortId,
        now: Instant,
    ) -> Result<Forwarding, Filtered> {
        if let Some(limit) = self.config.storm_limit {
            self.take_token(source, from, limit.source, limit.port, now)?;
        }
        Ok(Forwarding::Flood)
    }

    fn take_token(
        &mut self,
        source: MacAddr,
        from: PortId,
        per_source: Rate,
        per_port: Rate,
        now: Instant,
    ) -> Result<(), Filtered> {
        // The source's own bucket first: a refused frame must not use up what its port's other stations share.
        let allowed = self
            .table
            .source_bucket(source, from)
            .is_none_or(|bucket| bucket.take(per_source, now))
            && self
                .table
                .port_bucket(from)
                .is_some_and(|bucket| bucket.take(per_port, now));
        if allowed {
            Ok(())
        } else {
            Err(Filtered::Storm)
        }
    }

    const fn counter(&mut self, forwarding: Forwarding) -> &mut u64 {
        let counters = &mut self.counters;
        match forwarding {
            Forwarding::To(_) => &mut counters.forwarded,
            Forwarding::Flood => &mut counters.flooded,
            Forwarding::Filtered(Filtered::UnknownPort) => &mut counters.filtered_unknown_port,
            Forwarding::Filtered(Filtered::Short) => &mut counters.filtered_short,
            Forwarding::Filtered(Filtered::GroupSource) => &mut counters.filtered_group_source,
            Forwarding::Filtered(Filtered::SamePort) => &mut counters.filtered_same_port,
            Forwarding::Filtered(Filtered::Storm) => &mut counters.filtered_storm,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests;
