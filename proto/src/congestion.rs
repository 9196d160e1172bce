//! How much may be in flight: slow start, then CUBIC (RFC 9438) or NewReno (RFC 9002, section 7). In whole bytes and
//! milliseconds, without floating point, so that every machine decides the same.
//!
//! ```text
//!   slow start ──loss──▶ recovery ──segment sent in it acknowledged──▶ avoidance
//!                          ▲  │                                           │
//!                          │  └─ all its losses were spurious: undo       │
//!                          └──────────────────── loss ────────────────────┘
//!   persistent congestion ──▶ minimum window, slow start
//! ```

use std::time::{Duration, Instant};

/// Which congestion control to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 9438: the window grows by time since the last loss, so long paths are not left behind.
    #[default]
    Cubic,
    /// RFC 9002, section 7: the window grows by one segment in a round trip.
    NewReno,
}

/// The congestion window and its history.
#[derive(Clone, Debug)]
pub(crate) struct Congestion {
    algorithm: Algorithm,
    /// The largest segment in bytes.
    mss: u64,
    state: State,
    /// When the present recovery began; losses of segments sent before it are the same event.
    recovery_start: Option<Instant>,
    undo: Option<Undo>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    window: u64,
    ssthresh: u64,
    /// NewReno: bytes acknowledged towards the next segment of window.
    credit: u64,
    /// The window before the last reduction; CUBIC aims at it (W_max), or lower when it gives way (section 4.7).
    w_max: u64,
    /// cwnd_prior of RFC 9438.
    prior: u64,
    epoch: Option<Epoch>,
}

/// One stretch of congestion avoidance of CUBIC.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// How long until the window is back at `w_max`, in milliseconds (K).
    k: u64,
    /// What NewReno would have (W_est), and the remainder of its last increase.
    w_est: u64,
    remainder: u64,
    last_ack: Instant,
}

/// The state before a reduction, to return to when it turns out to have been for nothing.
#[derive(Clone, Copy, Debug)]
struct Undo {
    state: State,
    /// The start of the recovery before: earlier segments belong to that one.
    since: Option<Instant>,
    /// Segments of this event that count as lost.
    lost: u64,
}

impl Congestion {
    pub(crate) fn new(algorithm: Algorithm, mss: u64) -> Self {
        let window = (10 * mss).min((2 * mss).max(14_720));
        Self {
            algorithm,
            mss,
            state: State {
                window,
                ssthresh: u64::MAX,
                credit: 0,
                w_max: 0,
                prior: window,
                epoch: None,
            },
            recovery_start: None,
            undo: None,
        }
    }

    /// Bytes that may be in flight.
    pub(crate) const fn window(&self) -> u64 {
        self.state.window
    }

    /// The window at which slow start ends; none before the first loss.
    pub(crate) fn ssthresh(&self) -> Option<u64> {
        Some(self.state.ssthresh).filter(|&bytes| bytes != u64::MAX)
    }

    pub(crate) const fn in_slow_start(&self) -> bool {
        self.state.window < self.state.ssthresh
    }

    /// A segment of `bytes` that was sent at `sent_at` has arrived. `limited` says whether the window, not the
    /// application, held the sender back: an unused window does not grow (RFC 9002, section 7.8).
    pub(crate) fn on_acknowledged(
        &mut self,
        bytes: u64,
        sent_at: Instant,
        limited: bool,
        rtt: Duration,
        now: Instant,
    ) {
        if !limited {
            self.state.pause(now);
            return;
        }
        if self.in_recovery(sent_at) {
            return;
        }
        if self.in_slow_start() {
            self.state.window += bytes;
            return;
        }
        match self.algorithm {
            Algorithm::NewReno => self.state.grow_reno(bytes, self.mss),
            Algorithm::Cubic => self.state.grow_cubic(bytes, self.mss, rtt, now),
        }
    }

    /// A segment that was sent at `sent_at` counts as lost: once per round trip the window shrinks.
    pub(crate) fn on_lost(&mut self, sent_at: Instant, now: Instant) {
        if !self.in_recovery(sent_at) {
            self.undo = Some(Undo {
                state: self.state,
                since: self.recovery_start,
                lost: 0,
            });
            self.recovery_start = Some(now);
            self.state.reduce(self.algorithm, self.mss);
        }
        if let Some(undo) = self.undo.as_mut().filter(|undo| undo.covers(sent_at)) {
            undo.lost += 1;
        }
    }

