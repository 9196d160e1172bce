//! How does the NAT before us behave? Asked with a few fresh sockets, which are closed afterwards.
//!
//! ```text
//!   fresh sockets 0 … 4 ── Binding request ─▶ server       one right after the other: how are ports chosen?
//!   socket 0 ── to socket 1's outside address ─▶           does it come back in: hairpin?
//!   socket 5 ── to the server, wants its answer from the second address: may any stranger answer? (RFC 5780, section 4.4)
//!   socket 6 ── to the second address, wants its answer from another port there: may strangers of known address?
//! ```
//!
//! The mapping axis is the [`Observer`](crate::rendezvous::observe::Observer)'s, which asks by the main socket. Strangers are
//! asked for only where the server says by OTHER-ADDRESS that it has a second address; otherwise the axis stays unknown. All of
//! them come from there: some firewalls block whoever sends what nobody waits for, and the server's first address is the way to
//! the relay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::allocation::{Sample, infer};
use crate::SocketId;
use crate::wire::control::{Allocation, Dependence};
use crate::wire::stun::{self, Change, Class, Message, Transaction};

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct NatReport {
    /// How outside ports are chosen.
    pub allocation: Allocation,
    /// Who may send to a socket's outside address.
    pub filtering: Dependence,
    /// Whether two hosts inside reach each other by their outside addresses.
    pub hairpin: Option<bool>,
}

/// One survey after the other.
#[derive(Debug)]
pub struct Survey {
    rng: StdRng,
    stage: Stage,
    server: Option<SocketAddr>,
    second: Option<SocketAddr>,
    report: Option<NatReport>,
    next: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// Sockets are being opened.
    Opening,
    Asking(Box<Asking>),
}

#[derive(Debug)]
struct Asking {
    sockets: Vec<(SocketId, u16)>,
    questions: Vec<Question>,
    hairpin: Option<Transaction>,
    hairpin_seen: bool,
    /// The server's second address: then it answers from there, too (RFC 5780, section 7.4).
    other: Option<SocketAddr>,
    ends: Instant,
}

#[derive(Debug)]
struct Question {
    purpose: Purpose,
    socket: SocketId,
    to: SocketAddr,
    change: Change,
    asked: Vec<Transaction>,
    next: Option<Instant>,
    answer: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Sample,
    FilterPort,
    FilterAddress,
    Hairpin,
}

