//! Spreads a window's segments over the round trip (RFC 9002, section 7.7): a token bucket that fills a little
//! faster than the window per smoothed RTT and holds one initial window.

use std::time::{Duration, Instant};

/// Says when the next segment may leave.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Bytes that may leave now.
    tokens: u64,
    burst: u64,
    refilled_at: Instant,
}

/// How fast the bucket fills: `window` bytes times `gain` per `rtt`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// The congestion window in bytes.
    pub(super) window: u64,
    /// The smoothed round trip.
    pub(super) rtt: Duration,
    /// In percent: 125 in congestion avoidance, 200 in slow start, which doubles the window in a round trip.
    pub(super) gain: u64,
}

impl Pacer {
    /// A full bucket of `burst` bytes.
    pub(super) const fn new(burst: u64, now: Instant) -> Self {
        Self {
            tokens: burst,
            burst,
            refilled_at: now,
        }
    }

    /// Adds what has come together since the last time.
    pub(super) fn refill(&mut self, rate: Rate, now: Instant) {
        let elapsed = micros(now.saturating_duration_since(self.refilled_at));
        let gained = elapsed * rate.per_rtt() / (100 * rate.round_trip());
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained).min(self.burst);
            self.refilled_at = now;
        }
    }

    /// Whether `size` bytes may leave now.
    pub(super) const fn allows(&self, size: u64) -> bool {
        self.tokens >= size
    }

    /// Takes `size` bytes out; probes may leave without tokens.
    pub(super) const fn spend(&mut self, size: u64) {
        self.tokens = self.tokens.saturating_sub(size);
    }

    /// When `size` bytes may leave.
    pub(super) fn ready_at(&self, size: u64, rate: Rate) -> Instant {
        let missing = u128::from(size.min(self.burst).saturating_sub(self.tokens));
        let wait = (missing * 100 * rate.round_trip()).div_ceil(rate.per_rtt().max(1));
        self.refilled_at + Duration::from_micros(u64::try_from(wait).unwrap_or(u64::MAX).min(HOUR))
    }
}

impl Rate {
    /// Hundredths of bytes per round trip.
    fn per_rtt(self) -> u128 {
        u128::from(self.window) * u128::from(self.gain)
    }

    /// In microseconds; never 0, or bytes would have to leave at once and might not.
    fn round_trip(self) -> u128 {
        micros(self.rtt).max(1)
    }
}

fn micros(duration: Duration) -> u128 {
    duration.as_micros().min(u128::from(HOUR))
}

/// In microseconds: nothing here waits longer, and sums and products stay in bounds.
const HOUR: u64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::arq::tests::epoch;

    const RATE: Rate = Rate {
        window: 10_000,
        rtt: Duration::from_millis(100),
        gain: 125,
    };

    #[test]
    fn a_burst_then_the_rate() {
        let start = epoch();
        let mut pacer = Pacer::new(12_000, start);
        assert!(pacer.allows(12_000) && !pacer.allows(12_001));
        pacer.spend(12_000);
        // 125 bytes per millisecond
        assert_eq!(pacer.ready_at(1000, RATE), start + Duration::from_millis(8));
        pacer.refill(RATE, start + Duration::from_micros(7999));
        assert!(!pacer.allows(1000));
        let ready = pacer.ready_at(1000, RATE);
        pacer.refill(RATE, ready);
        assert!(pacer.allows(1000));
    }

    #[test]
    fn a_path_without_delay_is_no_standstill() {
        let (start, rate) = (
            epoch(),
            Rate {
                rtt: Duration::ZERO,
                ..RATE
            },
        );
        let mut pacer = Pacer::new(12_000, start);
        pacer.spend(12_000);
        let ready = pacer.ready_at(1000, rate);
        pacer.refill(rate, ready);
        assert!(pacer.allows(1000));
    }

    #[test]
    fn no_time_is_lost_by_asking_often() {
        let start = epoch();
        let mut pacer = Pacer::new(12_000, start);
        pacer.spend(12_000);
        for micros in 1..=8000 {
            pacer.refill(RATE, start + Duration::from_micros(micros));
        }
        assert!(pacer.allows(999));
    }
}
