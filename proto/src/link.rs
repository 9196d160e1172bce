//! One remote peer: the authenticated association that outlives the paths which carry its datagrams.
//!
//! ```text
//!            frames                                              frames
//!              │                                                   ▲
//!            pack ──▶ seal ──▶ best path ═════════ path ──▶ open ──┴ reassemble
//!                      ▲                                     │
//!  control ─▶ tls ─▶ arq (in the clear until there are keys) ┴─▶ arq ─▶ tls ─▶ control
//! ```
//!
//! It opens over a relay channel: the ARQ's first segment already carries the TLS ClientHello, so the opening side has keys
//! after one round trip and may send frames at once. Candidates are exchanged inside TLS, and a direct path takes the place of
//! the relay as soon as an authenticated answer came over it. Once a sealed datagram has come, segments in the clear are
//! refused: nobody without the keys can disturb the ARQ any more.
//!
//! It knows no switch and no rendezvous: [`Via`] says by which way a datagram came or is to go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::SocketId;
use crate::identity::PeerId;
use crate::node::status::{Counters, LinkStatus};
use crate::rendezvous::Channel;
use crate::wire::clear::Indices;
use crate::wire::codec::Framer;
use crate::wire::control::{
    Bye, Candidate, Candidates, Control, Join, NatClass, Network, Refusal, Welcome,
};
use crate::wire::stun::Transaction;

pub mod arq;
pub mod batch;
pub mod pack;
pub mod path;
pub mod plane;
pub mod rekey;
pub mod seal;
pub mod tls;

mod control;
mod secure;
#[cfg(test)]
mod tests;
mod types;

pub use types::{LinkEvent, Outgoing, Setup, Via};

use arq::Arq;
use plane::Traffic;
use secure::{Contents, Secure};
use tls::TlsSession;

/// One remote peer.
pub struct Link {
    peer: PeerId,
    starter: bool,
    local_index: u32,
    remote_index: Option<u32>,
    relay: Option<Channel>,
    arq: Arq,
    tls: TlsSession,
    framer: Framer,
    secure: Option<Secure>,
    sealed_seen: bool,
    admitted: bool,
    established: bool,
    rng: StdRng,
    last_received: Instant,
    started: Instant,
    relay_only: bool,
    candidates: Vec<Candidate>,
    class: NatClass,
    may_open: bool,
    socket: SocketId,
    early: Option<Candidates>,
    events: VecDeque<LinkEvent>,
    frames: VecDeque<Vec<u8>>,
    counters: Counters,
    traffic: Arc<Traffic>,
    /// Frames that a data plane had sent when it was looked last.
    traffic_taken: u64,
    /// What the peer said in Join or Welcome that it can do.
    features: u64,
    cipher: &'static str,
    path_since: Instant,
    /// The hub has let us in.
    welcomed: bool,
    /// [`LinkEvent::Silent`] was told.
    silent_told: bool,
    /// Why we end it, when that is more than our own wish.
    fault: Option<String>,
    closing: Option<Instant>,
    closed: bool,
}

impl Link {
    /// Opens a link to a peer: TLS client, first segments at the next `poll_transmit`.
    #[must_use]
    pub fn connect(setup: &Setup<'_>, now: Instant) -> Self {
        let tls = TlsSession::client(setup.identity, setup.peer, setup.aes_in_hardware);
        let mut link = Self::new(setup, tls, true, None, now);
        link.flush_tls();
        link
    }

    /// Answers a peer that opens a link: its first segment named its index.
    #[must_use]
    pub fn accept(setup: &Setup<'_>, remote_index: u32, now: Instant) -> Self {
        let tls = TlsSession::server(setup.identity, setup.aes_in_hardware);
        Self::new(setup, tls, false, Some(remote_index), now)
    }

    fn new(
        setup: &Setup<'_>,
        tls: TlsSession,
        starter: bool,
        remote_index: Option<u32>,
        now: Instant,
    ) -> Self {
        Self {
            peer: setup.peer,
            starter,
            local_index: setup.local_index,
            remote_index,
            relay: Some(setup.relay),
            arq: Arq::new(arq::Config::default(), now),
            tls,
            framer: Framer::default(),
            secure: None,
            sealed_seen: false,
            admitted: starter,
            established: false,
            rng: StdRng::from_seed(setup.seed),
            last_received: now,
            started: now,
            relay_only: setup.relay_only,
            candidates: Vec::new(),
            class: NatClass::default(),
            may_open: true,
            socket: SocketId::MAIN,
            early: None,
            events: VecDeque::new(),
            frames: VecDeque::new(),
            counters: Counters::default(),
            traffic: Arc::new(Traffic::new(now)),
            traffic_taken: 0,
            features: 0,
            cipher: "",
            path_since: now,
            welcomed: false,
            silent_told: false,
            fault: None,
            closing: None,
            closed: false,
        }
    }

