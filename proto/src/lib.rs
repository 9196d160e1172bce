//! What to do: the pure decisions of Kuguri, without a socket, clock, file, thread or `async` (sans-IO).
//!
//! ```text
//!   TAP ──frame──▶ node ─▶ switch ─▶ link ─▶ arq · tls · seal · path ──datagram──▶ UDP
//!        ◀─frame──      ◀─        ◀─      ◀─ arq · tls · seal · path ◀─datagram──
//!                        │                  ▲
//!                        ├─▶ gateway        └─ introduced by: rendezvous (client ⇄ server)
//!                        └─▶ auth (may it join?)
//! ```
//!
//! **The contract of every module here.** Inputs are `handle_*` verbs with `now` as their last argument; outputs
//! are `poll_*` verbs, drained to `None` after every input. Time and randomness are arguments. Whatever comes from
//! outside may be refused and counted, and never panics. So the simulator runs exactly the code that the network runs.
//!
//! Modules, in the order in which a frame meets them:
//!
//! | module | decides |
//! |---|---|
//! | [`node`] | one peer whole: wiring of the others, nothing else |
//! | [`switch`] | to which port does this frame go |
//! | [`gateway`] | the virtual host behind one port: ARP, echo, addresses |
//! | [`auth`] | who may join |
//! | [`link`] | one remote peer: how bytes and frames get there |
//! | [`portmap`] | what to ask the gateway for |
//! | [`traversal`] | how NATs behave, and the plan for two of them |
//! | [`rendezvous`] | both halves of the conversation with the public server |
//! | [`carrier`] | datagrams inside an HTTPS stream: framing, and who is at its ends |
//! | [`proxy`] | what proxies are told and say, on the way to a rendezvous |
//! | [`identity`] | keys, and how they appear in TLS |
//! | [`invite`] | the one string that brings a member to a hub |
//! | [`wire`] | bytes ↔ values, without memory |

use std::net::SocketAddr;

pub mod auth;
pub mod bucket;
pub mod carrier;
mod congestion;
pub mod gateway;
pub mod identity;
pub mod invite;
pub mod link;
pub mod node;
pub mod offload;
pub mod portmap;
pub mod proxy;
pub mod rendezvous;
pub mod switch;
pub mod traversal;
pub mod wire;

/// Which of the driver's UDP sockets a datagram came in by or leaves by.
///
/// Socket 0 is the main one, whose mapping is registered at the rendezvous; a port search opens others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The socket that registration, checks and data share.
    pub const MAIN: Self = Self(0);
}

/// What a node wants of its driver's sockets, beside the main one.
///
/// Each `Open` is answered by [`node::Command::SocketOpened`] or [`node::Command::SocketRefused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketRequest {
    /// Bind a fresh socket to any free port and take in what comes by it.
    Open(SocketId),
    /// It is not needed any more.
    Close(SocketId),
}

/// One or more UDP datagrams for one destination, for the driver to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The socket to send by.
    pub socket: SocketId,
    /// Where to.
    pub destination: SocketAddr,
    /// The payload; with `segment_size`, several datagrams back to back.
    pub contents: Vec<u8>,
    /// The size in bytes of each datagram in `contents` but the last, when there are several (GSO).
    pub segment_size: Option<usize>,
    /// IP time to live when it is not the system's default (openers that must die before the far NAT).
    pub ttl: Option<u8>,
}

impl Transmit {
    /// One datagram by the main socket.
    #[must_use]
    pub const fn datagram(destination: SocketAddr, contents: Vec<u8>) -> Self {
        Self {
            socket: SocketId::MAIN,
            destination,
            contents,
            segment_size: None,
            ttl: None,
        }
    }
}
