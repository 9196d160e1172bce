//! The peer's half: registers, registers again for ever, and keeps channels to other peers.
//!
//! ```text
//!            connect            keys proved           Registered
//!  Waiting ──────────▶ Connecting ──────▶ Registering ──────▶ Registered
//!     ▲ back-off, next address    │ 6 s        │ 6 s             │ silent for 15 s, server gone
//!     └───────────────────────────┴────────────┴─────────────────┘          wrong key, other version ─▶ Ended
//! ```
//!
//! A channel is usable as soon as [`Client::open`] has returned: its `Open` stands in the output before the datagrams that
//! are wrapped afterwards, and the rendezvous binds the channel when it reads it. So the owner drains
//! [`Client::poll_transmit`] before it sends what it wrapped, and nobody waits for a round trip.
//!
//! It decides when and where to connect. It does not know what it wraps.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::quic::{Event, Goodbye, Id, KEEP_ALIVE, Lost, MAX_IDLE, Quic, Received};
use super::{ALPN, Channel, CloseReason, ToPeer, ToRendezvous};
use crate::Transmit;
use crate::identity::{Identity, PeerId, tls};
use crate::wire::relay;

/// What the client tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The rendezvous knows us: after every connection, and again when our address has changed.
    Registered {
        /// Its key; keep it when none was given.
        key: PeerId,
        /// Our address as it sees it.
        observed: SocketAddr,
        /// Where it also answers STUN, beside the address that we are registered at.
        stun: Vec<SocketAddr>,
    },
    /// It cannot be used now; it is tried again by itself unless `fatal`.
    Failed {
        /// One sentence that says what is wrong and what to do.
        reason: String,
        /// It will never work with these settings: wrong key, other version.
        fatal: bool,
    },
    /// A peer opened a channel to us.
    Incoming {
        /// Its number here.
        channel: Channel,
        /// The peer.
        peer: PeerId,
    },
    /// A channel is not, or not any more. Whoever still wants it opens another.
    Closed {
        /// Its number here.
        channel: Channel,
        /// The peer at its other end.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// All that [`Client::stop`] has to send is in [`Client::poll_transmit`].
    Stopped,
}

/// By which way datagrams go to the rendezvous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Straight, to its own address.
    #[default]
    Udp,
    /// Not at all, until there is another way.
    Closed,
    /// By a carrier at this address, whatever the rendezvous's own is.
    Carrier(SocketAddr),
}

/// A peer's registration at one rendezvous.
pub struct Client {
    identity: Identity,
    addresses: Vec<SocketAddr>,
    way: Way,
    key: Option<PeerId>,
    alpn: &'static [u8],
    quic: Quic<ToPeer>,
    state: State,
    /// The index of the address to try next.
    next_address: usize,
    /// Attempts that failed since the last registration.
    failures: u32,
    /// Since when they fail.
    failing_since: Option<Instant>,
    channels: BTreeMap<Channel, PeerId>,
    next_number: u32,
    /// The rendezvous must be heard of until then, because the network changed.
    probe: Option<Instant>,
    /// When its latest datagram came.
    heard: Instant,
    /// When it was last asked because a peer had fallen silent.
    doubted: Option<Instant>,
    /// Whether the rendezvous has ever known us.
    registered_once: bool,
    events: VecDeque<ClientEvent>,
    rng: StdRng,
    last_now: Instant,
    #[cfg(test)]
    quiet: bool,
}

enum State {
    Waiting {
        until: Instant,
    },
    Connecting {
        server: Server,
        shown: Arc<OnceLock<PeerId>>,
        deadline: Instant,
    },
    Registering {
        server: Server,
        key: PeerId,
        deadline: Instant,
    },
    Registered {
        server: Server,
        key: PeerId,
    },
    Ended,
}

#[derive(Clone, Copy)]
struct Server {
    id: Id,
    address: SocketAddr,
}

