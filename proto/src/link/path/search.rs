//! Searching for the port that a NAT gives, where plain punching cannot succeed.
//!
//! ```text
//!   plan       opener                                             sender
//!   Spread     n sockets ── opener each ─▶ its known address  ·  Opened{ports} ─▶  probes to those ports, until one is answered
//!   Pairs      k-th socket ─▶ k-th port that it waits at      ◀─ Waiting{ports}    k-th socket ─▶ k-th port of Opened
//!   Ladder     one sample each, told at once; then both send along the other's next ports, one of them by double steps
//! ```
//!
//! A sequence is not guessed but bracketed: a question to the rendezvous right before the openers and one right after them
//! leave exactly the ports in between. A search decides what is sent when; what answers is a path by the same proof as
//! any other. It runs only with a grant, which is the host's: one at a time, within [`Budget`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::transaction;
use crate::SocketId;
use crate::traversal::budget::Rate;
use crate::traversal::plan::{self, Plan, Role};
use crate::traversal::{Budget, SearchCounters};
use crate::wire::control::{Allocation, MAX_LISTED_PORTS, NatClass, Ports, Search as Message};
use crate::wire::stun::Transaction;

mod run;

use run::{Run, Shot};

/// What the host gives to one search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Fresh sockets with their inside ports: as many as wanted.
    pub sockets: Vec<(SocketId, u16)>,
    /// Who tells the outside port of a socket.
    pub server: Option<SocketAddr>,
    /// Our NAT's address.
    pub address: Option<IpAddr>,
    /// Entries that the search may make in our NAT.
    pub entries: u32,
    /// The limits of all searches.
    pub budget: Budget,
}

/// What a search asks and tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It wants to run, with so many sockets.
    Want(u16),
    /// The other end is to hear this.
    Say(Message),
    /// It does not run any more, and has made so many entries in our NAT.
    Ended(u32),
}

/// What goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A check, by this socket to there, with this time to live.
    Check(SocketId, SocketAddr, Option<u8>, Transaction),
    /// A question to a STUN server.
    Ask(SocketId, SocketAddr, Transaction),
}

/// The search of one link.
#[derive(Debug)]
pub(super) struct Search {
    starter: bool,
    /// Our link's index, by which answers to what a search sends are told.
    link: u32,
    rng: StdRng,
    ours: NatClass,
    theirs: NatClass,
    /// Where the other end's NAT is, and the known port of its main socket.
    target: Option<SocketAddr>,
    /// The port behind which it stands towards us, learnt from what came from there.
    learnt: Option<SocketAddr>,
    state: State,
    consider: Option<Instant>,
    /// Whether a plain punch has failed that the plan relies on.
    plain_failed: bool,
    attempt: u32,
    /// Attempts of this round that may still follow at once.
    retries: u32,
    /// No costly attempt before.
    not_before: Option<Instant>,
    costly: u32,
    half_round_trip: Duration,
    rate: Rate,
    opener_rate: Rate,
    outcomes: Vec<Outcome>,
    counters: SearchCounters,
}

#[derive(Debug)]
enum State {
    Idle,
    Wanting(Task),
    Running(Box<Run>),
}

/// One end's part in one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    /// Open towards the other end by many sockets.
    Open { blind: bool },
    /// Send to the ports that the other end told.
    Send {
        attempt: u32,
        address: IpAddr,
        ports: Ports,
        /// Nothing says that it could succeed.
        blind: bool,
    },
    /// Say at which ports fresh sockets wait, then send to what the other end answers.
    Wait,
    /// Open towards the ports at which the other end waits.
    Meet { address: IpAddr, ports: Vec<u16> },
    /// Sample, tell, and send along the other end's next ports.
    Ladder { theirs: Option<(IpAddr, u16, u16)> },
}

impl Search {
    pub(super) fn new(starter: bool, link: u32, seed: [u8; 32]) -> Self {
        Self {
            starter,
            link,
            rng: StdRng::from_seed(seed),
            ours: NatClass::default(),
            theirs: NatClass::default(),
            target: None,
            learnt: None,
            state: State::Idle,
            consider: None,
            plain_failed: false,
            attempt: 0,
            retries: 0,
            not_before: None,
            costly: 0,
            half_round_trip: Duration::ZERO,
            rate: Rate::default(),
            opener_rate: Rate::default(),
            outcomes: Vec::new(),
            counters: SearchCounters::default(),
        }
    }

