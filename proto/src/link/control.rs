//! The control stream of a link: bytes between ARQ and TLS, and what the messages in it bring about. The steps stand in the
//! order in which they run after each input.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::path::PathEvent;
use super::seal::Role;
use super::secure::{self, Secure};
use super::{Link, LinkEvent, Outgoing};
use crate::SocketId;
use crate::wire::clear::{self, Indices};
use crate::wire::codec::Framer;
use crate::wire::control::{Bye, Candidates, Control, MAX_ROUTES, Network, Rekey, Search, Welcome};

impl Link {
    /// Segments in the clear, while there are no keys on both sides.
    pub(super) fn poll_clear(&mut self, now: Instant) -> Option<Outgoing> {
        if self.seals_segments() {
            return None;
        }
        let channel = self.relay?;
        let mut datagram = Vec::with_capacity(secure::RELAY_MTU);
        Indices {
            receiver: self.remote_index.unwrap_or(0),
            sender: self.local_index,
        }
        .emit(&mut datagram);
        let room = secure::RELAY_MTU - clear::HEADER;
        self.arq
            .poll_transmit(&mut datagram, room, now)
            .then_some(Outgoing::Relay(channel, datagram))
    }

    /// The starter cannot know that the other side has keys before it saw a sealed datagram; the other side can.
    pub(super) const fn seals_segments(&self) -> bool {
        self.established && (self.sealed_seen || !self.starter)
    }

    /// Moves bytes between ARQ and TLS, and takes up what came of it.
    pub(super) fn pump(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        let mut bytes = Vec::new();
        self.arq.read(&mut bytes);
        if !bytes.is_empty()
            && let Err(error) = self.tls.handle_bytes(&bytes)
        {
            self.flush_tls();
            return self.finish(error.to_string());
        }
        if !self.established && self.tls.is_established() {
            self.establish(now);
        }
        self.read_control(now);
        self.poll_secure(now);
        self.flush_tls();
    }

    pub(super) fn flush_tls(&mut self) {
        let mut bytes = Vec::new();
        self.tls.poll_bytes(&mut bytes);
        if !bytes.is_empty() && self.arq.write(&bytes) < bytes.len() {
            self.finish("the peer does not read its control stream".to_owned());
        }
    }

    pub(super) fn establish(&mut self, now: Instant) {
        let (Some(remote_index), Some(suite), Ok(exported)) =
            (self.remote_index, self.tls.suite(), self.tls.export())
        else {
            return;
        };
        if self.tls.peer() != Some(self.peer) {
            return self.finish("another key answered than the rendezvous announced".to_owned());
        }
        let role = if self.starter {
            Role::Client
        } else {
            Role::Server
        };
        let indices = (self.local_index, remote_index);
        let mut secure = Secure::new(&exported, (suite, role), indices, &mut self.rng, now);
        secure.paths.set_class(self.class, now);
        secure.paths.set_may_open(self.may_open);
        if self.socket != SocketId::MAIN {
            secure.paths.use_socket(self.socket, SocketId::MAIN, now);
        }
        if self.relay_only {
            secure.paths.refuse((Ipv4Addr::UNSPECIFIED.into(), 0));
            secure.paths.refuse((Ipv6Addr::UNSPECIFIED.into(), 0));
        }
        secure.paths.set_local(self.candidates.clone(), now);
        self.secure = Some(secure);
        self.cipher = suite.name();
        self.established = true;
        self.path_since = now;
        self.events.push_back(LinkEvent::Established {
            cipher: self.cipher,
        });
    }

    pub(super) fn read_control(&mut self, now: Instant) {
        let mut bytes = Vec::new();
        self.tls.read(&mut bytes);
        self.framer.push(&bytes);
        loop {
            match self.framer.next_message::<Control>() {
                Ok(Some(message)) => self.handle_control(message, now),
                Ok(None) => return,
                Err(error) => {
                    return self.finish(format!(
                        "the peer sent a {error}; it may be of another version"
                    ));
                }
            }
        }
    }

    pub(super) fn handle_control(&mut self, message: Control, now: Instant) {
        match message {
            Control::Join(join) if !self.starter => {
                self.features = join.features;
                self.events.push_back(LinkEvent::Join(join));
            }
            Control::Welcome(_) if self.welcomed => self.finish(
                "the hub let us in twice on one link; it is faulty, or of another version"
                    .to_owned(),
            ),
            Control::Welcome(welcome) if self.starter => {
                self.welcomed = true;
                self.refuse_network(&welcome);
                self.features = welcome.features;
                self.events.push_back(LinkEvent::Welcome(welcome))
            }
            Control::Refuse(refusal) if self.starter => {
                self.events.push_back(LinkEvent::Refused(refusal));
                self.finish("the hub refused to let us in".to_owned());
            }
            Control::Network(network) if self.starter => {
                self.refuse_routes(&network);
                self.events.push_back(LinkEvent::Network(network));
            }
            Control::Join(_) | Control::Welcome(_) | Control::Refuse(_) | Control::Network(_) => {
                self.counters.dropped_malformed += 1
            }
            Control::Candidates(candidates) if self.admitted => {
                self.handle_candidates(&candidates, now)
            }
            Control::Candidates(candidates) => self.early = Some(candidates),
            Control::Search(search) if self.admitted => self.handle_search(&search, now),
            Control::Search(_) => self.counters.dropped_malformed += 1,
            Control::Rekey(rekey) => self.handle_rekey(&rekey, now),
            Control::Bye(reason) => self.finish(
                match reason {
                    Bye::ShuttingDown => "the peer was shut down",
                    Bye::Disconnected => "the peer disconnected",
                    Bye::Replaced => "the peer joined again from elsewhere",
                }
                .to_owned(),
            ),
        }
    }

