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
    /// UDP was left soon after it had been taken up again, so often.
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
    Open { address: SocketAddr },
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
            relapses: 0,
            actions: VecDeque::from([Action::Use(first)]),
            rng: StdRng::from_seed(seed),
        }
    }

    /// A carrier is open, and is at this address.
    pub fn opened(&mut self, carrier: usize, address: SocketAddr) {
        if let Some(carrier) = self.carriers.get_mut(carrier)
            && let State::Opening { .. } = carrier.state
        {
            carrier.state = State::Open { address };
            carrier.failures = 0;
        }
    }

    /// A carrier, or an attempt at one, has ended by itself.
    pub fn failed(&mut self, number: usize, how: Failure, now: Instant) {
        let chance: f64 = self.rng.random();
        let Some(carrier) = self.carriers.get_mut(number) else {
            return;
        };
        let pause = match how {
            // One that was open is tried again at once: middle boxes end streams that are old, and nothing is wrong with the next.
            Failure::Passing if matches!(carrier.state, State::Open { .. }) => Duration::ZERO,
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
            if self.used == Used::Udp && now < self.since + RELAPSE {
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
                Some(State::Open { address }) => Way::Carrier(address),
                Some(State::Closed { .. } | State::Opening { .. }) | None => return,
            },
        };
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
