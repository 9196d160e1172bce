//! What a search may cost, at most: naive guessing fills routers' tables and takes networks down (TRAVERSAL finding 2).
//!
//! One search runs on a host at a time; these are the limits of all searches of the host together. Each limit is held where the
//! resource is taken, and every use is counted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The hard limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Whether to search at all.
    pub enabled: bool,
    /// Sockets of one search.
    pub sockets: u16,
    /// Probes and openers in any second.
    pub packets_per_second: u32,
    /// Entries that our NAT may hold because of searches, counted for [`Budget::MEMORY`].
    pub entries: u32,
    /// Probes of one attempt on a NAT about which nothing helpful is known on either side.
    pub blind: u32,
}

impl Budget {
    /// For how long a NAT is believed to remember what was sent through it without an answer.
    pub const MEMORY: Duration = Duration::from_secs(180);

    /// No search at all.
    #[must_use]
    pub fn off() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            enabled: true,
            sockets: 256,
            packets_per_second: 100,
            entries: 1700,
            blind: 512,
        }
    }
}

/// What searches have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SearchCounters {
    /// Searches begun.
    pub searches: u64,
    /// Searches that found a path.
    pub found: u64,
    /// Sockets opened for searches.
    pub sockets: u64,
    /// Packets that opened our NAT towards a peer.
    pub openers: u64,
    /// Packets sent to guessed or predicted ports.
    pub probes: u64,
    /// Searches that were not begun because another one ran or the entries were used up.
    pub refused: u64,
    /// Times that a search was slowed down because the way to the rendezvous suffered.
    pub eased: u64,
    /// The most packets in any second.
    pub most_in_a_second: u32,
}

/// The packets of the last second: keeps a rate in every second, not only on the average.
#[derive(Debug, Default)]
pub struct Rate {
    sent: VecDeque<Instant>,
    /// The most in any second so far.
    pub most: u32,
}

impl Rate {
    /// When the next packet may go, with `limit` in a second.
    #[must_use]
    pub fn next(&self, limit: u32, now: Instant) -> Instant {
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        let blocking = self.sent.len().checked_sub(limit);
        let blocking = blocking.and_then(|at| self.sent.get(at));
        blocking.map_or(now, |&sent| now.max(sent + SECOND))
    }

    /// A packet went.
    pub fn count(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|&sent| sent + SECOND <= now) {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
        self.most = self
            .most
            .max(u32::try_from(self.sent.len()).unwrap_or(u32::MAX));
    }
}

/// Entries that a NAT may still hold.
#[derive(Debug, Default)]
pub struct Entries {
    made: VecDeque<(Instant, u32)>,
}

impl Entries {
    /// How many there may be now.
    #[must_use]
    pub fn held(&self, now: Instant) -> u32 {
        let held = self
            .made
            .iter()
            .filter(|(at, _)| now < *at + Budget::MEMORY);
        held.map(|(_, count)| count).sum()
    }

    /// Some were made.
    pub fn add(&mut self, count: u32, now: Instant) {
        self.made.retain(|(at, _)| now < *at + Budget::MEMORY);
        if count > 0 {
            self.made.push_back((now, count));
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_in_every_second() {
        let start = Instant::now();
        let (mut rate, mut now, mut sent) = (Rate::default(), start, Vec::new());
        while now < start + 3 * SECOND {
            now = rate.next(100, now);
            rate.count(now);
            sent.push(now);
        }
        for (index, &at) in sent.iter().enumerate() {
            let within = sent[index..].iter().filter(|&&other| other < at + SECOND);
            assert!(within.count() <= 100);
        }
        assert_eq!(rate.most, 100);
    }

    #[test]
    fn entries_are_remembered_as_long_as_a_nat_may() {
        let start = Instant::now();
        let mut entries = Entries::default();
        entries.add(1000, start);
        entries.add(500, start + SECOND);
        assert_eq!(entries.held(start + 2 * SECOND), 1500);
        assert_eq!(entries.held(start + Budget::MEMORY), 500);
        assert_eq!(entries.held(start + SECOND + Budget::MEMORY), 0);
    }
}
