//! Which outside port a mapping gets: one pool per protocol and outside address. Knows which ports are taken, whose blocks
//! are whose, and where a sequence stands; knows no mappings.
//!
//! ```text
//!   first ─┬─ block 0: host A ─┬─ block 1: nobody ─┬─ block 2: host B ─┬─ … ─ last       or no blocks: all hosts' alike
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::config::{Allocation, PortBlock, PortConfig};

/// The ports of one outside address for one protocol: a bit each, set while taken.
#[derive(Debug)]
pub(super) struct PortPool {
    taken: Box<[u64; WORDS]>,
    count: u32,
    next: u16,
    /// Up to when background flows moved the sequence.
    moved: Option<Instant>,
    free_blocks: BTreeSet<u16>,
    hosts: BTreeMap<IpAddr, HostBlocks>,
}

/// What one host has.
#[derive(Debug)]
struct HostBlocks {
    blocks: Vec<u16>,
    next: u16,
    ports: u32,
}

/// Which ports a mapping may have, beside those that are free.
pub(super) struct Wanted<'a> {
    /// Whose mapping it is.
    pub(super) inside: (IpAddr, u16),
    /// A taken port that it may have all the same.
    pub(super) shareable: &'a dyn Fn(u16) -> bool,
    /// A free port that it must not have.
    pub(super) barred: &'a dyn Fn(u16) -> bool,
}

impl PortPool {
    pub(super) fn new(config: &PortConfig, rng: &mut StdRng) -> Self {
        let blocks = config.block.map_or(0, |block| blocks_of(block, config));
        Self {
            taken: Box::new([0; WORDS]),
            count: 0,
            next: rng.random_range(config.first..=config.last),
            moved: None,
            free_blocks: (0..blocks).collect(),
            hosts: BTreeMap::new(),
        }
    }

    /// Takes a port; `None` when the allocation gives none.
    pub(super) fn allocate(
        &mut self,
        wanted: &Wanted<'_>,
        config: &PortConfig,
        rng: &mut StdRng,
        now: Instant,
    ) -> Option<u16> {
        self.play_background(config, rng, now);
        let port = match config.block {
            Some(block) => self.allocate_in_blocks(wanted, block, config, rng)?,
            None => {
                let mut next = self.next;
                let port = self.pick(wanted, config.first..=config.last, &mut next, config, rng);
                self.next = next;
                port?
            }
        };
        self.take(port);
        Some(port)
    }

    /// Takes this very port, if it is free and, with blocks, the host's.
    pub(super) fn claim(&mut self, port: u16, inside: (IpAddr, u16), config: &PortConfig) -> bool {
        let nobody = |_| false;
        let wanted = Wanted {
            inside,
            shareable: &nobody,
            barred: &nobody,
        };
        let fits =
            config.block.is_none() && self.fits(port, &wanted, &(config.first..=config.last));
        if fits {
            self.take(port);
        }
        fits
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, port: u16, host: IpAddr) {
        if !self.is_taken(port) {
            return;
        }
        self.taken[usize::from(port / 64)] &= !(1 << (port % 64));
        self.count -= 1;
        if let Some(own) = self.hosts.get_mut(&host) {
            own.ports = own.ports.saturating_sub(1);
            if own.ports == 0 {
                self.free_blocks.extend(own.blocks.drain(..));
                self.hosts.remove(&host);
            }
        }
    }

    fn take(&mut self, port: u16) {
        if !self.is_taken(port) {
            self.taken[usize::from(port / 64)] |= 1 << (port % 64);
            self.count += 1;
        }
    }

    fn is_taken(&self, port: u16) -> bool {
        self.taken[usize::from(port / 64)] & 1 << (port % 64) != 0
    }

    /// Flows that nobody models took a step each since the last time.
    fn play_background(&mut self, config: &PortConfig, rng: &mut StdRng, now: Instant) {
        let last = self.moved.replace(now);
        if config.background > 0.0
            && let Some(last) = last
        {
            let mean = config.background * now.saturating_duration_since(last).as_secs_f64();
            let steps = poisson(mean, rng);
            self.next = stepped(self.next, steps, &(config.first..=config.last), config);
        }
    }