impl Survey {
    /// No survey yet; `seed` is where its transaction ids come from.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            stage: Stage::Idle,
            server: None,
            second: None,
            report: None,
            next: None,
        }
    }

    /// The server to ask is this one now, with this second address if it is known already: a survey begins unless one runs or
    /// it is the same as before.
    pub fn set_server(
        &mut self,
        server: Option<SocketAddr>,
        second: Option<SocketAddr>,
        now: Instant,
    ) {
        if (self.server, self.second) != (server, second) {
            (self.server, self.second) = (server, second);
            self.next = server.map(|_| now);
        }
    }

    /// The network is another one: what was found is forgotten.
    pub fn network_changed(&mut self, now: Instant) {
        self.report = None;
        self.next = self.server.map(|_| now + SETTLE);
    }

    /// How many sockets a survey needs that is due now; they come by [`Self::handle_sockets`].
    pub fn wants_sockets(&mut self, now: Instant) -> Option<u16> {
        let due = self.next.is_some_and(|next| next <= now);
        if !due || !matches!(self.stage, Stage::Idle) {
            return None;
        }
        self.stage = Stage::Opening;
        self.next = Some(now + AGAIN);
        Some(SOCKETS)
    }

    /// The sockets that were wanted, with their inside ports; fewer than wanted when no more could be had.
    pub fn handle_sockets(&mut self, sockets: Vec<(SocketId, u16)>, now: Instant) {
        let Some(server) = self.server.filter(|_| !sockets.is_empty()) else {
            self.stage = Stage::Idle;
            return;
        };
        let samples = sockets.iter().take(SAMPLES);
        let samples = samples.map(|&(socket, _)| {
            Question::new(Purpose::Sample, socket, server, Change::default(), now)
        });
        let questions = samples.collect();
        let mut asking = Box::new(Asking {
            sockets,
            questions,
            hairpin: None,
            hairpin_seen: false,
            other: None,
            ends: now + PATIENCE,
        });
        if let Some(second) = self.second {
            asking.ask_for_strangers(server, second, now);
        }
        self.stage = Stage::Asking(asking);
    }

    /// A STUN message came in. Tells whether it belonged to the survey.
    pub fn handle_message(&mut self, socket: SocketId, message: &Message, now: Instant) -> bool {
        let Stage::Asking(asking) = &mut self.stage else {
            return false;
        };
        match message.class {
            Class::Success => {}
            Class::Request => {
                let mine = asking.hairpin == Some(message.transaction);
                asking.hairpin_seen |= mine;
                return mine;
            }
            Class::Error | Class::Indication => return false,
        }
        let answered = asking.questions.iter_mut().find(|question| {
            question.socket == socket && question.asked.contains(&message.transaction)
        });
        let Some(question) = answered else {
            return false;
        };
        question.next = None;
        let asked = question.to;
        if let Some(mapped) = message.mapped.filter(|mapped| mapped.port() != 0) {
            question.answer.get_or_insert(mapped);
        }
        asking.try_hairpin(now);
        let other = message.other_address;
        if let Some(other) = other.filter(|other| other.ip() != asked.ip() && other.port() != 0) {
            asking.ask_for_strangers(asked, other, now);
        }
        true
    }

    /// The next request to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketId, SocketAddr, Vec<u8>)> {
        let Stage::Asking(asking) = &mut self.stage else {
            return None;
        };
        let is_due = |question: &&mut Question| question.next.is_some_and(|next| next <= now);
        let question = asking.questions.iter_mut().find(is_due)?;
        let transaction = self.rng.random();
        question.asked.push(transaction);
        let sent = u32::try_from(question.asked.len()).unwrap_or(u32::MAX);
        question.next = (sent < REQUESTS).then(|| now + FIRST_WAIT * (1 << (sent - 1)));
        if question.purpose == Purpose::Hairpin {
            question.next = None;
            asking.hairpin = Some(transaction);
        }
        let request = stun::encode_probe(transaction, question.change);
        Some((question.socket, question.to, request))
    }

    /// The time of [`Self::poll_timeout`] has come. Gives back the sockets of a survey that is done, to be closed.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<SocketId> {
        let done = matches!(&self.stage, Stage::Asking(asking) if asking.is_done(now));
        if !done {
            return Vec::new();
        }
        let Stage::Asking(asking) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return Vec::new();
        };
        self.report = Some(asking.report());
        asking.sockets.iter().map(|&(id, _)| id).collect()
    }

    /// When to call [`Self::wants_sockets`], [`Self::handle_timeout`] and [`Self::poll_transmit`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Idle => self.next,
            Stage::Opening => None,
            Stage::Asking(asking) => {
                let due = asking.questions.iter().filter_map(|question| question.next);
                due.chain([asking.ends]).min()
            }
        }
    }

    /// What is known; while a first survey runs, what its answers say already.
    #[must_use]
    pub fn report(&self) -> NatReport {
        match &self.stage {
            Stage::Asking(asking) if self.report.is_none() => asking.early_report(),
            Stage::Idle | Stage::Opening | Stage::Asking(_) => self.report.unwrap_or_default(),
        }
    }
}

impl Question {
    /// To be asked now.
    const fn new(
        purpose: Purpose,
        socket: SocketId,
        to: SocketAddr,
        change: Change,
        now: Instant,
    ) -> Self {
        Self {
            purpose,
            socket,
            to,
            change,
            asked: Vec::new(),
            next: Some(now),
            answer: None,
        }
    }
}

impl Asking {
    fn answers(&self, purpose: Purpose) -> bool {
        let mut questions = self.questions.iter();
        questions.any(|question| question.purpose == purpose && question.answer.is_some())
    }

