//! One peer whole: switch, gateway, links, rendezvous client; wiring only.
//!
//! The driver's loop (STYLE: one input, then drain):
//! `handle_datagram` · `handle_frame` · `handle_timeout` · `handle_command`, and after each of them
//! `poll_transmit` · `poll_frame` · `poll_event` until `None`, then sleep until `poll_timeout`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::identity::{Identity, PeerId};
use crate::wire::control::{Credential, Refusal};
use crate::wire::ethernet::MacAddr;
use crate::{SocketId, Transmit};

pub mod status;

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
    /// Address and prefix length of its virtual host; members get addresses of the same network.
    pub address: (std::net::Ipv4Addr, u8),
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
    /// The first frame that came over a link, by a relayed path.
    FirstFrameRelayed {
        /// The other side.
        peer: PeerId,
    },
    /// Answer to [`Command::Ping`].
    Pong {
        /// The other side.
        peer: PeerId,
        /// As in the command.
        id: u64,
        /// The time it took.
        round_trip: std::time::Duration,
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
    events: VecDeque<Event>,
}

impl Node {
    /// A node that registers at once.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let _ = (config, now);
        Self {
            events: VecDeque::new(),
        }
    }

    /// A UDP datagram came in; its bytes are opened in place.
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        remote: SocketAddr,
        payload: &mut [u8],
        now: Instant,
    ) {
        let _ = (socket, remote, payload, now);
    }

    /// The virtual LAN card sent a frame.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        let _ = (frame, now);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The user or the machine asks something.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        let _ = (command, now);
    }

    /// The next datagrams to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let _ = now;
        None
    }

    /// The next frame for the virtual LAN card, if any.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// The next thing to tell, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// What `kuguri status` shows.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let _ = now;
        Status::default()
    }
}