    /// In the blocks that the host has, else in one more.
    fn allocate_in_blocks(
        &mut self,
        wanted: &Wanted<'_>,
        block: PortBlock,
        config: &PortConfig,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let host = wanted.inside.0;
        let own = self.hosts.get(&host);
        let (blocks, next) = own.map_or((Vec::new(), 0), |own| (own.blocks.clone(), own.next));
        let mut next = next;
        for &number in &blocks {
            let range = range_of(number, block, config);
            if let Some(port) = self.pick(wanted, range, &mut next, config, rng) {
                let own = self.hosts.get_mut(&host)?;
                (own.next, own.ports) = (next, own.ports + 1);
                return Some(port);
            }
        }
        if blocks.len() >= usize::from(block.per_host) || self.free_blocks.is_empty() {
            return None;
        }
        let chosen = rng.random_range(0..self.free_blocks.len());
        let number = *self.free_blocks.iter().nth(chosen)?;
        let range = range_of(number, block, config);
        next = rng.random_range(range.clone());
        let port = self.pick(wanted, range, &mut next, config, rng)?;
        self.free_blocks.remove(&number);
        let own = self.hosts.entry(host).or_insert(HostBlocks {
            blocks: Vec::new(),
            next,
            ports: 0,
        });
        own.blocks.push(number);
        (own.next, own.ports) = (next, own.ports + 1);
        Some(port)
    }

    /// A port of `range` as the allocation says, else as the fallback does.
    fn pick(
        &self,
        wanted: &Wanted<'_>,
        range: RangeInclusive<u16>,
        next: &mut u16,
        config: &PortConfig,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let mut choose =
            |allocation| self.choose(allocation, wanted, range.clone(), next, config, rng);
        let chosen = choose(config.allocation);
        if chosen.is_none() && config.allocation == Allocation::Preserving {
            return choose(config.fallback);
        }
        chosen
    }

    fn choose(
        &self,
        allocation: Allocation,
        wanted: &Wanted<'_>,
        range: RangeInclusive<u16>,
        next: &mut u16,
        config: &PortConfig,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let fits = |port| has_parity(port, wanted, config) && self.fits(port, wanted, &range);
        match allocation {
            Allocation::Preserving => fits(wanted.inside.1).then_some(wanted.inside.1),
            Allocation::Sequential => {
                let mut port = stepped(*next, 0, &range, config);
                for _ in 0..SEQUENCE_TRIES {
                    if fits(port) {
                        *next = stepped(port, 1, &range, config);
                        return Some(port);
                    }
                    port = stepped(port, 1, &range, config);
                }
                // Where a step of more than one meets taken ports all along, any free one.
                let port = self.free_from(port, &range, config.overloading, fits)?;
                *next = stepped(port, 1, &range, config);
                Some(port)
            }
            Allocation::Random => {
                for _ in 0..RANDOM_TRIES {
                    let port = rng.random_range(range.clone());
                    if fits(port) {
                        return Some(port);
                    }
                }
                self.free_from(
                    rng.random_range(range.clone()),
                    &range,
                    config.overloading,
                    fits,
                )
            }
        }
    }

    fn fits(&self, port: u16, wanted: &Wanted<'_>, range: &RangeInclusive<u16>) -> bool {
        range.contains(&port)
            && (!self.is_taken(port) || (wanted.shareable)(port))
            && !(wanted.barred)(port)
    }

    /// The first port that fits from `start` on, around the range. Words of 64 taken ports are stepped over, unless ports are
    /// shared.
    fn free_from(
        &self,
        start: u16,
        range: &RangeInclusive<u16>,
        shares: bool,
        fits: impl Fn(u16) -> bool + Copy,
    ) -> Option<u16> {
        let find = |low: u16, high: u16| {
            let words = low / 64..=high / 64;
            words
                .filter(|&word| shares || self.taken[usize::from(word)] != u64::MAX)
                .find_map(|word| {
                    let first = low.max(word * 64);
                    (first..=high.min(word * 64 + 63)).find(|&port| fits(port))
                })
        };
        find(start, *range.end()).or_else(|| find(*range.start(), start))
    }
}

fn has_parity(port: u16, wanted: &Wanted<'_>, config: &PortConfig) -> bool {
    !config.parity || port % 2 == wanted.inside.1 % 2
}

