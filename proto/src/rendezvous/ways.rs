//! Which way to the rendezvous: UDP at once, carriers a moment later when it does not answer, and UDP again when it does.
//!
//! ```text
//!  UDP ─ 300 ms without an answer ─▶ open the 1st carrier ─ 300 ms, or it failed ─▶ the 2nd …
//!   ▲                                   │ open, and UDP still silent
//!   │ answers STUN again                ▼
//!   └──────────────────────────────  carrier ─ silent, or its stream ended ─▶ opened anew
//! ```
//!
//! Happy eyeballs (RFC 8305) over time: nobody waits for a time-out, and what answered first is kept until something better
//! does. It knows carriers by number, in the order in which the user would have them. Where UDP is not wanted, a carrier is
//! opened at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::client::Way;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open this carrier; tell [`Ways::opened`] or [`Ways::failed`].
    Open(usize),
    /// End it, or the attempt.
    Close(usize),
    /// Reach the rendezvous this way from now on.
    Use(Way),
}

/// How an attempt at a carrier, or a carrier, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work soon.
    Passing,
    /// Somebody has to do something first: a wrong password, say, which is not to be shown again and again.
    Lasting,
}

/// The choice.
#[derive(Debug)]
pub struct Ways {
    udp: bool,
    carriers: Vec<Carrier>,
    used: Used,
    /// When the way in use was taken.
    since: Instant,
    /// UDP was taken up again, after a carrier.
    returned: bool,
    /// It was left soon after that, so often.
    relapses: u32,
    actions: VecDeque<Action>,
    rng: StdRng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    Udp,
    Carrier(usize),
    Nothing,
}

#[derive(Debug)]
struct Carrier {
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { until: Instant },
    Opening { since: Instant },
    Open { address: SocketAddr, since: Instant },
}

impl Ways {
    /// So many carriers, and UDP if it is wanted; `seed` makes the pauses differ from other peers'.
    #[must_use]
    pub fn new(udp: bool, carriers: usize, seed: [u8; 32], now: Instant) -> Self {
        let closed = || Carrier {
            state: State::Closed { until: now },
            failures: 0,
        };
        let used = if udp { Used::Udp } else { Used::Nothing };
        let first = if udp { Way::Udp } else { Way::Closed };
        Self {
            udp,
            carriers: std::iter::repeat_with(closed).take(carriers).collect(),
            used,
            since: now,
            returned: false,
            relapses: 0,
            actions: VecDeque::from([Action::Use(first)]),
            rng: StdRng::from_seed(seed),
        }
    }

    /// A carrier is open, and is at this address.
    pub fn opened(&mut self, carrier: usize, address: SocketAddr, now: Instant) {
        if let Some(carrier) = self.carriers.get_mut(carrier)
            && let State::Opening { .. } = carrier.state
        {
            let since = now;
            carrier.state = State::Open { address, since };
        }
    }

    /// A carrier, or an attempt at one, has ended by itself.
    pub fn failed(&mut self, number: usize, how: Failure, now: Instant) {
        let chance: f64 = self.rng.random();
        let Some(carrier) = self.carriers.get_mut(number) else {
            return;
        };
        let lived = match carrier.state {
            State::Open { since, .. } => now.saturating_duration_since(since) >= LINGER,
            State::Closed { .. } | State::Opening { .. } => false,
        };
        if lived {
            carrier.failures = 0;
        }
        let pause = match how {
            // Middle boxes end streams that are old, and nothing is wrong with the next.
            Failure::Passing if lived => Duration::ZERO,
            Failure::Passing => (PAUSE * (1 << carrier.failures.min(5))).min(LONGEST_PAUSE),
            Failure::Lasting => LASTING_PAUSE,
        };
        carrier.failures = carrier.failures.saturating_add(1);
        let until = now + pause.mul_f64(0.5 + 0.5 * chance);
        carrier.state = State::Closed { until };
        if self.used == Used::Carrier(number) {
            self.take(if self.udp { Used::Udp } else { Used::Nothing }, now);
        }
    }

    /// The machine's network is another one: what failed may work now.
    pub fn network_changed(&mut self, now: Instant) {
        self.relapses = 0;
        for carrier in &mut self.carriers {
            carrier.failures = 0;
            if let State::Closed { until } = &mut carrier.state {
                *until = now;
            }
        }
    }

