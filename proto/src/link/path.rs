//! How a link finds a direct path, keeps it, and finds it again.
//!
//! ```text
//!   candidates (inside TLS) ─▶ pairs ─ check: authenticated STUN request ─▶ answer ─▶ valid ─ lowest cost ─▶ active
//!                               ▲                                                      │                     │ probes:
//!        request from elsewhere ┘ (peer-reflexive)                 the others: spares ◀┘       alive? how large?
//!                                                                                                            │ dead
//!   new exchange, new round ◀──────────────────────── relay, or a spare that answers ◀───────────────────────┘
//! ```
//!
//! Decides which addresses are tried and when, what counts as a path, and which one is used. A path is what has *answered*
//! a check under the link's key; nothing else makes one, and nothing unauthenticated moves or ends one. Each end sends on
//! its own best path, so nothing is nominated. While there is none, datagrams go by the relay, of which this module knows
//! nothing; nor does it know frames, sealing or the switch: probes are sealed and answered by its owner, the link.
//!
//! Formats: PROTOCOL.md, "Path checks". Parameters and goals: RFC 8445, RFC 8899, and the tables beside the constants.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::wire::control::{
    Candidate, Candidates, MAX_CANDIDATES, NatClass, Search as SearchMessage,
};
use crate::wire::stun::{self, StunError, Transaction, Username};
use crate::{SocketId, Transmit};

mod candidate;
mod check;
mod choice;
mod exchange;
mod explain;
mod hunt;
mod inbound;
mod liveness;
mod mtu;
mod probe;
mod search;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests;

pub use candidate::Prefix;
pub use explain::{CandidateFate, Fate};
pub use probe::PING_SIZE;
pub use search::Grant;

use check::{Checklist, RECHECKS};
use choice::Active;
use exchange::Exchange;
use probe::SentProbe;
use search::{OPENER_TTL, Search};

/// What the link knows when its handshake has ended.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PathsConfig {
    /// The index of this link that we chose: the receiver in USERNAME of checks to us.
    pub local_index: u32,
    /// The one that the other end chose.
    pub remote_index: u32,
    /// Signs what we send, requests and answers alike; from the TLS exporter.
    pub send_key: [u8; 32],
    /// Signs what the other end sends.
    pub receive_key: [u8; 32],
    /// Whether we speak first about candidates: the TLS client.
    pub starter: bool,
    /// Where no path may lead: the virtual network itself, the rendezvous.
    #[zeroize(skip)]
    pub refused: Vec<Prefix>,
}

/// The direct paths to one peer.
pub struct Paths {
    config: PathsConfig,
    rng: StdRng,
    /// When the last input came: output that waits is due then.
    now: Instant,
    sockets: Vec<SocketId>,
    /// The socket whose mapping ends soon.
    retiring: Option<SocketId>,
    local: Vec<Candidate>,
    /// The other end's latest list.
    listed: Vec<Candidate>,
    exchange: Exchange,
    checklist: Checklist,
    search: Search,
    /// Our NAT, as far as it is known.
    class: NatClass,
    /// Sockets beside the main one that this link has, and until when at least.
    extra: Vec<(SocketId, Instant)>,
    /// Whether our NAT bears packets that die on their way.
    may_open: bool,
    /// Packets that are to open our NATs before the round begins.
    openers: VecDeque<(SocketId, SocketAddr)>,
    active: Option<Active>,
    last_move: Option<Instant>,
    /// When another path than the active one may be chosen, if one waits.
    reconsider: Option<Instant>,
    /// When the latest rounds began, to bound what a peer can make us send.
    rounds: VecDeque<Instant>,
    /// Requests that we have seen, with their source: one request counts once.
    seen: VecDeque<(Transaction, SocketAddr)>,
    probes: BTreeMap<u64, SentProbe>,
    next_probe_id: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<PathEvent>,
    counters: Counters,
}

/// What became of a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Not for this link: somebody else may know it.
    NotMine,
    /// It counted.
    Accepted,
    /// It was for this link, and did not count.
    Refused(Refused),
}

/// Why a message for this link did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The sender's fault.
    #[error(transparent)]
    Malformed(#[from] StunError),
    /// The sender names another link of its own; an old one, perhaps.
    #[error("the check names another link of its sender")]
    WrongLink,
    /// Somebody without the key made it, or changed it.
    #[error("the check is not authentic")]
    Integrity,
    /// The same request has come from another address before.
    #[error("the check is a copy of an earlier one")]
    Replayed,
    /// It came out of the virtual network itself, or from another place where no path may lead.
    #[error("no path may lead where the check comes from")]
    RefusedSource,
}