fn blocks_of(block: PortBlock, config: &PortConfig) -> u16 {
    let size = u32::from(config.last - config.first) + 1;
    u16::try_from(size / u32::from(block.size.max(1))).unwrap_or(u16::MAX)
}

fn range_of(number: u16, block: PortBlock, config: &PortConfig) -> RangeInclusive<u16> {
    let first = config.first + number * block.size;
    first..=first + (block.size - 1)
}

/// So many steps of the sequence, around the range; a start outside of it is moved in.
fn stepped(port: u16, steps: u64, range: &RangeInclusive<u16>, config: &PortConfig) -> u16 {
    let (first, size) = (
        i64::from(*range.start()),
        i64::from(range.end() - range.start()) + 1,
    );
    let steps = i64::try_from(steps % size.unsigned_abs()).unwrap_or(0);
    let place = i64::from(port) - first + steps * i64::from(config.step);
    u16::try_from(place.rem_euclid(size) + first).unwrap_or_else(|_| *range.start())
}

/// A number of events of which `mean` are expected: by multiplying (Knuth, TAOCP 2, 3.4.1) in parts small enough for a
/// float's exponent.
fn poisson(mut mean: f64, rng: &mut StdRng) -> u64 {
    let mut events = 0;
    while mean > 0.0 {
        let part = mean.min(POISSON_PART);
        mean -= part;
        let (limit, mut product) = ((-part).exp(), uniform(rng));
        while product > limit {
            events += 1;
            product *= uniform(rng);
        }
        if events > MOST_STEPS {
            break;
        }
    }
    events
}

fn uniform(rng: &mut StdRng) -> f64 {
    // 53 bits are as many as a float has.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    let numerator = (rng.next_u64() >> 11) as f64;
    numerator / 9_007_199_254_740_992.0
}