impl Client {
    /// A client that connects at its first timeout, which is at once. Without `key` it takes whichever key the rendezvous
    /// shows first, and no other afterwards. `seed` is 32 bytes from the system's randomness.
    #[must_use]
    pub fn new(
        identity: &Identity,
        addresses: Vec<SocketAddr>,
        key: Option<PeerId>,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut quic_seed = [0; 32];
        rng.fill_bytes(&mut quic_seed);
        Self {
            identity: Identity::from_seed(identity.seed()),
            addresses,
            way: Way::Udp,
            key,
            alpn: ALPN,
            quic: Quic::client(quic_seed, now),
            state: State::Waiting { until: now },
            next_address: 0,
            failures: 0,
            failing_since: None,
            channels: BTreeMap::new(),
            next_number: 2,
            probe: None,
            heard: now,
            doubted: None,
            registered_once: false,
            events: VecDeque::new(),
            rng,
            last_now: now,
            #[cfg(test)]
            quiet: false,
        }
    }

    /// A QUIC datagram came in. Tells whether it belongs to our connection.
    pub fn handle_datagram(&mut self, remote: SocketAddr, payload: &[u8], now: Instant) -> bool {
        self.last_now = now;
        let Some(remote) = self.behind(remote) else {
            return false;
        };
        let received = self.quic.handle_datagram(remote, payload, false, now);
        if received == Received::Known {
            self.probe = None;
            self.heard = now;
        }
        self.handle_quic_events(now);
        received == Received::Known
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = now;
        self.quic.handle_timeout(now);
        self.handle_quic_events(now);
        match self.state {
            State::Waiting { until } if until <= now => self.connect(now),
            State::Connecting {
                server, deadline, ..
            }
            | State::Registering {
                server, deadline, ..
            } if deadline <= now => self.give_up(server, now),
            State::Registered { server, .. } if self.heard_until() <= now => {
                self.give_up(server, now);
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Registering { .. }
            | State::Registered { .. }
            | State::Ended => {}
        }
    }

    /// Opens a channel to a peer, or gives the one that there is. It may be used at once; when it turns out that it cannot be
    /// had, [`ClientEvent::Closed`] says why. It survives reconnections. `None` when there are too many.
    pub fn open(&mut self, peer: PeerId, now: Instant) -> Option<Channel> {
        self.last_now = now;
        let own = self.channels.iter().filter(|(it, _)| it.is_openers());
        if let Some((&channel, _)) = own.clone().find(|&(_, &to)| to == peer) {
            return Some(channel);
        }
        if own.count() >= MAX_OWN_CHANNELS {
            return None;
        }
        let channel = self.draw_number();
        self.channels.insert(channel, peer);
        self.send(&ToRendezvous::Open { channel, peer }, now);
        Some(channel)
    }

    /// Ends a channel; of which nothing more is told.
    pub fn close(&mut self, channel: Channel, now: Instant) {
        self.last_now = now;
        if self.channels.remove(&channel).is_some() {
            self.send(&ToRendezvous::Close { channel }, now);
        }
    }

    /// The machine's addresses or routes have changed, or nothing comes through any more: lets the rendezvous hear from us
    /// at once, and connects anew when it does not answer.
    pub fn network_changed(&mut self, now: Instant) {
        self.last_now = now;
        match self.state {
            State::Registered { server, .. } => {
                self.quic.ping(server.id);
                self.probe.get_or_insert(now + PROBE);
            }
            State::Connecting { server, .. } | State::Registering { server, .. } => {
                self.quic.close(server.id, Goodbye::Stopped, now);
                self.retry_at(now);
            }
            State::Waiting { .. } => self.retry_at(now),
            State::Ended => {}
        }
    }

    /// Datagrams to the rendezvous go another way from now on. For it we have moved: registration and channels go on.
    pub fn set_way(&mut self, way: Way, now: Instant) {
        if std::mem::replace(&mut self.way, way) != way {
            self.network_changed(now);
        }
    }

    /// Since when the rendezvous owes us an answer, or will do if it says nothing. `None` when we are done with it.
    #[must_use]
    pub fn owes_since(&self) -> Option<Instant> {
        Some(match self.state {
            State::Ended => return None,
            State::Waiting { .. } => self.failing_since.unwrap_or(self.last_now),
            State::Connecting { deadline, .. } | State::Registering { deadline, .. } => {
                let begun = deadline.checked_sub(ATTEMPT)?;
                if self.heard > begun {
                    self.heard
                } else {
                    begun
                }
            }
            State::Registered { .. } => match self.probe {
                Some(probe) => probe.checked_sub(PROBE)?,
                None => self.heard + KEEP_ALIVE + ANSWER,
            },
        })
    }

    /// A peer that we relay to has fallen silent: perhaps it is us who are not heard. The same as [`Self::network_changed`], but
    /// not while the rendezvous is being asked or was asked a moment ago.
    pub fn doubt(&mut self, now: Instant) {
        self.last_now = now;
        let asked = self.doubted.is_some_and(|at| now < at + DOUBT_PAUSE);
        if let State::Registered { server, .. } = self.state
            && self.probe.is_none()
            && !asked
        {
            self.doubted = Some(now);
            self.quic.ping(server.id);
            self.probe = Some(now + PROBE);
        }
    }

    /// Ends the registration for good.
    pub fn stop(&mut self, now: Instant) {
        self.last_now = now;
        if let Some(server) = self.current() {
            self.quic.close(server.id, Goodbye::Stopped, now);
        }
        self.state = State::Ended;
        self.events.push_back(ClientEvent::Stopped);
    }

    /// The datagram that carries `inner` on a channel; `None` while there is no connection, or no such channel.
    #[must_use]
    pub fn wrap(&self, channel: Channel, inner: &[u8]) -> Option<Transmit> {
        let relay = self.relay()?;
        self.channels.get(&channel)?;
        let contents = relay::emit(channel, inner);
        Some(Transmit::datagram(relay, contents))
    }

    /// From whom and on which channel a relayed datagram comes, and where in it the inner one is; `None` when it is none of
    /// ours.
    #[must_use]
    pub fn unwrap(
        &self,
        remote: SocketAddr,
        datagram: &[u8],
    ) -> Option<(PeerId, Channel, Range<usize>)> {
        let relay = self.relay()?;
        let (channel, _) = relay::parse(datagram).ok()?;
        let peer = *self.channels.get(&channel)?;
        (relay == remote).then_some((peer, channel, relay::HEADER..datagram.len()))
    }

    /// Where relayed datagrams go and come from; `None` while there is no registration.
    #[must_use]
    pub fn relay(&self) -> Option<SocketAddr> {
        self.reached_at(self.registration()?.address)
    }

    /// Whether QUIC from this address is the rendezvous's.
    #[must_use]
    pub fn speaks_from(&self, remote: SocketAddr) -> bool {
        let server = self.server();
        server.is_some() && server == self.behind(remote)
    }

    /// By which way datagrams go to it.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.way
    }

