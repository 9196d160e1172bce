//! The filtering database (IEEE 802.1D, 7.9): which station is behind which port, since when silent.
//!
//! A hash table, because every frame asks it twice; its hash is keyed, so that nobody outside can choose addresses that
//! collide. Whatever is shown from it is sorted first: its own order depends on the key.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use rand::Rng;

use super::{Config, PortId};
use crate::bucket::Bucket;
use crate::wire::ethernet::MacAddr;

/// One station, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Its address.
    pub mac: MacAddr,
    /// The port that it is behind.
    pub port: PortId,
    /// How long it has been silent.
    pub age: Duration,
}

/// What [`Table::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learnt {
    /// The station was there already.
    Known,
    /// It was not.
    New,
    /// It was behind another port.
    Moved,
    /// A limit forbids to remember it, or its move.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Table {
    stations: HashMap<u64, Station, Keyed>,
    ports: BTreeMap<PortId, Port>,
    ageing_time: Duration,
    max_stations: usize,
    max_stations_per_port: usize,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Station {
    port: PortId,
    heard: Instant,
    /// What it may still flood.
    bucket: Bucket,
}

#[derive(Debug)]
struct Port {
    stations: usize,
    /// What it may still flood.
    bucket: Bucket,
}

impl Table {
    pub(super) fn new(config: &Config, rng: &mut impl Rng) -> Self {
        Self {
            stations: HashMap::with_hasher(Keyed::new(rng)),
            ports: BTreeMap::new(),
            ageing_time: config.ageing_time,
            max_stations: config.max_stations,
            max_stations_per_port: config.max_stations_per_port,
            next_sweep: None,
        }
    }

    pub(super) fn add_port(&mut self, port: PortId, bucket: Bucket) {
        let stations = 0;
        self.ports.insert(port, Port { stations, bucket });
    }

    pub(super) fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.stations.retain(|_, station| station.port != port);
        if self.stations.is_empty() {
            self.next_sweep = None;
        }
    }

    /// The station `mac` was heard from `port`.
    pub(super) fn learn(&mut self, mac: MacAddr, port: PortId, now: Instant) -> Learnt {
        let known = self.stations.get_mut(&key(mac));
        if let Some(station) = known
            && station.port == port
        {
            station.heard = station.heard.max(now);
            Learnt::Known
        } else {
            self.learn_anew(mac, port, now)
        }
    }

    pub(super) fn port_of(&self, mac: MacAddr, now: Instant) -> Option<PortId> {
        let station = self.stations.get(&key(mac))?;
        (!station.is_aged(self.ageing_time, now)).then_some(station.port)
    }

    /// The bucket of the station `mac`, if it has been learnt behind `port`.
    pub(super) fn source_bucket(&mut self, mac: MacAddr, port: PortId) -> Option<&mut Bucket> {
        let station = self.stations.get_mut(&key(mac))?;
        (station.port == port).then_some(&mut station.bucket)
    }

    pub(super) fn port_bucket(&mut self, port: PortId) -> Option<&mut Bucket> {
        Some(&mut self.ports.get_mut(&port)?.bucket)
    }

    /// Frees the entries that are too old and says how many they were.
    pub(super) fn sweep(&mut self, now: Instant) -> u64 {
        if self.next_sweep.is_none_or(|due| now < due) {
            return 0;
        }
        let (ageing_time, ports, mut aged) = (self.ageing_time, &mut self.ports, 0);
        self.stations.retain(|_, station| {
            let keep = !station.is_aged(ageing_time, now);
            if !keep {
                aged += 1;
                Port::leave(ports, station.port);
            }
            keep
        });
        self.next_sweep = (!self.stations.is_empty()).then(|| self.sweep_after(now));
        aged
    }

    pub(super) const fn next_sweep(&self) -> Option<Instant> {
        self.next_sweep
    }

    pub(super) fn rows(&self, now: Instant) -> Vec<Row> {
        let heard = self.stations.iter();
        let mut rows: Vec<Row> = heard
            .filter(|(_, station)| !station.is_aged(self.ageing_time, now))
            .map(|(key, station)| station.row(*key, now))
            .collect();
        rows.sort_unstable();
        rows
    }

    /// A new station, or one that has moved. One that moves to a full port stays where it was: otherwise a port could
    /// make others' addresses unknown by claiming them.
    fn learn_anew(&mut self, mac: MacAddr, port: PortId, now: Instant) -> Learnt {
        let old = self.stations.get(&key(mac)).map(|station| station.port);
        let full = old.is_none() && self.stations.len() >= self.max_stations;
        let Some(new) = self.ports.get_mut(&port) else {
            return Learnt::NoRoom;
        };
        if full || new.stations >= self.max_stations_per_port {
            return Learnt::NoRoom;
        }
        new.stations += 1;
        let (heard, bucket) = (now, Bucket::full(now));
        let station = Station {
            port,
            heard,
            bucket,
        };
        self.stations.insert(key(mac), station);
        self.next_sweep = self.next_sweep.or_else(|| Some(self.sweep_after(now)));
        old.map_or(Learnt::New, |old| {
            Port::leave(&mut self.ports, old);
            Learnt::Moved
        })
    }

    fn sweep_after(&self, now: Instant) -> Instant {
        let interval = (self.ageing_time / 10).max(MIN_SWEEP_INTERVAL);
        now.checked_add(interval).unwrap_or(now)
    }
}

impl Station {
    fn is_aged(&self, ageing_time: Duration, now: Instant) -> bool {
        self.age(now) >= ageing_time
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    fn row(&self, key: u64, now: Instant) -> Row {
        let [_, _, mac @ ..] = key.to_be_bytes();
        Row {
            mac: MacAddr(mac),
            port: self.port,
            age: self.age(now),
        }
    }
}

impl Port {
    fn leave(ports: &mut BTreeMap<PortId, Self>, port: PortId) {
        if let Some(port) = ports.get_mut(&port) {
            port.stations -= 1;
        }
    }
}

/// An address as the number that the hash takes in one step.
const fn key(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, g] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, g])
}

/// Multiply-shift hashing (Dietzfelbinger, 1996): the upper half of a·x + b for 128-bit random a and b. Over the choice of
/// a and b, any two addresses collide no more often than chance has it; whoever does not see a and b cannot do better.
#[derive(Clone, Copy)]
struct Keyed {
    a: u128,
    b: u128,
}

impl Keyed {
    fn new(rng: &mut impl Rng) -> Self {
        let mut word = || (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
        Self {
            a: word(),
            b: word(),
        }
    }
}

impl std::fmt::Debug for Keyed {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyed(…)")
    }
}

impl BuildHasher for Keyed {
    type Hasher = MultiplyShift;

    fn build_hasher(&self) -> MultiplyShift {
        MultiplyShift {
            key: *self,
            hash: 0,
        }
    }
}

struct MultiplyShift {
    key: Keyed,
    hash: u64,
}

impl Hasher for MultiplyShift {
    fn write_u64(&mut self, word: u64) {
        let product = self.key.a.wrapping_mul(u128::from(word ^ self.hash));
        let [high @ .., _, _, _, _, _, _, _, _] = product.wrapping_add(self.key.b).to_be_bytes();
        self.hash = u64::from_be_bytes(high);
    }

    /// Not on any path here: the table's keys are single words.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

/// A sweep visits every entry, so it comes at most this often, however short the ageing time.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_secs(1);