const WORDS: usize = 65_536 / 64;
/// After as many random ports that were taken the rest is looked through: the pool is nearly full.
const RANDOM_TRIES: usize = 16;
/// The same for the sequence.
const SEQUENCE_TRIES: usize = 64;
/// e⁻³⁰ is far from a float's smallest number.
const POISSON_PART: f64 = 30.0;
/// Around the range many times over: more steps say nothing more.
const MOST_STEPS: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use std::time::Duration;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    fn config(allocation: Allocation, first: u16, last: u16, step: i32) -> PortConfig {
        PortConfig {
            allocation,
            fallback: Allocation::Preserving,
            first,
            last,
            step,
            ..PortConfig::default()
        }
    }

    /// A pool with its random numbers and its clock.
    struct Bench {
        config: PortConfig,
        pool: PortPool,
        rng: StdRng,
        now: Instant,
    }

    impl Bench {
        fn new(config: PortConfig, seed: u64) -> Self {
            let mut rng = StdRng::seed_from_u64(seed);
            let pool = PortPool::new(&config, &mut rng);
            Self {
                config,
                pool,
                rng,
                now: Instant::now(),
            }
        }

        fn give(&mut self, host: IpAddr, port: u16) -> Option<u16> {
            let nobody = |_| false;
            let wanted = Wanted {
                inside: (host, port),
                shareable: &nobody,
                barred: &nobody,
            };
            self.pool
                .allocate(&wanted, &self.config, &mut self.rng, self.now)
        }
    }

    #[test]
    fn a_preserved_port_is_the_inside_one_or_what_the_fallback_says() {
        let mut bench = Bench::new(config(Allocation::Preserving, 1024, 65535, 1), 1);
        assert_eq!(bench.give(HOST, 4000), Some(4000));
        assert_eq!(bench.give(HOST, 4000), None);
        assert_eq!(bench.give(HOST, 80), None);
        bench.config.fallback = Allocation::Random;
        let other = bench.give(HOST, 4000).expect("room");
        assert!(other >= 1024 && other != 4000);
        bench.pool.release(4000, HOST);
        assert_eq!(bench.give(HOST, 4000), Some(4000));
    }

    #[test]
    fn a_sequence_steps_over_what_is_taken_and_around_the_end() {
        let mut bench = Bench::new(config(Allocation::Sequential, 2000, 2009, -2), 1);
        let ports: Vec<_> = (0..5).filter_map(|_| bench.give(HOST, 9)).collect();
        for pair in ports.windows(2) {
            assert_eq!((pair[0] + 10 - pair[1]) % 10, 2, "{ports:?}");
        }
        // Its own five are taken; the others are found, too.
        let more: BTreeSet<_> = (0..5).filter_map(|_| bench.give(HOST, 9)).collect();
        assert_eq!(more.len(), 5);
        assert_eq!(bench.give(HOST, 9), None);
    }

    #[test]
    fn background_flows_move_a_sequence_as_often_as_is_said() {
        let mut config = config(Allocation::Sequential, 1024, 65535, 1);
        config.background = 35.0;
        let mut bench = Bench::new(config, 1);
        let mut gaps = Vec::new();
        let mut last = bench.give(HOST, 9).expect("room");
        for _ in 0..2000 {
            bench.now += Duration::from_millis(100);
            let port = bench.give(HOST, 9).expect("room");
            bench.pool.release(port, HOST);
            gaps.push(f64::from((u32::from(port) + 64512 - u32::from(last)) % 64512) - 1.0);
            last = port;
        }
        let mean = gaps.iter().sum::<f64>() / 2000.0;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / 2000.0;
        // 3.5 flows in 100 ms; a Poisson process has the same variance.
        assert!((3.3..3.7).contains(&mean), "{mean}");
        assert!((3.1..3.9).contains(&variance), "{variance}");
    }

    #[test]
    fn a_host_gets_its_ports_from_its_own_blocks_alone() {
        let mut config = config(Allocation::Random, 1024, 65535, 1);
        config.block = Some(PortBlock {
            size: 512,
            per_host: 2,
        });
        let mut bench = Bench::new(config, 1);
        let block = |port: u16| (port - 1024) / 512;
        let mine: BTreeSet<_> = (0..512)
            .filter_map(|_| bench.give(HOST, 9))
            .map(block)
            .collect();
        assert_eq!(mine.len(), 1);
        let theirs = bench.give(OTHER, 9).map(block).expect("room");
        let more: BTreeSet<_> = (0..600)
            .filter_map(|_| bench.give(HOST, 9))
            .map(block)
            .collect();
        assert_eq!(more.len(), 1, "one more block and no third");
        assert!(!mine.contains(&theirs) && !more.contains(&theirs));
        let port = 1024 + 512 * theirs;
        for port in port..port + 512 {
            bench.pool.release(port, OTHER);
        }
        assert_eq!(bench.pool.free_blocks.len(), 126 - 2);
    }

    proptest! {
        #[test]
        fn every_port_is_given_once(first in 1u16..300, size in 0u16..200, step in prop_oneof![-70i32..-1, 1i32..70], which in 0usize..3, block in prop::option::of(1u16..50), seed: u64) {
            let mut config = config(Allocation::ALL[which], first, first + size, step);
            config.fallback = Allocation::Sequential;
            config.block = block.filter(|&block| block <= size).map(|size| PortBlock { size, per_host: u16::MAX });
            let usable = config.block.map_or(size + 1, |block| (size + 1) / block.size * block.size);
            let mut bench = Bench::new(config, seed);
            let mut given = BTreeSet::new();
            for inside in 0..usable {
                let port = bench.give(HOST, inside).expect("not all are taken");
                prop_assert!((first..=first + size).contains(&port));
                prop_assert!(given.insert(port), "{port} twice");
            }
            prop_assert_eq!(bench.give(HOST, first), None);
            let back = *given.first().expect("one at least");
            bench.pool.release(back, HOST);
            prop_assert_eq!(bench.give(HOST, back), Some(back));
        }

        #[test]
        fn parity_is_kept(inside: u16, which in 0usize..3, seed: u64) {
            let mut config = config(Allocation::ALL[which], 1024, 65535, 1);
            (config.fallback, config.parity) = (Allocation::Random, true);
            let mut bench = Bench::new(config, seed);
            for _ in 0..5 {
                let port = bench.give(HOST, inside).expect("room");
                prop_assert_eq!(port % 2, inside % 2);
            }
        }
    }
}
