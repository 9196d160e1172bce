//! How does the NAT before us behave? Asked with a few fresh sockets, which are closed afterwards.
//!
//! ```text
//!   fresh sockets 0 … 4 ── Binding request ─▶ server       one right after the other: how are ports chosen?
//!   socket 0 ── to socket 1's outside address ─▶           does it come back in: hairpin?
//!   socket 5 ── opens itself towards the other address, then wants an answer from there: can the server do that at all?
//!   socket 6 ── wants the same without having opened itself: may strangers answer? (RFC 5780, section 4.4)
//! ```
//!
//! The mapping axis is the [`Observer`](crate::rendezvous::observe::Observer)'s, which asks by the main socket. An answer that
//! does not come says something only where the control, or the server's OTHER-ADDRESS, says that it could have come; otherwise the
//! axis stays unknown. (Behind a mapping by address and port no control is possible: what it opens is another mapping.)

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
    servers: Servers,
    report: Option<NatReport>,
    next: Option<Instant>,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// The one that is asked.
    pub main: Option<SocketAddr>,
    /// Where it answers from with another port: the same address.
    pub other_port: Option<SocketAddr>,
    /// Where it answers from with another address.
    pub other_address: Option<SocketAddr>,
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
    /// The server says that it has a second address: then it answers from there, too (RFC 5780, section 7.4).
    able: bool,
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
    Open,
    ControlPort,
    ControlAddress,
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
            servers: Servers::default(),
            report: None,
            next: None,
        }
    }

    /// The servers are these now: a survey begins unless one runs or they are the same as before.
    pub fn set_servers(&mut self, servers: Servers, now: Instant) {
        if self.servers != servers {
            self.servers = servers;
            self.next = servers.main.map(|_| now);
        }
    }

    /// The network is another one: what was found is forgotten.
    pub fn network_changed(&mut self, now: Instant) {
        self.report = None;
        self.next = self.servers.main.map(|_| now + SETTLE);
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
        let Some(main) = self.servers.main.filter(|_| !sockets.is_empty()) else {
            self.stage = Stage::Idle;
            return;
        };
        let mut questions = Vec::new();
        let mut ask = |purpose, index: usize, to: Option<SocketAddr>, change| {
            if let (Some(&(socket, _)), Some(to)) = (sockets.get(index), to) {
                let next = Some(now);
                questions.push(Question {
                    purpose,
                    socket,
                    to,
                    change,
                    asked: Vec::new(),
                    next,
                    answer: None,
                });
            }
        };
        let (none, port, both) = (
            Change::default(),
            Change {
                address: false,
                port: true,
            },
            Change {
                address: true,
                port: true,
            },
        );
        for index in 0..SAMPLES {
            ask(Purpose::Sample, index, Some(main), none);
        }
        let Servers {
            other_port,
            other_address,
            ..
        } = self.servers;
        ask(Purpose::Open, CONTROL, other_port, none);
        ask(Purpose::Open, CONTROL, other_address, none);
        let by_port = other_port.map(|_| main);
        let by_address = other_address.map(|_| main);
        ask(Purpose::ControlPort, CONTROL, by_port, port);
        ask(Purpose::ControlAddress, CONTROL, by_address, both);
        ask(Purpose::FilterPort, STRANGER, by_port, port);
        ask(Purpose::FilterAddress, STRANGER, by_address, both);
        self.stage = Stage::Asking(Box::new(Asking {
            sockets,
            questions,
            hairpin: None,
            hairpin_seen: false,
            able: false,
            ends: now + PATIENCE,
        }));
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
        let second = message.other_address.map(|other| other.ip());
        asking.able |= second.is_some_and(|other| other != question.to.ip());
        if let Some(mapped) = message.mapped.filter(|mapped| mapped.port() != 0) {
            question.answer.get_or_insert(mapped);
        }
        asking.try_hairpin(now);
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

impl Asking {
    fn answers(&self, purpose: Purpose) -> bool {
        let mut questions = self.questions.iter();
        questions.any(|question| question.purpose == purpose && question.answer.is_some())
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
        self.questions.push(Question {
            purpose: Purpose::Hairpin,
            socket,
            to,
            change: Change::default(),
            asked: Vec::new(),
            next: Some(now),
            answer: None,
        });
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
        } else if self.able || self.answers(Purpose::ControlPort) {
            Dependence::AddressAndPort
        } else {
            Dependence::Unknown
        }
    }
}

/// Sockets whose ports show how ports are chosen.
const SAMPLES: usize = 5;
/// The index of the socket that opens itself, and of the one that does not.
const CONTROL: usize = SAMPLES;
const STRANGER: usize = SAMPLES + 1;
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
    use crate::wire::stun::{encode_response, parse};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A NAT that gives `ports` in this order, before a server that can answer from elsewhere if `able`.
    struct Nat {
        filtering: Dependence,
        able: bool,
        hairpin: bool,
        loss_of: BTreeSet<usize>,
    }

    fn run(nat: &Nat, ports: impl Fn(usize) -> u16) -> NatReport {
        let mut now = Instant::now();
        let mut survey = Survey::new([3; 32]);
        let servers = Servers {
            main: Some(address("203.0.113.1:3478")),
            other_port: Some(address("203.0.113.1:3479")),
            other_address: Some(address("203.0.113.2:3479")),
        };
        survey.set_servers(servers, now);
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
                let from = match message.change {
                    Change { address: true, .. } => servers.other_address,
                    Change { port: true, .. } => servers.other_port,
                    Change { .. } => Some(to),
                };
                let from = from.expect("a server");
                if message.change != Change::default() && !nat.able {
                    continue;
                }
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
                    let answer = encode_response(message.transaction, mapped, None);
                    let answer = parse(&answer).expect("own bytes");
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
                hairpin: filtering == Dependence::Address,
                loss_of: BTreeSet::new(),
            };
            let report = run(&nat, |index| {
                50_000 - 7 * (u16::try_from(index).expect("few") + 1)
            });
            assert_eq!(report.filtering, filtering);
            assert_eq!(report.hairpin, Some(nat.hairpin));
            assert_eq!(report.allocation, Allocation::Preserving);
            nat.able = false;
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
