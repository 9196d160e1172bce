//! The server's half: registers, observes, relays; blind to what it relays.
//!
//! ```text
//!  datagram ─┬─ 34: registry ─▶ the same bytes, other channel, to the other end      (no memory taken, no copy)
//!            ├─ STUN ─▶ answer, not larger than the question                         (no state)
//!            └─ QUIC ─▶ Retry until the address is proven ─▶ keys proved ─▶ Register ─▶ registry
//! ```
//!
//! It decides who is here and what passes. It does not know what passes, and it has no socket: several servers fit into
//! one test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::quic::{Event, Goodbye, Id, Lost, Quic, Received};
use super::{ALPN, Channel, CloseReason, ToPeer, ToRendezvous};
use crate::identity::{Identity, PeerId, tls};
use crate::wire::{self, Kind, relay, stun};
use crate::{SocketId, Transmit};

mod crowd;
mod interface;
mod limits;
mod registry;

use crowd::Crowds;
pub use interface::{Config, Limits, ServerEvent, Stats};
pub use limits::Rate;
use limits::{Bucket, Network, SourceBuckets};
pub use registry::RegistryLimits;
use registry::{NoRoute, Notice, Registry, Slot};

/// The second socket, at the other port; like all but the main one it answers STUN alone.
pub const ALTERNATE: SocketId = SocketId(1);

/// The sockets at the second address, at the main port and at the other.
pub const SECOND: [SocketId; 2] = [SocketId(2), SocketId(3)];

/// A rendezvous.
pub struct Server {
    quic: Quic<ToRendezvous>,
    registry: Registry,
    config: Config,
    sources: SourceBuckets,
    /// Sources that got answers larger than their requests, and all of them together.
    favoured: SourceBuckets,
    favours: Bucket,
    sessions: BTreeMap<Id, Session>,
    /// Connections that must register until then, or leave.
    deadlines: BTreeSet<(Instant, Id)>,
    /// How many connections each source has.
    crowds: Crowds,
    stun_answers: VecDeque<Transmit>,
    events: VecDeque<ServerEvent>,
    stats: Stats,
    rng: StdRng,
    last_now: Instant,
}

/// A connection that is not over.
struct Session {
    state: State,
    /// The address that Retry proved when it began.
    first_address: SocketAddr,
    /// Until then it must have registered, or hung up.
    deadline: Option<Instant>,
}

impl Session {
    /// The source that it counts for.
    const fn network(&self) -> Network {
        Network::of(self.first_address.ip())
    }
}

enum State {
    /// Keys are not proved yet.
    Handshaking,
    /// The key is proved; nothing was asked yet.
    Proved(PeerId),
    Registered {
        peer: PeerId,
        slot: Slot,
        /// An address that it must prove, and how.
        moving: Option<(SocketAddr, u64)>,
    },
    /// Told that it is replaced; expected to hang up.
    Replaced,
}

impl Server {
    /// A rendezvous with that key. `seed` is 32 bytes from the system's randomness.
    #[must_use]
    pub fn new(identity: &Identity, config: Config, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut draw = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        let tls = tls::server_config(identity, &[ALPN]);
        Self {
            quic: Quic::server(identity, tls, draw(), now),
            sources: SourceBuckets::new(draw(), now),
            favoured: SourceBuckets::new(draw(), now),
            favours: Bucket::full(now),
            registry: Registry::new(config.limits.registry, draw(), now),
            config,
            sessions: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            crowds: Crowds::default(),
            stun_answers: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            rng,
            last_now: now,
        }
    }