    /// Its own address: of the rendezvous that we are connected to, or try to.
    #[must_use]
    pub fn server(&self) -> Option<SocketAddr> {
        Some(self.current()?.address)
    }

    /// Where it may be.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The key of the rendezvous, given or learnt.
    #[must_use]
    pub const fn key(&self) -> Option<PeerId> {
        self.key
    }

    /// Whether the rendezvous knows us now.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        matches!(self.state, State::Registered { .. })
    }

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.last_now = now;
        loop {
            let (server, contents) = self.quic.poll_transmit(now)?;
            // What has no way is lost, as on any network.
            if let Some(destination) = self.reached_at(server) {
                return Some(Transmit::datagram(destination, contents));
            }
        }
    }

    /// The next event, if any.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest; at once while something is to be sent.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { deadline, .. } | State::Registering { deadline, .. } => {
                Some(deadline)
            }
            State::Registered { .. } => Some(self.heard_until()),
            State::Ended => None,
        };
        let quic = self.quic.poll_timeout(self.last_now);
        own.into_iter().chain(quic).min()
    }

    /// When a silent rendezvous is given up. QUIC's own idle timer begins anew with each keep-alive that is not answered
    /// (RFC 9000, section 10.1), which is later.
    fn heard_until(&self) -> Instant {
        let idle = self.heard + MAX_IDLE;
        self.probe.map_or(idle, |probe| probe.min(idle))
    }

    /// Where to send what is for the rendezvous at `server`.
    const fn reached_at(&self, server: SocketAddr) -> Option<SocketAddr> {
        match self.way {
            Way::Udp => Some(server),
            Way::Closed => None,
            Way::Carrier(address) => Some(address),
        }
    }

    /// Whose datagrams come from `remote`: by a carrier, the rendezvous's.
    fn behind(&self, remote: SocketAddr) -> Option<SocketAddr> {
        match self.way {
            Way::Udp => Some(remote),
            Way::Closed => None,
            Way::Carrier(address) if address == remote => self.server(),
            Way::Carrier(_) => None,
        }
    }

    fn connect(&mut self, now: Instant) {
        let index = self.next_address % self.addresses.len().max(1);
        let address = match (self.way, self.addresses.get(index)) {
            (Way::Closed, _) => return self.retry_at(now + MIN_BACK_OFF),
            (Way::Udp | Way::Carrier(_), Some(&address)) => address,
            // Its name means something at the other end of the carrier alone.
            (Way::Carrier(address), None) => address,
            (Way::Udp, None) => {
                return self.end("no address of the rendezvous is one to send to; the invite, or --rendezvous, is wrong".into());
            }
        };
        self.next_address = index + 1;
        let shown = Arc::default();
        let tls =
            tls::client_config_noting(&self.identity, self.key, &[self.alpn], Arc::clone(&shown));
        match self.quic.connect(tls, address, now) {
            Some(id) => {
                self.state = State::Connecting {
                    server: Server { id, address },
                    shown,
                    deadline: now + ATTEMPT,
                }
            }
            None => self.fail(
                format!(
                    "the rendezvous cannot be at {address}; the invite, or --rendezvous, is wrong"
                ),
                now,
            ),
        }
    }

    fn handle_quic_events(&mut self, now: Instant) {
        while let Some(event) = self.quic.poll_event() {
            let Some(server) = self.current() else {
                continue;
            };
            match event {
                Event::Connected { id, peer } if id == server.id => {
                    self.register(server, peer, now);
                }
                Event::Message { id, message } if id == server.id => {
                    self.handle_message(message, now);
                }
                Event::Lost { id, why } if id == server.id => self.lost(server, why, now),
                Event::Connected { .. }
                | Event::Message { .. }
                | Event::AddressChanged { .. }
                | Event::Lost { .. } => {}
            }
        }
    }

    /// The keys are proved: registers, and opens what was open or was asked for in the meantime.
    fn register(&mut self, server: Server, key: PeerId, now: Instant) {
        self.state = State::Registering {
            server,
            key,
            deadline: now + ATTEMPT,
        };
        self.send(&ToRendezvous::Register { features: 0 }, now);
        for (channel, peer) in self.channels.clone() {
            self.send(&ToRendezvous::Open { channel, peer }, now);
        }
    }

    fn handle_message(&mut self, message: ToPeer, now: Instant) {
        match message {
            ToPeer::Registered { observed, stun, .. } => self.registered(observed, stun),
            ToPeer::Incoming { channel, peer } => self.incoming(channel, peer, now),
            ToPeer::Closed { channel, reason } => {
                if let Some(peer) = self.channels.remove(&channel) {
                    self.events.push_back(ClientEvent::Closed {
                        channel,
                        peer,
                        reason,
                    });
                }
            }
            ToPeer::Prove { nonce } => self.send(&ToRendezvous::Proof { nonce }, now),
            ToPeer::Replaced => self.replaced(now),
        }
    }

    fn registered(&mut self, observed: SocketAddr, stun: Vec<SocketAddr>) {
        let (State::Registering { server, key, .. } | State::Registered { server, key }) =
            self.state
        else {
            return;
        };
        self.state = State::Registered { server, key };
        self.failures = 0;
        self.failing_since = None;
        self.registered_once = true;
        self.key = Some(key);
        self.events.push_back(ClientEvent::Registered {
            key,
            observed,
            stun: stun
                .into_iter()
                .take(MAX_STUN)
                .map(|it| at_server(it, server))
                .collect(),
        });
    }

    fn incoming(&mut self, channel: Channel, peer: PeerId, now: Instant) {
        if channel.is_openers() || self.channels.contains_key(&channel) {
            return;
        }
        if self.channels.len() >= MAX_CHANNELS {
            return self.send(&ToRendezvous::Close { channel }, now);
        }
        self.channels.insert(channel, peer);
        self.events
            .push_back(ClientEvent::Incoming { channel, peer });
    }

    fn replaced(&mut self, now: Instant) {
        let Some(server) = self.current() else {
            return;
        };
        self.quic.close(server.id, Goodbye::Stopped, now);
        self.fail(
            "another program registered with this peer's key; end one of the two".into(),
            now,
        );
        // Otherwise the two would take the registration from each other every second.
        self.retry_at(now + MAX_BACK_OFF);
    }

    fn lost(&mut self, server: Server, why: Lost, now: Instant) {
        let address = server.address;
        if let (State::Connecting { shown, .. }, Some(expected)) = (&self.state, self.key)
            && let Some(&shown) = shown.get()
            && shown != expected
        {
            return self.refuse(
                format!(
                    "the rendezvous at {address} shows the key {shown}, not {expected}; \
                 check its address and the key that you were given"
                ),
                now,
            );
        }
        let reason = match why {
            Lost::OtherVersion => {
                let reason = format!(
                    "the rendezvous at {address} speaks another version than this program; \
                     update the older of the two"
                );
                return self.refuse(reason, now);
            }
            Lost::Silent => return self.fail(silent(address), now),
            Lost::Restarted | Lost::Goodbye(Goodbye::Stopped) => "was stopped or started again",
            Lost::Refused | Lost::Goodbye(Goodbye::Limit) => "takes no more peers now",
            Lost::Goodbye(Goodbye::Replaced) => "has another registration of this key",
            Lost::Malformed | Lost::Goodbye(Goodbye::Malformed | Goodbye::Unknown) => {
                "does not understand this program, or the other way round"
            }
            Lost::Broken(text) => {
                let reason = format!("the connection to the rendezvous at {address} broke: {text}");
                return self.fail(reason, now);
            }
        };
        self.fail(format!("the rendezvous at {address} {reason}"), now);
    }

    fn give_up(&mut self, server: Server, now: Instant) {
        self.quic.close(server.id, Goodbye::Stopped, now);
        self.fail(silent(server.address), now);
    }

    /// This attempt or registration is over; the next address follows at once, a new round after a while.
    fn fail(&mut self, reason: String, now: Instant) {
        let was_registered = self.is_registered();
        self.forget_incoming();
        let fatal = false;
        self.events.push_back(ClientEvent::Failed { reason, fatal });
        if was_registered {
            // The one that knew us is tried first, and soon: it may just have started again.
            self.next_address = self.next_address.saturating_sub(1);
            let delay = FIRST_BACK_OFF.mul_f64(self.rng.random());
            return self.retry_at(now + delay);
        } else if self.next_address < self.addresses.len() {
            return self.retry_at(now);
        }
        let delay = self.back_off(now);
        self.failures = self.failures.saturating_add(1);
        self.retry_at(now + delay);
    }

    /// What answers is not our rendezvous, or none that we understand. At the start that is the end. Later it may be somebody
    /// who has only put himself in its place, and links that live do not need it: it is told and tried again.
    fn refuse(&mut self, reason: String, now: Instant) {
        if self.registered_once {
            self.fail(reason, now);
        } else {
            self.end(reason);
        }
    }

    fn end(&mut self, reason: String) {
        self.state = State::Ended;
        self.forget_incoming();
        let fatal = true;
        self.events.push_back(ClientEvent::Failed { reason, fatal });
    }

    fn retry_at(&mut self, until: Instant) {
        self.probe = None;
        self.state = State::Waiting { until };
    }

    /// Doubles from one second to a few, and after some minutes to half a minute; the second half of it is chance, so that not
    /// all peers come back at once.
    fn back_off(&mut self, now: Instant) -> Duration {
        let since = *self.failing_since.get_or_insert(now);
        let young = now.saturating_duration_since(since) < SHORT_PAUSES;
        let longest = if young { YOUNG_BACK_OFF } else { MAX_BACK_OFF };
        let whole = (MIN_BACK_OFF * (1 << self.failures.min(5))).min(longest);
        whole.mul_f64(0.5 + 0.5 * self.rng.random::<f64>())
    }

    /// Channels that others opened died with the connection; ours will be opened again.
    fn forget_incoming(&mut self) {
        let (own, incoming) = std::mem::take(&mut self.channels)
            .into_iter()
            .partition(|(channel, _)| channel.is_openers());
        self.channels = own;
        let closed = |(channel, peer)| ClientEvent::Closed {
            channel,
            peer,
            reason: CloseReason::PeerGone,
        };
        let incoming: BTreeMap<Channel, PeerId> = incoming;
        self.events.extend(incoming.into_iter().map(closed));
    }

    fn draw_number(&mut self) -> Channel {
        loop {
            let number = Channel(self.next_number);
            self.next_number = (self.next_number + 2) & Channel::MAX;
            if number.is_openers() && !self.channels.contains_key(&number) {
                return number;
            }
        }
    }

    fn send(&mut self, message: &ToRendezvous, now: Instant) {
        #[cfg(test)]
        if self.quiet {
            return;
        }
        if let Some(server) = self.registration() {
            self.quic.send(server.id, message, now);
        }
    }

    /// The connection, made or in the making.
    const fn current(&self) -> Option<Server> {
        match self.state {
            State::Connecting { server, .. }
            | State::Registering { server, .. }
            | State::Registered { server, .. } => Some(server),
            State::Waiting { .. } | State::Ended => None,
        }
    }

    /// The connection once its keys are proved: from then on messages and datagrams may follow each other.
    const fn registration(&self) -> Option<Server> {
        match self.state {
            State::Registering { server, .. } | State::Registered { server, .. } => Some(server),
            State::Waiting { .. } | State::Connecting { .. } | State::Ended => None,
        }
    }
}

