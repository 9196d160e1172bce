//! The forwarding table as others read it: which port is a station behind, without a lock.
//!
//! ```text
//!   one writer (the switch)              many readers (who forwards frames)
//!        set, remove                          find, and "it was heard again"
//!            ▼                                      ▼
//!   │ station, port │   –   │ station, port │ station, port │   –   │        one word each, open addressing
//!   │     heard     │   –   │     heard     │     heard     │   –   │        in ticks of 100 ms
//! ```
//!
//! A reader that meets a change half done misses a station, and asks the switch as for any that is unknown. It never sees
//! a station behind a port that it was not behind. Which stations are in it is the switch's decision alone.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::table::Keyed;
use crate::wire::ethernet::MacAddr;

/// A port in the table: its place among the switch's ports, from 1 on.
pub type PortNumber = u16;

/// The table.
#[derive(Debug)]
pub struct Fib {
    hash: Keyed,
    /// The address in the upper 48 bits, the port in the lower 16; 0 for an empty place.
    stations: Box<[AtomicU64]>,
    heard: Box<[AtomicU32]>,
    base: Instant,
    ageing: u32,
}

/// A time in the table's own measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick(u32);

impl Fib {
    /// An empty table for `most` stations.
    pub(super) fn new(hash: Keyed, most: usize, ageing_time: Duration, now: Instant) -> Self {
        let places = (most * 2).next_power_of_two();
        Self {
            hash,
            stations: (0..places).map(|_| AtomicU64::new(0)).collect(),
            heard: (0..places).map(|_| AtomicU32::new(0)).collect(),
            base: now,
            ageing: u32::try_from(ageing_time.as_millis() / TICK).unwrap_or(u32::MAX),
        }
    }

    /// The time `now`.
    #[must_use]
    pub fn tick(&self, now: Instant) -> Tick {
        let ticks = now.saturating_duration_since(self.base).as_millis() / TICK;
        Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// The port that the station is behind, if it was heard within the ageing time.
    #[must_use]
    pub fn find(&self, mac: MacAddr, now: Tick) -> Option<PortNumber> {
        let (place, port) = self.place_of(mac)?;
        let heard = self.heard[place].load(Ordering::Relaxed);
        (now.0.saturating_sub(heard) < self.ageing).then_some(port)
    }

    /// The station was heard behind `port`: if that is where it is known to be, it is not forgotten soon. Else the switch
    /// must be asked.
    #[must_use]
    pub fn hear(&self, mac: MacAddr, port: PortNumber, now: Tick) -> bool {
        let Some((place, known)) = self.place_of(mac) else {
            return false;
        };
        let heard = self.heard[place].load(Ordering::Relaxed);
        if known != port || now.0.saturating_sub(heard) >= self.ageing {
            return false;
        }
        if heard < now.0 {
            self.heard[place].store(now.0, Ordering::Relaxed);
        }
        true
    }

    /// When the station was heard last.
    pub(super) fn heard(&self, mac: MacAddr) -> Option<Instant> {
        let (place, _) = self.place_of(mac)?;
        let ticks = self.heard[place].load(Ordering::Relaxed);
        let millis = u64::from(ticks) * u64::try_from(TICK).unwrap_or(1);
        self.base.checked_add(Duration::from_millis(millis))
    }

    /// The station is behind `port` now.
    pub(super) fn set(&self, mac: MacAddr, port: PortNumber, now: Instant) {
        let tick = self.tick(now);
        let word = word(mac, port);
        let mut place = self.home(mac);
        for _ in 0..self.stations.len() {
            let there = self.stations[place].load(Ordering::Relaxed);
            if there == 0 || there >> 16 == word >> 16 {
                self.heard[place].store(tick.0, Ordering::Relaxed);
                self.stations[place].store(word, Ordering::Release);
                return;
            }
            place = self.after(place);
        }
    }

    /// The station is behind none.
    pub(super) fn remove(&self, mac: MacAddr) {
        let Some((mut hole, _)) = self.place_of(mac) else {
            return;
        };
        // What stands behind moves up, so that no search ends too early (Knuth, 6.4, algorithm R).
        let mut place = hole;
        loop {
            place = self.after(place);
            let there = self.stations[place].load(Ordering::Relaxed);
            if there == 0 {
                break;
            }
            let home = self.home(unpack(there).0);
            if self.steps(home, place) >= self.steps(hole, place) {
                let heard = self.heard[place].load(Ordering::Relaxed);
                self.heard[hole].store(heard, Ordering::Relaxed);
                self.stations[hole].store(there, Ordering::Release);
                hole = place;
            }
        }
        self.stations[hole].store(0, Ordering::Release);
    }

    fn place_of(&self, mac: MacAddr) -> Option<(usize, PortNumber)> {
        let mut place = self.home(mac);
        for _ in 0..self.stations.len() {
            let there = self.stations[place].load(Ordering::Acquire);
            if there == 0 {
                return None;
            }
            let (station, port) = unpack(there);
            if station == mac {
                return Some((place, port));
            }
            place = self.after(place);
        }
        None
    }

    fn home(&self, mac: MacAddr) -> usize {
        let hash = self.hash.hash_one(word(mac, 0));
        usize::try_from(hash & u64::try_from(self.stations.len() - 1).unwrap_or(0)).unwrap_or(0)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.stations.len() - 1)
    }

    fn steps(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.stations.len() - 1)
    }
}

fn word(mac: MacAddr, port: PortNumber) -> u64 {
    let [a, b, c, d, e, g] = mac.0;
    let [high, low] = port.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, g, high, low])
}

fn unpack(word: u64) -> (MacAddr, PortNumber) {
    let [a, b, c, d, e, g, high, low] = word.to_be_bytes();
    (MacAddr([a, b, c, d, e, g]), u16::from_be_bytes([high, low]))
}

/// Milliseconds of a tick.
const TICK: u128 = 100;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn fib(now: Instant) -> Fib {
        let hash = Keyed::new(&mut StdRng::seed_from_u64(3));
        Fib::new(hash, 8, Duration::from_secs(10), now)
    }

    fn mac(number: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn a_silent_station_is_unknown_and_a_heard_one_is_not() {
        let start = Instant::now();
        let fib = fib(start);
        fib.set(mac(1), 3, start);
        let after = |seconds| fib.tick(start + Duration::from_secs(seconds));
        assert_eq!(fib.find(mac(1), after(9)), Some(3));
        assert!(fib.hear(mac(1), 3, after(9)));
        assert_eq!(fib.find(mac(1), after(18)), Some(3));
        assert_eq!(fib.find(mac(1), after(19)), None);
        assert!(
            !fib.hear(mac(1), 3, after(19)),
            "the switch is to decide anew"
        );
        assert!(!fib.hear(mac(1), 4, after(1)), "behind another port");
        assert!(!fib.hear(mac(2), 4, after(1)), "not known");
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0..12_u8, prop::option::of(1..5_u16)), 1..200)) {
            let now = Instant::now();
            let (fib, mut map) = (fib(now), BTreeMap::new());
            for (station, port) in steps {
                match port {
                    Some(port) => {
                        fib.set(mac(station), port, now);
                        map.insert(station, port);
                    }
                    None => {
                        fib.remove(mac(station));
                        map.remove(&station);
                    }
                }
                for station in 0..12 {
                    prop_assert_eq!(fib.find(mac(station), fib.tick(now)), map.get(&station).copied());
                }
            }
        }
    }
}
