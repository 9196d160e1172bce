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

use crate::identity::{Identity, PeerId};
use crate::link::{Link, Outgoing, Setup, Via};
use crate::rendezvous::Channel;
use crate::rendezvous::client::Client;
use crate::rendezvous::observe::Observer;
use crate::wire::control::{Bye, NatClass};
use crate::wire::{self, Kind};
use crate::{SocketId, Transmit};

mod candidates;
mod config;
mod datagram;
mod event;
mod hub;
mod links;
mod member;
mod nat;
pub mod plane;
mod reach;
mod rotate;
mod settle;
pub mod status;
mod way;
mod welcome;

pub use config::{Command, Config, HubConfig, MEMBERS_MAX, MemberConfig, RendezvousServer, Role};
pub use event::Event;
pub use reach::ReachConfig;
pub use status::Status;

use hub::Hub;
use links::Links;
use member::Member;
use reach::Reach;
use rotate::Rotation;

/// One peer.
pub struct Node {
    identity: Identity,
    host_name: String,
    aes_in_hardware: bool,
    relay_only: bool,
    rng: StdRng,
    client: Client,
    observer: Observer,
    reach: Reach,
    rotation: Rotation,
    class: NatClass,
    links: Links,
    side: Side,
    local_addresses: Vec<SocketAddr>,
    reflexive: Vec<SocketAddr>,
    asking: way::Asking,
    gateway: Option<IpAddr>,
    rendezvous: status::RendezvousStatus,
    refused_datagrams: u64,
    /// When the registration ends, once the links have said goodbye over it.
    parting: Option<Instant>,
    stopping: Option<Instant>,
    stopped: bool,
    events: VecDeque<Event>,
    frames: VecDeque<Vec<u8>>,
    telling: plane::Telling,
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
        let mut events = VecDeque::new();
        if let Side::Hub(hub) = &side {
            events.extend(hub.card_ready());
        }
        Self {
            client: Client::new(&config.identity, addresses, key, rng.random(), now),
            observer: Observer::new(rng.random(), now),
            reach: Reach::new(config.reach, rng.random(), now),
            rotation: Rotation::default(),
            class: NatClass::default(),
            identity: config.identity,
            host_name: config.host_name,
            aes_in_hardware: config.aes_in_hardware,
            relay_only: config.relay_only,
            rng,
            links: Links::default(),
            side,
            local_addresses: Vec::new(),
            reflexive: Vec::new(),
            asking: way::Asking::default(),
            gateway: None,
            rendezvous: status::RendezvousStatus {
                state: "connecting".to_owned(),
                ..Default::default()
            },
            refused_datagrams: 0,
            parting: None,
            stopping: None,
            stopped: false,
            events,
            frames: VecDeque::new(),
            telling: plane::Telling::default(),
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
        if self.handle_gateway(socket, remote, payload, now) {
            return;
        }
        match wire::classify(payload) {
            Some(Kind::Quic) if self.client.speaks_from(remote) => {
                let known = self.client.handle_datagram(remote, payload, now);
                self.refused_datagrams += u64::from(!known);
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
        match &self.side {
            Side::Member(member) => {
                if let Some(index) = member.link() {
                    self.send_frame(index, frame, now);
                }
            }
            Side::Hub(_) => self.handle_card_frame(frame, now),
        }
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
        self.observer.handle_timeout(now);
        self.handle_reach_timeout(now);
        self.handle_rotation(now);
        for index in self.links.due(now) {
            if let Some(link) = self.links.get_mut(index) {
                link.handle_timeout(now);
            }
            self.settle_link(index, now);
        }
        if let Side::Hub(hub) = &mut self.side {
            hub.handle_timeout(now);
            self.switch_gateway(now);
        }
        self.settle_rendezvous(now);
        self.connect_if_due(now);
        self.reopen_relay_if_due(now);
        self.renew_if_due(now);
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
            Command::Gateway(gateway) => self.set_gateway(gateway, now),
            Command::NetworkChanged => self.network_changed(now),
            Command::SocketOpened { id, port } => self.handle_socket(id, Some(port), now),
            Command::SocketRefused { id } => self.handle_socket(id, None, now),
            Command::Ping { peer, id } => self.ping(peer, id, now),
            Command::Way { way, ask_by_udp } => self.set_way(way, ask_by_udp, now),
            Command::Dhcp(settings) => self.set_dhcp(settings),
            Command::RestoreLeases(leases) => self.restore_leases(leases, now),
            Command::Nat { on, network } => self.set_nat(on, network, now),
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
        if let Some(transmit) = self.poll_reach(now) {
            return Some(transmit);
        }
        while let Some(index) = self.links.first_ready() {
            match self
                .links
                .get_mut(index)
                .and_then(|link| link.poll_transmit(now))
            {
                Some(Outgoing::Direct(transmit)) => {
                    self.note_opener(&transmit, now);
                    return Some(transmit);
                }
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
            self.reach.poll_timeout(),
            self.rotation_timeout(),
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
                Side::Hub(hub) => hub.host_name(link.local_index()),
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
            nat: self.nat_status(),
            links: links.collect(),
            macs: match &self.side {
                Side::Hub(hub) => hub.table(now),
                Side::Member(_) => Vec::new(),
            },
            refused_datagrams: self.refused_datagrams,
        }
    }

    // ---- small steps

    fn setup(&mut self, peer: PeerId, relay: Channel, local_index: u32) -> Setup<'_> {
        Setup {
            peer,
            local_index,
            relay,
            aes_in_hardware: self.aes_in_hardware,
            relay_only: self.relay_only,
            seed: self.rng.random(),
            identity: &self.identity,
        }
    }

    fn rng_transaction(&mut self) -> wire::stun::Transaction {
        self.rng.random()
    }

    fn fresh_index(&mut self) -> u32 {
        loop {
            let index = self.rng.random::<u32>();
            if index != 0 && index != u32::MAX && self.links.get(index).is_none() {
                return index;
            }
        }
    }

    fn add_link(&mut self, index: u32, mut link: Link, now: Instant) {
        link.set_candidates(&self.candidates(), now);
        link.set_class(self.class, now);
        link.set_may_open(self.may_open());
        if let Some(socket) = self.rotation_in_use() {
            link.use_socket(socket, SocketId::MAIN, now);
        }
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
        self.stop_reach();
        self.parting = Some(now + LAST_WORDS);
        self.stopping = Some(now + STOP_LINGER);
    }
}

/// How long links can say goodbye over the relay; then the registration ends.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long the last words have to go out.
const STOP_LINGER: Duration = Duration::from_millis(200);
/// Frames that wait for the virtual LAN card.
const CARD_QUEUE: usize = 1024;
