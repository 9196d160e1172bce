//! What a node tells its driver.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::gateway::NatEvent;
use crate::identity::PeerId;
use crate::wire::control::Refusal;

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
    /// (Hub) what the virtual LAN card on this machine is to have.
    Card {
        /// Address and prefix length.
        address: (IpAddr, u8),
        /// MTU.
        mtu: u16,
    },
    /// (Member) what the hub's network has beside members; each replaces the one before.
    Network {
        /// Networks to be reached through the gateway.
        routes: Vec<(IpAddr, u8)>,
        /// Networks behind the hub that this machine is in itself: not to be routed.
        own: Vec<(IpAddr, u8)>,
        /// Resolvers.
        dns: Vec<IpAddr>,
        /// The domain of names there.
        domain: String,
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
    /// (Hub) something happened at the virtual DHCP server.
    Dhcp(NatEvent),
    /// (Hub) leases have changed: [`super::Node::kept_leases`] are to be kept.
    LeasesChanged,
    /// Answer to [`super::Command::Ping`].
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
    /// No answer to [`super::Command::Ping`].
    PingLost {
        /// The other side.
        peer: PeerId,
        /// As in the command.
        id: u64,
    },
    /// Everything said in [`super::Command::Stop`] is done.
    Stopped,
}
