//! All pairs of NATs: nine kinds on one side, nine on the other, with each way to choose ports, each with many seeds. Runs
//! what it is given on every one of them, and makes a table, a page or JSON of the outcomes. Knows no program: whoever asks
//! says what a run is.
//!
//! ```text
//!   Plan ─ pairs × seeds ─► run(Setup) on all cores ─► Matrix ─► table · page (HTML) · JSON
//! ```

use std::fmt;
use std::num::NonZero;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::nat::{Allocation, NatConfig, PortBlock, PortConfig};
use crate::oracle::{Kind, Verdict, verdict};

mod goal;
mod page;
mod table;

pub use goal::{Goal, Held, RoundTrips};

/// A way to choose outside ports, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocator {
    /// The inside port, else a random one.
    Preserving,
    /// The inside port, else the next one.
    PreservingSequential,
    /// One after the other.
    Sequential,
    /// The same while other hosts make 30 flows a second.
    SequentialBusy,
    /// Any.
    Random,
    /// Any of a block of 1024 of the subscriber's own.
    Block,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pairs, and how their NATs choose ports.
    pub pairs: Vec<(Kind, Kind, Allocator)>,
    /// The first seed of each pair.
    pub seed: u64,
    /// How many of them.
    pub seeds: u64,
    /// How far everybody is from everybody in each run: goals are measured by it.
    pub trips: RoundTrips,
}

/// One run's circumstances.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Both NATs.
    pub nats: [NatConfig; 2],
    /// What is known of them.
    pub verdict: Verdict,
    /// Everything random follows from it.
    pub seed: u64,
}

/// How one run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunOutcome {
    /// Until they were connected at all.
    #[serde(serialize_with = "as_millis")]
    pub connected: Option<Duration>,
    /// Until they were connected directly, both ways.
    #[serde(serialize_with = "as_millis")]
    pub direct: Option<Duration>,
    /// The same from when one of them asked for it.
    #[serde(serialize_with = "as_millis")]
    pub after_asking: Option<Duration>,
    /// Whether that took a search for a port.
    pub searched: bool,
    /// Said to be direct, and nothing came through.
    pub pretends: bool,
    /// Packets that both sent.
    pub packets: u64,
    /// The most entries of either NAT.
    pub entries: usize,
    /// The most sockets of either peer, beside the one that it always has.
    pub sockets: usize,
    /// The most probes of a search that either peer sent, in all and in one second.
    pub probes: u64,
    /// See above.
    pub in_a_second: u32,
    /// Of the event log.
    pub hash: u64,
}

/// All runs of one pair.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// One side, as in `EI/AP`.
    #[serde(serialize_with = "as_text")]
    pub a: Kind,
    /// The other side.
    #[serde(serialize_with = "as_text")]
    pub b: Kind,
    /// How both choose ports.
    pub allocator: Allocator,
    /// What the oracle says.
    #[serde(serialize_with = "as_text")]
    pub verdict: Verdict,
    /// One for each seed, in order.
    pub runs: Vec<RunOutcome>,
}

/// All outcomes.
#[derive(Clone, Debug, Serialize)]
pub struct Matrix {
    /// The first seed.
    pub seed: u64,
    /// How many runs each cell has.
    pub seeds: u64,
    /// How far everybody was from everybody.
    pub trips: RoundTrips,
    /// In the order of the plan.
    pub cells: Vec<Cell>,
}

impl Allocator {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Preserving,
        Self::PreservingSequential,
        Self::Sequential,
        Self::SequentialBusy,
        Self::Random,
        Self::Block,
    ];

    /// As on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::PreservingSequential => "preserving-sequential",
            Self::Sequential => "sequential",
            Self::SequentialBusy => "sequential-busy",
            Self::Random => "random",
            Self::Block => "block",
        }
    }

    /// A NAT of this kind that chooses ports so.
    #[must_use]
    pub fn config(self, kind: Kind) -> NatConfig {
        let allocation = match self {
            Self::Preserving | Self::PreservingSequential => Allocation::Preserving,
            Self::Sequential | Self::SequentialBusy => Allocation::Sequential,
            Self::Random | Self::Block => Allocation::Random,
        };
        let mut config = NatConfig::of(kind.mapping, kind.filtering, allocation);
        config.reuse_inbound = kind.reuse_inbound;
        let ports = PortConfig {
            fallback: if self == Self::PreservingSequential {
                Allocation::Sequential
            } else {
                config.ports.fallback
            },
            background: if self == Self::SequentialBusy {
                30.0
            } else {
                0.0
            },
            block: (self == Self::Block).then_some(PortBlock {
                size: 1024,
                per_host: 1,
            }),
            ..config.ports
        };
        NatConfig { ports, ..config }
    }
}

impl Plan {
    /// All 81 pairs with each of these allocators.
    #[must_use]
    pub fn all(allocators: &[Allocator], seed: u64, seeds: u64, trips: RoundTrips) -> Self {
        let pairs = allocators.iter().flat_map(|&allocator| {
            Kind::all().flat_map(move |a| Kind::all().map(move |b| (a, b, allocator)))
        });
        Self {
            pairs: pairs.collect(),
            seed,
            seeds,
            trips,
        }
    }

