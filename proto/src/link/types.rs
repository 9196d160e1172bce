//! What goes into a link and comes out of it, beside bytes.

use std::net::SocketAddr;
use std::time::Duration;

use crate::identity::{Identity, PeerId};
use crate::rendezvous::Channel;
use crate::wire::control::{Join, Network, Refusal, Welcome};
use crate::{SocketId, Transmit};

/// By which way a datagram came, or is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the rendezvous, on this channel.
    Relay(Channel),
    /// Straight.
    Direct {
        /// Our socket.
        socket: SocketId,
        /// The peer's address as we see it.
        remote: SocketAddr,
    },
}

impl Via {
    pub(super) const fn direct(socket: SocketId, remote: SocketAddr) -> Self {
        Self::Direct { socket, remote }
    }
}

/// A datagram that a link wants sent.
#[derive(Debug)]
pub enum Outgoing {
    /// On a relay channel; the rendezvous client wraps it.
    Relay(Channel, Vec<u8>),
    /// As it is.
    Direct(Transmit),
}

/// What a link is made of.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// The other side: its key must be this one.
    pub peer: PeerId,
    /// By which number the peer's datagrams name this link; unique in the node, never 0.
    pub local_index: u32,
    /// The relay channel to the peer.
    pub relay: Channel,
    /// Whether this machine seals AES-256-GCM in hardware.
    pub aes_in_hardware: bool,
    /// Whether no direct path is wanted.
    pub relay_only: bool,
    /// 32 random bytes for everything random in the link.
    pub seed: [u8; 32],
}

/// What a link tells its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Both keys are proved; frames can flow.
    Established {
        /// The cipher's name.
        cipher: &'static str,
    },
    /// (Hub) the peer asks to join.
    Join(Join),
    /// (Member) the hub let us in.
    Welcome(Welcome),
    /// (Member) the hub did not.
    Refused(Refusal),
    /// (Member) what the hub's network has.
    Network(Network),
    /// A search for a port wants to run, with so many fresh sockets: [`super::Link::grant_search`] or
    /// [`super::Link::refuse_search`].
    WantSearch {
        /// The sockets.
        sockets: u16,
    },
    /// The search does not run any more.
    SearchEnded {
        /// Entries that it made in our NAT.
        entries: u32,
    },
    /// The link needs these sockets no more.
    Unneeded(Vec<SocketId>),
    /// Frames go another way now: direct to this address, or relayed.
    PathChanged(Option<SocketAddr>),
    /// Answer to [`super::Link::ping`].
    Pong {
        /// As given.
        id: u64,
        /// The time it took.
        round_trip: Duration,
        /// Whether it went directly.
        direct: bool,
    },
    /// No answer to [`super::Link::ping`] in time.
    PingLost {
        /// As given.
        id: u64,
    },
    /// Nothing has come from the peer for a while, though it was asked; told once, until something comes again.
    Silent,
    /// The link has ended; nothing more comes from it.
    Closed {
        /// One sentence.
        reason: String,
    },
}
