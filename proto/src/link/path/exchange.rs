//! When do the two ends tell each other their candidates?
//!
//! ```text
//!   starter                                  other end
//!     │ ── Candidates ──────────────────────────▶ │  starts after half a round trip
//!     │ ◀────────────────────────── Candidates ── │
//!     └ starts at once: both open their NATs at the same moment (DCUtR, TRAVERSAL §1c)
//! ```
//!
//! A new exchange: when our candidates change, when the network changes, when the path is lost, and while there is no
//! direct path again and again, for ever: "was direct, became relay, never came back" must not happen.

use std::time::{Duration, Instant};

/// The conversation about candidates, seen from one end.
#[derive(Debug)]
pub(super) struct Exchange {
    starter: bool,
    begun: bool,
    /// When to give our list next.
    due: Option<Instant>,
    /// Whether that is for a reason of ours, and not only the next try.
    asked: bool,
    last_given: Option<Instant>,
    /// Rounds without success since the last one.
    futile: u32,
    /// Lists given.
    round: u32,
    /// Lists that the other end had given when it gave the latest that came.
    heard: u32,
}

impl Exchange {
    /// Of a link whose handshake has just ended.
    pub(super) fn new(starter: bool, now: Instant) -> Self {
        Self {
            starter,
            begun: false,
            due: (!starter).then(|| now + FIRST_WAIT),
            asked: false,
            last_given: None,
            futile: 0,
            round: 0,
            heard: 0,
        }
    }

    /// Our candidates are others now. The first time, the starter speaks first.
    pub(super) fn local_changed(&mut self, now: Instant) {
        if self.starter || self.begun {
            self.ask(now);
        }
    }

    /// There is a reason to try at once: the network changed, or the path is lost.
    pub(super) fn restart(&mut self, now: Instant) {
        self.futile = 0;
        self.ask(now);
    }

    /// Our list is being given: its number.
    pub(super) fn give(&mut self, now: Instant) -> u32 {
        self.begun = true;
        self.last_given = Some(now);
        self.asked = false;
        self.round = self.round.wrapping_add(1);
        if self.is_unanswered() {
            self.due = Some(now + RETRIES[RETRIES.len() - 1]);
        }
        self.round
    }

    /// The other end's list came, its `round`th. Tells whether it wants ours in return: when it has given more than we. So
    /// lists that cross answer each other, and an answer is never answered.
    pub(super) const fn heard(&mut self, round: u32) -> bool {
        self.begun = true;
        self.heard = round;
        round > self.round
    }

    /// Whether our list is out and theirs has not come.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.round > self.heard
    }

    /// A round of checks begins at `start`: sets when the next one is due. `content`: nothing better is to be expected.
    pub(super) fn round_begins(&mut self, content: bool, start: Instant) {
        let wait = RETRIES[usize::try_from(self.futile)
            .unwrap_or(usize::MAX)
            .min(RETRIES.len() - 1)];
        self.futile = self.futile.saturating_add(1);
        self.try_again((!content).then_some(start + wait));
    }

    /// A direct path was found: `content` as above.
    pub(super) fn found(&mut self, content: bool, now: Instant) {
        self.futile = u32::try_from(RETRIES.len()).unwrap_or(u32::MAX);
        self.try_again((!content).then_some(now + RETRIES[RETRIES.len() - 1]));
    }

    /// Whether our list is to be given now; asked once, it is not told again for a while.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = Some(now + RETRIES[RETRIES.len() - 1]);
        }
        due
    }

    /// When to [`Self::poll`] next.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.due
    }

    fn try_again(&mut self, at: Option<Instant>) {
        if !self.asked {
            // One end is a little later than the other, so that only one of them speaks.
            let late = if self.starter { Duration::ZERO } else { LATER };
            self.due = at.map(|at| at + late);
        }
    }

    fn ask(&mut self, now: Instant) {
        let at = self.last_given.map_or(now, |last| now.max(last + PAUSE));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        self.asked = true;
    }
}

/// The other end speaks first only after the starter has been silent for so long.
const FIRST_WAIT: Duration = Duration::from_secs(3);
/// Between two of our lists, at least.
const PAUSE: Duration = Duration::from_millis(500);
/// From one round without success to the next; the last one for ever.
const RETRIES: [Duration; 3] = [
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
];
/// How much later than the starter the other end asks for a new round.
const LATER: Duration = Duration::from_secs(5);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_starter_speaks_and_the_other_end_answers() {
        let now = Instant::now();
        let (mut starter, mut other) = (Exchange::new(true, now), Exchange::new(false, now));
        starter.local_changed(now);
        other.local_changed(now);
        assert!(starter.poll(now) && !other.poll(now), "one of them");
        let list = starter.give(now);
        assert!(other.heard(list), "and it wants an answer");
        other.round_begins(false, now);
        let answer = other.give(now);
        assert!(starter.is_unanswered() && !other.is_unanswered());
        assert!(!starter.heard(answer), "which wants none");
        starter.round_begins(false, now);
        assert!(
            other.next() > starter.next(),
            "the starter begins the next round too"
        );
    }

    #[test]
    fn a_silent_starter_is_not_waited_for_for_ever() {
        let now = Instant::now();
        let mut other = Exchange::new(false, now);
        assert!(!other.poll(now + FIRST_WAIT / 2) && other.poll(now + FIRST_WAIT));
    }

    #[test]
    fn without_success_it_is_tried_at_least_once_a_minute_for_ever() {
        let mut now = Instant::now();
        let mut starter = Exchange::new(true, now);
        starter.local_changed(now);
        for round in 1..=100 {
            let next = starter.next().expect("never given up");
            assert!(next <= now + 60 * SECOND);
            now = next;
            assert!(starter.poll(now));
            starter.give(now);
            assert!(!starter.heard(round));
            starter.round_begins(false, now);
        }
    }

    proptest! {
        /// However many lists cross each other, at last each end has answered and nobody speaks any more.
        #[test]
        fn an_exchange_comes_to_its_end(gives in prop::collection::vec((any::<bool>(), 0u32..4), 1..20)) {
            let now = Instant::now();
            let mut ends = [Exchange::new(true, now), Exchange::new(false, now)];
            // What is on its way to each end, in order.
            let mut flight = [VecDeque::new(), VecDeque::new()];
            let deliver = |ends: &mut [Exchange; 2], flight: &mut [VecDeque<u32>; 2], to: usize| {
                let Some(list) = flight[to].pop_front() else { return false };
                if ends[to].heard(list) {
                    let answer = ends[to].give(now);
                    flight[1 - to].push_back(answer);
                }
                true
            };
            for (starter, deliveries) in gives {
                let from = usize::from(!starter);
                let list = ends[from].give(now);
                flight[1 - from].push_back(list);
                for n in 0..deliveries {
                    deliver(&mut ends, &mut flight, usize::from(n % 2 == 0));
                }
            }
            let mut left = 200;
            while deliver(&mut ends, &mut flight, 0) | deliver(&mut ends, &mut flight, 1) {
                left -= 1;
                prop_assert!(left > 0, "they answer each other's answers for ever");
            }
            prop_assert!(!ends[0].is_unanswered() && !ends[1].is_unanswered());
        }
    }

    #[test]
    fn what_has_changed_is_told_even_when_a_path_is_found_meanwhile() {
        let now = Instant::now();
        let mut starter = Exchange::new(true, now);
        starter.local_changed(now);
        assert!(starter.poll(now));
        starter.give(now);
        starter.local_changed(now);
        assert!(!starter.poll(now), "not at once again");
        starter.found(true, now);
        assert!(starter.poll(now + PAUSE));
    }
}
