//! Scenarios with real nodes. Roles: `rendezvous` (at [`VPS`], and at [`VPS_OTHER`] if the host has it), `hub`, `member` of the first hub of the file, and
//! `bystander`, who runs nothing. Each node pings the others that it has links with, so that a connection is what answers,
//! not what somebody says.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use kuguri_proto::gateway::subnet::Subnet;
use kuguri_proto::identity::{Identity, PeerId};
use kuguri_proto::node::{
    Command, Config, Event, HubConfig, MEMBERS_MAX, MemberConfig, ReachConfig, RendezvousServer,
    Role,
};
use kuguri_proto::rendezvous::server::Limits;
use kuguri_proto::wire::control::Credential;
use kuguri_proto::wire::ethernet::MacAddr;
use kuguri_sim::packet::Packet;
use kuguri_sim::run::Host;
use kuguri_sim::scenario::{Cast, Part, Seen};

use super::world::{Machine, PORT, Peer, Rendezvous, VPS, VPS_OTHER, seed};

/// Binds roles to nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nodes;

/// What runs on a host.
pub enum Program {
    /// The rendezvous.
    Rendezvous(Box<Machine>),
    /// A node.
    Node(Box<Pinger>),
    /// Nothing.
    Bystander,
}

/// A node that pings those with whom it has links.
pub struct Pinger {
    machine: Machine,
    /// All other nodes of the scenario, by their hosts' names.
    others: BTreeMap<String, PeerId>,
    addresses: Vec<IpAddr>,
    heard: BTreeMap<PeerId, Seen>,
    /// As many of the node's events are known.
    read: usize,
    next: Instant,
    count: u64,
}

impl Cast for Nodes {
    type Program = Program;

    fn start(&mut self, part: &Part<'_>, now: Instant) -> Result<Program, String> {
        match part.host.role.as_str() {
            "rendezvous" => rendezvous(part, now),
            "hub" | "member" => node(part, now),
            "bystander" => Ok(Program::Bystander),
            other => Err(format!(
                "`{other}` is no role; there are: rendezvous, hub, member, bystander"
            )),
        }
    }

    fn path(&self, program: &Program, to: &str) -> Option<Seen> {
        let Program::Node(pinger) = program else {
            return None;
        };
        pinger.heard.get(pinger.others.get(to)?).copied()
    }

    fn moved(&mut self, program: &mut Program, addresses: &[IpAddr], now: Instant) {
        if let Program::Node(pinger) = program {
            pinger.addresses = addresses.to_vec();
            pinger.tell_addresses(now);
        }
    }
}

fn rendezvous(part: &Part<'_>, now: Instant) -> Result<Program, String> {
    if !part.addresses.contains(&VPS) {
        return Err(format!(
            "the rendezvous of a scenario has the address {VPS}"
        ));
    }
    let seed = fresh_seed(part, 3);
    let identity = identity(part, part.host.name.as_str())?;
    let second = Some(VPS_OTHER).filter(|other| part.addresses.contains(other));
    let rendezvous = Rendezvous::new(&identity, seed, second, Limits::default(), now);
    let machine = Machine::Rendezvous(Box::new(rendezvous));
    Ok(Program::Rendezvous(Box::new(machine)))
}

fn node(part: &Part<'_>, now: Instant) -> Result<Program, String> {
    let number = number(part, &part.host.name)?;
    let first = part.addresses.first();
    let first = first.ok_or("a node needs an address")?;
    let peer = Peer::new(
        config(part, number)?,
        SocketAddr::new(*first, NODE_PORT),
        now,
    );
    let nodes = part
        .all
        .iter()
        .filter(|host| host.name != part.host.name && is_node(&host.role));
    let others = nodes.map(|host| Ok((host.name.clone(), identity(part, &host.name)?.id())));
    let mut pinger = Pinger {
        machine: Machine::Peer(Box::new(peer)),
        others: others.collect::<Result<_, String>>()?,
        addresses: part.addresses.to_vec(),
        heard: BTreeMap::new(),
        read: 0,
        next: now,
        count: 0,
    };
    pinger.tell_addresses(now);
    Ok(Program::Node(Box::new(pinger)))
}

fn config(part: &Part<'_>, number: u8) -> Result<Config, String> {
    let find = |role| part.all.iter().find(|host| host.role == role);
    let role = if part.host.role == "hub" {
        let subnet = Subnet::new(Ipv4Addr::new(192, 168, 30, 1), 24);
        Role::Hub(HubConfig {
            name: part.host.name.clone(),
            tokens: vec![TOKEN],
            subnet: subnet.map_err(|error| error.to_string())?,
            members_max: MEMBERS_MAX,
            card: false,
        })
    } else {
        let hub = find("hub").ok_or("a member needs a hub")?;
        Role::Member(MemberConfig {
            hub: identity(part, &hub.name)?.id(),
            credential: Credential::Token(TOKEN),
            mac: MacAddr([0x02, 0, 0, 0, 0, number]),
        })
    };
    let rendezvous = find("rendezvous").ok_or("a node needs a rendezvous")?;
    Ok(Config {
        identity: identity(part, &part.host.name)?,
        role,
        rendezvous: RendezvousServer {
            addresses: vec![SocketAddr::new(VPS, PORT)],
            key: Some(identity(part, &rendezvous.name)?.id()),
        },
        host_name: part.host.name.clone(),
        seed: fresh_seed(part, 10),
        aes_in_hardware: true,
        relay_only: false,
        reach: ReachConfig::default(),
    })
}

