//! One peer whole: switch, gateway, links, rendezvous client; wiring only.
//!
//! The driver's loop (STYLE: one input, then drain):
//! `handle_datagram` · `handle_frame` · `handle_timeout` · `handle_command`, and after each of them
//! `poll_transmit` · `poll_frame` · `poll_event` until `None`, then sleep until `poll_timeout`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::gateway::subnet::Subnet;
use crate::identity::{Identity, PeerId};
use crate::link::{Link, LinkEvent, Outgoing, Setup, Via};
use crate::rendezvous::client::{Client, ClientEvent};
use crate::rendezvous::observe::{Observation, Observer};
use crate::rendezvous::{Channel, CloseReason};
use crate::wire::clear::Indices;
use crate::wire::control::{Bye, Candidate, CandidateKind, Credential, MAX_CANDIDATES, Refusal};
use crate::wire::ethernet::MacAddr;
use crate::wire::{self, Kind, sealed, stun};
use crate::{SocketId, Transmit};

mod hub;
mod links;
mod member;
pub mod status;

use hub::Hub;
use links::Links;
use member::Member;
pub use status::Status;

/// What a node is told at its start.
#[derive(Debug)]
pub struct Config {
    /// Who it is.
    pub identity: Identity,
    /// Hub or member.
    pub role: Role,
    /// The public server, resolved to addresses by the driver.
    pub rendezvous: RendezvousServer,
    /// Its machine's name, for people.
    pub host_name: String,
    /// 32 bytes from the system's randomness: everything random in the node comes from them.
    pub seed: [u8; 32],
    /// Whether this machine seals AES-256-GCM in hardware (the driver looks at the CPU).
    pub aes_in_hardware: bool,
}

/// A rendezvous and the key that it must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RendezvousServer {
    /// Where it is; tried in this order.
    pub addresses: Vec<SocketAddr>,
    /// Its key; `None` accepts any, and [`Event::Registered`] says which it was.
    pub key: Option<PeerId>,
}

/// What this peer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It hosts a virtual Ethernet switch.
    Hub(HubConfig),
    /// It joins one.
    Member(MemberConfig),
}

/// A hub's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// Its name, for people.
    pub name: String,
    /// Tokens of invites that admit members.
    pub tokens: Vec<[u8; 16]>,
    /// The address of its virtual host; members get addresses of the same network.
    pub subnet: Subnet,
}

/// A member's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// The hub's key.
    pub hub: PeerId,
    /// What to show to it.
    pub credential: Credential,
    /// The address of the virtual LAN card.
    pub mac: MacAddr,
}

/// What the user or the machine asks of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The machine's own addresses with the main socket's port (host candidates); given at the start and at every change.
    LocalAddresses(Vec<SocketAddr>),
    /// Measures the round trip to a linked peer; answered by [`Event::Pong`] or, after two seconds, [`Event::PingLost`].
    Ping {
        /// The peer.
        peer: PeerId,
        /// Chosen by the caller, given back.
        id: u64,
    },
    /// Admit members with this token from now on.
    AddToken([u8; 16]),
    /// Ends every link with a goodbye and the registration; [`Event::Stopped`] follows.
    Stop,
}

