//! A hub behind one NAT, a member behind another, a rendezvous on the Internet: real nodes of `proto` on the pretended
//! Internet of `sim`, under its virtual clock.
//!
//! ```text
//!   office ─[NAT]─ access ──┐                      S: round trip peer – rendezvous = 2 × access
//!                           ├── Internet ── vps    R: round trip peer – peer       = 4 × access
//!   home ───[NAT]─ access ──┘
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use kuguri_proto::gateway::mac_from_seed;
use kuguri_proto::gateway::subnet::Subnet;
use kuguri_proto::identity::{Identity, PeerId};
use kuguri_proto::node::status::LinkStatus;
use kuguri_proto::node::{
    Command, Config, Event, HubConfig, MEMBERS_MAX, MemberConfig, Node, ReachConfig,
    RendezvousServer, Role,
};
use kuguri_proto::rendezvous::server;
use kuguri_proto::traversal::SearchCounters;
use kuguri_proto::wire::control::Credential;
use kuguri_proto::wire::ethernet::MacAddr;
use kuguri_proto::wire::stun;
use kuguri_proto::{SocketId, SocketRequest, Transmit};
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::NatConfig;
use kuguri_sim::network::{Access, HostId, Logging, Network, RouterConfig, RouterId, SegmentId};
use kuguri_sim::packet::{Body, Packet};
use kuguri_sim::run::{Host, Simulation};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::frames;

/// Where the rendezvous is.
pub const VPS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// Its other address, which answers STUN alone (RFC 5780).
pub const VPS_OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 11));
/// Its port; the alternate one is the next.
pub const PORT: u16 = 7777;
/// The port that every peer binds.
const PEER_PORT: u16 = 40_000;
/// Packets on the public side that are remembered.
const HEARD: usize = 100_000;
/// The hub's virtual host.
const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 30, 1);
/// Home's virtual LAN card.
pub const HOME_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 2]);
/// The invite's token.
const TOKEN: [u8; 16] = [7; 16];

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Everything random follows from it.
    pub seed: u64,
    /// The NAT before the office.
    pub office: NatConfig,
    /// The NAT before the home.
    pub home: NatConfig,
    /// Each side's access link, one way.
    pub access: LinkConfig,
    /// Whether to keep an event log.
    pub logging: Logging,
}

/// The machines, running.
pub struct World {
    /// Network and programs.
    pub simulation: Simulation<Machine>,
    /// The hub's host.
    pub office: HostId,
    /// The member's host.
    pub home: HostId,
    /// The rendezvous's host.
    pub vps: HostId,
    /// The NATs before office and home, and then before every other home.
    pub routers: Vec<RouterId>,
    /// Behind each of them.
    segments: Vec<SegmentId>,
    /// When it began.
    pub start: Instant,
    scene: Scene,
    /// The peers' hosts with their addresses: the office, the home, other homes.
    places: Vec<(HostId, SocketAddr)>,
    /// Programs started so far: none has the randomness of another.
    started: u8,
}

/// Somebody else behind a NAT, whose programs begin flows all the time.
pub struct Neighbour {
    address: IpAddr,
    per_second: f64,
    rng: StdRng,
    next: Instant,
    count: u32,
}

/// A program on a host.
pub enum Machine {
    /// Somebody else.
    Neighbour(Box<Neighbour>),
    /// A node.
    Peer(Box<Peer>),
    /// The rendezvous.
    Rendezvous(Box<Rendezvous>),
}

/// A node with what a driver adds, and what it told.
pub struct Peer {
    /// The node.
    pub node: Node,
    /// All events, with their times.
    pub events: Vec<(Instant, Event)>,
    /// All frames for the virtual LAN card, with their times.
    pub frames: Vec<(Instant, Vec<u8>)>,
    /// Datagrams sent.
    pub sent: u64,
    address: SocketAddr,
    /// The port of each socket beside the main one.
    pub sockets: BTreeMap<SocketId, u16>,
    /// The most sockets at any time, the main one not counted.
    pub most_sockets: usize,
}

/// The server with its sockets.
pub struct Rendezvous {
    /// The server.
    pub server: server::Server,
    forwarded: Vec<Transmit>,
}

