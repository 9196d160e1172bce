//! QUIC (RFC 9000) as this conversation needs it, for both roles: proven keys, one stream of messages, addresses that change.
//!
//! ```text
//!  datagram ─▶ Endpoint ─▶ connection ─▶ stream ─▶ framer ─▶ Event::Message
//!                 │ unknown address: Retry, no state                ▲ poll_event
//!                 └ answers larger than the question: dropped
//!  send(message) ─▶ framer ─▶ stream ─▶ connection ─▶ poll_transmit ─▶ datagram
//! ```
//!
//! It knows messages only as bytes, and no rule of the conversation. Its owner calls [`Quic::poll_event`] to the end after
//! every other verb, so an [`Id`] is never used after its end was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bincode::{Decode, Encode};
use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, Incoming};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::identity::{Identity, PeerId};

mod conversation;
mod settings;

use conversation::Conversation;
pub use settings::{KEEP_ALIVE, MAX_IDLE};

/// A connection's number at its endpoint; used again after its end.
pub(super) type Id = usize;

/// What a connection tells.
#[derive(Debug)]
pub(super) enum Event<M> {
    /// Both keys are proved.
    Connected { id: Id, peer: PeerId },
    /// A message came.
    Message { id: Id, message: M },
    /// The other side's datagrams come from elsewhere; not proven yet.
    AddressChanged { id: Id, remote: SocketAddr },
    /// The connection is over.
    Lost { id: Id, why: Lost },
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing was heard for [`MAX_IDLE`], or it takes nothing that it is sent.
    Silent,
    /// The other side does not know it any more: it started again.
    Restarted,
    /// The server takes no connection now.
    Refused,
    /// No protocol version in common.
    OtherVersion,
    /// The other side sent what is no message, or ended the stream.
    Malformed,
    /// The other side ended it on purpose.
    Goodbye(Goodbye),
    /// QUIC or TLS failed.
    Broken(String),
}

/// Why one side ends a connection on purpose: the application error code (RFC 9000, section 20.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// It stops.
    Stopped,
    /// The other side sent what is no message of this conversation.
    Malformed,
    /// Another connection proved the same key.
    Replaced,
    /// A limit of the rendezvous.
    Limit,
    /// A code that this version does not know.
    Unknown,
}

impl Goodbye {
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Stopped => 0,
            Self::Malformed => 1,
            Self::Replaced => 2,
            Self::Limit => 3,
            Self::Unknown => 4,
        }
    }

    const fn from_code(code: u64) -> Self {
        match code {
            0 => Self::Stopped,
            1 => Self::Malformed,
            2 => Self::Replaced,
            3 => Self::Limit,
            _ => Self::Unknown,
        }
    }
}

/// What became of a datagram that belongs to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// It belongs to a connection.
    Known,
    /// A new connection from a proven address.
    Accepted(Id),
    /// Asked to prove its address, or told no; without state.
    Answered,
    /// Nothing to do about it.
    Dropped,
}

/// An endpoint with its connections; `M` is what the other side says.
pub(super) struct Quic<M> {
    endpoint: Endpoint,
    clock: Arc<settings::Clock>,
    rng: StdRng,
    conversations: BTreeMap<Id, Conversation>,
    /// Connections that may have something to send.
    busy: BTreeSet<Id>,
    timers: BTreeSet<(Instant, Id)>,
    answers: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event<M>>,
}

impl<M: Decode<()>> Quic<M> {
    /// An endpoint that only connects.
    pub(super) fn client(seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let config = settings::endpoint(&settings::draw(&mut rng), &mut rng);
        let endpoint = Endpoint::new(Arc::new(config), None, false, None);
        Self::new(endpoint, settings::Clock::new(now), rng)
    }

    /// An endpoint that only listens.
    pub(super) fn server(
        identity: &Identity,
        tls: rustls::ServerConfig,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let clock = settings::Clock::new(now);
        let config = settings::endpoint(&settings::restart_key(identity), &mut rng);
        let server = settings::server(tls, &clock, &mut rng);
        let endpoint = Endpoint::new(Arc::new(config), Some(Arc::new(server)), false, None);
        Self::new(endpoint, clock, rng)
    }