    /// Both addresses of the server are known: who may send to us that we did not send to?
    fn ask_for_strangers(&mut self, server: SocketAddr, other: SocketAddr, now: Instant) {
        if self.other.replace(other).is_some() {
            return;
        }
        let (port, both) = (
            Change {
                address: false,
                port: true,
            },
            Change {
                address: true,
                port: true,
            },
        );
        let questions = [
            (Purpose::FilterAddress, server, both),
            (Purpose::FilterPort, other, port),
        ];
        let sockets = self.sockets.iter().skip(SAMPLES);
        for (&(socket, _), (purpose, to, change)) in sockets.zip(questions) {
            self.questions
                .push(Question::new(purpose, socket, to, change, now));
        }
        self.ends = now + PATIENCE;
    }

    fn try_hairpin(&mut self, now: Instant) {
        let mut samples = self
            .questions
            .iter()
            .filter(|question| question.purpose == Purpose::Sample);
        let (Some(from), Some(to)) = (samples.next(), samples.next()) else {
            return;
        };
        let (socket, to) = (from.socket, to.answer);
        let Some(to) = to.filter(|_| !self.asks(Purpose::Hairpin)) else {
            return;
        };
        let change = Change::default();
        self.questions
            .push(Question::new(Purpose::Hairpin, socket, to, change, now));
    }

    fn asks(&self, purpose: Purpose) -> bool {
        self.questions
            .iter()
            .any(|question| question.purpose == purpose)
    }

    fn is_done(&self, now: Instant) -> bool {
        self.ends <= now
    }

    fn report(&self) -> NatReport {
        let sample = |question: &Question| {
            let mapped = question.answer?.port();
            let local = self
                .sockets
                .iter()
                .find(|(id, _)| *id == question.socket)?
                .1;
            Some(Sample { local, mapped })
        };
        let samples = self
            .questions
            .iter()
            .filter(|question| question.purpose == Purpose::Sample);
        let samples: Vec<Sample> = samples.filter_map(sample).collect();
        NatReport {
            allocation: infer(&samples),
            filtering: self.filtering(),
            hairpin: self.hairpin.map(|_| self.hairpin_seen),
        }
    }

    /// What the answers say that have come; of those that have not, nothing is known yet.
    fn early_report(&self) -> NatReport {
        let report = self.report();
        let silent = report.filtering == Dependence::AddressAndPort;
        NatReport {
            hairpin: report.hairpin.filter(|&seen| seen),
            filtering: if silent {
                Dependence::Unknown
            } else {
                report.filtering
            },
            ..report
        }
    }

    fn filtering(&self) -> Dependence {
        let by_address = self.answers(Purpose::FilterAddress);
        let by_port = self.answers(Purpose::FilterPort);
        if by_address {
            Dependence::Independent
        } else if by_port {
            Dependence::Address
        } else if self.other.is_some() {
            Dependence::AddressAndPort
        } else {
            Dependence::Unknown
        }
    }
}