    /// A UDP datagram came in. When it is to be relayed it is rewritten in place and its new destination returned: the
    /// caller sends `payload` as it is now there by the main socket, after what [`Self::poll_transmit`] gives.
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        remote: SocketAddr,
        payload: &mut [u8],
        now: Instant,
    ) -> Option<SocketAddr> {
        self.last_now = now;
        match wire::classify(payload) {
            Some(Kind::Relayed) if socket == SocketId::MAIN => {
                return self.relay(remote, payload, now);
            }
            Some(Kind::Quic) if socket == SocketId::MAIN => {
                self.handle_quic(remote, payload, now);
            }
            Some(Kind::Stun) => self.handle_stun(socket, remote, payload, now),
            _ => self.stats.dropped_malformed += 1,
        }
        None
    }

    /// Datagrams of `stride` bytes (the last perhaps shorter) came in a row by the main socket from one place. As many from the
    /// first on as are to be relayed on one channel are rewritten in place: gives where to, and where in `row` they end.
    /// The others are to be given to [`Self::handle_datagram`].
    pub fn handle_row(
        &mut self,
        remote: SocketAddr,
        row: &mut [u8],
        stride: usize,
        now: Instant,
    ) -> Option<(SocketAddr, usize)> {
        let (channel, _) = relay::parse(row.get(..stride.min(row.len()))?).ok()?;
        let header = relay::header(channel);
        let alike =
            |datagram: &&[u8]| datagram.len() > header.len() && datagram.starts_with(&header);
        let (mut count, mut end) = (0, 0);
        for datagram in row.chunks(stride).take_while(alike) {
            count += 1;
            end += datagram.len();
        }
        let (destination, channel) = self.registry.route(remote, channel, end, now).ok()?;
        self.last_now = now;
        for datagram in row.get_mut(..end)?.chunks_mut(stride) {
            relay::readdress(datagram, channel);
        }
        self.stats.relayed_datagrams += count;
        self.stats.relayed_bytes += end as u64;
        Some((destination, end))
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = now;
        while let Some(&(due, id)) = self.deadlines.first()
            && due <= now
        {
            self.abandon(id, now);
            self.deadlines.remove(&(due, id));
        }
        self.quic.handle_timeout(now);
        self.handle_quic_events(now);
    }

    /// Says goodbye to everybody; what is to be sent is still in [`Self::poll_transmit`].
    pub fn stop(&mut self, now: Instant) {
        self.last_now = now;
        self.deadlines.clear();
        self.crowds = Crowds::default();
        for id in std::mem::take(&mut self.sessions).into_keys() {
            self.quic.close(id, Goodbye::Stopped, now);
        }
    }

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.last_now = now;
        if let Some((destination, contents)) = self.quic.poll_transmit(now) {
            return Some(Transmit::datagram(destination, contents));
        }
        self.stun_answers.pop_front()
    }

    /// The next thing to log, if any.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest; at once while something is to be sent.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.stun_answers.is_empty() {
            return Some(self.last_now);
        }
        let deadline = self.deadlines.first().map(|&(due, _)| due);
        let quic = self.quic.poll_timeout(self.last_now);
        deadline.into_iter().chain(quic).min()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            peers: self.registry.peers(),
            channels: self.registry.channels(),
            connections: self.quic.len(),
            ..self.stats
        }
    }

    fn relay(
        &mut self,
        remote: SocketAddr,
        payload: &mut [u8],
        now: Instant,
    ) -> Option<SocketAddr> {
        let Ok((channel, _)) = relay::parse(payload) else {
            self.stats.dropped_malformed += 1;
            return None;
        };
        match self.registry.route(remote, channel, payload.len(), now) {
            Ok((destination, channel)) => {
                relay::readdress(payload, channel);
                self.stats.relayed_datagrams += 1;
                self.stats.relayed_bytes += payload.len() as u64;
                Some(destination)
            }
            Err(why) => {
                *self.counter(why) += 1;
                None
            }
        }
    }

    const fn counter(&mut self, why: NoRoute) -> &mut u64 {
        match why {
            NoRoute::UnknownSource => &mut self.stats.dropped_unknown_source,
            NoRoute::UnknownChannel | NoRoute::NoAddress => &mut self.stats.dropped_unknown_channel,
            NoRoute::Limit => &mut self.stats.dropped_limit,
        }
    }

    /// Whether an unproven source may have one more datagram read.
    fn admit_source(&mut self, remote: SocketAddr, now: Instant) -> bool {
        let rate = self.config.limits.unproven;
        let admitted = self.sources.take(Network::of(remote.ip()), 1, rate, now);
        self.stats.dropped_limit += u64::from(!admitted);
        admitted
    }

    fn handle_stun(&mut self, socket: SocketId, remote: SocketAddr, payload: &[u8], now: Instant) {
        if self.stun_answers.len() >= MAX_STUN_ANSWERS || !self.admit_source(remote, now) {
            return;
        }
        let policy = self.config.stun;
        let wanted = |change| self.stun_addresses(socket, change, remote);
        let Some(reply) = stun::reply(payload, remote, policy, wanted) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        if reply.is_larger_than(payload) {
            if !self.admit_favour(remote, now) {
                return;
            }
            self.stats.larger_answers += 1;
        }
        self.stats.stun_answers += 1;
        self.stun_answers.push_back(Transmit {
            socket: moved(socket, reply.change).unwrap_or(socket),
            ..Transmit::datagram(remote, reply.contents)
        });
    }

    /// Whether a source may have one more answer that is larger than its request.
    fn admit_favour(&mut self, remote: SocketAddr, now: Instant) -> bool {
        let limits = &self.config.limits;
        let network = Network::of(remote.ip());
        let admitted = self.favoured.take(network, 1, limits.larger_answers, now)
            && self.favours.take(1, limits.larger_answers_in_all, now);
        self.stats.dropped_limit += u64::from(!admitted);
        admitted
    }

    /// The address of the socket that an answer is wanted from, and of the one that differs from the one that was asked in all
    /// that it can. `None` when there is no such socket.
    fn stun_addresses(
        &self,
        asked: SocketId,
        change: stun::Change,
        remote: SocketAddr,
    ) -> Option<stun::ServerAddresses> {
        let both = stun::Change {
            address: self.second_address(remote).is_some(),
            port: true,
        };
        let other = self.stun_address(moved(asked, both)?, remote);
        Some(stun::ServerAddresses {
            origin: self.stun_address(moved(asked, change)?, remote)?,
            other: other.filter(|other| !other.ip().is_unspecified()),
        })
    }

    /// The address of a socket in the family of `remote`, unspecified when it is not known. `None` when there is no such socket.
    fn stun_address(&self, socket: SocketId, remote: SocketAddr) -> Option<SocketAddr> {
        let second = self.second_address(remote);
        let alike = |ip: &IpAddr| ip.is_ipv4() == remote.is_ipv4() && Some(*ip) != second;
        let mut first = self.config.addresses.iter().copied().filter(alike);
        let ip = if socket.0 & 2 != 0 {
            second?
        } else {
            let known = first.find(|ip| !ip.is_unspecified());
            known.unwrap_or_else(|| unspecified(remote))
        };
        let port = if socket.0 & 1 != 0 {
            self.config.alternate_port?
        } else {
            self.config.port
        };
        Some(SocketAddr::new(ip, port))
    }

    fn second_address(&self, remote: SocketAddr) -> Option<IpAddr> {
        let second = self.config.second_address;
        second.filter(|ip| ip.is_ipv4() == remote.is_ipv4())
    }

    fn handle_quic(&mut self, remote: SocketAddr, payload: &[u8], now: Instant) {
        if !self.registry.knows(remote) && !self.admit_source(remote, now) {
            return;
        }
        let limits = &self.config.limits;
        // Those that have said goodbye and are not gone yet are counted too.
        let leaving =
            (self.quic.len() - self.registry.peers()).saturating_sub(self.crowds.half_open());
        let admit = leaving < limits.handshakes;
        match self.quic.handle_datagram(remote, payload, admit, now) {
            Received::Accepted(id) => self.begin(id, remote, now),
            Received::Dropped => self.stats.dropped_malformed += 1,
            Received::Known | Received::Answered => {}
        }
        self.handle_quic_events(now);
    }

    fn begin(&mut self, id: Id, remote: SocketAddr, now: Instant) {
        let session = Session {
            state: State::Handshaking,
            first_address: remote,
            deadline: None,
        };
        let network = session.network();
        self.sessions.insert(id, session);
        self.hurry(id, now);
        let (of_source, all) = (
            self.config.limits.handshakes_per_source,
            self.config.limits.handshakes,
        );
        while let Some(oldest) = self.crowds.surplus(network, of_source, all) {
            self.stats.dropped_half_open += 1;
            self.abandon(oldest, now);
        }
    }

    /// From now on a connection has little time to register, or to hang up.
    fn hurry(&mut self, id: Id, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let deadline = now + REGISTER_WITHIN;
            session.deadline = Some(deadline);
            self.deadlines.insert((deadline, id));
            self.crowds.enter(session.network(), deadline, id);
        }
    }

    /// A connection has all the time that it wants, or is over.
    fn relax(&mut self, id: Id) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(deadline) = session.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
            self.crowds.leave(session.network(), deadline, id);
        }
    }

    fn handle_quic_events(&mut self, now: Instant) {
        while let Some(event) = self.quic.poll_event() {
            match event {
                Event::Connected { id, peer } => {
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.state = State::Proved(peer);
                    }
                }
                Event::Message { id, message } => self.handle_message(id, message, now),
                Event::AddressChanged { id, remote } => self.ask_for_proof(id, remote, now),
                Event::Lost { id, why } => self.end(id, &why, now),
            }
        }
    }

    fn handle_message(&mut self, id: Id, message: ToRendezvous, now: Instant) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        match (&session.state, message) {
            (&State::Proved(peer), ToRendezvous::Register { .. }) => self.register(id, peer, now),
            (&State::Registered { .. }, ToRendezvous::Register { .. }) => self.welcome(id, now),
            (&State::Registered { peer, slot, .. }, ToRendezvous::Open { channel, peer: to }) => {
                self.open(id, (peer, slot), channel, to, now);
            }
            (&State::Registered { slot, .. }, ToRendezvous::Close { channel }) => {
                let notice = self.registry.close(slot, channel);
                self.tell(notice, CloseReason::ClosedByPeer, now);
            }
            (&State::Registered { .. }, ToRendezvous::Proof { nonce }) => {
                self.take_proof(id, nonce, now);
            }
            (State::Replaced, _) => {}
            (State::Handshaking | State::Proved(_), _) => {
                self.hang_up(id, Goodbye::Malformed, now);
            }
        }
    }

    fn register(&mut self, id: Id, peer: PeerId, now: Instant) {
        if let Some((slot, former)) = self.registry.find(peer) {
            self.replace(former, slot, peer, now);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (address, network) = (session.first_address, session.network());
        let of_source = self.config.limits.peers_per_source;
        if !self.crowds.register(network, of_source) {
            return self.hang_up(id, Goodbye::Limit, now);
        }
        let Some(slot) = self.registry.register(peer, id, address, now) else {
            self.crowds.unregister(network);
            return self.hang_up(id, Goodbye::Limit, now);
        };
        session.state = State::Registered {
            peer,
            slot,
            moving: None,
        };
        self.relax(id);
        self.stats.registrations += 1;
        self.events
            .push_back(ServerEvent::Registered { peer, address });
        self.welcome(id, now);
        if let Some(remote) = self.quic.remote(id)
            && remote != address
        {
            self.ask_for_proof(id, remote, now);
        }
    }

    /// Ends the former registration of a key that registers anew: whoever proves the key last has it.
    fn replace(&mut self, former: Id, slot: Slot, peer: PeerId, now: Instant) {
        let notices = self.registry.remove(slot);
        self.tell(notices, CloseReason::PeerReturned, now);
        self.quic.send(former, &ToPeer::Replaced, now);
        if let Some(session) = self.sessions.get_mut(&former) {
            session.state = State::Replaced;
            self.crowds.unregister(session.network());
            self.hurry(former, now);
        }
        self.events.push_back(ServerEvent::Replaced { peer });
    }

    fn welcome(&mut self, id: Id, now: Instant) {
        let Some(observed) = self.quic.remote(id) else {
            return;
        };
        let alternate = self.config.alternate_port.into_iter();
        let alternate = alternate.map(|port| SocketAddr::new(unspecified(observed), port));
        let second = self.second_address(observed).into_iter();
        let second = second.map(|ip| SocketAddr::new(ip, self.config.port));
        let registered = ToPeer::Registered {
            observed,
            stun: alternate.chain(second).collect(),
            features: 0,
        };
        self.quic.send(id, &registered, now);
    }

    fn open(
        &mut self,
        id: Id,
        (peer, slot): (PeerId, Slot),
        channel: Channel,
        to: PeerId,
        now: Instant,
    ) {
        let opened = if self.registry.take_request(slot, now) {
            self.registry.open(slot, channel, to, now)
        } else {
            Err(CloseReason::Limit)
        };
        match opened {
            Ok(other) => {
                self.tell(other.displaced, CloseReason::Limit, now);
                let channel = other.channel;
                let incoming = ToPeer::Incoming { channel, peer };
                self.quic.send(other.connection, &incoming, now);
            }
            Err(reason) => {
                self.quic.send(id, &ToPeer::Closed { channel, reason }, now);
            }
        }
    }

    /// A peer's datagrams come from elsewhere. Nothing is relayed there before it shows that it reads what is sent there:
    /// a true datagram that somebody caught and sent on from a victim's address must not turn the relay on the victim.
    fn ask_for_proof(&mut self, id: Id, remote: SocketAddr, now: Instant) {
        let nonce = self.rng.next_u64();
        if let Some(Session {
            state: State::Registered { moving, .. },
            ..
        }) = self.sessions.get_mut(&id)
        {
            *moving = Some((remote, nonce));
            self.quic.send(id, &ToPeer::Prove { nonce }, now);
        }
    }

    fn take_proof(&mut self, id: Id, nonce: u64, now: Instant) {
        let remote = self.quic.remote(id);
        let Some(Session {
            state: State::Registered { peer, slot, moving },
            ..
        }) = self.sessions.get_mut(&id)
        else {
            return;
        };
        // Not when it has moved on since it was asked: then another question is on its way.
        if let Some((address, asked)) = *moving
            && asked == nonce
            && remote == Some(address)
        {
            *moving = None;
            let peer = *peer;
            self.registry.set_address(*slot, address);
            self.events.push_back(ServerEvent::Moved { peer, address });
            self.welcome(id, now);
        }
    }

    /// Ends a connection that is not registered.
    fn hang_up(&mut self, id: Id, why: Goodbye, now: Instant) {
        self.relax(id);
        self.sessions.remove(&id);
        self.quic.close(id, why, now);
    }

    /// The same for one that has taken too long: nothing is kept of it.
    fn abandon(&mut self, id: Id, now: Instant) {
        self.relax(id);
        self.sessions.remove(&id);
        self.quic.abandon(id, Goodbye::Limit, now);
    }

    fn end(&mut self, id: Id, why: &Lost, now: Instant) {
        self.relax(id);
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        if let State::Registered { peer, slot, .. } = session.state {
            self.crowds.unregister(session.network());
            let notices = self.registry.remove(slot);
            self.tell(notices, CloseReason::PeerGone, now);
            let reason = reason(why);
            self.events.push_back(ServerEvent::Gone { peer, reason });
        }
    }

    /// Tells the ends of channels that they have ended.
    fn tell(
        &mut self,
        notices: impl IntoIterator<Item = Notice>,
        reason: CloseReason,
        now: Instant,
    ) {
        for Notice {
            connection,
            channel,
        } in notices
        {
            let closed = ToPeer::Closed { channel, reason };
            self.quic.send(connection, &closed, now);
        }
    }
}

#[cfg(test)]
impl Server {
    /// Entries of all tables that grow with who comes.
    pub(super) fn remembered(&self) -> usize {
        self.sessions.len() + self.deadlines.len() + self.crowds.half_open() + self.registry.peers()
    }
}

/// The socket that differs from this one in what is wanted.
fn moved(socket: SocketId, change: stun::Change) -> Option<SocketId> {
    let (port, address) = (u16::from(change.port), 2 * u16::from(change.address));
    (socket.0 < 4).then_some(SocketId(socket.0 ^ port ^ address))
}

fn reason(why: &Lost) -> String {
    match why {
        Lost::Silent => "not heard of any more".into(),
        Lost::Restarted => "its connection is unknown to it".into(),
        Lost::Malformed => "it broke the rules of the conversation".into(),
        Lost::Goodbye(_) => "it said goodbye".into(),
        Lost::Refused | Lost::OtherVersion => "no connection".into(),
        Lost::Broken(text) => text.clone(),
    }
}

/// "The same address as you reached me at", in the family of `like`.
const fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// From the first datagram of a proven address to its registration, at most; also the time to hang up when replaced.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// Answers that wait for the driver; more are not made.
const MAX_STUN_ANSWERS: usize = 1024;