    // ---- in

    /// Our NAT is of this class. Tells whether that is news.
    pub(super) fn set_ours(&mut self, ours: NatClass) -> bool {
        std::mem::replace(&mut self.ours, ours) != ours
    }

    /// A round of plain checks begins at `start` towards a NAT of this class, at `target`.
    pub(super) fn round_begins(
        &mut self,
        theirs: NatClass,
        target: Option<SocketAddr>,
        start: Instant,
    ) {
        self.theirs = theirs;
        self.target = target.or(self.target);
        let learnt = self.learnt.filter(|_| plan::is_hard(theirs));
        if learnt.map(|it| it.ip()) == self.target.map(|it| it.ip()) {
            self.target = learnt.or(self.target);
        }
        self.retries = RETRIES;
        let wait = match self.plan() {
            Plan::Plain => FALLBACK_WAIT,
            Plan::Spread(_) | Plan::Pairs(_) | Plan::Ladder | Plan::Hopeless => Duration::ZERO,
        };
        self.plain_failed = false;
        self.consider = Some(start + wait);
    }

    /// Time has come. Nothing is begun while there is a direct path.
    pub(super) fn handle_timeout(&mut self, direct: bool, now: Instant) {
        if direct {
            self.consider = None;
        } else if self.consider.take_if(|at| *at <= now).is_some() {
            self.begin(now);
        }
        if let State::Running(run) = &mut self.state
            && run.ends <= now
        {
            self.end(false, now);
        }
    }

    /// There is a direct path.
    pub(super) fn found(&mut self, now: Instant) {
        self.consider = None;
        self.end(true, now);
    }

    /// The host grants what was wanted.
    pub(super) fn granted(&mut self, grant: Grant, now: Instant) {
        let State::Wanting(task) = std::mem::replace(&mut self.state, State::Idle) else {
            return self.outcomes.push(Outcome::Ended(0));
        };
        self.counters.searches += 1;
        self.counters.sockets += grant.sockets.len() as u64;
        let mut run = Run::new(task, grant, now);
        self.attempt = self.attempt.wrapping_add(1);
        run.attempt = self.attempt;
        self.state = State::Running(Box::new(run));
        self.set_off(now);
    }

    /// Half the packets from now on.
    pub(super) fn ease(&mut self) {
        if let State::Running(run) = &mut self.state {
            let rate = &mut run.budget.packets_per_second;
            *rate = (*rate / 2).max(SLOWEST);
            self.counters.eased += 1;
        }
    }

    /// The host does not grant it; perhaps later.
    pub(super) fn refused(&mut self, now: Instant) {
        if let State::Wanting(_) = self.state {
            self.state = State::Idle;
            self.counters.refused += 1;
            self.consider = Some(now + REFUSED_WAIT);
        }
    }

    /// The other end says something.
    pub(super) fn handle_message(
        &mut self,
        message: &Message,
        half_round_trip: Duration,
        now: Instant,
    ) {
        self.half_round_trip = half_round_trip.min(MAX_HALF);
        match message {
            Message::Opened {
                attempt,
                address,
                ports,
                ..
            } => self.handle_opened(*attempt, *address, ports, now),
            Message::Waiting { address, ports, .. }
                if self.target.is_some_and(|target| target.ip() == *address) =>
            {
                let ports = ports.iter().copied().take(MAX_LISTED_PORTS).collect();
                let address = *address;
                self.take_on(Task::Meet { address, ports });
            }
            // Only where the other end says in its candidates that its NAT is.
            Message::Waiting { .. } => {}
            Message::Ladder {
                address,
                next,
                step,
                ..
            } => self.handle_ladder((*address, *next, *step), now),
            Message::Ended { attempt } => {
                let ours = matches!(&self.state, State::Running(run) if run.attempt == *attempt);
                if ours {
                    self.end(false, now);
                }
            }
        }
    }

