//! The round-trip time, estimated as in RFC 9002, section 5, and the probe timeout that follows from it.
//! Every packet number is sent once, so no sample is ambiguous.

use std::time::{Duration, Instant};

/// What the samples say about the round trip on the present path.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    initial: Duration,
    sample: Option<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    first_at: Instant,
    latest: Duration,
    min: Duration,
    smoothed: Duration,
    var: Duration,
}

impl RttEstimator {
    /// No sample yet; `initial` is assumed until there is one.
    #[must_use]
    pub const fn new(initial: Duration) -> Self {
        Self {
            initial,
            sample: None,
        }
    }

    /// Forgets all samples: the path is another.
    pub(super) fn reset(&mut self) {
        self.sample = None;
    }

    /// Takes the time between a segment and its acknowledgement, of which the peer held it back for `ack_delay`.
    pub(super) fn update(&mut self, latest: Duration, ack_delay: Duration, now: Instant) {
        let Some(sample) = &mut self.sample else {
            self.sample = Some(Sample {
                first_at: now,
                latest,
                min: latest,
                smoothed: latest,
                var: latest / 2,
            });
            return;
        };
        sample.latest = latest;
        sample.min = sample.min.min(latest);
        // A delay that would push the sample below the minimum is not believed (RFC 9002, section 5.3).
        let adjusted = if latest >= sample.min + ack_delay {
            latest.saturating_sub(ack_delay)
        } else {
            latest
        };
        let deviation = sample.smoothed.abs_diff(adjusted);
        sample.var = (sample.var * 3 + deviation) / 4;
        sample.smoothed = (sample.smoothed * 7 + adjusted) / 8;
    }

    /// Starts the minimum again from the latest sample (RFC 9002, section 5.2: after persistent congestion).
    pub(super) fn forget_min(&mut self) {
        if let Some(sample) = &mut self.sample {
            sample.min = sample.latest;
        }
    }

    /// When the first sample was taken.
    pub(super) fn first_sample_at(&self) -> Option<Instant> {
        self.sample.as_ref().map(|sample| sample.first_at)
    }

    /// The exponentially weighted average; the initial guess before the first sample.
    #[must_use]
    pub fn smoothed(&self) -> Duration {
        self.sample.as_ref().map_or(self.initial, |s| s.smoothed)
    }

    /// The mean deviation; half the initial guess before the first sample.
    #[must_use]
    pub fn var(&self) -> Duration {
        self.sample.as_ref().map_or(self.initial / 2, |s| s.var)
    }

    /// The lowest sample, if there is one.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        self.sample.as_ref().map(|sample| sample.min)
    }

    /// The latest sample, if there is one.
    #[must_use]
    pub fn latest(&self) -> Option<Duration> {
        self.sample.as_ref().map(|sample| sample.latest)
    }

    /// How long an acknowledgement may take before a probe is due (RFC 9002, section 6.2.1).
    pub(super) fn pto(&self) -> Duration {
        self.smoothed() + (self.var() * 4).max(GRANULARITY) + MAX_ACK_DELAY
    }

    /// How long after its sending a segment counts as lost, once a later one is acknowledged (section 6.1.2).
    pub(super) fn loss_delay(&self) -> Duration {
        let rtt = self
            .latest()
            .map_or(self.initial, |l| l.max(self.smoothed()));
        (rtt * 9 / 8).max(GRANULARITY)
    }
}

/// The longest time that an acknowledgement is held back (RFC 9000, section 18.2).
pub const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// RFC 9002, section 6.1.2: what timers may be off by.
const GRANULARITY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::arq::tests::epoch;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn follows_rfc_9002_by_hand() {
        let (now, mut rtt) = (epoch(), RttEstimator::new(333 * MS));
        assert_eq!(rtt.pto(), 333 * MS + 4 * 166 * MS + 2 * MS + MAX_ACK_DELAY);
        rtt.update(100 * MS, 20 * MS, now);
        assert_eq!((rtt.smoothed(), rtt.var()), (100 * MS, 50 * MS));
        rtt.update(140 * MS, 24 * MS, now);
        // adjusted 116: var = (3 * 50 + 16) / 4, smoothed = (7 * 100 + 116) / 8
        assert_eq!((rtt.smoothed(), rtt.var()), (102 * MS, 83 * MS / 2));
        assert_eq!((rtt.min(), rtt.latest()), (Some(100 * MS), Some(140 * MS)));
        assert_eq!(rtt.loss_delay(), 140 * MS * 9 / 8);
    }

    #[test]
    fn a_claimed_delay_never_brings_a_sample_below_the_minimum() {
        let (now, mut rtt) = (epoch(), RttEstimator::new(333 * MS));
        rtt.update(100 * MS, Duration::ZERO, now);
        for _ in 0..100 {
            rtt.update(110 * MS, 25 * MS, now);
        }
        assert!(rtt.smoothed() >= 100 * MS);
    }
}