    /// Does all runs, on as many threads as there are processors; `progress` hears after each how many are done.
    pub fn run(
        &self,
        run: impl Fn(&Setup) -> RunOutcome + Sync,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Matrix {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let per_pair = usize::try_from(self.seeds).unwrap_or(usize::MAX);
        let total = self.pairs.len().saturating_mul(per_pair);
        let outcomes = Mutex::new(vec![RunOutcome::default(); total]);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return;
                }
                let outcome = run(&self.setup(number / per_pair, number % per_pair));
                let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                outcomes[number] = outcome;
                drop(outcomes);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        let outcomes = outcomes
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        self.gather(&outcomes, per_pair)
    }

    fn setup(&self, pair: usize, run: usize) -> Setup {
        let (a, b, allocator) = self.pairs[pair];
        let run = u64::try_from(run).unwrap_or(u64::MAX);
        Setup {
            nats: [a, b].map(|kind| allocator.config(kind)),
            verdict: verdict(a, b),
            seed: self.seed.wrapping_add(run),
        }
    }

    fn gather(&self, outcomes: &[RunOutcome], per_pair: usize) -> Matrix {
        let runs = outcomes.chunks(per_pair.max(1));
        let cells = self.pairs.iter().zip(runs);
        let cells = cells.map(|(&(a, b, allocator), runs)| Cell {
            a,
            b,
            allocator,
            verdict: verdict(a, b),
            runs: runs.to_vec(),
        });
        Matrix {
            seed: self.seed,
            seeds: self.seeds,
            trips: self.trips,
            cells: cells.collect(),
        }
    }
}

impl Matrix {
    /// The figures over all cells of a kind.
    #[must_use]
    pub fn figures(&self, of: impl Fn(&Cell) -> bool) -> Figures {
        let cells = self.cells.iter().filter(|cell| of(cell));
        Figures::of(cells.flat_map(|cell| &cell.runs))
    }

    /// Runs that went against what is certain, by how to repeat them: a plain pair that did not become direct, one that
    /// was not connected at all, one that pretended.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let mut failures = Vec::new();
        for cell in &self.cells {
            for (seed, run) in (self.seed..).zip(&cell.runs) {
                let what = match (run.pretends, run.connected, run.direct, cell.verdict) {
                    (true, ..) => "said to be direct, and nothing came through",
                    (_, None, ..) => "not connected at all",
                    (_, _, None, Verdict::Plain) => "a plain punch did not do",
                    _ => continue,
                };
                failures.push(Failure {
                    pair: (cell.a, cell.b, cell.allocator),
                    seed,
                    what,
                });
            }
        }
        failures
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// Never, unless memory ends.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

/// A run that went against what is certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The pair.
    pub pair: (Kind, Kind, Allocator),
    /// Its seed.
    pub seed: u64,
    /// One sentence.
    pub what: &'static str,
}

/// Sums over many runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// How many.
    pub runs: usize,
    /// Of these, direct.
    pub direct: usize,
    /// Of these, by a search.
    pub searched: usize,
    /// Of these, connected and not direct.
    pub relayed: usize,
    /// Times to direct, the shortest first.
    pub times: Vec<Duration>,
    /// Packets of each run, the fewest first.
    pub packets: Vec<u64>,
    /// The most NAT entries of any run.
    pub entries: usize,
    /// The most sockets of any run, probes of a search, and probes in one second.
    pub search: (usize, u64, u32),
}

impl Figures {
    fn of<'a>(runs: impl Iterator<Item = &'a RunOutcome>) -> Self {
        let mut figures = Self::default();
        for run in runs {
            figures.runs += 1;
            figures.direct += usize::from(run.direct.is_some());
            figures.searched += usize::from(run.direct.is_some() && run.searched);
            figures.relayed += usize::from(run.direct.is_none() && run.connected.is_some());
            figures.times.extend(run.direct);
            figures.packets.push(run.packets);
            figures.entries = figures.entries.max(run.entries);
            let (sockets, probes, in_a_second) = figures.search;
            figures.search = (
                sockets.max(run.sockets),
                probes.max(run.probes),
                in_a_second.max(run.in_a_second),
            );
        }
        figures.times.sort_unstable();
        figures.packets.sort_unstable();
        figures
    }

    /// The part that became direct, in percent.
    #[must_use]
    pub fn percent(&self) -> f64 {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        100.0 * number(self.direct) / number(self.runs.max(1))
    }
}

/// The value that `percent` of all are not above.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Allocator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no allocator; there are: {names}")
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mapping, filtering) = text
            .split_once('/')
            .ok_or_else(|| format!("`{text}` is not of the form EI/AP: mapping, then filtering"))?;
        let behavior = |text: &str| text.parse().map_err(|error| format!("{error}"));
        Ok(Self::new(behavior(mapping)?, behavior(filtering)?))
    }
}

fn as_text<T: fmt::Display, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

fn as_millis<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.serialize_some(&(time.as_secs_f64() * 1e3)),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