#[cfg(test)]
impl Client {
    /// One that speaks another version.
    pub(super) const fn with_alpn(mut self, alpn: &'static [u8]) -> Self {
        self.alpn = alpn;
        self
    }

    /// Says something that a true client does not say now.
    pub(super) fn say(&mut self, message: &ToRendezvous, now: Instant) {
        self.quiet = false;
        self.send(message, now);
    }

    /// From now on it connects and says nothing.
    pub(super) const fn keep_quiet(&mut self) {
        self.quiet = true;
    }
}

fn silent(address: SocketAddr) -> String {
    format!(
        "no answer from the rendezvous at {address}, still trying; \
         is it running, and does UDP to that port get out of this network?"
    )
}

/// Fills in the address that the rendezvous does not know of itself: the one that it was reached at.
fn at_server(stun: SocketAddr, server: Server) -> SocketAddr {
    if stun.ip().is_unspecified() {
        SocketAddr::new(server.address.ip(), stun.port())
    } else {
        stun
    }
}

/// One attempt at one address: time for a handshake whose first datagrams are lost three times.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The longest time from the loss of a registration to the first attempt at another.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
/// The shortest time between two rounds through the addresses, the longest at first, and the longest after a while.
const MIN_BACK_OFF: Duration = Duration::from_secs(1);
const YOUNG_BACK_OFF: Duration = Duration::from_secs(5);
const MAX_BACK_OFF: Duration = Duration::from_secs(30);
/// So long attempts follow each other quickly: most outages are shorter.
const SHORT_PAUSES: Duration = Duration::from_secs(300);
/// Silent peers make us ask the rendezvous no more often than this.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);
/// After a change of the network the rendezvous must be heard of within this.
const PROBE: Duration = Duration::from_secs(3);
/// An answer to a sign of life that takes longer is late.
const ANSWER: Duration = Duration::from_millis(700);
/// Channels of our own at once: the rendezvous allows no more to one peer.
const MAX_OWN_CHANNELS: usize = 256;
/// Channels at once, whatever the rendezvous says: as many as it lets others open to one peer, and our own.
const MAX_CHANNELS: usize = 4096 + MAX_OWN_CHANNELS;
/// More STUN addresses than these are not taken.
const MAX_STUN: usize = 4;