    /// A segment that counted as lost has arrived after all.
    pub(crate) fn on_spurious(&mut self, sent_at: Instant) {
        let Some(undo) = self.undo.as_mut().filter(|undo| undo.covers(sent_at)) else {
            return;
        };
        if self.recovery_start.is_none_or(|start| sent_at > start) {
            return;
        }
        undo.lost = undo.lost.saturating_sub(1);
        if undo.lost == 0 {
            let window = self.state.window.max(undo.state.window);
            self.state = State {
                window,
                ..undo.state
            };
            self.recovery_start = undo.since;
            self.undo = None;
        }
    }

    /// Nothing arrived for so long that the path must be taken as new (RFC 9002, section 7.6).
    pub(crate) fn on_persistent_congestion(&mut self) {
        self.state.window = self.minimum();
        self.state.epoch = None;
        self.recovery_start = None;
        self.undo = None;
    }

    const fn minimum(&self) -> u64 {
        2 * self.mss
    }

    fn in_recovery(&self, sent_at: Instant) -> bool {
        self.recovery_start.is_some_and(|start| sent_at <= start)
    }
}

impl Undo {
    fn covers(&self, sent_at: Instant) -> bool {
        self.since.is_none_or(|since| sent_at > since)
    }
}

impl State {
    fn reduce(&mut self, algorithm: Algorithm, mss: u64) {
        self.prior = self.window;
        let (numerator, denominator) = match algorithm {
            Algorithm::NewReno => (1, 2),
            Algorithm::Cubic => (7, 10),
        };
        // Fast convergence (RFC 9438, section 4.7): a window that did not come back makes room for others.
        self.w_max = if self.window < self.w_max {
            self.window * 17 / 20
        } else {
            self.window
        };
        self.window = (self.window * numerator / denominator).max(2 * mss);
        self.ssthresh = self.window;
        self.credit = 0;
        self.epoch = None;
    }

    /// One segment for each window of acknowledged bytes.
    fn grow_reno(&mut self, bytes: u64, mss: u64) {
        self.credit += bytes;
        if self.credit >= self.window {
            self.credit -= self.window;
            self.window += mss;
        }
    }

    /// RFC 9438, sections 4.2 to 4.5.
    fn grow_cubic(&mut self, bytes: u64, mss: u64, rtt: Duration, now: Instant) {
        let mut epoch = self.epoch.unwrap_or_else(|| self.begin_epoch(mss, now));
        epoch.grow_estimate(bytes, mss, self.window, self.prior);
        epoch.last_ack = now;
        self.epoch = Some(epoch);
        let elapsed = now.saturating_duration_since(epoch.start);
        if epoch.cubic(elapsed, self.w_max, mss) < epoch.w_est {
            self.window = self.window.max(epoch.w_est);
        } else {
            let target = epoch.cubic(elapsed + rtt, self.w_max, mss);
            let target = target.clamp(self.window, self.window + self.window / 2);
            self.window += (target - self.window) * bytes / self.window;
        }
    }

    fn begin_epoch(&mut self, mss: u64, now: Instant) -> Epoch {
        self.w_max = self.w_max.max(self.window);
        let missing = self.w_max - self.window;
        // K = cbrt((W_max - cwnd) / C) with C = 0.4 segments per second cubed, and 10^9 ms³ in a s³.
        let cubed = u128::from(missing) * 2_500_000_000 / u128::from(mss);
        Epoch {
            start: now,
            k: cube_root(cubed),
            w_est: self.window,
            remainder: 0,
            last_ack: now,
        }
    }

    /// Time in which the application sends too little does not count for CUBIC's clock (section 4.2).
    fn pause(&mut self, now: Instant) {
        if let Some(epoch) = &mut self.epoch {
            epoch.start += now.saturating_duration_since(epoch.last_ack);
            epoch.last_ack = now;
        }
    }
}

impl Epoch {
    /// W_cubic(t) = C (t - K)³ + W_max, in bytes.
    fn cubic(&self, elapsed: Duration, w_max: u64, mss: u64) -> u64 {
        let elapsed = elapsed.as_millis().min(MAX_ELAPSED);
        let distance = elapsed.abs_diff(u128::from(self.k).min(MAX_ELAPSED));
        let change = distance.pow(3) * u128::from(mss) / 2_500_000_000;
        let change = u64::try_from(change).unwrap_or(u64::MAX);
        if elapsed < u128::from(self.k) {
            w_max.saturating_sub(change)
        } else {
            w_max.saturating_add(change)
        }
    }

    /// Section 4.3: α = 3 (1 - β) / (1 + β) = 9/17 segments per window until the old window is reached, then 1.
    fn grow_estimate(&mut self, bytes: u64, mss: u64, window: u64, prior: u64) {
        let alpha = if self.w_est < prior { 9 } else { 17 };
        let gained = alpha * bytes * mss + self.remainder;
        self.w_est += gained / (17 * window);
        self.remainder = gained % (17 * window);
    }
}

