//! The filtering database (IEEE 802.1D, 7.9): which station is behind which port, since when silent.
//!
//! A hash table, because every frame asks it twice; its hash is keyed, so that nobody outside can choose addresses that
//! collide. Whatever is shown from it is sorted first: its own order depends on the key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;

use super::fib::{Fib, PortNumber};
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
    /// The same for readers, once there are any.
    fib: Option<Arc<Fib>>,
    hash: Keyed,
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
    number: PortNumber,
    stations: usize,
    /// What it may still flood.
    bucket: Bucket,
}

impl Table {
    pub(super) fn new(config: &Config, rng: &mut impl Rng) -> Self {
        let hash = Keyed::new(rng);
        Self {
            hash,
            fib: None,
            stations: HashMap::with_hasher(hash),
            ports: BTreeMap::new(),
            ageing_time: config.ageing_time,
            max_stations: config.max_stations,
            max_stations_per_port: config.max_stations_per_port,
            next_sweep: None,
        }
    }

    pub(super) fn add_port(&mut self, port: PortId, bucket: Bucket) {
        let taken: BTreeSet<PortNumber> = self.ports.values().map(|it| it.number).collect();
        let number = (1..PortNumber::MAX).find(|number| !taken.contains(number));
        let added = Port {
            number: number.unwrap_or(0),
            stations: 0,
            bucket,
        };
        self.ports.insert(port, added);
    }

    /// The number by which readers know a port; 0 when there were too many.
    pub(super) fn number(&self, port: PortId) -> Option<PortNumber> {
        self.ports.get(&port).map(|port| port.number)
    }

    /// The table for readers; kept up to date from the first call on.
    pub(super) fn fib(&mut self, now: Instant) -> Arc<Fib> {
        if let Some(fib) = &self.fib {
            return Arc::clone(fib);
        }
        let fib = Arc::new(Fib::new(
            self.hash,
            self.max_stations,
            self.ageing_time,
            now,
        ));
        #[allow(
            clippy::iter_over_hash_type,
            reason = "the order of entries shows nowhere"
        )]
        for (key, station) in &self.stations {
            let number = self.ports.get(&station.port).map_or(0, |port| port.number);
            fib.set(unkey(*key), number, station.heard);
        }
        self.fib = Some(Arc::clone(&fib));
        fib
    }

    pub(super) fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        let fib = self.fib.as_deref();
        self.stations.retain(|key, station| {
            let keep = station.port != port;
            if let (false, Some(fib)) = (keep, fib) {
                fib.remove(unkey(*key));
            }
            keep
        });
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
            let silent = station.heard.max(now);
            // Readers may have thought it forgotten.
            if let (Some(fib), Some(port)) = (&self.fib, self.ports.get(&port)) {
                fib.set(mac, port.number, silent);
            }
            station.heard = silent;
            Learnt::Known
        } else {
            self.learn_anew(mac, port, now)
        }
    }

    pub(super) fn port_of(&self, mac: MacAddr, now: Instant) -> Option<PortId> {
        let station = self.stations.get(&key(mac))?;
        let heard = self.heard(mac, station);
        (!is_aged(heard, self.ageing_time, now)).then_some(station.port)
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
        let fib = self.fib.as_deref();
        self.stations.retain(|key, station| {
            let read = fib.and_then(|fib| fib.heard(unkey(*key)));
            station.heard = read.map_or(station.heard, |read| read.max(station.heard));
            let keep = !is_aged(station.heard, ageing_time, now);
            if !keep {
                aged += 1;
                if let Some(fib) = fib {
                    fib.remove(unkey(*key));
                }
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
            .map(|(key, station)| (unkey(*key), station.port, self.heard(unkey(*key), station)))
            .filter(|(.., heard)| !is_aged(*heard, self.ageing_time, now))
            .map(|(mac, port, heard)| Row {
                mac,
                port,
                age: now.saturating_duration_since(heard),
            })
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
        if let Some(fib) = &self.fib {
            fib.set(mac, new.number, now);
        }
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

    /// When the station was heard last, by the switch or by readers of its table.
    fn heard(&self, mac: MacAddr, station: &Station) -> Instant {
        let read = self.fib.as_deref().and_then(|fib| fib.heard(mac));
        read.map_or(station.heard, |read| read.max(station.heard))
    }

    fn sweep_after(&self, now: Instant) -> Instant {
        let interval = (self.ageing_time / 10).max(MIN_SWEEP_INTERVAL);
        now.checked_add(interval).unwrap_or(now)
    }
}

fn is_aged(heard: Instant, ageing_time: Duration, now: Instant) -> bool {
    now.saturating_duration_since(heard) >= ageing_time
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

const fn unkey(key: u64) -> MacAddr {
    let [_, _, mac @ ..] = key.to_be_bytes();
    MacAddr(mac)
}

/// Multiply-shift hashing (Dietzfelbinger, 1996): the upper half of a·x + b for 128-bit random a and b. Over the choice of
/// a and b, any two addresses collide no more often than chance has it; whoever does not see a and b cannot do better.
#[derive(Clone, Copy)]
pub(super) struct Keyed {
    a: u128,
    b: u128,
}

impl Keyed {
    pub(super) fn new(rng: &mut impl Rng) -> Self {
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

pub(super) struct MultiplyShift {
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