impl World {
    /// Builds the scene; office and home start at once.
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        let mut world = Self::unpeopled(scene);
        world.start_node(world.office, world.hub_config());
        world.start_node(world.home, world.member_config(world.home));
        world
    }

    /// Builds the scene with a rendezvous, and nothing that runs in office and home.
    #[must_use]
    pub fn unpeopled(scene: &Scene) -> Self {
        let start = Instant::now();
        let mut network = Network::new(scene.seed, start);
        network.set_logging(scene.logging);
        let vps = network.add_host();
        network
            .attach(vps, Network::INTERNET, &[VPS, VPS_OTHER], Access::default())
            .expect("a free address");
        let mut world = Self {
            simulation: Simulation::new(network, start),
            office: vps,
            home: vps,
            vps,
            routers: Vec::new(),
            segments: Vec::new(),
            start,
            scene: scene.clone(),
            places: Vec::new(),
            started: 0,
        };
        world.office = world.add_place(&scene.office, [192, 168, 1, 10]);
        world.home = world.add_home(&scene.home);
        world.start_rendezvous();
        world
    }

    /// One more home behind a NAT of its own.
    pub fn add_home(&mut self, nat: &NatConfig) -> HostId {
        let number = self.number_of_places();
        self.add_place(nat, [192, 168, 6 + number, 20])
    }

    fn add_place(&mut self, nat: &NatConfig, inside: [u8; 4]) -> HostId {
        let outside = IpAddr::from([198, 51, 100, 1 + self.number_of_places()]);
        let access = Access::symmetric(self.scene.access.clone());
        let network = self.simulation.network_mut();
        let config = RouterConfig::new(nat.clone(), outside, access);
        let (router, lan) = network
            .add_router(Network::INTERNET, config)
            .expect("a free address");
        let host = network.add_host();
        network
            .attach(host, lan, &[IpAddr::from(inside)], Access::default())
            .expect("a free address");
        self.routers.push(router);
        self.segments.push(lan);
        self.places
            .push((host, SocketAddr::new(IpAddr::from(inside), PEER_PORT)));
        host
    }

    fn number_of_places(&self) -> u8 {
        u8::try_from(self.places.len()).expect("a small world")
    }

    /// 1 for the office, 2 for the home, then the other homes.
    fn number(&self, host: HostId) -> u8 {
        let at = self.places.iter().position(|(place, _)| *place == host);
        1 + u8::try_from(at.expect("a peer's host")).expect("a small world")
    }

    // ---- who is who

    fn identity(&self, number: u8) -> Identity {
        Identity::from_seed(&seed(self.scene.seed, number))
    }

    /// The rendezvous's key, which every new one on the host has.
    #[must_use]
    pub fn rendezvous_id(&self) -> PeerId {
        self.identity(0).id()
    }

    /// The key of what runs in a place, with the settings of [`Self::hub_config`] or [`Self::member_config`].
    #[must_use]
    pub fn id(&self, host: HostId) -> PeerId {
        self.identity(self.number(host)).id()
    }

    /// A place's virtual LAN card.
    #[must_use]
    pub fn mac(&self, host: HostId) -> MacAddr {
        MacAddr([0x02, 0, 0, 0, 0, self.number(host)])
    }

    /// The settings of the hub in the office.
    #[must_use]
    pub fn hub_config(&self) -> Config {
        let subnet = Subnet::new(HUB_ADDRESS, 24).expect("a host's address");
        let hub = HubConfig {
            name: "office".to_owned(),
            tokens: vec![TOKEN],
            subnet,
            members_max: MEMBERS_MAX,
            card: false,
        };
        self.config(self.office, Role::Hub(hub))
    }

    /// The settings of a member in a home that has been invited to that hub.
    #[must_use]
    pub fn member_config(&self, host: HostId) -> Config {
        let member = MemberConfig {
            hub: self.id(self.office),
            credential: Credential::Token(TOKEN),
            mac: self.mac(host),
        };
        self.config(host, Role::Member(member))
    }

    fn config(&self, host: HostId, role: Role) -> Config {
        let number = self.number(host);
        Config {
            identity: self.identity(number),
            role,
            rendezvous: RendezvousServer {
                addresses: vec![SocketAddr::new(VPS, PORT)],
                key: Some(self.rendezvous_id()),
            },
            host_name: format!("machine-{number}"),
            seed: self.fresh_seed(10 + number),
            aes_in_hardware: true,
            relay_only: false,
            reach: ReachConfig::default(),
        }
    }

    /// Of a program that starts now.
    fn fresh_seed(&self, purpose: u8) -> [u8; 32] {
        let mut bytes = seed(self.scene.seed, purpose);
        // The first three programs have what their purpose gives them.
        bytes[8] ^= self.started.saturating_sub(2);
        bytes
    }

    /// Listens on the public side from now on.
    pub fn listen(&mut self) {
        let network = self.simulation.network_mut();
        network.capture(Network::INTERNET, HEARD);
    }

    /// Source and destination of what was heard there.
    #[must_use]
    pub fn heard(&self) -> Vec<(IpAddr, IpAddr)> {
        let heard = self.simulation.network().captured(Network::INTERNET);
        let packets = heard.into_iter().flat_map(|it| it.packets());
        packets
            .map(|it| (it.packet.source, it.packet.destination))
            .collect()
    }

    // ---- what runs

    /// Starts a node in a place, in place of the one that runs there, which is as if it had been killed.
    pub fn start_node(&mut self, host: HostId, config: Config) {
        let (_, address) = self.places[usize::from(self.number(host)) - 1];
        let peer = Peer::new(config, address, self.simulation.now());
        self.started += 1;
        self.simulation.insert(host, Machine::Peer(Box::new(peer)));
    }

    /// Starts a rendezvous with the key that it always had, in place of the one that runs, which is as if it had been killed.
    pub fn start_rendezvous(&mut self) {
        self.start_rendezvous_with(server::Limits::default());
    }

    /// The same with other limits than a rendezvous has by default.
    pub fn start_rendezvous_with(&mut self, limits: server::Limits) {
        let (identity, seed) = (self.identity(0), self.fresh_seed(3));
        let (second, now) = (Some(VPS_OTHER), self.simulation.now());
        let rendezvous = Rendezvous::new(&identity, seed, second, limits, now);
        self.started += 1;
        self.simulation
            .insert(self.vps, Machine::Rendezvous(Box::new(rendezvous)));
    }

    /// Puts somebody else behind a place's NAT, who begins so many flows a second (Poisson).
    pub fn add_neighbour(&mut self, place: HostId, per_second: f64) {
        let number = self.number(place);
        let (_, address) = self.places[usize::from(number) - 1];
        let IpAddr::V4(inside) = address.ip() else {
            return;
        };
        let [a, b, c, _] = inside.octets();
        let address = IpAddr::from([a, b, c, 99]);
        let now = self.simulation.now();
        let network = self.simulation.network_mut();
        let host = network.add_host();
        network
            .attach(
                host,
                self.segments[usize::from(number) - 1],
                &[address],
                Access::default(),
            )
            .expect("a free address");
        let neighbour = Neighbour {
            address,
            per_second,
            rng: StdRng::seed_from_u64(self.scene.seed ^ u64::from(number)),
            next: now,
            count: 0,
        };
        self.simulation
            .insert(host, Machine::Neighbour(Box::new(neighbour)));
    }

    /// A place's NAT.
    #[must_use]
    pub fn router(&self, host: HostId) -> RouterId {
        self.routers[usize::from(self.number(host)) - 1]
    }

    /// A place's access link from now on, both ways.
    pub fn set_access(&mut self, host: HostId, link: LinkConfig) {
        let router = self.router(host);
        self.simulation
            .network_mut()
            .set_access(router, Access::symmetric(link));
    }

    /// The rendezvous, to give something to it.
    pub fn rendezvous_mut(&mut self) -> &mut server::Server {
        match self.simulation.host_mut(self.vps) {
            Some(Machine::Rendezvous(rendezvous)) => &mut rendezvous.server,
            _ => panic!("no rendezvous runs"),
        }
    }

    /// A node, to look at.
    #[must_use]
    pub fn peer(&self, host: HostId) -> &Peer {
        peer_of(&self.simulation, host)
    }

    /// A node, to tell something.
    pub fn peer_mut(&mut self, host: HostId) -> &mut Peer {
        match self.simulation.host_mut(host) {
            Some(Machine::Peer(peer)) => peer,
            _ => panic!("no peer runs on {host}"),
        }
    }

    /// Runs until a host has told such an event; when that was.
    ///
    /// # Panics
    /// When it does not within `patience`.
    pub fn wait_for(
        &mut self,
        host: HostId,
        patience: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Instant {
        self.try_wait_for(host, patience, &wanted)
            .unwrap_or_else(|| {
                panic!(
                    "{host} did not tell it within {patience:?}; it told {:?}",
                    self.told(host)
                );
            })
    }

    /// Runs until a host has told such an event, or `patience` is over.
    pub fn try_wait_for(
        &mut self,
        host: HostId,
        patience: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Option<Instant> {
        let deadline = self.simulation.now() + patience;
        let told = |simulation: &Simulation<Machine>| {
            let events = &peer_of(simulation, host).events;
            events
                .iter()
                .find(|(_, event)| wanted(event))
                .map(|(at, _)| *at)
        };
        let found = self
            .simulation
            .run_until_some(deadline, |simulation| told(simulation).is_some());
        found
            .expect("time advances")
            .then(|| told(&self.simulation))
            .flatten()
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        self.simulation
            .run_until(self.simulation.now() + time)
            .expect("time advances");
    }

    /// A host's events, with their times since the start in milliseconds.
    #[must_use]
    pub fn told(&self, host: HostId) -> Vec<(f64, Event)> {
        let told = self.peer(host).events.iter();
        told.map(|(at, event)| ((*at - self.start).as_secs_f64() * 1e3, event.clone()))
            .collect()
    }

    /// Gives a frame to a host's node, as its virtual LAN card would.
    pub fn send_frame(&mut self, host: HostId, frame: &[u8]) {
        let now = self.simulation.now();
        self.peer_mut(host).node.handle_frame(frame, now);
    }

    /// Pings the hub's virtual host from home `count` times, once a second; how many answers came back.
    pub fn answered_pings(&mut self, count: u16, payload: usize) -> usize {
        let before = self.echo_replies();
        for sequence in 0..count {
            let request = frames::echo_request(
                (HOME_MAC, self.home_address()),
                self.gateway(),
                sequence,
                payload,
            );
            self.send_frame(self.home, &request);
            self.run_for(Duration::from_secs(1));
        }
        self.echo_replies() - before
    }

    /// Pings the hub's virtual host from home ten times a second until an answer comes; how long that took, unless it is
    /// longer than `limit`.
    pub fn recovery(&mut self, limit: Duration) -> Option<Duration> {
        let begin = self.simulation.now();
        let before = self.echo_replies();
        let source = (HOME_MAC, self.home_address());
        for sequence in 0.. {
            let request = frames::echo_request(source, self.gateway(), sequence, 50);
            self.send_frame(self.home, &request);
            self.run_for(Duration::from_millis(100));
            let time = self.simulation.now() - begin;
            if self.echo_replies() > before {
                return Some(time);
            }
            if time > limit {
                break;
            }
        }
        None
    }

    fn echo_replies(&self) -> usize {
        self.peer(self.home)
            .frames
            .iter()
            .filter(|(_, frame)| frames::is_echo_reply(frame))
            .count()
    }

    /// The address that the hub gave to home.
    ///
    /// # Panics
    /// Before home has joined.
    #[must_use]
    pub fn home_address(&self) -> Ipv4Addr {
        let mut events = self.peer(self.home).events.iter();
        let given = events.find_map(|(_, event)| {
            if let Event::Joined {
                address: Some((IpAddr::V4(address), _)),
                ..
            } = event
            {
                Some(*address)
            } else {
                None
            }
        });
        given.expect("home has joined")
    }

    /// The hub's virtual host.
    #[must_use]
    pub fn gateway(&self) -> (MacAddr, Ipv4Addr) {
        let hub: PeerId = self
            .peer(self.office)
            .node
            .status(self.simulation.now())
            .id
            .parse()
            .expect("a key");
        (mac_from_seed(&hub.0), HUB_ADDRESS)
    }

    /// A host's first link now.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn link(&self, host: HostId) -> LinkStatus {
        let mut status = self.peer(host).node.status(self.simulation.now());
        assert!(!status.links.is_empty(), "{host} has a link");
        status.links.swap_remove(0)
    }

    /// What searches of a host's first link have used.
    #[must_use]
    pub fn search(&self, host: HostId) -> SearchCounters {
        let status = self.peer(host).node.status(self.simulation.now());
        let link = status.links.into_iter().next();
        link.map(|link| link.search).unwrap_or_default()
    }

    /// How a host's link goes now: "handshake", "relayed" or "direct"; empty when there is none.
    #[must_use]
    pub fn path(&self, host: HostId) -> String {
        let status = self.peer(host).node.status(self.simulation.now());
        status
            .links
            .first()
            .map(|link| link.path.clone())
            .unwrap_or_default()
    }
}