/// The largest number whose cube is at most `cubed`, bit by bit.
fn cube_root(cubed: u128) -> u64 {
    let mut root = 0u128;
    for bit in (0..42).rev() {
        let larger = root | 1 << bit;
        if larger * larger * larger <= cubed {
            root = larger;
        }
    }
    u64::try_from(root).unwrap_or(u64::MAX)
}

/// In milliseconds, eleven days: keeps cubes in bounds.
const MAX_ELAPSED: u128 = 1_000_000_000;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use super::*;

    fn epoch() -> Instant {
        Instant::now()
    }

    const MSS: u64 = 1000;
    const RTT: Duration = Duration::from_millis(100);

    fn after_loss(algorithm: Algorithm, window: u64) -> (Congestion, Instant) {
        let start = epoch();
        let mut congestion = Congestion::new(algorithm, MSS);
        congestion.state.window = window;
        congestion.on_lost(start, start);
        (congestion, start)
    }

    /// Acknowledges a whole window, `count` round trips long.
    fn run(congestion: &mut Congestion, start: Instant, count: u32) {
        for round in 1..=count {
            let now = start + RTT * round;
            for _ in 0..congestion.window() / MSS {
                congestion.on_acknowledged(MSS, now - RTT / 2, true, RTT, now);
            }
        }
    }

    #[test]
    fn slow_start_doubles_the_window_in_a_round_trip() {
        let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
        assert_eq!((congestion.window(), congestion.ssthresh()), (10_000, None));
        run(&mut congestion, epoch(), 2);
        assert_eq!(congestion.window(), 40_000);
    }

    #[test]
    fn newreno_halves_and_then_gains_a_segment_in_a_round_trip() {
        let (mut congestion, start) = after_loss(Algorithm::NewReno, 40_000);
        assert_eq!(
            (congestion.window(), congestion.ssthresh()),
            (20_000, Some(20_000))
        );
        congestion.on_lost(start, start + RTT);
        assert_eq!(congestion.window(), 20_000, "the same event");
        run(&mut congestion, start, 10);
        assert!(
            (29_000..=30_000).contains(&congestion.window()),
            "{}",
            congestion.window()
        );
    }

    #[test]
    fn cubic_is_back_at_w_max_after_k() {
        // 1000 segments: K = cbrt(1000 * 0.3 / 0.4) = 9.09 s
        let (mut congestion, start) = after_loss(Algorithm::Cubic, 1_000_000);
        assert_eq!(congestion.window(), 700_000);
        run(&mut congestion, start, 45);
        assert!(
            (930_000..970_000).contains(&congestion.window()),
            "{}",
            congestion.window()
        );
        run(&mut congestion, start + RTT * 45, 47);
        assert!(
            (990_000..1_010_000).contains(&congestion.window()),
            "{}",
            congestion.window()
        );
    }

    #[test]
    fn cubic_is_never_slower_than_its_estimate_of_newreno() {
        let (mut congestion, start) = after_loss(Algorithm::Cubic, 10_000);
        run(&mut congestion, start, 6);
        // 7 segments and 9/17 of one in each of 6 round trips, less rounding down to whole segments of a window
        assert!(
            (9_500..10_300).contains(&congestion.window()),
            "{}",
            congestion.window()
        );
    }

    #[test]
    fn a_reduction_for_nothing_is_undone() {
        let start = epoch();
        let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
        congestion.on_lost(start, start + RTT);
        congestion.on_lost(start, start + RTT);
        congestion.on_spurious(start);
        assert_eq!(congestion.window(), 7_000, "one of two is still lost");
        congestion.on_spurious(start);
        assert_eq!((congestion.window(), congestion.ssthresh()), (10_000, None));
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let now = epoch();
        let mut congestion = Congestion::new(Algorithm::Cubic, MSS);
        congestion.on_acknowledged(MSS, now, false, RTT, now);
        assert_eq!(congestion.window(), 10_000);
    }

    #[test]
    fn persistent_congestion_leaves_two_segments() {
        let (mut congestion, _) = after_loss(Algorithm::NewReno, 40_000);
        congestion.on_persistent_congestion();
        assert_eq!(congestion.window(), 2 * MSS);
        assert!(congestion.in_slow_start());
    }

    #[test]
    fn cube_roots() {
        for (cubed, root) in [
            (0, 0),
            (1, 1),
            (7, 1),
            (8, 2),
            (26, 2),
            (27, 3),
            (999_999, 99),
            (1_000_000, 100),
        ] {
            assert_eq!(cube_root(cubed), root, "of {cubed}");
        }
        assert_eq!(cube_root(u128::MAX), (1 << 42) - 1, "saturates");
    }
}
