//! What a node is told: its settings at the start, and commands while it runs.

use std::net::{IpAddr, SocketAddr};

use super::ReachConfig;
use crate::SocketId;
use crate::gateway::subnet::Subnet;
use crate::gateway::{DhcpSettings, KeptLease};
use crate::identity::{Identity, PeerId};
use crate::rendezvous::client::Way;
use crate::wire::control::{Credential, Network};
use crate::wire::ethernet::MacAddr;

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
    /// Whether to seal by AES-256-GCM: this machine has it in hardware (the driver looks at the CPU), or the user wants it.
    pub aes_in_hardware: bool,
    /// Never a direct path: peers are not to learn this machine's addresses, nor the network that it talks to them.
    pub relay_only: bool,
    /// How hard to try to get through NATs.
    pub reach: ReachConfig,
}

/// A rendezvous and the key that it must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RendezvousServer {
    /// Where it is; tried in this order.
    pub addresses: Vec<SocketAddr>,
    /// Its key; `None` accepts any, and [`super::Event::Registered`] says which it was.
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
    /// Members at once at most, such as [`MEMBERS_MAX`]: whoever has an invite can make itself keys without number.
    pub members_max: usize,
    /// Whether this machine is in the network too, by a virtual LAN card, which is a port of the switch.
    pub card: bool,
}

/// The members that a hub takes unless it is told otherwise: each costs some tens of kilobytes.
pub const MEMBERS_MAX: usize = 4096;

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
    /// How the rendezvous is reached from now on, by a carrier for instance, which is at a loopback address.
    Way {
        /// Where its datagrams go.
        way: Way,
        /// Whether UDP may leave this machine for the rendezvous all the same, to see whether it is answered.
        ask_by_udp: bool,
    },
    /// Measures the round trip to a linked peer; answered by [`super::Event::Pong`] or, after two seconds, [`super::Event::PingLost`].
    Ping {
        /// The peer.
        peer: PeerId,
        /// Chosen by the caller, given back.
        id: u64,
    },
    /// (Hub) whether frames for the virtual host's NAT go to the driver, by [`super::Node::poll_nat_frame`]; and what members
    /// are told of the network behind it.
    Nat {
        /// Whether the NAT runs.
        on: bool,
        /// Routes, resolvers, domain.
        network: Network,
    },
    /// (Hub) runs the virtual DHCP server with these settings, or no more.
    Dhcp(Option<DhcpSettings>),
    /// (Hub) leases of an earlier run; before any member or client comes.
    RestoreLeases(Vec<KeptLease>),
    /// The default route's gateway, or none; at the start and at every change.
    Gateway(Option<IpAddr>),
    /// The machine slept, or is in another network with the same addresses: everything is tried anew.
    NetworkChanged,
    /// A socket that [`super::Node::poll_socket`] asked for is bound to this port.
    SocketOpened {
        /// The socket.
        id: SocketId,
        /// Its port.
        port: u16,
    },
    /// It could not be had.
    SocketRefused {
        /// The socket.
        id: SocketId,
    },
    /// Admit members with this token from now on.
    AddToken([u8; 16]),
    /// Ends every link with a goodbye and the registration; [`super::Event::Stopped`] follows.
    Stop,
}