fn peer_of(simulation: &Simulation<Machine>, host: HostId) -> &Peer {
    match simulation.host(host) {
        Some(Machine::Peer(peer)) => peer,
        _ => panic!("no peer runs on {host}"),
    }
}

/// 32 bytes for one use in a world of this seed.
pub(super) fn seed(world: u64, purpose: u8) -> [u8; 32] {
    let mut bytes = [purpose; 32];
    bytes[..8].copy_from_slice(&world.to_be_bytes());
    bytes
}

impl Peer {
    pub(super) fn new(config: Config, address: SocketAddr, now: Instant) -> Self {
        let mut node = Node::new(config, now);
        node.handle_command(Command::LocalAddresses(vec![address]), now);
        let mut peer = Self {
            node,
            events: Vec::new(),
            frames: Vec::new(),
            sent: 0,
            address,
            sockets: BTreeMap::new(),
            most_sockets: 0,
        };
        peer.drain(now);
        peer
    }

    /// Gives a datagram to the node by hand.
    pub fn receive(&mut self, remote: SocketAddr, payload: &[u8], now: Instant) {
        let mut payload = payload.to_vec();
        self.node
            .handle_datagram(SocketId::MAIN, remote, &mut payload, now);
        self.drain(now);
    }

    /// Takes what the node wants sent now out of the run: it does not reach the network.
    pub fn take_transmits(&mut self, now: Instant) -> Vec<Transmit> {
        std::iter::from_fn(|| self.node.poll_transmit(now)).collect()
    }