    /// Both sides start checking at the same instant: the asker when the answer is there, the answerer half a round trip
    /// after it was sent. So neither's check meets a NAT that the other has not opened yet.
    pub(super) fn handle_candidates(&mut self, candidates: &Candidates, now: Instant) {
        let Some(secure) = &mut self.secure else {
            return;
        };
        let start = if secure.paths.is_awaiting_candidates() {
            now
        } else {
            now + self.arq.rtt().smoothed() / 2
        };
        secure.paths.handle_candidates(candidates, start, now);
    }

    pub(super) fn handle_search(&mut self, search: &Search, now: Instant) {
        let half = self.arq.rtt().smoothed() / 2;
        if let Some(secure) = &mut self.secure {
            secure.paths.handle_search(search, half, now);
        }
    }

    /// A path through the virtual network would lead through this link itself: it is refused before candidates come.
    pub(super) fn refuse_network(&mut self, welcome: &Welcome) {
        if let (Some(secure), Some(network)) = (&mut self.secure, welcome.address) {
            secure.paths.refuse(network);
        }
    }

    /// The same holds for networks behind the hub, but those that we are in ourselves.
    fn refuse_routes(&mut self, network: &Network) {
        if let Some(secure) = &mut self.secure {
            for range in network.routes.iter().take(MAX_ROUTES) {
                secure.paths.refuse_unless_local(*range);
            }
        }
    }

    pub(super) fn handle_rekey(&mut self, rekey: &Rekey, now: Instant) {
        let Some(secure) = &mut self.secure else {
            return;
        };
        if let Err(error) = secure.rekeying.handle_message(rekey, now) {
            self.finish(error.to_string());
        }
    }

    /// Takes up what paths, pings and rekeying want said.
    pub(super) fn poll_secure(&mut self, now: Instant) {
        let Some(secure) = &mut self.secure else {
            return;
        };
        let mut messages: Vec<Control> = secure
            .rekeying
            .poll_message()
            .map(Control::Rekey)
            .into_iter()
            .collect();
        while let Some(event) = secure.paths.poll_event() {
            match event {
                PathEvent::Direct { remote, .. } => {
                    self.arq.path_changed(now);
                    self.path_since = now;
                    self.events.push_back(LinkEvent::PathChanged(Some(remote)));
                }
                PathEvent::Lost { .. } => {
                    self.arq.path_changed(now);
                    self.path_since = now;
                    self.events.push_back(LinkEvent::PathChanged(None));
                }
                PathEvent::WantExchange if self.admitted => {
                    messages.push(Control::Candidates(secure.paths.local_candidates(now)));
                }
                PathEvent::WantExchange | PathEvent::MtuChanged { .. } => {}
                PathEvent::Say(search) => messages.push(Control::Search(search)),
                PathEvent::WantSearch { sockets } => {
                    self.events.push_back(LinkEvent::WantSearch { sockets });
                }
                PathEvent::SearchEnded { entries } => {
                    self.events.push_back(LinkEvent::SearchEnded { entries });
                }
                PathEvent::Unneeded(sockets) => {
                    self.events.push_back(LinkEvent::Unneeded(sockets));
                }
            }
        }
        self.events
            .extend(std::iter::from_fn(|| secure.poll_event()));
        for message in messages {
            self.send_control(&message);
        }
    }

    pub(super) fn send_control(&mut self, message: &Control) {
        match Framer::frame(message) {
            Ok(bytes) => {
                if let Err(error) = self.tls.write(&bytes) {
                    self.finish(error.to_string());
                }
            }
            Err(error) => self.finish(format!("a control message of our own is wrong: {error}")),
        }
    }

    /// Ends the link after the last words had a moment to go out.
    pub(super) fn end(&mut self, now: Instant) {
        self.closing = self.closing.or(Some(now + LINGER));
        self.flush_tls();
    }

    pub(super) fn finish(&mut self, reason: String) {
        if !self.closed {
            self.closed = true;
            self.events.push_back(LinkEvent::Closed { reason });
        }
    }
}

/// How long a link stays to get its last words through.
const LINGER: Duration = Duration::from_millis(300);