    fn new(endpoint: Endpoint, clock: Arc<settings::Clock>, rng: StdRng) -> Self {
        Self {
            endpoint,
            clock,
            rng,
            conversations: BTreeMap::new(),
            busy: BTreeSet::new(),
            timers: BTreeSet::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Starts a connection; `None` for an address that none can be made to.
    pub(super) fn connect(
        &mut self,
        tls: rustls::ClientConfig,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<Id> {
        let config = settings::client(tls, &mut self.rng);
        let name = "peer.invalid";
        let (handle, connection) = self.endpoint.connect(now, config, remote, name).ok()?;
        Some(self.add(handle, connection, now))
    }

    /// A datagram came. A new connection is taken only if `admit`.
    pub(super) fn handle_datagram(
        &mut self,
        remote: SocketAddr,
        payload: &[u8],
        admit: bool,
        now: Instant,
    ) -> Received {
        self.clock.set(now);
        let mut answer = Vec::new();
        let data = BytesMut::from(payload);
        let event = self
            .endpoint
            .handle(now, remote, None, None, data, &mut answer);
        let received = match event {
            None => return Received::Dropped,
            Some(DatagramEvent::ConnectionEvent(ConnectionHandle(id), event)) => {
                if let Some(conversation) = self.conversations.get_mut(&id) {
                    conversation.connection.handle_event(event);
                    self.pump(id, now);
                }
                return Received::Known;
            }
            Some(DatagramEvent::Response(_)) => Received::Answered,
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.receive_new(incoming, admit, &mut answer, now)
            }
        };
        // No state is kept for an unproven address, and it never gets more than it sent (TRAVERSAL G6).
        if !answer.is_empty() && answer.len() <= payload.len() && self.answers.len() < MAX_ANSWERS {
            self.answers.push_back((remote, answer));
        }
        received
    }

    fn receive_new(
        &mut self,
        incoming: Incoming,
        admit: bool,
        answer: &mut Vec<u8>,
        now: Instant,
    ) -> Received {
        if !incoming.remote_address_validated() {
            if let Err(error) = self.endpoint.retry(incoming, answer) {
                self.endpoint.ignore(error.into_incoming());
                return Received::Dropped;
            }
            return Received::Answered;
        }
        if !admit {
            // It has nothing to say that is not in `answer`.
            let _ = self.endpoint.refuse(incoming, answer);
            return Received::Answered;
        }
        match self.endpoint.accept(incoming, now, answer, None) {
            Ok((handle, connection)) => Received::Accepted(self.add(handle, connection, now)),
            Err(_) => Received::Answered,
        }
    }

    fn add(
        &mut self,
        ConnectionHandle(id): ConnectionHandle,
        connection: quinn_proto::Connection,
        now: Instant,
    ) -> Id {
        self.conversations
            .insert(id, Conversation::new(id, connection));
        self.pump(id, now);
        id
    }

    /// Sends a message; a connection that takes none any more is closed and its end reported.
    pub(super) fn send<O: Encode>(&mut self, id: Id, message: &O, now: Instant) {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return;
        };
        if !conversation.send(message) {
            conversation.close(Goodbye::Limit, now);
            let why = Lost::Silent;
            self.events.push_back(Event::Lost { id, why });
        }
        self.busy.insert(id);
    }

    /// Ends a connection; nothing more is reported of it.
    pub(super) fn close(&mut self, id: Id, why: Goodbye, now: Instant) {
        if let Some(conversation) = self.conversations.get_mut(&id) {
            conversation.close(why, now);
            self.pump(id, now);
        }
    }

    /// Ends a connection and forgets it: one datagram says so, and nothing is kept to say it again.
    pub(super) fn abandon(&mut self, id: Id, why: Goodbye, now: Instant) {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return;
        };
        conversation.close(why, now);
        let mut contents = Vec::with_capacity(MAX_DATAGRAM);
        let last = conversation.connection.poll_transmit(now, 1, &mut contents);
        if let Some(last) = last.filter(|_| self.answers.len() < MAX_ANSWERS) {
            contents.truncate(last.size);
            self.answers.push_back((last.destination, contents));
        }
        let gone = quinn_proto::EndpointEvent::drained();
        let _ = self.endpoint.handle_event(ConnectionHandle(id), gone);
        self.forget(id);
    }

    /// Lets the other side hear from us at once, from whatever address we have now.
    pub(super) fn ping(&mut self, id: Id) {
        if let Some(conversation) = self.conversations.get_mut(&id) {
            conversation.connection.local_address_changed();
            self.busy.insert(id);
        }
    }

    /// Where the other side of a connection is now, proven or not.
    pub(super) fn remote(&self, id: Id) -> Option<SocketAddr> {
        Some(self.conversations.get(&id)?.connection.remote_address())
    }

    /// How many connections there are, ending ones included.
    pub(super) fn len(&self) -> usize {
        self.conversations.len()
    }

    /// Lets due timers run.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.clock.set(now);
        while let Some(&(due, id)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            if let Some(conversation) = self.conversations.get_mut(&id) {
                conversation.timer = None;
                conversation.connection.handle_timeout(now);
                self.pump(id, now);
            }
        }
    }

    /// The next datagram to send, if any.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        while let Some(&id) = self.busy.first() {
            let mut contents = Vec::with_capacity(MAX_DATAGRAM);
            let transmit = self
                .conversations
                .get_mut(&id)
                .and_then(|it| it.connection.poll_transmit(now, 1, &mut contents));
            if let Some(transmit) = transmit {
                contents.truncate(transmit.size);
                return Some((transmit.destination, contents));
            }
            self.busy.remove(&id);
            self.set_timer(id);
        }
        None
    }

    /// The next event, if any.
    pub(super) fn poll_event(&mut self) -> Option<Event<M>> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`]; `now` while there may be something to send.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.answers.is_empty() || !self.busy.is_empty() {
            return Some(now);
        }
        self.timers.first().map(|&(due, _)| due)
    }

    /// Makes events of what happened in a connection, and lets endpoint and connection tell each other what they must.
    fn pump(&mut self, id: Id, now: Instant) {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return;
        };
        conversation.pump(&mut self.events, now);
        let connection = &mut conversation.connection;
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(id), event) {
                connection.handle_event(event);
            }
        }
        if connection.is_drained() {
            self.forget(id);
        } else {
            self.busy.insert(id);
        }
    }

    fn forget(&mut self, id: Id) {
        if let Some(timer) = self.conversations.remove(&id).and_then(|it| it.timer) {
            self.timers.remove(&(timer, id));
        }
        self.busy.remove(&id);
    }

    fn set_timer(&mut self, id: Id) {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return;
        };
        let timer = conversation.connection.poll_timeout();
        if timer == conversation.timer {
            return;
        }
        if let Some(old) = conversation.timer {
            self.timers.remove(&(old, id));
        }
        conversation.timer = timer;
        self.timers.extend(timer.map(|due| (due, id)));
    }
}

/// Answers to strangers that wait for the driver; more are not made.
const MAX_ANSWERS: usize = 1024;
/// The largest datagram that we send: there is no discovery of larger ones, messages are small.
const MAX_DATAGRAM: usize = 1200;