/// What a node tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The rendezvous knows us; again after every reconnection.
    Registered {
        /// Its key.
        key: PeerId,
        /// Our address as it sees it.
        observed: SocketAddr,
    },
    /// The rendezvous cannot be used now; it is tried again by itself unless `fatal`.
    RendezvousFailed {
        /// One sentence that says what is wrong and what to do.
        reason: String,
        /// It will never work with these settings (wrong key, other version).
        fatal: bool,
    },
    /// The hub that we want is not registered at the rendezvous; it is tried again by itself.
    PeerAbsent {
        /// The hub.
        peer: PeerId,
    },
    /// A link is authenticated; frames can flow.
    LinkUp {
        /// The other side.
        peer: PeerId,
        /// "AES-256-GCM" or "ChaCha20-Poly1305".
        cipher: &'static str,
    },
    /// A link's frames go another way now.
    PathChanged {
        /// The other side.
        peer: PeerId,
        /// The remote address when direct; `None` when relayed.
        direct: Option<SocketAddr>,
    },
    /// A link ended. A member tries again by itself.
    LinkDown {
        /// The other side.
        peer: PeerId,
        /// One sentence.
        reason: String,
    },
    /// (Member) the hub let us in.
    Joined {
        /// Its name.
        hub_name: String,
        /// Address and prefix length for the virtual LAN card.
        address: Option<(IpAddr, u8)>,
        /// The hub's virtual host.
        gateway: Option<IpAddr>,
        /// MTU for the virtual LAN card.
        mtu: u16,
    },
    /// (Member) the hub does not let us in; not tried again.
    Refused(Refusal),
    /// (Hub) a member joined.
    MemberJoined {
        /// Its key.
        peer: PeerId,
        /// Its machine's name.
        host_name: String,
        /// The address that it was given.
        address: Option<IpAddr>,
    },
    /// The first frame came over a link.
    FirstFrame {
        /// The other side.
        peer: PeerId,
        /// Whether it came directly.
        direct: bool,
    },
    /// (Hub) a peer was not let in.
    MemberRefused {
        /// Its key.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
    /// Answer to [`Command::Ping`].
    Pong {
        /// The other side.
        peer: PeerId,
        /// As in the command.
        id: u64,
        /// The time it took.
        round_trip: Duration,
        /// Whether it went directly.
        direct: bool,
    },
    /// No answer to [`Command::Ping`].
    PingLost {
        /// The other side.
        peer: PeerId,
        /// As in the command.
        id: u64,
    },
    /// Everything said in [`Command::Stop`] is done.
    Stopped,
}

/// One peer.
pub struct Node {
    identity: Identity,
    host_name: String,
    aes_in_hardware: bool,
    rng: StdRng,
    client: Client,
    observer: Observer,
    links: Links,
    side: Side,
    local_addresses: Vec<SocketAddr>,
    reflexive: Vec<SocketAddr>,
    rendezvous: status::RendezvousStatus,
    refused_datagrams: u64,
    /// When the registration ends, once the links have said goodbye over it.
    parting: Option<Instant>,
    stopping: Option<Instant>,
    stopped: bool,
    events: VecDeque<Event>,
    frames: VecDeque<Vec<u8>>,
}

/// The part of a node that depends on its role.
enum Side {
    Hub(Box<Hub>),
    Member(Box<Member>),
}