    pub(super) fn drain(&mut self, now: Instant) {
        while let Some(request) = self.node.poll_socket() {
            self.handle_request(request, now);
        }
        self.events
            .extend(std::iter::from_fn(|| self.node.poll_event()).map(|event| (now, event)));
        self.frames
            .extend(std::iter::from_fn(|| self.node.poll_frame()).map(|frame| (now, frame)));
    }
}

impl Peer {
    /// What the system does with sockets: ports of its own choice, each once.
    fn handle_request(&mut self, request: SocketRequest, now: Instant) {
        match request {
            SocketRequest::Open(id) => {
                let port = 32_768 + id.0.wrapping_mul(7919) % 28_000;
                let taken =
                    port == self.address.port() || self.sockets.values().any(|&it| it == port);
                let command = if taken {
                    Command::SocketRefused { id }
                } else {
                    self.sockets.insert(id, port);
                    self.most_sockets = self.most_sockets.max(self.sockets.len());
                    Command::SocketOpened { id, port }
                };
                self.node.handle_command(command, now);
            }
            SocketRequest::Close(id) => {
                self.sockets.remove(&id);
            }
        }
    }

    fn socket_at(&self, port: u16) -> Option<SocketId> {
        if port == self.address.port() {
            return Some(SocketId::MAIN);
        }
        let mut sockets = self.sockets.iter();
        sockets
            .find(|(_, bound)| **bound == port)
            .map(|(id, _)| *id)
    }