fn is_node(role: &str) -> bool {
    matches!(role, "hub" | "member")
}

/// Its place in the file.
fn number(part: &Part<'_>, name: &str) -> Result<u8, String> {
    let at = part.all.iter().position(|host| host.name == name);
    let number = at.and_then(|at| u8::try_from(at + 1).ok());
    number
        .filter(|number| *number < 60)
        .ok_or_else(|| "too many hosts".to_owned())
}

/// A host has the same key however often its program starts.
fn identity(part: &Part<'_>, name: &str) -> Result<Identity, String> {
    Ok(Identity::from_seed(&seed(part.seed, number(part, name)?)))
}

/// Every start has randomness of its own.
fn fresh_seed(part: &Part<'_>, purpose: u8) -> [u8; 32] {
    let mut bytes = seed(part.seed, purpose);
    let number = number(part, &part.host.name).unwrap_or(0);
    bytes[8..12].copy_from_slice(&part.starts.to_be_bytes());
    bytes[12] = number;
    bytes
}

impl Pinger {
    fn tell_addresses(&mut self, now: Instant) {
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|&address| SocketAddr::new(address, NODE_PORT));
        let command = Command::LocalAddresses(addresses.collect());
        if let Machine::Peer(peer) = &mut self.machine {
            peer.node.handle_command(command, now);
            peer.drain(now);
        }
    }

    fn ping(&mut self, now: Instant) {
        self.next = now + PAUSE;
        let Machine::Peer(peer) = &mut self.machine else {
            return;
        };
        for &to in self.others.values() {
            self.count += 1;
            let id = self.count;
            let ping = Command::Ping { peer: to, id };
            peer.node.handle_command(ping, now);
        }
        peer.drain(now);
    }

    /// What came since the last time.
    fn read_events(&mut self) {
        let Machine::Peer(peer) = &self.machine else {
            return;
        };
        for (at, event) in peer.events.iter().skip(self.read) {
            if let Event::Pong { peer, direct, .. } = *event {
                let seen = Seen { direct, heard: *at };
                self.heard.insert(peer, seen);
            }
        }
        self.read = peer.events.len();
    }

    /// A packet leaves by the host's address of its family, wherever the host is now.
    fn correct(&self, mut packet: Packet) -> Packet {
        let source = packet.source;
        let fits = |address: &&IpAddr| address.is_ipv6() == packet.destination.is_ipv6();
        if source.is_ipv6() != packet.destination.is_ipv6() || !self.addresses.contains(&source) {
            let own = self.addresses.iter().find(fits);
            packet.source = own.copied().unwrap_or(source);
        }
        packet
    }
}

impl Program {
    /// What a node told so far, with the times.
    #[must_use]
    pub fn events(&self) -> &[(Instant, Event)] {
        match self {
            Self::Node(pinger) => match &pinger.machine {
                Machine::Peer(peer) => &peer.events,
                Machine::Rendezvous(_) | Machine::Neighbour(_) => &[],
            },
            Self::Rendezvous(_) | Self::Bystander => &[],
        }
    }
}

impl Host for Program {
    fn handle_packet(&mut self, packet: Packet, now: Instant) {
        match self {
            Self::Rendezvous(machine) => machine.handle_packet(packet, now),
            Self::Node(pinger) => {
                pinger.machine.handle_packet(packet, now);
                pinger.read_events();
            }
            Self::Bystander => {}
        }
    }

    fn poll_packet(&mut self, now: Instant) -> Option<Packet> {
        match self {
            Self::Rendezvous(machine) => machine.poll_packet(now),
            Self::Node(pinger) => {
                let packet = pinger.machine.poll_packet(now)?;
                Some(pinger.correct(packet))
            }
            Self::Bystander => None,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Rendezvous(machine) => machine.poll_timeout(),
            Self::Node(pinger) => {
                let node = pinger.machine.poll_timeout();
                Some(node.map_or(pinger.next, |at| at.min(pinger.next)))
            }
            Self::Bystander => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Rendezvous(machine) => machine.handle_timeout(now),
            Self::Node(pinger) => {
                pinger.machine.handle_timeout(now);
                if pinger.next <= now {
                    pinger.ping(now);
                }
                pinger.read_events();
            }
            Self::Bystander => {}
        }
    }
}

/// The port that every node binds.
const NODE_PORT: u16 = 40_000;
/// The invite's token.
const TOKEN: [u8; 16] = [7; 16];
/// Between two pings.
const PAUSE: Duration = Duration::from_millis(250);