    /// Time has passed, or something has happened. `owes` is since when the rendezvous owes an answer, or will; `answered` when it
    /// last answered a question by UDP.
    pub fn handle(&mut self, owes: Option<Instant>, answered: Option<Instant>, now: Instant) {
        match self.used {
            Used::Udp => self.handle_udp(owes, now),
            Used::Carrier(number) => self.handle_carried(number, owes, answered, now),
            Used::Nothing => self.open_more(self.since, now),
        }
    }

    fn handle_udp(&mut self, owes: Option<Instant>, now: Instant) {
        let Some(owes) = owes else {
            return;
        };
        // Silence from before a carrier ended says nothing.
        let silent = now.saturating_duration_since(owes);
        if silent >= DELAY {
            // It has just answered; and what is asked now goes to the other end of the world perhaps.
            if self.returned && now < self.since + GRACE {
                return;
            }
            self.open_more(owes + DELAY, now);
        } else if now >= self.since + LINGER {
            self.close_all_but(None);
        }
        if now >= self.since + RELAPSE {
            self.relapses = 0;
        }
    }

    fn handle_carried(
        &mut self,
        number: usize,
        owes: Option<Instant>,
        answered: Option<Instant>,
        now: Instant,
    ) {
        let distrust = DISTRUST * ((1 << self.relapses.min(6)) - 1);
        if self.udp && answered.is_some_and(|at| at > self.since + distrust) {
            return self.take(Used::Udp, now);
        }
        let used_for = now.saturating_duration_since(self.since);
        if used_for >= MUTE && owes.is_some_and(|since| since + MUTE <= now) {
            self.actions.push_back(Action::Close(number));
            self.failed(number, Failure::Passing, now);
            self.open_more(now, now);
        } else if used_for >= LINGER {
            self.close_all_but(Some(number));
        }
    }

    /// Takes the first carrier that is open; as long as there is none, opens one after the other.
    fn open_more(&mut self, since: Instant, now: Instant) {
        let open = |carrier: &Carrier| matches!(carrier.state, State::Open { .. });
        if let Some(number) = self.carriers.iter().position(open) {
            if self.returned && now < self.since + RELAPSE {
                self.relapses = self.relapses.saturating_add(1);
            }
            return self.take(Used::Carrier(number), now);
        }
        let mut turn = since;
        for (number, carrier) in self.carriers.iter_mut().enumerate() {
            match carrier.state {
                State::Closed { until } if until <= now && turn <= now => {
                    carrier.state = State::Opening { since: now };
                    self.actions.push_back(Action::Open(number));
                    turn = now + DELAY;
                }
                State::Opening { since } => turn = turn.max(since + DELAY),
                State::Closed { .. } | State::Open { .. } => {}
            }
        }
    }

    fn take(&mut self, used: Used, now: Instant) {
        let way = match used {
            Used::Udp => Way::Udp,
            Used::Nothing => Way::Closed,
            Used::Carrier(number) => match self.carriers.get(number).map(|it| it.state) {
                Some(State::Open { address, .. }) => Way::Carrier(address),
                Some(State::Closed { .. } | State::Opening { .. }) | None => return,
            },
        };
        self.returned = used == Used::Udp && matches!(self.used, Used::Carrier(_));
        (self.used, self.since) = (used, now);
        self.actions.push_back(Action::Use(way));
    }