    /// An authenticated check came by this socket from there: perhaps the port that we did not know.
    pub(super) fn heard_from(&mut self, socket: SocketId, from: SocketAddr, now: Instant) {
        let known = self.target.is_some_and(|target| target.ip() == from.ip());
        if !known {
            return;
        }
        match &mut self.state {
            State::Running(run) if run.is_spread() && run.owns(socket) => {
                run.retarget(from, now + ANSWER_WAIT);
            }
            // The port behind which the other end's main socket stands towards us.
            State::Idle | State::Wanting(_) if plan::is_hard(self.theirs) => {
                self.target = Some(from);
                self.learnt = Some(from);
            }
            State::Idle | State::Wanting(_) | State::Running(_) => {}
        }
    }

    /// A STUN server has answered one of our questions. Tells whether it was ours.
    pub(super) fn handle_answer(
        &mut self,
        transaction: Transaction,
        mapped: Option<SocketAddr>,
        now: Instant,
    ) -> bool {
        let State::Running(run) = &mut self.state else {
            return false;
        };
        if !run.handle_answer(transaction, mapped) {
            return false;
        }
        self.tell_what_is_known(now);
        true
    }

    // ---- out

    /// The next thing to send, if any.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Output> {
        let State::Running(run) = &mut self.state else {
            return None;
        };
        let (_, shot) = run.next_shot().filter(|(at, _)| *at <= now)?;
        let transaction = transaction(self.link, &mut self.rng);
        match shot {
            Shot::Ask(bracket) => {
                run.take_shot();
                let (socket, server) = run.ask(bracket, transaction, now)?;
                Some(Output::Ask(socket, server, transaction))
            }
            Shot::Opener(socket, to, ttl) => {
                if !pace(run, &mut self.opener_rate, OPENERS_PER_SECOND, now) {
                    return None;
                }
                self.counters.openers += 1;
                run.sent(transaction, socket, to, now);
                Some(Output::Check(socket, to, ttl, transaction))
            }
            Shot::Probe(socket, to) => {
                let limit = run.budget.packets_per_second;
                if !pace(run, &mut self.rate, limit, now) {
                    return None;
                }
                self.counters.probes += 1;
                self.counters.most_in_a_second = self.rate.most;
                run.sent(transaction, socket, to, now);
                Some(Output::Check(socket, to, None, transaction))
            }
            Shot::Retarget => {
                run.take_shot();
                self.fire_again(now);
                self.poll(now)
            }
        }
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        let run = match &self.state {
            State::Running(run) => {
                let shot = run.next_shot().map(|(at, _)| at);
                shot.into_iter().chain([run.ends]).min()
            }
            State::Idle | State::Wanting(_) => None,
        };
        self.consider.into_iter().chain(run).min()
    }

    pub(super) fn poll_outcome(&mut self) -> Option<Outcome> {
        (!self.outcomes.is_empty()).then(|| self.outcomes.remove(0))
    }

    /// The check that an answer with this transaction answers, and when it was sent.
    pub(super) fn find(&self, transaction: Transaction) -> Option<(SocketId, SocketAddr, Instant)> {
        match &self.state {
            State::Running(run) => run.checks.get(&transaction).copied(),
            State::Idle | State::Wanting(_) => None,
        }
    }

    /// Whether a STUN server's answer with this transaction is waited for.
    pub(super) fn asks(&self, transaction: Transaction) -> bool {
        matches!(&self.state, State::Running(run) if run.asks(transaction))
    }

    /// Whether a check by this socket from there is one that the search hopes for.
    pub(super) fn hopes_for(&self, socket: SocketId, from: SocketAddr) -> bool {
        self.uses(socket) && self.target.is_some_and(|target| target.ip() == from.ip())
    }

    /// Whether the search that runs needs this socket.
    pub(super) fn uses(&self, socket: SocketId) -> bool {
        matches!(&self.state, State::Running(run) if run.owns(socket))
    }

    pub(super) const fn counters(&self) -> SearchCounters {
        self.counters
    }

    pub(super) const fn theirs(&self) -> NatClass {
        self.theirs
    }

    /// What leads through these two NATs.
    pub(super) fn plan(&self) -> Plan {
        plan::plan(self.ours, self.theirs, self.starter)
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    // ---- steps

    fn begin(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle) || self.target.is_none() {
            return;
        }
        let (plan, blind) = match self.plan() {
            Plan::Plain if self.plain_failed => return,
            Plan::Plain => {
                self.plain_failed = true;
                let turn = self.costly;
                let plan = plan::fallback(self.ours, self.theirs, self.starter, turn);
                (plan, true)
            }
            plan @ (Plan::Spread(_) | Plan::Pairs(_) | Plan::Ladder | Plan::Hopeless) => {
                (plan, false)
            }
        };
        match plan {
            Plan::Spread(Role::Us) => {
                if self.may_spread(blind, now) {
                    self.take_on(Task::Open { blind });
                }
            }
            Plan::Pairs(Role::Us) => self.take_on(Task::Wait),
            Plan::Ladder if self.starter => self.take_on(Task::Ladder { theirs: None }),
            // The other end begins, or nobody.
            Plan::Spread(Role::Them) if blind => self.costly = self.costly.wrapping_add(1),
            Plan::Spread(Role::Them)
            | Plan::Pairs(Role::Them)
            | Plan::Ladder
            | Plan::Hopeless
            | Plan::Plain => {}
        }
    }

    /// A search among thousands of ports is not repeated as often as one among a few.
    fn may_spread(&mut self, blind: bool, now: Instant) -> bool {
        let cheap = matches!(
            self.ours.allocation,
            Allocation::Preserving | Allocation::Sequential { .. }
        ) && !blind;
        if cheap {
            return true;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        let pause = COSTLY_PAUSE * (1 << self.costly.min(4));
        self.costly = self.costly.wrapping_add(1);
        self.not_before = Some(now + pause);
        true
    }

    fn take_on(&mut self, task: Task) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        let sockets = match &task {
            Task::Open { blind: true } => plan::sockets(Allocation::Unknown),
            Task::Open { blind: false } => plan::sockets(self.ours.allocation),
            Task::Send { .. } => 0,
            Task::Wait => PAIRS,
            Task::Meet { ports, .. } => {
                let pairs = u16::try_from(ports.len()).unwrap_or(PAIRS).min(PAIRS);
                pairs + if self.is_sequential() { 2 } else { 0 }
            }
            Task::Ladder { .. } => LADDERS,
        };
        self.state = State::Wanting(task);
        self.outcomes.push(Outcome::Want(sockets));
    }

    fn handle_opened(&mut self, attempt: u32, address: IpAddr, ports: &Ports, now: Instant) {
        if self.target.is_none_or(|target| target.ip() != address) {
            return; // Only where the other end says in its candidates that its NAT is.
        }
        let blind = matches!(self.plan(), Plan::Plain | Plan::Hopeless);
        match &mut self.state {
            // Where fresh sockets wait, each sends to its own.
            State::Running(run) if run.task == Task::Wait => {
                if let Ports::Listed(ports) = ports {
                    let pairs: Vec<_> = run.sockets.iter().copied().zip(ports.iter()).collect();
                    for ((socket, _), &port) in pairs {
                        run.probe_often(socket, SocketAddr::new(address, port), now);
                    }
                    run.ends = run.ends.min(now + LISTED_TIME);
                }
            }
            // The same search, after the other end has learnt our port.
            State::Running(run) if matches!(run.task, Task::Send { .. }) => {
                if now < run.set_off_at + RESTART {
                    return; // A peer that says it all the time is not heeded all the time.
                }
                run.task = Task::Send {
                    attempt,
                    address,
                    ports: ports.clone(),
                    blind,
                };
                self.set_off(now);
            }
            State::Running(_) => {}
            State::Idle | State::Wanting(_) => {
                if let State::Wanting(Task::Send { .. }) = self.state {
                    return;
                }
                self.take_on(Task::Send {
                    attempt,
                    address,
                    ports: ports.clone(),
                    blind,
                });
            }
        }
    }

    fn handle_ladder(&mut self, theirs: (IpAddr, u16, u16), now: Instant) {
        if self.target.is_none_or(|target| target.ip() != theirs.0) {
            return;
        }
        match &mut self.state {
            State::Running(run) if matches!(run.task, Task::Ladder { .. }) => {
                if self.starter {
                    run.task = Task::Ladder {
                        theirs: Some(theirs),
                    };
                    return self.climb(Duration::ZERO, now);
                }
                // The starter's next attempt: what was sampled before is old.
                self.end(false, now);
            }
            State::Running(_) | State::Wanting(_) => return,
            State::Idle => {}
        }
        if !self.starter {
            self.take_on(Task::Ladder {
                theirs: Some(theirs),
            });
        }
    }

    /// The first shots of the task that runs.
    fn set_off(&mut self, now: Instant) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        run.set_off_at = now;
        let Some(target) = self.target else {
            return;
        };
        // Openers die before the other NAT, which may take early strangers amiss; every second time they do not, because a NAT
        // may stand farther from us than they get.
        let ttl = (run.attempt % 2 == 1).then_some(OPENER_TTL);
        match run.task.clone() {
            Task::Open { blind } => {
                let bracketed = self.ours.allocation.is_sequential() && !blind;
                let towards = vec![target; run.sockets.len()];
                run.open(&towards, bracketed, ttl, now);
            }
            Task::Send { address, ports, .. } => {
                let port = target.port();
                run.send(address, &ports, port, &mut self.rng, now);
            }
            Task::Wait => {}
            Task::Meet { address, ports } => {
                let towards: Vec<_> = ports
                    .iter()
                    .map(|&port| SocketAddr::new(address, port))
                    .collect();
                run.open(&towards, self.ours.allocation.is_sequential(), None, now);
            }
            Task::Ladder { .. } => run.sample(now),
        }
        self.tell_what_is_known(now);
    }

    /// Says what the other end needs, as soon as it is known.
    fn tell_what_is_known(&mut self, now: Instant) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        let attempt = run.attempt;
        match run.task.clone() {
            Task::Send { .. } => {}
            Task::Wait => {
                if let Some(address) = run.address.filter(|_| !run.told) {
                    run.told = true;
                    let ports = run.sockets.iter().map(|&(_, port)| port).collect();
                    self.outcomes.push(Outcome::Say(Message::Waiting {
                        attempt,
                        address,
                        ports,
                    }));
                }
            }
            Task::Open { blind } => self.tell_opened(blind, now),
            Task::Meet { .. } => self.tell_opened(false, now),
            Task::Ladder { theirs } => {
                let Allocation::Sequential { step } = self.ours.allocation else {
                    return;
                };
                let Some(sampled) = run.sampled().filter(|_| !run.told) else {
                    return;
                };
                run.told = true;
                self.outcomes.push(Outcome::Say(Message::Ladder {
                    attempt,
                    address: sampled.ip(),
                    next: sampled.port().wrapping_add(step),
                    step,
                }));
                if theirs.is_some() && !self.starter {
                    self.climb(self.half_round_trip, now);
                }
            }
        }
    }

    fn tell_opened(&mut self, blind: bool, now: Instant) {
        let allocation = if blind {
            Allocation::Unknown
        } else {
            self.ours.allocation
        };
        let State::Running(run) = &mut self.state else {
            return;
        };
        let Some(address) = run.address.filter(|_| !run.told) else {
            return;
        };
        let ports = match allocation {
            Allocation::Preserving => {
                Some(Ports::Listed(run.sockets.iter().map(|it| it.1).collect()))
            }
            Allocation::Sequential { step } => run.bracketed(step).map(Ports::Listed),
            Allocation::Block { first, last } => Some(Ports::Within { first, last }),
            Allocation::Random | Allocation::Unknown => Some(Ports::Within {
                first: 1024,
                last: u16::MAX,
            }),
        };
        let Some(ports) = ports else { return };
        run.told = true;
        if let Ports::Listed(_) = ports {
            run.ends = run.ends.min(now + LISTED_TIME);
        }
        let sockets = u16::try_from(run.sockets.len()).unwrap_or(u16::MAX);
        self.outcomes.push(Outcome::Say(Message::Opened {
            attempt: run.attempt,
            address,
            ports,
            sockets,
        }));
    }

    /// The other end has shown the port that it has towards us: opens towards that one.
    fn fire_again(&mut self, now: Instant) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        let Some(target) = run.retarget_to.take() else {
            return;
        };
        self.target = Some(target);
        self.learnt = Some(target);
        // A socket keeps its port, or tells where a sequence stands, at its first destination only.
        let allocation = self.ours.allocation;
        if allocation == Allocation::Preserving || allocation.is_sequential() {
            self.end(false, now);
            self.consider = Some(now);
            return;
        }
        self.attempt = self.attempt.wrapping_add(1);
        run.attempt = self.attempt;
        run.told = false;
        let towards = vec![target; run.sockets.len()];
        run.open(&towards, false, None, now);
        self.tell_what_is_known(now);
    }

    /// Both sides' next ports are known: sends along the other's.
    fn climb(&mut self, wait: Duration, now: Instant) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        let Task::Ladder {
            theirs: Some((address, next, step)),
        } = run.task
        else {
            return;
        };
        // Double steps of one end meet whatever strangers took meanwhile (TRAVERSAL §2); where a socket keeps its port for all
        // ports of the other end, there is only one to meet.
        let both = matches!(self.ours.mapping, AP) && matches!(self.theirs.mapping, AP);
        let stride = if both && !self.starter { 2 } else { 1 };
        run.climb((address, next, step.wrapping_mul(stride)), now + wait);
        run.ends = now + wait + LADDER_TIME;
    }

    fn end(&mut self, found: bool, now: Instant) {
        let run = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => return,
            State::Wanting(_) => return self.outcomes.push(Outcome::Ended(0)),
            State::Running(run) => run,
        };
        self.counters.found += u64::from(found);
        let aimed_at = self.learnt.filter(|&it| run.sent_to(it));
        if aimed_at.is_some() && !found {
            self.learnt = None; // It may be another one by now.
        }
        self.outcomes.push(Outcome::Ended(run.entries));
        if let Task::Send { attempt, .. } = run.task
            && !found
        {
            self.outcomes.push(Outcome::Say(Message::Ended { attempt }));
        }
        let again = match run.task {
            Task::Open { blind: false } => matches!(
                self.ours.allocation,
                Allocation::Preserving | Allocation::Sequential { .. }
            ),
            Task::Wait => true,
            Task::Ladder { .. } => self.starter,
            Task::Open { blind: true } | Task::Send { .. } | Task::Meet { .. } => false,
        };
        if again && !found && self.retries > 0 {
            self.retries -= 1;
            self.consider = Some(now + AGAIN);
        }
    }

    const fn is_sequential(&self) -> bool {
        self.ours.allocation.is_sequential()
    }
}

