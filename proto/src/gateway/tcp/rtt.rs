//! The retransmission time-out (RFC 6298).

use std::time::Duration;

/// Smoothed round-trip time and its variation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    var: Duration,
    min: Duration,
    /// How often the time-out has come in a row.
    backoff: u32,
}

impl Rtt {
    pub(super) const fn new() -> Self {
        Self {
            smoothed: None,
            var: Duration::ZERO,
            min: Duration::MAX,
            backoff: 0,
        }
    }

    /// A segment that was sent once took so long (section 2; Karn's algorithm is the caller's).
    pub(super) fn sample(&mut self, round_trip: Duration) {
        self.min = self.min.min(round_trip);
        self.backoff = 0;
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(round_trip);
            self.var = round_trip / 2;
            return;
        };
        self.var = (self.var * 3 + smoothed.abs_diff(round_trip)) / 4;
        self.smoothed = Some((smoothed * 7 + round_trip) / 8);
    }

    /// The smoothed round trip, or the first guess.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(INITIAL)
    }

    /// The least round trip, or the first guess.
    pub(super) fn min(&self) -> Duration {
        self.min.min(self.smoothed())
    }

    /// RTO, with its exponential back-off.
    pub(super) fn time_out(&self) -> Duration {
        let base = self.smoothed.map_or(INITIAL, |smoothed| {
            (smoothed + (self.var * 4).max(GRANULARITY)).max(MIN_RTO)
        });
        base.saturating_mul(1 << self.backoff.min(16)).min(MAX_RTO)
    }

    /// How long after the last segment its loss is suspected (RFC 8985, section 7.2).
    pub(super) fn probe_time_out(&self) -> Duration {
        self.smoothed.map_or(INITIAL, |smoothed| {
            (smoothed * 2 + DELAYED_ACK).min(self.time_out())
        })
    }

    pub(super) const fn back_off(&mut self) {
        self.backoff += 1;
    }

    pub(super) const fn backoff(&self) -> u32 {
        self.backoff
    }

    pub(super) const fn progress(&mut self) {
        self.backoff = 0;
    }
}

/// Before the first sample (RFC 6298, section 2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// Shorter than the RFC's second, as every system of today has it.
const MIN_RTO: Duration = Duration::from_millis(200);
/// At most (section 2.5).
const MAX_RTO: Duration = Duration::from_secs(60);
/// What the driver's timers resolve.
const GRANULARITY: Duration = Duration::from_millis(2);
/// How long stations may hold an acknowledgement back.
const DELAYED_ACK: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_out_follows_the_samples_and_doubles() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.time_out(), INITIAL);
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.time_out(), Duration::from_millis(300));
        rtt.back_off();
        assert_eq!(rtt.time_out(), Duration::from_millis(600));
        for _ in 0..40 {
            rtt.back_off();
        }
        assert_eq!(rtt.time_out(), MAX_RTO);
        rtt.sample(Duration::from_millis(100));
        assert!(rtt.time_out() < Duration::from_millis(300));
        assert!(rtt.probe_time_out() <= rtt.time_out());
    }
}