    // ---- what it is

    /// The other side.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// The other side's number of this link, once known.
    #[must_use]
    pub const fn remote_index(&self) -> Option<u32> {
        self.remote_index
    }

    /// Our number of this link.
    #[must_use]
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Whether both keys are proved.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.established
    }

    /// Whether frames go straight to the peer.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.secure
            .as_ref()
            .is_some_and(|secure| secure.paths.best().is_some())
    }

    /// Whether the direct path does not answer at the moment.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.secure
            .as_ref()
            .is_some_and(|secure| secure.paths.is_suspect())
    }

    /// The search that runs is too much for our network: half the packets from now on.
    pub fn ease_search(&mut self) {
        if let Some(secure) = &mut self.secure {
            secure.paths.ease_search();
        }
    }

    /// Whether we opened it.
    #[must_use]
    pub const fn is_starter(&self) -> bool {
        self.starter
    }

    /// When something authentic came from the peer last; at first, when the link began.
    #[must_use]
    pub const fn last_heard(&self) -> Instant {
        self.last_received
    }

    /// The relay channel in use.
    #[must_use]
    pub const fn relay(&self) -> Option<Channel> {
        self.relay
    }

    // ---- in

    /// A segment in the clear came (handshake).
    pub fn handle_clear(&mut self, indices: Indices, body: &[u8], now: Instant) {
        if self.sealed_seen
            || self
                .remote_index
                .is_some_and(|known| known != indices.sender)
        {
            self.counters.dropped_malformed += 1;
            return;
        }
        if self.arq.handle_segment(body, now).is_err() {
            self.counters.dropped_malformed += 1;
            return;
        }
        self.remote_index = Some(indices.sender);
        self.last_received = now;
        self.pump(now);
    }

    /// A sealed datagram came; it is opened in place.
    pub fn handle_sealed(&mut self, datagram: &mut [u8], via: Via, now: Instant) {
        let Some(secure) = &mut self.secure else {
            return;
        };
        let Some(contents) = secure.open(datagram, via, now) else {
            return;
        };
        self.take_contents(contents, via, now);
    }

    /// What was in a sealed datagram that came by `via`.
    fn take_contents(&mut self, contents: Contents, via: Via, now: Instant) {
        self.sealed_seen = true;
        self.silent_told = false;
        self.last_received = now;
        if let Via::Relay(channel) = via {
            self.relay = Some(channel);
        }
        for segment in contents.segments {
            if self.arq.handle_segment(&segment, now).is_err() {
                self.counters.dropped_malformed += 1;
            }
        }
        for frame in contents.frames {
            self.counters.frames_received += 1;
            self.counters.bytes_received += frame.len() as u64;
            if self.frames.len() < FRAMES_MAX {
                self.frames.push_back(frame);
            } else {
                self.counters.dropped_queue += 1;
            }
        }
        self.pump(now);
    }

    /// A STUN message came that may concern this link; whether it did.
    pub fn handle_stun(
        &mut self,
        socket: SocketId,
        remote: std::net::SocketAddr,
        message: &[u8],
        now: Instant,
    ) -> bool {
        let Some(secure) = &mut self.secure else {
            return false;
        };
        let handled = secure.paths.handle_stun(socket, remote, message, now);
        self.pump(now);
        handled != path::Handled::NotMine
    }

    /// Whether this link asked, by STUN, what a message with this transaction answers.
    #[must_use]
    pub fn awaits(&self, transaction: Transaction) -> bool {
        self.secure
            .as_ref()
            .is_some_and(|secure| secure.paths.awaits(transaction))
    }

    /// A frame is to go to the peer.
    pub fn send_frame(&mut self, frame: &[u8], _now: Instant) {
        let Some(secure) = &mut self.secure else {
            self.counters.dropped_queue += 1;
            return;
        };
        if secure.queue_frame(frame) {
            self.counters.frames_sent += 1;
            self.counters.bytes_sent += frame.len() as u64;
        } else {
            self.counters.dropped_queue += 1;
        }
    }

    /// (Member) asks to join; right after [`LinkEvent::Established`].
    pub fn join(&mut self, join: Join, now: Instant) {
        self.send_control(&Control::Join(join));
        self.pump(now);
    }

    /// (Hub) lets the peer in, and takes up the candidates that it sent.
    pub fn welcome(&mut self, welcome: Welcome, network: Option<Network>, now: Instant) {
        self.admitted = true;
        self.refuse_network(&welcome);
        self.send_control(&Control::Welcome(welcome));
        // Before any candidates: none of them may lead through what it says.
        if let Some(network) = network {
            self.send_control(&Control::Network(network));
        }
        if let Some(candidates) = self.early.take() {
            self.handle_candidates(&candidates, now);
        }
        self.pump(now);
    }

    /// (Hub) says what the network has; after [`Self::welcome`].
    pub fn tell_network(&mut self, network: Network, now: Instant) {
        self.send_control(&Control::Network(network));
        self.pump(now);
    }

    /// (Hub) does not let the peer in; the link ends once it was told.
    pub fn refuse(&mut self, refusal: Refusal, now: Instant) {
        self.send_control(&Control::Refuse(refusal));
        self.end(now);
    }

    /// Our own candidates are these now; a new exchange follows if they changed.
    pub fn set_candidates(&mut self, candidates: &[Candidate], now: Instant) {
        self.candidates = candidates.to_vec();
        if let Some(secure) = &mut self.secure {
            secure.paths.set_local(self.candidates.clone(), now);
            self.pump(now);
        }
    }

    /// The NAT before us is of this class.
    pub fn set_class(&mut self, class: NatClass, now: Instant) {
        self.class = class;
        if let Some(secure) = &mut self.secure {
            secure.paths.set_class(class, now);
            self.pump(now);
        }
    }

    /// Whether our NAT bears packets that die on their way.
    pub fn set_may_open(&mut self, may_open: bool) {
        self.may_open = may_open;
        if let Some(secure) = &mut self.secure {
            secure.paths.set_may_open(may_open);
        }
    }

    /// The socket that paths are to go by, and the one whose mapping ends soon.
    pub fn use_socket(&mut self, socket: SocketId, retiring: SocketId, now: Instant) {
        self.socket = socket;
        if let Some(secure) = &mut self.secure {
            secure.paths.use_socket(socket, retiring, now);
        }
        self.pump(now);
    }

    /// The search may run that [`LinkEvent::WantSearch`] asked for.
    pub fn grant_search(&mut self, grant: path::Grant, now: Instant) {
        if let Some(secure) = &mut self.secure {
            secure.paths.grant(grant, now);
        }
        self.pump(now);
    }

    /// It may not run now.
    pub fn refuse_search(&mut self, now: Instant) {
        if let Some(secure) = &mut self.secure {
            secure.paths.refuse_search(now);
        }
        self.pump(now);
    }

    /// The machine's addresses or routes changed.
    pub fn network_changed(&mut self, now: Instant) {
        if let Some(secure) = &mut self.secure {
            secure.paths.network_changed(now);
        }
        self.pump(now);
    }

    /// The relay channel is another one now, or there is none.
    pub fn set_relay(&mut self, relay: Option<Channel>) {
        self.relay = relay;
    }

    /// Measures the round trip over the path in use.
    pub fn ping(&mut self, id: u64, now: Instant) {
        match &mut self.secure {
            Some(secure) => secure.ping(id, now),
            None => self.events.push_back(LinkEvent::PingLost { id }),
        }
    }

    /// The pings that have no answer yet, and get none when the link ends.
    pub fn unanswered_pings(&self) -> impl Iterator<Item = u64> {
        self.secure.iter().flat_map(|it| it.unanswered_pings())
    }

    /// Asks for a sign of life at once, by whichever way there is.
    pub fn check_alive(&mut self, now: Instant) {
        if let Some(secure) = &mut self.secure {
            secure.check_alive(now);
        }
        self.pump(now);
    }

    /// Ends the link with a goodbye because of what the peer did: `fault` is one sentence.
    pub fn reject(&mut self, fault: String, now: Instant) {
        self.fault.get_or_insert(fault);
        self.close(Bye::Disconnected, now);
    }

    /// Ends the link with a goodbye.
    pub fn close(&mut self, reason: Bye, now: Instant) {
        self.send_control(&Control::Bye(reason));
        self.end(now);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.take_traffic(now);
        self.arq.handle_timeout(now);
        if let Some(secure) = &mut self.secure {
            secure.handle_timeout(now);
        }
        if self.closing.is_some_and(|at| at <= now) {
            let fault = self.fault.take();
            return self.finish(fault.unwrap_or_else(|| "ended on this side".to_owned()));
        }
        let silent = now.saturating_duration_since(self.last_received);
        if !self.established && now.saturating_duration_since(self.started) >= HANDSHAKE_TIMEOUT {
            return self.finish("the peer did not answer; is it running?".to_owned());
        }
        if !self.admitted && now.saturating_duration_since(self.started) >= ADMISSION_TIMEOUT {
            return self.finish("the peer did not ask to join".to_owned());
        }
        if self.established && silent >= SILENCE {
            return self.finish(format!(
                "nothing came from the peer for {} s",
                SILENCE.as_secs()
            ));
        }
        if self.established
            && silent >= KEEPALIVE
            && let Some(secure) = &mut self.secure
        {
            secure.keep_alive(now);
        }
        if self.established && silent >= DOUBT && !std::mem::replace(&mut self.silent_told, true) {
            self.events.push_back(LinkEvent::Silent);
        }
        self.pump(now);
    }

    // ---- out

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Outgoing> {
        if self.closed {
            return None;
        }
        if let Some(outgoing) = self.poll_clear(now) {
            return Some(outgoing);
        }
        let arq = self.seals_segments().then_some(&mut self.arq);
        self.secure.as_mut()?.poll_transmit(arq, self.relay, now)
    }

    /// The next frame that came, if any.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// The next thing to tell, if any.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let watch = match (self.established, self.secure.as_ref()) {
            (true, Some(secure)) => secure
                .keepalive_due(self.last_received + KEEPALIVE)
                .min(self.last_received + if self.silent_told { SILENCE } else { DOUBT }),
            _ => self.started + HANDSHAKE_TIMEOUT,
        };
        let admission = (!self.admitted).then(|| self.started + ADMISSION_TIMEOUT);
        let secure = self.secure.as_ref().and_then(Secure::poll_timeout);
        // Without a way out what is due stays due: waiting for it would not let time pass.
        let has_way = self.relay.is_some() || self.is_direct();
        let arq = self.arq.poll_timeout().filter(|_| has_way);
        [Some(watch), admission, self.closing, arq, secure]
            .into_iter()
            .flatten()
            .min()
    }

    /// The link at this moment.
    #[must_use]
    pub fn status(&self, now: Instant) -> LinkStatus {
        let direct = self.secure.as_ref().and_then(|secure| secure.paths.best());
        let rtt = self
            .secure
            .as_ref()
            .and_then(Secure::round_trip)
            .or_else(|| self.arq.rtt().latest());
        let mut counters = self.counters;
        if let Some(secure) = &self.secure {
            secure.count(&mut counters);
        }
        self.traffic.count(&mut counters);
        LinkStatus {
            peer: self.peer.to_string(),
            path: match (self.established, direct.is_some()) {
                (false, _) => "handshake",
                (true, true) => "direct",
                (true, false) => "relayed",
            }
            .to_owned(),
            address: direct.as_ref().map(|path| path.remote),
            since_seconds: now.saturating_duration_since(self.path_since).as_secs_f64(),
            rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            mtu: direct.as_ref().map_or(secure::RELAY_MTU, |path| path.mtu),
            cipher: self.cipher.to_owned(),
            epoch: self.secure.as_ref().map_or(0, Secure::epoch),
            candidates: self
                .secure
                .as_ref()
                .map(|secure| secure.paths.candidate_fates(now))
                .unwrap_or_default(),
            why_not_direct: match &self.secure {
                Some(secure) if self.established => secure.paths.why_not_direct(),
                _ => Some("the two sides have not proved their keys yet".to_owned()),
            },
            search: self
                .secure
                .as_ref()
                .map(|secure| secure.paths.search_counters())
                .unwrap_or_default(),
            remote_nat: self
                .secure
                .as_ref()
                .map(|secure| secure.paths.remote_class())
                .unwrap_or_default(),
            counters,
            ..LinkStatus::default()
        }
    }
}

/// A handshake that takes longer than this has failed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// A peer with keys that is not let in by then holds its place for nothing.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(25);
/// An idle link is asked for a sign of life this often (REQUIREMENTS B4).
const KEEPALIVE: Duration = Duration::from_secs(5);
/// A link on which nothing came for this long, though a sign of life was asked for several times, is in doubt.
const DOUBT: Duration = Duration::from_secs(7);
/// A link on which nothing came for this long is dead (REQUIREMENTS B4).
const SILENCE: Duration = Duration::from_secs(15);
/// Frames that wait for the node, which takes them after every input.
const FRAMES_MAX: usize = 1024;