/// What the link is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// Frames go directly now, or another direct way than before.
    Direct {
        /// Our socket.
        socket: SocketId,
        /// The other end.
        remote: SocketAddr,
        /// The round trip.
        rtt: Duration,
    },
    /// Frames go by the relay now.
    Lost {
        /// Our socket of the path that was.
        socket: SocketId,
        /// The other end of it.
        remote: SocketAddr,
        /// Why.
        reason: LostReason,
    },
    /// The active path carries datagrams of this size now.
    MtuChanged {
        /// Our socket.
        socket: SocketId,
        /// The other end.
        remote: SocketAddr,
        /// In bytes of UDP payload.
        mtu: usize,
    },
    /// Send [`Paths::local_candidates`] to the other end.
    WantExchange,
    /// Say this to the other end.
    Say(SearchMessage),
    /// A search wants to run, with so many fresh sockets: [`Paths::grant`] or [`Paths::refuse_search`].
    WantSearch {
        /// The sockets.
        sockets: u16,
    },
    /// The search does not run any more.
    SearchEnded {
        /// Entries that it made in our NAT.
        entries: u32,
    },
    /// These sockets are not needed any more.
    Unneeded(Vec<SocketId>),
}

/// Why a path is one no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum LostReason {
    /// Probes on it are not answered any more.
    Unanswered,
}

/// The path that datagrams take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectPath {
    /// Our socket.
    pub socket: SocketId,
    /// The other end.
    pub remote: SocketAddr,
    /// The largest datagram, in bytes of UDP payload.
    pub mtu: usize,
}

/// A sealed PING that the link is to send, and the other end's link to answer with its id and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The socket to send by.
    pub socket: SocketId,
    /// Where to.
    pub remote: SocketAddr,
    /// Comes back in the answer.
    pub id: u64,
    /// The size of the whole datagram, in bytes of UDP payload; must not be fragmented by IP.
    pub size: usize,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Rounds of checks.
    pub rounds: u64,
    /// Requests sent, those of searches not included.
    pub checks_sent: u64,
    /// Packets with a short life that open our NATs.
    pub openers_sent: u64,
    /// Answers to the other end's requests sent.
    pub answers_sent: u64,
    /// Probes sent.
    pub probes_sent: u64,
    /// Messages for this link that did not count.
    pub refused: u64,
}