impl Node {
    /// A node that registers at once.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let mut rng = StdRng::from_seed(config.seed);
        let RendezvousServer { addresses, key } = config.rendezvous;
        let side = match config.role {
            Role::Hub(hub) => Side::Hub(Box::new(Hub::new(
                hub,
                config.identity.id(),
                rng.random(),
                now,
            ))),
            Role::Member(member) => Side::Member(Box::new(Member::new(member, rng.random(), now))),
        };
        Self {
            client: Client::new(&config.identity, addresses, key, rng.random(), now),
            observer: Observer::new(rng.random(), now),
            identity: config.identity,
            host_name: config.host_name,
            aes_in_hardware: config.aes_in_hardware,
            rng,
            links: Links::default(),
            side,
            local_addresses: Vec::new(),
            reflexive: Vec::new(),
            rendezvous: status::RendezvousStatus {
                state: "connecting".to_owned(),
                ..Default::default()
            },
            refused_datagrams: 0,
            parting: None,
            stopping: None,
            stopped: false,
            events: VecDeque::new(),
            frames: VecDeque::new(),
        }
    }

    // ---- in

    /// A UDP datagram came in; its bytes are opened in place.
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        remote: SocketAddr,
        payload: &mut [u8],
        now: Instant,
    ) {
        match wire::classify(payload) {
            Some(Kind::Quic) if self.client.server() == Some(remote) => {
                self.client.handle_datagram(remote, payload, now);
            }
            Some(Kind::Relayed) => self.handle_relayed(remote, payload, now),
            Some(Kind::Sealed) => {
                self.handle_sealed(payload, Via::Direct { socket, remote }, None, now)
            }
            Some(Kind::Stun) => self.handle_stun(socket, remote, payload, now),
            // Only the rendezvous speaks QUIC to us; and a link opens through it, because it knows who asks.
            Some(Kind::Quic | Kind::Segment) | None => self.refused_datagrams += 1,
        }
        self.settle_rendezvous(now);
    }

    /// The virtual LAN card sent a frame.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        if let Side::Member(member) = &self.side {
            if let Some(index) = member.link() {
                self.send_frame(index, frame, now);
            }
        }
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
        self.observer.handle_timeout(now);
        for index in self.links.due(now) {
            if let Some(link) = self.links.get_mut(index) {
                link.handle_timeout(now);
            }
            self.settle_link(index, now);
        }
        if let Side::Hub(hub) = &mut self.side {
            hub.handle_timeout(now);
        }
        self.settle_rendezvous(now);
        self.connect_if_due(now);
        if self.parting.take_if(|at| *at <= now).is_some() {
            self.client.stop(now);
        }
        if self.stopping.is_some_and(|at| at <= now) && !self.stopped {
            self.stopped = true;
            self.events.push_back(Event::Stopped);
        }
    }

    /// The user or the machine asks something.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::LocalAddresses(addresses) => self.set_local_addresses(addresses, now),
            Command::Ping { peer, id } => self.ping(peer, id, now),
            Command::AddToken(token) => {
                if let Side::Hub(hub) = &mut self.side {
                    hub.add_token(token);
                }
            }
            Command::Stop => self.stop(now),
        }
    }

    // ---- out

    /// The next datagrams to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(transmit) = self.client.poll_transmit(now) {
            return Some(transmit);
        }
        if let Some((socket, destination, contents)) = self.observer.poll_transmit(now) {
            return Some(Transmit {
                socket,
                ..Transmit::datagram(destination, contents)
            });
        }
        while let Some(index) = self.links.first_ready() {
            match self
                .links
                .get_mut(index)
                .and_then(|link| link.poll_transmit(now))
            {
                Some(Outgoing::Direct(transmit)) => return Some(transmit),
                Some(Outgoing::Relay(channel, contents)) => {
                    if let Some(transmit) = self.client.wrap(channel, &contents) {
                        return Some(transmit);
                    }
                }
                None => self.links.drained(index),
            }
        }
        None
    }

    /// The next frame for the virtual LAN card, if any.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// The next thing to tell, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let side = match &self.side {
            // Nothing is begun any more.
            _ if self.stopping.is_some() => None,
            Side::Hub(hub) => hub.poll_timeout(),
            Side::Member(member) => member.poll_timeout(),
        };
        let stopping = if self.stopped { None } else { self.stopping };
        [
            self.client.poll_timeout(),
            self.observer.poll_timeout(),
            self.links.next_deadline(),
            side,
            self.parting,
            stopping,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What `kuguri status` shows.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let links = self.links.iter().map(|link| status::LinkStatus {
            name: match &self.side {
                Side::Hub(hub) => hub.host_name(&link.peer()),
                Side::Member(member) => member.hub_name(),
            },
            ..link.status(now)
        });
        Status {
            id: self.identity.id().to_string(),
            role: match &self.side {
                Side::Hub(_) => "hub",
                Side::Member(_) => "member",
            }
            .to_owned(),
            hub: Some(match &self.side {
                Side::Hub(hub) => hub.name().to_owned(),
                Side::Member(member) => member.hub_name(),
            })
            .filter(|name| !name.is_empty()),
            rendezvous: self.rendezvous.clone(),
            links: links.collect(),
            macs: match &self.side {
                Side::Hub(hub) => hub.table(now),
                Side::Member(_) => Vec::new(),
            },
            refused_datagrams: self.refused_datagrams,
        }
    }

    // ---- datagrams

    fn handle_relayed(&mut self, remote: SocketAddr, payload: &mut [u8], now: Instant) {
        let Some((peer, channel, inner)) = self.client.unwrap(remote, payload) else {
            self.refused_datagrams += 1;
            return;
        };
        let inner = &mut payload[inner];
        match wire::classify(inner) {
            Some(Kind::Sealed) => self.handle_sealed(inner, Via::Relay(channel), Some(peer), now),
            Some(Kind::Segment) => self.handle_segment(peer, channel, inner, now),
            _ => self.refused_datagrams += 1,
        }
    }

    fn handle_sealed(
        &mut self,
        datagram: &mut [u8],
        via: Via,
        relayed_for: Option<PeerId>,
        now: Instant,
    ) {
        let header = sealed::Header::parse(datagram).ok();
        let link = header.and_then(|header| self.links.get_mut(header.receiver));
        let Some(link) = link.filter(|link| relayed_for.is_none_or(|peer| peer == link.peer()))
        else {
            self.refused_datagrams += 1;
            return;
        };
        link.handle_sealed(datagram, via, now);
        let index = link.local_index();
        self.settle_link(index, now);
    }

    /// A handshake's segment: of a link that we know, or the first of a new one.
    fn handle_segment(&mut self, peer: PeerId, channel: Channel, datagram: &[u8], now: Instant) {
        let Some((indices, body)) = Indices::parse(datagram) else {
            self.refused_datagrams += 1;
            return;
        };
        let known = if indices.receiver == 0 {
            self.links.opened_by(&peer, indices.sender)
        } else {
            Some(indices.receiver).filter(|index| {
                self.links
                    .get(*index)
                    .is_some_and(|link| link.peer() == peer)
            })
        };
        let Some(index) = known.or_else(|| self.accept(peer, channel, indices, now)) else {
            self.refused_datagrams += 1;
            return;
        };
        if let Some(link) = self.links.get_mut(index) {
            link.handle_clear(indices, body, now);
        }
        self.settle_link(index, now);
    }

    /// A new link that a peer opens; hubs take it, up to a number of unfinished handshakes.
    fn accept(
        &mut self,
        peer: PeerId,
        channel: Channel,
        indices: Indices,
        now: Instant,
    ) -> Option<u32> {
        let willing =
            matches!(self.side, Side::Hub(_)) && self.stopping.is_none() && indices.receiver == 0;
        if !willing || !self.links.has_room_for(&peer) {
            return None;
        }
        let index = self.fresh_index();
        let setup = self.setup(peer, channel, index);
        let link = Link::accept(&setup, indices.sender, now);
        self.add_link(index, link, now);
        Some(index)
    }

    fn handle_stun(&mut self, socket: SocketId, remote: SocketAddr, payload: &[u8], now: Instant) {
        let Ok(message) = stun::parse(payload) else {
            self.refused_datagrams += 1;
            return;
        };
        if self.observer.handle_response(remote, &message, now) {
            self.settle_observer(now);
            return;
        }
        // A request names its link. An answer does not: it is for whoever asked, and few have asked lately.
        let asked = match stun::receiver_index(&message) {
            Some(index) => vec![index],
            None => self.links.indices(),
        };
        let mine = asked.into_iter().find(|&index| {
            let link = self.links.get_mut(index);
            link.is_some_and(|link| link.handle_stun(socket, remote, payload, now))
        });
        match mine {
            Some(index) => self.settle_link(index, now),
            None => self.refused_datagrams += 1,
        }
    }

    // ---- what came of an input

    /// Takes up events and frames of a link, and whether it has output.
    fn settle_link(&mut self, index: u32, now: Instant) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let events: Vec<LinkEvent> = std::iter::from_fn(|| link.poll_event()).collect();
        let frames: Vec<Vec<u8>> = std::iter::from_fn(|| link.poll_frame()).collect();
        let peer = link.peer();
        self.links.refresh(index);
        for event in events {
            self.handle_link_event(index, peer, event, now);
        }
        for frame in frames {
            self.handle_link_frame(index, frame, now);
        }
    }

    fn handle_link_event(&mut self, index: u32, peer: PeerId, event: LinkEvent, now: Instant) {
        match event {
            LinkEvent::Established { cipher } => {
                self.establish(index, peer, now);
                self.events.push_back(Event::LinkUp { peer, cipher });
            }
            LinkEvent::Join(join) => self.admit(index, peer, &join, now),
            LinkEvent::Welcome(welcome) => self.joined(welcome),
            LinkEvent::Refused(refusal) => self.refused(refusal),
            LinkEvent::PathChanged(direct) => {
                self.events.push_back(Event::PathChanged { peer, direct })
            }
            LinkEvent::Pong {
                id,
                round_trip,
                direct,
            } => {
                self.events.push_back(Event::Pong {
                    peer,
                    id,
                    round_trip,
                    direct,
                });
            }
            LinkEvent::PingLost { id } => self.events.push_back(Event::PingLost { peer, id }),
            LinkEvent::Closed { reason } => self.link_closed(index, peer, reason, now),
        }
    }

    /// A link has keys: the one before it to the same peer ends.
    fn establish(&mut self, index: u32, peer: PeerId, now: Instant) {
        if let Some(before) = self.links.establish(peer, index) {
            self.drop_link(before, now);
        }
        if let Side::Member(member) = &mut self.side {
            let join = member.join(&self.host_name);
            if let Some(link) = self.links.get_mut(index) {
                link.join(join, now);
            }
            self.settle_link(index, now);
        }
    }

    fn link_closed(&mut self, index: u32, peer: PeerId, reason: String, now: Instant) {
        let current = self.links.of_peer(&peer);
        let was_established = self.links.get(index).is_some_and(Link::is_established);
        self.drop_link(index, now);
        if let Side::Member(member) = &mut self.side {
            member.link_closed(index, now);
        }
        // A handshake that fails beside a running link to the same peer is nothing to tell.
        if current == Some(index) || (current.is_none() && !was_established) {
            self.events.push_back(Event::LinkDown { peer, reason });
        }
    }

    fn drop_link(&mut self, index: u32, now: Instant) {
        let Some(link) = self.links.remove(index) else {
            return;
        };
        if let Some(channel) = link.relay().filter(|_| link.is_starter()) {
            self.client.close(channel, now);
        }
        if let Side::Hub(hub) = &mut self.side {
            hub.remove(index, &link.peer());
        }
    }

    fn settle_rendezvous(&mut self, now: Instant) {
        while let Some(event) = self.client.poll_event() {
            self.handle_client_event(event, now);
        }
        self.connect_if_due(now);
    }

    fn handle_client_event(&mut self, event: ClientEvent, now: Instant) {
        match event {
            ClientEvent::Registered {
                key,
                observed,
                stun,
            } => {
                self.rendezvous = status::RendezvousStatus {
                    state: "registered".to_owned(),
                    address: self.client.server(),
                    key: Some(key.to_string()),
                    observed: Some(observed),
                    problem: None,
                };
                let servers: Vec<SocketAddr> =
                    self.client.server().into_iter().chain(stun).collect();
                self.observer.set_servers(&servers, now);
                self.set_reflexive(vec![observed], now);
                self.events.push_back(Event::Registered { key, observed });
                self.connect_now(now);
            }
            ClientEvent::Failed { reason, fatal } => {
                self.rendezvous.state = "failed".to_owned();
                self.rendezvous.problem = Some(reason.clone());
                self.events
                    .push_back(Event::RendezvousFailed { reason, fatal });
            }
            ClientEvent::Incoming { .. } | ClientEvent::Stopped => {}
            ClientEvent::Closed {
                channel,
                peer,
                reason,
            } => self.channel_closed(channel, peer, reason, now),
        }
    }

    /// A relay channel is gone. A link whose handshake went over it cannot go on; one with keys lives on its direct path, or
    /// comes back with the next channel.
    fn channel_closed(
        &mut self,
        channel: Channel,
        peer: PeerId,
        reason: CloseReason,
        now: Instant,
    ) {
        for index in self.links.indices() {
            let Some(link) = self
                .links
                .get_mut(index)
                .filter(|link| link.relay() == Some(channel))
            else {
                continue;
            };
            link.set_relay(None);
            if !link.is_established() {
                self.drop_link(index, now);
                if let Side::Member(member) = &mut self.side {
                    member.link_closed(index, now);
                }
            } else if link.is_starter() {
                link.set_relay(self.client.open(peer, now));
                self.links.refresh(index);
            }
        }
        let wanted = matches!(&self.side, Side::Member(member) if member.hub() == peer);
        if wanted && reason == CloseReason::NotRegistered {
            self.events.push_back(Event::PeerAbsent { peer });
        }
    }

    fn settle_observer(&mut self, now: Instant) {
        let mut seen = self.reflexive.clone();
        while let Some(Observation { mapped, .. }) = self.observer.poll_event() {
            if !seen.contains(&mapped) {
                seen.insert(0, mapped);
            }
        }
        seen.truncate(REFLEXIVE_MAX);
        self.set_reflexive(seen, now);
    }

    // ---- candidates

    fn set_local_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        if self.local_addresses == addresses {
            return;
        }
        let first = self.local_addresses.is_empty();
        self.local_addresses = addresses;
        self.spread_candidates(now);
        if first {
            return;
        }
        self.client.network_changed(now);
        self.observer.network_changed(now);
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.network_changed(now);
            }
            self.settle_link(index, now);
        }
    }

    fn set_reflexive(&mut self, reflexive: Vec<SocketAddr>, now: Instant) {
        if self.reflexive != reflexive {
            self.reflexive = reflexive;
            self.spread_candidates(now);
        }
    }

    fn spread_candidates(&mut self, now: Instant) {
        let candidates = self.candidates();
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.set_candidates(&candidates, now);
            }
            self.settle_link(index, now);
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let host = self.local_addresses.iter().map(|&address| Candidate {
            kind: CandidateKind::Host,
            address,
        });
        let reflexive = self
            .reflexive
            .iter()
            .filter(|address| !self.local_addresses.contains(address))
            .map(|&address| Candidate {
                kind: CandidateKind::ServerReflexive,
                address,
            });
        reflexive.chain(host).take(MAX_CANDIDATES).collect()
    }

    // ---- small steps

    fn setup(&mut self, peer: PeerId, relay: Channel, local_index: u32) -> Setup<'_> {
        Setup {
            peer,
            local_index,
            relay,
            aes_in_hardware: self.aes_in_hardware,
            seed: self.rng.random(),
            identity: &self.identity,
        }
    }

    fn fresh_index(&mut self) -> u32 {
        loop {
            let index = self.rng.random::<u32>();
            if index != 0 && self.links.get(index).is_none() {
                return index;
            }
        }
    }

    fn add_link(&mut self, index: u32, mut link: Link, now: Instant) {
        link.set_candidates(&self.candidates(), now);
        self.links.insert(index, link);
    }

    fn send_frame(&mut self, index: u32, frame: &[u8], now: Instant) {
        if let Some(link) = self.links.get_mut(index) {
            link.send_frame(frame, now);
            self.links.refresh(index);
        }
    }

    fn ping(&mut self, peer: PeerId, id: u64, now: Instant) {
        let Some(index) = self.links.of_peer(&peer) else {
            self.events.push_back(Event::PingLost { peer, id });
            return;
        };
        if let Some(link) = self.links.get_mut(index) {
            link.ping(id, now);
        }
        self.settle_link(index, now);
    }

    fn stop(&mut self, now: Instant) {
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.close(Bye::ShuttingDown, now);
            }
            self.settle_link(index, now);
        }
        self.parting = Some(now + LAST_WORDS);
        self.stopping = Some(now + STOP_LINGER);
    }
}

/// How long links can say goodbye over the relay; then the registration ends.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long the last words have to go out.
const STOP_LINGER: Duration = Duration::from_millis(200);
/// Reflexive addresses kept, newest first.
const REFLEXIVE_MAX: usize = 4;
/// Frames that wait for the virtual LAN card.
const CARD_QUEUE: usize = 1024;
