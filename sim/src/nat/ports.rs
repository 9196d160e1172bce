//! Which outside port a mapping gets: one pool per protocol and outside address. Knows which ports are taken and where a
//! sequence stands; knows no mappings.

use rand::RngExt;
use rand::rngs::StdRng;

use super::config::{Allocation, PortConfig};

/// The ports of one outside address for one protocol: a bit each, set while taken.
#[derive(Debug)]
pub(super) struct PortPool {
    taken: Box<[u64; WORDS]>,
    count: u32,
    next: u16,
}

impl PortPool {
    pub(super) fn new(config: &PortConfig, rng: &mut StdRng) -> Self {
        Self {
            taken: Box::new([0; WORDS]),
            count: 0,
            next: rng.random_range(config.first..=config.last),
        }
    }

    /// Takes a port for a mapping of `inside_port`; `None` when the allocation gives none.
    pub(super) fn allocate(
        &mut self,
        inside_port: u16,
        config: &PortConfig,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let chosen = self.choose(config.allocation, inside_port, config, rng);
        let port = match (chosen, config.allocation) {
            (None, Allocation::Preserving) => {
                self.choose(config.fallback, inside_port, config, rng)?
            }
            (chosen, _) => chosen?,
        };
        self.take(port);
        Some(port)
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, port: u16) {
        if self.is_taken(port) {
            self.taken[usize::from(port / 64)] &= !(1 << (port % 64));
            self.count -= 1;
        }
    }

    fn take(&mut self, port: u16) {
        self.taken[usize::from(port / 64)] |= 1 << (port % 64);
        self.count += 1;
    }

    fn is_taken(&self, port: u16) -> bool {
        self.taken[usize::from(port / 64)] & 1 << (port % 64) != 0
    }

    fn choose(
        &mut self,
        allocation: Allocation,
        inside_port: u16,
        config: &PortConfig,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let range = config.first..=config.last;
        match allocation {
            Allocation::Preserving => {
                (range.contains(&inside_port) && !self.is_taken(inside_port)).then_some(inside_port)
            }
            Allocation::Sequential => {
                let port = self.next_free(config)?;
                self.next = stepped(port, config);
                Some(port)
            }
            Allocation::Random => {
                for _ in 0..RANDOM_TRIES {
                    let port = rng.random_range(range.clone());
                    if !self.is_taken(port) {
                        return Some(port);
                    }
                }
                self.free_from(rng.random_range(range), config)
            }
        }
    }

    /// The first free port of the sequence; where a step of more than one meets taken ports all along, any free one.
    fn next_free(&self, config: &PortConfig) -> Option<u16> {
        let mut port = self.next;
        for _ in 0..SEQUENCE_TRIES {
            if !self.is_taken(port) {
                return Some(port);
            }
            port = stepped(port, config);
        }
        self.free_from(port, config)
    }

    /// The first free port from `start` on, around the range; 64 ports a step.
    fn free_from(&self, start: u16, config: &PortConfig) -> Option<u16> {
        let size = u32::from(config.last - config.first) + 1;
        if self.count >= size {
            return None;
        }
        self.free_between(start, config.last)
            .or_else(|| self.free_between(config.first, start))
    }

    fn free_between(&self, low: u16, high: u16) -> Option<u16> {
        (low / 64..=high / 64).find_map(|word| {
            let mut free = !self.taken[usize::from(word)];
            if word == low / 64 {
                free &= u64::MAX << (low % 64);
            }
            let bit = u16::try_from(free.trailing_zeros()).unwrap_or(u16::MAX);
            (bit < 64 && word * 64 + bit <= high).then(|| word * 64 + bit)
        })
    }
}

/// One step of the sequence, around the range.
fn stepped(port: u16, config: &PortConfig) -> u16 {
    let size = i64::from(config.last - config.first) + 1;
    let place = (i64::from(port) - i64::from(config.first) + i64::from(config.step)) % size;
    let place = (place + size) % size;
    u16::try_from(place + i64::from(config.first)).unwrap_or(config.first)
}

const WORDS: usize = 65_536 / 64;
/// After as many random ports that were taken the rest is looked through: the pool is nearly full.
const RANDOM_TRIES: usize = 16;
/// The same for the sequence.
const SEQUENCE_TRIES: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn config(allocation: Allocation, first: u16, last: u16, step: i32) -> PortConfig {
        PortConfig {
            allocation,
            fallback: Allocation::Preserving,
            first,
            last,
            step,
        }
    }

    #[test]
    fn a_preserved_port_is_the_inside_one_or_what_the_fallback_says() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut config = config(Allocation::Preserving, 1024, 65535, 1);
        let mut pool = PortPool::new(&config, &mut rng);
        assert_eq!(pool.allocate(4000, &config, &mut rng), Some(4000));
        assert_eq!(pool.allocate(4000, &config, &mut rng), None);
        assert_eq!(pool.allocate(80, &config, &mut rng), None);
        config.fallback = Allocation::Random;
        let other = pool.allocate(4000, &config, &mut rng).expect("room");
        assert!(other >= 1024 && other != 4000);
        pool.release(4000);
        assert_eq!(pool.allocate(4000, &config, &mut rng), Some(4000));
    }

    #[test]
    fn a_sequence_steps_over_what_is_taken_and_around_the_end() {
        let mut rng = StdRng::seed_from_u64(1);
        let config = config(Allocation::Sequential, 2000, 2009, -2);
        let mut pool = PortPool::new(&config, &mut rng);
        let ports: Vec<_> = (0..5)
            .filter_map(|_| pool.allocate(9, &config, &mut rng))
            .collect();
        for pair in ports.windows(2) {
            assert_eq!((pair[0] + 10 - pair[1]) % 10, 2, "{ports:?}");
        }
        // Its own five are taken; the others are found, too.
        let more: BTreeSet<_> = (0..5)
            .filter_map(|_| pool.allocate(9, &config, &mut rng))
            .collect();
        assert_eq!(more.len(), 5);
        assert_eq!(pool.allocate(9, &config, &mut rng), None);
    }

    proptest! {
        #[test]
        fn every_port_is_given_once(first in 1u16..300, size in 0u16..200, step in prop_oneof![-70i32..-1, 1i32..70], which in 0usize..3, seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut config = config(Allocation::ALL[which], first, first + size, step);
            config.fallback = Allocation::Sequential;
            let mut pool = PortPool::new(&config, &mut rng);
            let mut given = BTreeSet::new();
            for inside in 0..=size {
                let port = pool.allocate(inside, &config, &mut rng).expect("not all are taken");
                prop_assert!((first..=first + size).contains(&port));
                prop_assert!(given.insert(port), "{port} twice");
            }
            prop_assert_eq!(pool.allocate(first, &config, &mut rng), None);
            pool.release(first);
            prop_assert_eq!(pool.allocate(first, &config, &mut rng), Some(first));
        }
    }
}
