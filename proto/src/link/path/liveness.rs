//! Is the active path alive? Decides when to send a probe on it and when to give it up.
//!
//! ```text
//!  silence:   ├ sent, nothing heard ─ 600 ms ─▶ probe ─ 300 ms ─▶ probe ─ … ─▶ dead, 2.4 s after the first unanswered byte
//!  idle:      ├ nothing heard for 4 to 5 s ───▶ probe …
//!  one-way:   ├ heard, but no probe answered for 10 s ─▶ probe …     (data coming in does not prove that ours gets out)
//! ```
//!
//! Only an answer to a probe ends probing: that is what proves the way out. A probe is repeated more often than it needs to
//! be, so that a path which loses every tenth datagram is not given up by chance.

use std::time::{Duration, Instant};

/// The active path's signs of life.
#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    proved: Instant,
    /// When the first datagram left that nothing has been heard after.
    unheard: Option<Instant>,
    probing: Option<Probing>,
    suspected: Option<Instant>,
    idle: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Probing {
    since: Instant,
    last: Instant,
    sent: u32,
}

impl Liveness {
    /// Of a path that was proved now; `idle` is the silence to bear, see [`IDLE`].
    pub(super) const fn new(idle: Duration, now: Instant) -> Self {
        Self {
            heard: now,
            proved: now,
            unheard: None,
            probing: None,
            suspected: None,
            idle,
        }
    }

    /// Something authenticated came from the other end of the path.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.unheard = None;
    }

    /// Something that we sent on the path was answered.
    pub(super) const fn proved(&mut self, idle: Duration, now: Instant) {
        *self = Self::new(idle, now);
    }

    /// Something was sent on the path.
    pub(super) fn sent(&mut self, now: Instant) {
        self.unheard.get_or_insert(now);
    }

    /// There is a reason to doubt the path: probe it at once.
    pub(super) fn suspect(&mut self, now: Instant) {
        if self.probing.is_none() {
            self.suspected = Some(now);
        }
    }

    /// A probe was sent.
    pub(super) fn probe_sent(&mut self, now: Instant) {
        self.suspected = None;
        self.sent(now);
        let probing = self.probing.get_or_insert(Probing {
            since: now,
            last: now,
            sent: 0,
        });
        probing.last = now;
        probing.sent = probing.sent.saturating_add(1);
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self) -> Instant {
        if let Some(probing) = self.probing {
            return probing.last + REPEAT;
        }
        let idle = (self.heard + self.idle).min(self.proved + PROOF);
        let silent = self.unheard.map_or(idle, |since| since + SILENCE);
        self.suspected.unwrap_or(idle).min(idle).min(silent)
    }

    /// When to give the path up, as things are now.
    pub(super) fn dies_at(&self) -> Option<Instant> {
        let probing = self.probing?;
        // A machine that slept has not probed: count probes, not only time.
        (probing.sent >= MIN_PROBES).then(|| (probing.since + DEATH).max(probing.last + REPEAT))
    }

    /// Whether two probes or more wait for an answer.
    pub(super) fn is_suspect(&self) -> bool {
        self.probing.is_some_and(|probing| probing.sent >= 2)
    }

    /// Whether any probe waits for an answer.
    pub(super) const fn is_probing(&self) -> bool {
        self.probing.is_some()
    }

    /// When something was heard last.
    pub(super) const fn last_heard(&self) -> Instant {
        self.heard
    }
}

/// The silence that an unused path bears before it is probed: random, so that one end's probe spares the other's.
pub(super) const IDLE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(4000)..=Duration::from_millis(5000);
/// The silence that a used path bears before it is probed.
const SILENCE: Duration = Duration::from_millis(600);
/// Between the probes of one doubt.
const REPEAT: Duration = Duration::from_millis(300);
/// From the first unanswered probe to giving up. With [`SILENCE`]: 2.4 s, and the goal is 2.5 s.
const DEATH: Duration = Duration::from_millis(1800);
/// No path is given up before so many probes went unanswered.
const MIN_PROBES: u32 = 3;
/// The longest time without a proof that our datagrams get out.
const PROOF: Duration = Duration::from_secs(10);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use super::*;

    /// Runs it until it is dead, answering nothing; the times of the probes and of death in milliseconds.
    fn run(liveness: &mut Liveness, start: Instant) -> (Vec<u128>, u128) {
        let mut probes = Vec::new();
        loop {
            let next = liveness.next_probe();
            match liveness.dies_at() {
                Some(death) if death <= next => return (probes, (death - start).as_millis()),
                Some(_) | None => {
                    liveness.probe_sent(next);
                    probes.push((next - start).as_millis());
                }
            }
        }
    }

    #[test]
    fn a_used_path_dies_within_the_goal() {
        let start = Instant::now();
        let mut liveness = Liveness::new(*IDLE.start(), start);
        liveness.sent(start);
        let (probes, death) = run(&mut liveness, start);
        assert!(probes.len() >= 3 && probes[0] <= 700, "{probes:?}");
        assert!(probes.windows(2).all(|pair| pair[1] - pair[0] <= 700));
        assert!(death <= 2500, "{death} ms");
    }

    #[test]
    fn an_unused_path_is_probed_only_after_a_while() {
        let start = Instant::now();
        let (probes, death) = run(&mut Liveness::new(*IDLE.end(), start), start);
        assert_eq!((probes[0], death), (5000, 6800));
    }

    #[test]
    fn data_coming_in_is_no_proof_that_ours_gets_out() {
        let start = Instant::now();
        let (mut liveness, mut now) = (Liveness::new(*IDLE.start(), start), start);
        while now < start + PROOF {
            now += Duration::from_millis(100);
            liveness.heard(now);
        }
        assert_eq!(liveness.next_probe(), start + PROOF);
        liveness.probe_sent(now);
        liveness.heard(now);
        assert!(liveness.is_probing(), "only an answer ends it");
        liveness.proved(*IDLE.start(), now);
        assert!(!liveness.is_probing());
    }

    #[test]
    fn waking_from_sleep_is_not_death() {
        let start = Instant::now();
        let mut liveness = Liveness::new(*IDLE.start(), start);
        liveness.sent(start);
        liveness.probe_sent(start);
        liveness.probe_sent(start + Duration::from_secs(3600));
        assert_eq!(liveness.dies_at(), None);
        liveness.probe_sent(start + Duration::from_secs(3600));
        assert!(liveness.dies_at() > Some(start + Duration::from_secs(3600)));
    }
}