    fn close_all_but(&mut self, kept: Option<usize>) {
        for (number, carrier) in self.carriers.iter_mut().enumerate() {
            let runs = !matches!(carrier.state, State::Closed { .. });
            if runs && Some(number) != kept {
                carrier.state = State::Closed { until: self.since };
                self.actions.push_back(Action::Close(number));
            }
        }
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The carrier in use.
    #[must_use]
    pub const fn carrier(&self) -> Option<usize> {
        match self.used {
            Used::Carrier(number) => Some(number),
            Used::Udp | Used::Nothing => None,
        }
    }

    /// When to call [`Self::handle`] at the latest, as things are now.
    #[must_use]
    pub fn poll_timeout(&self, owes: Option<Instant>, now: Instant) -> Option<Instant> {
        if !self.actions.is_empty() {
            return Some(now);
        }
        let idle = self
            .carriers
            .iter()
            .all(|it| matches!(it.state, State::Closed { .. }));
        let linger = Some(self.since + LINGER).filter(|at| *at > now && !idle);
        let due = match self.used {
            _ if self.carriers.is_empty() => None,
            Used::Udp if self.returned => owes.map(|owes| (owes + DELAY).max(self.since + GRACE)),
            Used::Udp => owes.map(|owes| owes + DELAY),
            Used::Carrier(_) => owes.map(|owes| owes.max(self.since) + MUTE),
            Used::Nothing => Some(now),
        };
        // What is due already waits for a pause to end, or for a carrier to open, which is told.
        let due = due.map(|due| if due <= now { now + TICK } else { due });
        due.into_iter().chain(linger).min()
    }
}

/// From a question to the next way to try (RFC 8305, section 5, has 250 ms).
pub const DELAY: Duration = Duration::from_millis(300);
/// While something waits for a pause to end.
const TICK: Duration = Duration::from_millis(100);
/// A way that was left is kept so long: the new one may fail at once.
const LINGER: Duration = Duration::from_secs(5);
/// UDP that has just answered is given so long for its next answer.
const GRACE: Duration = Duration::from_millis(1500);
/// A carrier by which nothing is answered for so long is replaced.
const MUTE: Duration = Duration::from_secs(4);
/// The first pause after a failure, and the longest; each is between a half and the whole of it.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Until something is tried again that somebody has to mend.
const LASTING_PAUSE: Duration = Duration::from_secs(600);
/// UDP that ends again so soon was answered by chance.
const RELAPSE: Duration = Duration::from_secs(30);
/// So long its answers do not count then; doubled and one more at each relapse.
const DISTRUST: Duration = Duration::from_secs(10);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A peer whose rendezvous is silent by UDP, or is not.
    struct Peer {
        ways: Ways,
        start: Instant,
        now: Instant,
        owes: Option<Instant>,
        answered: Option<Instant>,
        /// What was done, and when.
        done: Vec<(u128, Action)>,
    }

    impl Peer {
        fn new(udp: bool, carriers: usize) -> Self {
            let now = Instant::now();
            let mut peer = Self {
                ways: Ways::new(udp, carriers, [7; 32], now),
                start: now,
                now,
                owes: Some(now),
                answered: None,
                done: Vec::new(),
            };
            peer.drain();
            peer
        }

        fn drain(&mut self) {
            self.ways.handle(self.owes, self.answered, self.now);
            while let Some(action) = self.ways.poll_action() {
                self.done
                    .push(((self.now - self.start).as_millis(), action));
                if let Action::Use(_) = action {
                    self.owes = Some(self.now);
                }
            }
        }

        /// As a driver does it, which sleeps as long as it may.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            self.drain();
            while let Some(due) = self
                .ways
                .poll_timeout(self.owes, self.now)
                .filter(|at| *at <= end)
            {
                assert!(due > self.now, "it would be asked without end");
                self.now = due;
                self.drain();
            }
            self.now = end;
            self.drain();
        }

        fn opened(&mut self, carrier: usize) -> SocketAddr {
            let address = SocketAddr::from(([127, 0, 0, 1], 1000));
            self.ways.opened(carrier, address, self.now);
            self.drain();
            address
        }

        /// What was done since the last call.
        fn news(&mut self) -> Vec<(u128, Action)> {
            std::mem::take(&mut self.done)
        }