/// Takes a shot out if the rate allows it now; else puts it off.
fn pace(run: &mut Run, rate: &mut Rate, limit: u32, now: Instant) -> bool {
    let at = rate.next(limit, now);
    if at > now {
        run.put_off(at);
        return false;
    }
    if run.entries >= run.entries_left {
        run.give_up_shots();
        return false;
    }
    run.take_shot();
    rate.count(now);
    true
}

impl Allocation {
    const fn is_sequential(self) -> bool {
        matches!(self, Self::Sequential { .. })
    }
}

const AP: crate::wire::control::Dependence = crate::wire::control::Dependence::AddressAndPort;

/// Hops of a packet that is to open our NATs and not to reach the other's.
pub(super) const OPENER_TTL: u8 = 4;
/// A plain punch that should have succeeded has failed after this.
const FALLBACK_WAIT: Duration = Duration::from_secs(4);
/// Packets of a second that are never too many.
const SLOWEST: u32 = 5;
/// From a refused wish to the next.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// From one attempt that costs little to the next.
const AGAIN: Duration = Duration::from_millis(250);
/// Such attempts of one round.
const RETRIES: u32 = 12;
/// Between two attempts that cost much, doubled four times.
const COSTLY_PAUSE: Duration = Duration::from_secs(300);
/// Between two beginnings of one sending.
const RESTART: Duration = Duration::from_millis(100);
/// How long an attempt lasts at most; and when the ports are known exactly.
const LONGEST: Duration = Duration::from_secs(19);
const LISTED_TIME: Duration = Duration::from_millis(1500);
const LADDER_TIME: Duration = Duration::from_millis(700);
/// How long an answer to a check by a guessed port is waited for before the sockets are aimed anew.
const ANSWER_WAIT: Duration = Duration::from_millis(250);
/// Sockets of one attempt by pairs, and samples of one by ladders.
const PAIRS: u16 = 4;
const LADDERS: u16 = 1;
/// Packets of one ladder.
const RUNGS: u16 = 90;
/// Sockets that are opened in a second: one packet each, and not more than [`Budget::sockets`] in all.
const OPENERS_PER_SECOND: u32 = 256;
/// The longest half of a round trip that is believed.
const MAX_HALF: Duration = Duration::from_secs(1);