/// Sockets whose ports show how ports are chosen.
const SAMPLES: usize = 5;
/// These, and one for each kind of stranger.
const SOCKETS: u16 = 7;
/// Before the first retransmission, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const REQUESTS: u32 = 3;
/// One survey: all retransmissions, and time for the last answer.
const PATIENCE: Duration = Duration::from_millis(2000);
/// Between two surveys of one network.
const AGAIN: Duration = Duration::from_secs(1200);
/// After a change of the network.
const SETTLE: Duration = Duration::from_millis(200);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::stun::{Policy, ServerAddresses, parse, reply};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A NAT that gives `ports` in this order, before a server that can answer from elsewhere if `able`.
    struct Nat {
        filtering: Dependence,
        able: bool,
        /// Whether the second address is known before.
        told: bool,
        hairpin: bool,
        loss_of: BTreeSet<usize>,
    }

    fn run(nat: &Nat, ports: impl Fn(usize) -> u16) -> NatReport {
        let mut now = Instant::now();
        let mut survey = Survey::new([3; 32]);
        let server = address("203.0.113.1:3478");
        let other = |to: SocketAddr, change: Change| {
            let [one, two] = ["203.0.113.1:3478", "203.0.113.2:3479"].map(address);
            let swapped = |change: bool, here: bool| if change == here { two } else { one };
            SocketAddr::new(
                swapped(change.address, to.ip() == one.ip()).ip(),
                swapped(change.port, to.port() == one.port()).port(),
            )
        };
        let second = Some(address("203.0.113.2:3478")).filter(|_| nat.told);
        survey.set_server(Some(server), second, now);
        let count = survey.wants_sockets(now).expect("due");
        assert_eq!(survey.wants_sockets(now), None, "once");
        let sockets: Vec<_> = (1..=count)
            .map(|id| (SocketId(id), 50_000 - 7 * id))
            .collect();
        survey.handle_sockets(sockets, now);
        let mut opened: BTreeSet<(SocketId, SocketAddr)> = BTreeSet::new();
        let mut sent = 0;
        let mut closed = Vec::new();
        while closed.is_empty() {
            while let Some((socket, to, request)) = survey.poll_transmit(now) {
                sent += 1;
                let message = parse(&request).expect("own bytes");
                opened.insert((socket, to));
                if nat.loss_of.contains(&sent) {
                    continue;
                }
                let mapped = SocketAddr::new(
                    "198.51.100.1".parse().expect("an address"),
                    ports(usize::from(socket.0) - 1),
                );
                if to.ip() == mapped.ip() {
                    if nat.hairpin {
                        assert!(survey.handle_message(SocketId(2), &message, now));
                    }
                    continue;
                }
                if message.change != Change::default() {
                    assert!(nat.able, "it is asked for what it can do only");
                }
                let from = other(to, message.change);
                assert!(
                    opened.contains(&(socket, from)) || from.ip() != server.ip(),
                    "no stranger has the address of the relay"
                );
                let admitted = match nat.filtering {
                    Dependence::Independent => true,
                    Dependence::Address => opened
                        .iter()
                        .any(|(by, to)| *by == socket && to.ip() == from.ip()),
                    Dependence::Unknown | Dependence::AddressAndPort => {
                        opened.contains(&(socket, from))
                    }
                };
                if admitted {
                    let both = Change {
                        address: nat.able,
                        port: true,
                    };
                    let addresses = |_| {
                        Some(ServerAddresses {
                            origin: from,
                            other: Some(other(to, both)),
                        })
                    };
                    let answer = reply(&request, mapped, Policy::Strict, addresses);
                    let answer = parse(&answer.expect("room").contents).expect("own bytes");
                    assert!(survey.handle_message(socket, &answer, now));
                }
            }
            now = survey.poll_timeout().expect("it goes on");
            closed = survey.handle_timeout(now);
        }
        assert_eq!(closed.len(), usize::from(SOCKETS), "none is kept");
        assert!(sent <= 30, "{sent}");
        survey.report()
    }

    #[test]
    fn every_filter_is_told_and_unknown_without_a_server_that_can() {
        for filtering in [
            Dependence::Independent,
            Dependence::Address,
            Dependence::AddressAndPort,
        ] {
            let mut nat = Nat {
                filtering,
                able: true,
                told: filtering == Dependence::Address,
                hairpin: filtering == Dependence::Address,
                loss_of: BTreeSet::new(),
            };
            let report = run(&nat, |index| {
                50_000 - 7 * (u16::try_from(index).expect("few") + 1)
            });
            assert_eq!(report.filtering, filtering);
            assert_eq!(report.hairpin, Some(nat.hairpin));
            assert_eq!(report.allocation, Allocation::Preserving);
            (nat.able, nat.told) = (false, false);
            let report = run(&nat, |index| {
                30_000 + 2 * u16::try_from(index).expect("few")
            });
            assert_eq!(report.filtering, Dependence::Unknown);
            assert_eq!(report.allocation, Allocation::Sequential { step: 2 });
        }
    }

    #[test]
    fn a_lost_request_is_repeated() {
        let nat = Nat {
            filtering: Dependence::AddressAndPort,
            able: true,
            told: true,
            hairpin: false,
            loss_of: (1..=9).collect(),
        };
        let report = run(&nat, |index| {
            [61_007, 20_499, 9112, 40_655, 5000, 6000, 7000][index]
        });
        assert_eq!(report.allocation, Allocation::Random);
        assert_eq!(report.filtering, Dependence::AddressAndPort);
    }
}