        /// The rendezvous has answered by the way in use, and owes nothing for an hour.
        fn heard(&mut self) {
            self.owes = Some(self.now + Duration::from_secs(3600));
            self.drain();
        }
    }

    #[test]
    fn udp_that_answers_is_all_there_is() {
        let mut peer = Peer::new(true, 2);
        peer.run(MS * 200);
        peer.heard();
        peer.run(Duration::from_secs(600));
        assert_eq!(peer.news(), [(0, Action::Use(Way::Udp))]);
    }

    #[test]
    fn carriers_are_opened_one_after_the_other_while_udp_is_silent() {
        let mut peer = Peer::new(true, 2);
        peer.run(MS * 1000);
        let opened = [(300, Action::Open(0)), (600, Action::Open(1))];
        assert_eq!(peer.news()[1..], opened);
        let address = peer.opened(1);
        assert_eq!(peer.news(), [(1000, Action::Use(Way::Carrier(address)))]);
        peer.heard();
        peer.run(Duration::from_secs(6));
        assert_eq!(
            peer.news(),
            [(6000, Action::Close(0))],
            "the other one is not needed"
        );
    }

    #[test]
    fn one_that_fails_does_not_hold_up_the_next() {
        let mut peer = Peer::new(true, 2);
        peer.run(MS * 310);
        peer.ways.failed(0, Failure::Passing, peer.now);
        peer.run(MS);
        assert_eq!(peer.news().last(), Some(&(310, Action::Open(1))));
    }

    #[test]
    fn udp_is_taken_again_when_it_answers_and_what_was_open_is_kept_a_moment() {
        let mut peer = Peer::new(true, 1);
        peer.run(MS * 400);
        let carrier = peer.opened(0);
        peer.heard();
        peer.run(Duration::from_secs(60));
        peer.news();
        peer.answered = Some(peer.now);
        peer.drain();
        assert_eq!(peer.news(), [(60_400, Action::Use(Way::Udp))]);
        // It was a mistake, and the carrier is there.
        peer.run(MS * 1600);
        assert_eq!(peer.news(), [(61_900, Action::Use(Way::Carrier(carrier)))]);
        peer.heard();
        // Its answers do not count for a while; then they do, and it lasts.
        peer.answered = Some(peer.now + Duration::from_secs(5));
        peer.run(Duration::from_secs(9));
        assert_eq!(peer.news(), []);
        peer.answered = Some(peer.now + Duration::from_secs(3));
        peer.drain();
        assert_eq!(
            peer.news().last().map(|(_, action)| *action),
            Some(Action::Use(Way::Udp))
        );
        peer.heard();
        peer.run(Duration::from_secs(10));
        assert_eq!(
            peer.news().last().map(|(_, action)| *action),
            Some(Action::Close(0))
        );
    }

    #[test]
    fn what_somebody_must_mend_is_not_tried_again_and_again() {
        let mut peer = Peer::new(false, 1);
        assert_eq!(
            peer.news(),
            [(0, Action::Use(Way::Closed)), (0, Action::Open(0))]
        );
        peer.ways.failed(0, Failure::Lasting, peer.now);
        peer.run(Duration::from_secs(299));
        assert_eq!(peer.news(), []);
        peer.ways.network_changed(peer.now);
        peer.run(MS);
        assert_eq!(
            peer.news().last().map(|(_, action)| *action),
            Some(Action::Open(0))
        );
    }

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let mut peer = Peer::new(false, 1);
        let mut at = Vec::new();
        while peer.now < peer.start + Duration::from_secs(300) {
            at.extend(
                peer.news()
                    .iter()
                    .filter(|(_, it)| *it == Action::Open(0))
                    .map(|(at, _)| *at),
            );
            peer.ways.failed(0, Failure::Passing, peer.now);
            peer.run(Duration::from_millis(100));
            while !peer.done.iter().any(|(_, it)| *it == Action::Open(0)) {
                peer.run(Duration::from_millis(100));
            }
        }
        let pauses: Vec<u128> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            pauses[0] <= 1200 && pauses.iter().all(|pause| *pause <= 30_200),
            "{pauses:?}"
        );
        assert!(pauses.last() >= Some(&15_000), "{pauses:?}");
    }

    #[test]
    fn a_carrier_that_is_cut_or_mute_is_replaced() {
        let mut peer = Peer::new(false, 1);
        let address = peer.opened(0);
        peer.heard();
        peer.run(Duration::from_secs(30));
        peer.news();
        peer.ways.failed(0, Failure::Passing, peer.now);
        peer.run(MS);
        assert_eq!(
            peer.news(),
            [
                (30_000, Action::Use(Way::Closed)),
                (30_000, Action::Open(0))
            ]
        );
        peer.opened(0);
        peer.run(Duration::from_secs(5));
        let done: Vec<Action> = peer.news().into_iter().map(|(_, action)| action).collect();
        assert_eq!(
            done[..2],
            [Action::Use(Way::Carrier(address)), Action::Close(0)]
        );
        peer.run(Duration::from_secs(1));
        assert!(
            peer.news()
                .iter()
                .any(|(_, action)| *action == Action::Open(0))
        );
    }

    proptest! {
        /// Whatever happens: it asks for no more than it was told of, and never to be called without end.
        #[test]
        fn it_never_spins(udp: bool, carriers in 0usize..4, steps in prop::collection::vec((0u8..8, 0u64..5000, 0usize..4), 0..60)) {
            let mut peer = Peer::new(udp, carriers);
            for (what, wait, which) in steps {
                match what {
                    0 => { peer.opened(which); }
                    1 => peer.ways.failed(which, Failure::Passing, peer.now),
                    2 => peer.ways.failed(which, Failure::Lasting, peer.now),
                    3 => peer.ways.network_changed(peer.now),
                    4 => peer.answered = Some(peer.now),
                    5 => peer.heard(),
                    6 => peer.owes = Some(peer.now),
                    _ => peer.owes = None,
                }
                peer.run(Duration::from_millis(wait));
                let mine = peer.news().into_iter().all(|(_, action)| match action {
                    Action::Open(number) | Action::Close(number) => number < carriers,
                    Action::Use(_) => true,
                });
                prop_assert!(mine);
            }
        }
    }
}