impl Paths {
    /// No path yet. `seed` is where transaction ids and delays come from.
    #[must_use]
    pub fn new(config: PathsConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            exchange: Exchange::new(config.starter, now),
            search: Search::new(config.starter, config.local_index, rng.random()),
            class: NatClass::default(),
            extra: Vec::new(),
            may_open: true,
            openers: VecDeque::new(),
            config,
            rng,
            now,
            sockets: vec![SocketId::MAIN],
            retiring: None,
            local: Vec::new(),
            listed: Vec::new(),
            checklist: Checklist::new(now),
            active: None,
            last_move: None,
            reconsider: None,
            rounds: VecDeque::new(),
            seen: VecDeque::new(),
            probes: BTreeMap::new(),
            next_probe_id: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    // What we say to the other end, and it to us.

    /// Where we can perhaps be reached, best first; only the first [`MAX_CANDIDATES`] count.
    pub fn set_local(&mut self, mut candidates: Vec<Candidate>, now: Instant) {
        candidates.truncate(MAX_CANDIDATES);
        if candidates != self.local {
            self.local = candidates;
            self.exchange.local_changed(now);
            self.run(now);
        }
    }

    /// No path may lead into this range any more: the virtual network, once it is known. Comes before any candidates.
    pub fn refuse(&mut self, range: Prefix) {
        if !self.config.refused.contains(&range) {
            self.config.refused.push(range);
        }
    }

    /// The same for a network that may also be our own: then it is no way round through the hub.
    pub fn refuse_unless_local(&mut self, range: Prefix) {
        let mut own = self.local.iter().map(|candidate| candidate.address.ip());
        if !own.any(|address| candidate::is_refused(address, &[range])) {
            self.refuse(range);
        }
    }

    /// Whether an answer to this request is waited for. Cheap: a stranger's answers are told by it.
    #[must_use]
    pub fn awaits(&self, transaction: Transaction) -> bool {
        self.checklist.find(transaction).is_some()
            || self.search.find(transaction).is_some()
            || self.search.asks(transaction)
    }

    /// Checks go out by this socket from the next round on, at first by the main one. Paths move away from the one that
    /// retires, because its mapping ends soon.
    pub fn use_socket(&mut self, socket: SocketId, retiring: SocketId, now: Instant) {
        self.sockets = vec![socket];
        self.retiring = Some(retiring).filter(|retiring| *retiring != socket);
        self.exchange.local_changed(now);
    }

    /// The list to send now, as [`PathEvent::WantExchange`] asked. Each call makes a new list.
    pub fn local_candidates(&mut self, now: Instant) -> Candidates {
        Candidates {
            round: self.exchange.give(now),
            candidates: self.local.clone(),
            nat: self.class,
        }
    }

    /// Whether our list is out and the other end's answer has not come. If so, the other end waits half a round trip after
    /// sending its list, and we start as soon as we have it; if not, we are the one who waits.
    #[must_use]
    pub const fn is_awaiting_candidates(&self) -> bool {
        self.exchange.is_unanswered()
    }

    /// The other end's list came: a round of checks begins at `start` (see [`Self::is_awaiting_candidates`]).
    pub fn handle_candidates(&mut self, remote: &Candidates, start: Instant, now: Instant) {
        if self.exchange.heard(remote.round) {
            self.events.push_back(PathEvent::WantExchange);
        }
        let listed = &remote.candidates[..remote.candidates.len().min(MAX_CANDIDATES)];
        let candidates = candidate::filter(listed, &self.local, &self.config.refused);
        self.listed = listed.to_vec();
        let start = self.round_start(start, now);
        self.checklist.begin(&self.sockets, &candidates, start);
        self.prepare_round(remote.nat, &candidates, start, now);
        self.exchange.round_begins(self.is_content(), start);
        self.counters.rounds += 1;
        if self.active.is_some() {
            self.checklist.calm();
        }
        self.doubt_what_is_not_listed(&candidates, now);
        self.run(now);
    }

    // What comes in.

    /// A sealed datagram of this link was opened that came from there.
    pub fn handle_authenticated(&mut self, socket: SocketId, remote: SocketAddr, now: Instant) {
        let id = (socket, remote);
        if let Some(active) = self.active.as_mut().filter(|active| active.id == id) {
            active.liveness.heard(now);
            self.now = now;
            return;
        }
        match self.checklist.pairs.get_mut(&id) {
            Some(pair) if pair.valid.is_some() => pair.heard(now),
            Some(pair) if pair.is_waited_for(now) => {}
            // A hint at most: the datagram could be the copy of one that never arrived.
            Some(_) | None => self.check_peer_reflexive(id, now),
        }
        self.run(now);
    }

    /// A datagram was sent on the active path: silence after it is suspicious.
    pub fn handle_sent(&mut self, now: Instant) {
        if let Some(active) = &mut self.active {
            active.liveness.sent(now);
            if let Some(valid) = self
                .checklist
                .pairs
                .get_mut(&active.id)
                .and_then(|pair| pair.valid.as_mut())
            {
                valid.mtu.sent();
            }
        }
        self.now = now;
    }

    /// What a data plane has seen on the active path: when something authentic came by it last, when the first datagram
    /// left that nothing was heard after, and whether any was sent at all.
    pub fn handle_traffic(
        &mut self,
        heard: Option<Instant>,
        unheard: Option<Instant>,
        used: bool,
        now: Instant,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        if let Some(heard) = heard.filter(|heard| *heard > active.liveness.last_heard()) {
            active.liveness.heard(heard);
        }
        if let Some(unheard) = unheard.filter(|unheard| *unheard > active.liveness.last_heard()) {
            active.liveness.sent(unheard);
        }
        let pair = self.checklist.pairs.get_mut(&active.id);
        if let Some(valid) = pair.and_then(|pair| pair.valid.as_mut()).filter(|_| used) {
            valid.mtu.sent();
        }
        self.now = now;
    }

    /// The machine's network is another one now: everything is tried again at once.
    pub fn network_changed(&mut self, now: Instant) {
        self.exchange.restart(now);
        if let Some(active) = &mut self.active {
            active.liveness.suspect(now);
        }
        for pair in self.checklist.pairs.values_mut() {
            if let Some(valid) = &mut pair.valid {
                valid.mtu.doubt();
                pair.schedule(RECHECKS, now);
            }
        }
        self.run(now);
    }

    /// There is a reason to doubt the active path: it is probed at once.
    pub fn doubt(&mut self, now: Instant) {
        if let Some(active) = &mut self.active {
            active.liveness.suspect(now);
        }
        self.run(now);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.run(now);
    }

    // What goes out.

    /// The next check or answer to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(transmit) = self.transmits.pop_front() {
            return Some(transmit);
        }
        if let Some((socket, destination)) = self.openers.pop_front() {
            self.counters.openers_sent += 1;
            let transaction = transaction(self.config.local_index, &mut self.rng);
            return Some(self.check((socket, destination), transaction, Some(OPENER_TTL)));
        }
        let (rng, link) = (&mut self.rng, self.config.local_index);
        if let Some((id, transaction)) = self.checklist.poll(|| transaction(link, rng), now) {
            self.counters.checks_sent += 1;
            return Some(self.check(id, transaction, None));
        }
        self.poll_search(now)
    }

    fn check(
        &self,
        (socket, destination): (SocketId, SocketAddr),
        transaction: Transaction,
        ttl: Option<u8>,
    ) -> Transmit {
        let username = Username {
            receiver: self.config.remote_index,
            sender: self.config.local_index,
        };
        let key = Some(&self.config.send_key);
        let contents = stun::encode_request(transaction, Some(username), key, None);
        Transmit {
            socket,
            ttl,
            ..Transmit::datagram(destination, contents)
        }
    }

    /// The next thing that the link is to know, if any.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest, and then the verbs that begin with `poll_`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting =
            !self.transmits.is_empty() || !self.events.is_empty() || !self.openers.is_empty();
        let output = waiting.then_some(self.now);
        let upkeep = [
            self.exchange.next(),
            self.checklist.next(),
            self.reconsider,
            self.next_of_search(),
        ];
        let active = self.next_of_active();
        let spares = self.next_of_spares();
        output
            .into_iter()
            .chain(upkeep.into_iter().flatten())
            .chain(active)
            .chain(spares)
            .min()
    }

    /// The path that datagrams are to take; `None` for the relay.
    #[must_use]
    pub fn best(&self) -> Option<DirectPath> {
        let (socket, remote) = self.active.as_ref()?.id;
        let valid = self
            .checklist
            .pairs
            .get(&(socket, remote))?
            .valid
            .as_ref()?;
        let mtu = valid.mtu.current();
        Some(DirectPath {
            socket,
            remote,
            mtu,
        })
    }

    /// Whether the active path does not answer at the moment: a wise link sends what matters by the relay as well.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| active.liveness.is_suspect())
    }

    /// The active path's round trip.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        let valid = self
            .checklist
            .pairs
            .get(&self.active.as_ref()?.id)?
            .valid
            .as_ref()?;
        Some(valid.smoothed_rtt)
    }

    /// What was done so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// A round begins when it was agreed, unless this peer makes us begin too many.
    fn round_start(&mut self, wanted: Instant, now: Instant) -> Instant {
        let mut start = wanted.clamp(now, now + MAX_START);
        // One that has been put off takes the newer list, and is not put off again.
        if let Some(&pending) = self.rounds.back().filter(|&&pending| pending >= start) {
            return pending;
        }
        if self.rounds.len() >= ROUND_BURST
            && let Some(earlier) = self.rounds.pop_front()
        {
            start = start.max(earlier + ROUND_PERIOD);
        }
        self.rounds.push_back(start);
        start
    }
}

impl fmt::Debug for Paths {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paths")
            .field("best", &self.best())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// A request's transaction id: the link's index, by which its answer is told, and 64 random bits.
fn transaction(link: u32, rng: &mut StdRng) -> Transaction {
    let mut transaction: Transaction = rng.random();
    transaction[..4].copy_from_slice(&link.to_be_bytes());
    transaction
}

/// The index of the link that may have asked what a message with this transaction id answers.
#[must_use]
pub const fn asking_link(transaction: Transaction) -> u32 {
    let [a, b, c, d, ..] = transaction;
    u32::from_be_bytes([a, b, c, d])
}

impl fmt::Debug for PathsConfig {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathsConfig")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("starter", &self.starter)
            .finish_non_exhaustive()
    }
}

/// The latest agreed start of a round that is believed.
const MAX_START: Duration = Duration::from_secs(2);
/// A peer can start [`ROUND_BURST`] rounds in a [`ROUND_PERIOD`], and no more.
const ROUND_BURST: usize = 3;
const ROUND_PERIOD: Duration = Duration::from_secs(10);
