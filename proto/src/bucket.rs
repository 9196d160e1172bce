//! A token bucket: how often may this happen. It knows neither what it limits nor who asks.
//!
//! Kept as one instant, the *theoretical arrival time* of the virtual scheduling algorithm (ITU-T I.371, Annex A): the
//! moment at which the bucket is full again. Whole nanoseconds, so nothing drifts and nothing depends on how often one asks.
//!
//! ```text
//!   ────────●now──────────────●full_at───▶ time        tokens left = burst − (full_at − now) / interval
//! ```

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// How much a bucket allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time in which one token comes back.
    interval: Duration,
    /// Tokens in a full bucket.
    burst: NonZeroU32,
}

impl Rate {
    /// `count` events in every `period` in the long run, and `burst` at once.
    #[must_use]
    pub fn new(count: NonZeroU32, period: Duration, burst: NonZeroU32) -> Self {
        Self {
            interval: period / count.get(),
            burst,
        }
    }

    /// The time from an empty to a full bucket.
    #[must_use]
    pub fn refill_time(self) -> Duration {
        self.interval.saturating_mul(self.burst.get())
    }
}

/// One bucket; its [`Rate`] is given with every question, so that thousands of buckets share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token; false when there is none.
    #[must_use = "without a token the event must not happen"]
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let allowed = self.has_token(rate, now);
        if allowed {
            let start = self.full_at.max(now);
            self.full_at = start.checked_add(rate.interval).unwrap_or(start);
        }
        allowed
    }

    /// Whether a token is there, without taking it.
    #[must_use]
    pub fn has_token(&self, rate: Rate, now: Instant) -> bool {
        let missing = self.full_at.saturating_duration_since(now);
        missing.saturating_add(rate.interval) <= rate.refill_time()
    }

    /// When the bucket is, or was, full again: from then on nobody needs to remember it.
    #[must_use]
    pub const fn full_at(&self) -> Instant {
        self.full_at
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        let count = |n| NonZeroU32::new(n).expect("not zero");
        Rate::new(count(per_second), Duration::from_secs(1), count(burst))
    }

    #[test]
    fn a_burst_then_the_rate() {
        let now = Instant::now();
        let (rate, mut bucket) = (rate(10, 3), Bucket::full(now));
        let taken: Vec<bool> = (0..5).map(|_| bucket.take(rate, now)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        let later = now + Duration::from_millis(100);
        assert!(bucket.take(rate, later));
        assert!(!bucket.take(rate, later));
    }

    proptest! {
        /// In any window of time, no more than the burst and what came back meanwhile: idle time saves up no more than that.
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 1u32..2000, burst in 1u32..50,
            gaps in prop::collection::vec(prop_oneof![0u64..2_000_000, 0u64..2_000_000_000], 1..200),
        ) {
            let start = Instant::now();
            let (rate, mut bucket) = (rate(per_second, burst), Bucket::full(start));
            // The interval is rounded down to whole nanoseconds: compare with what it really is.
            let interval = (Duration::from_secs(1) / per_second).as_nanos();
            let (mut at, mut taken) = (Duration::ZERO, Vec::new());
            for gap in gaps {
                at += Duration::from_nanos(gap);
                if bucket.take(rate, start + at) {
                    taken.push(at);
                }
                for (index, since) in taken.iter().enumerate() {
                    let in_window = (taken.len() - index) as u128;
                    prop_assert!(in_window <= u128::from(burst) + (at - *since).as_nanos() / interval);
                }
            }
        }

        /// Whoever keeps to the rate is never refused.
        #[test]
        fn whoever_keeps_to_the_rate_is_never_refused(per_second in 1u32..2000, burst in 1u32..50, events in 1u32..300) {
            let start = Instant::now();
            let (rate, mut bucket) = (rate(per_second, burst), Bucket::full(start));
            let gap = Duration::from_secs(1) / per_second;
            for event in 0..events {
                prop_assert!(bucket.take(rate, start + gap * event));
            }
        }
    }
}