    fn source(&self, socket: SocketId) -> Option<SocketAddr> {
        let port = if socket == SocketId::MAIN {
            self.address.port()
        } else {
            *self.sockets.get(&socket)?
        };
        Some(SocketAddr::new(self.address.ip(), port))
    }
}

impl Rendezvous {
    pub(super) fn new(
        identity: &Identity,
        seed: [u8; 32],
        second_address: Option<IpAddr>,
        limits: server::Limits,
        now: Instant,
    ) -> Self {
        let config = server::Config {
            addresses: vec![VPS],
            port: PORT,
            alternate_port: Some(PORT + 1),
            second_address,
            stun: stun::Policy::Strict,
            limits,
        };
        Self {
            server: server::Server::new(identity, config, seed, now),
            forwarded: Vec::new(),
        }
    }

    /// Takes a datagram; a relayed one goes straight on.
    fn handle_datagram(
        &mut self,
        to: SocketAddr,
        remote: SocketAddr,
        payload: &mut Vec<u8>,
        now: Instant,
    ) {
        let mut sockets = (0..4).map(SocketId);
        let Some(socket) = sockets.find(|&socket| socket_address(socket) == to) else {
            return;
        };
        if let Some(destination) = self.server.handle_datagram(socket, remote, payload, now) {
            self.forwarded
                .push(Transmit::datagram(destination, std::mem::take(payload)));
        }
    }
}

/// The address of a socket of the rendezvous.
fn socket_address(SocketId(number): SocketId) -> SocketAddr {
    let address = if number < server::SECOND[0].0 {
        VPS
    } else {
        VPS_OTHER
    };
    SocketAddr::new(address, PORT + number % 2)
}

impl Neighbour {
    fn poll(&mut self, now: Instant) -> Option<(SocketAddr, Transmit)> {
        if self.next > now {
            return None;
        }
        let wait = -(1.0 - self.rng.random::<f64>()).ln() / self.per_second;
        self.next = now + Duration::from_secs_f64(wait);
        self.count += 1;
        let [_, _, high, low] = self.count.to_be_bytes();
        let destination = SocketAddr::from(([203, 0, 113, 200], 1024 + u16::from(high)));
        let source = SocketAddr::new(
            self.address,
            2048 + 256 * u16::from(high % 64) + u16::from(low),
        );
        Some((source, Transmit::datagram(destination, vec![0; 16])))
    }
}

impl Host for Machine {
    fn handle_packet(&mut self, packet: Packet, now: Instant) {
        let Body::Udp {
            source_port,
            destination_port,
            mut payload,
        } = packet.body
        else {
            return;
        };
        let remote = SocketAddr::new(packet.source, source_port);
        match self {
            Self::Neighbour(_) => {}
            Self::Peer(peer) => {
                let Some(socket) = peer.socket_at(destination_port) else {
                    return;
                };
                peer.node.handle_datagram(socket, remote, &mut payload, now);
                peer.drain(now);
            }
            Self::Rendezvous(rendezvous) => {
                let to = SocketAddr::new(packet.destination, destination_port);
                rendezvous.handle_datagram(to, remote, &mut payload, now);
            }
        }
    }

    fn poll_packet(&mut self, now: Instant) -> Option<Packet> {
        let (source, transmit) = match self {
            Self::Neighbour(neighbour) => neighbour.poll(now)?,
            Self::Peer(peer) => {
                peer.drain(now);
                let (source, transmit) = loop {
                    let transmit = peer.node.poll_transmit(now)?;
                    peer.drain(now);
                    // A socket that was closed meanwhile sends nothing.
                    if let Some(source) = peer.source(transmit.socket) {
                        break (source, transmit);
                    }
                };
                peer.sent += 1;
                (source, transmit)
            }
            Self::Rendezvous(rendezvous) => {
                let transmit = rendezvous
                    .forwarded
                    .pop()
                    .or_else(|| rendezvous.server.poll_transmit(now))?;
                (socket_address(transmit.socket), transmit)
            }
        };
        Some(Packet {
            source: source.ip(),
            destination: transmit.destination.ip(),
            ttl: transmit.ttl.unwrap_or(64),
            dont_fragment: true,
            body: Body::Udp {
                source_port: source.port(),
                destination_port: transmit.destination.port(),
                payload: transmit.contents,
            },
        })
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Neighbour(neighbour) => Some(neighbour.next),
            Self::Peer(peer) => peer.node.poll_timeout(),
            Self::Rendezvous(rendezvous) => rendezvous.server.poll_timeout(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Neighbour(_) => {}
            Self::Peer(peer) => {
                peer.node.handle_timeout(now);
                peer.drain(now);
            }
            Self::Rendezvous(rendezvous) => rendezvous.server.handle_timeout(now),
        }
    }
}
