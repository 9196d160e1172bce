//! The conversation between a peer and the rendezvous: its messages here, its two halves side by side below.
//!
//! ```text
//!  peer A                     rendezvous                     peer B
//!    │ QUIC, keys proved          │          QUIC, keys proved │
//!    │ Register ────────────────▶ │ ◀──────────────── Register │
//!    │ ◀─────────────── Registered│Registered ───────────────▶ │
//!    │ Open{channel 2, peer B} ──▶│ Incoming{channel 1, A} ──▶ │
//!    │ ══ datagrams on channel 2 ▶│══ the same on channel 1 ══▶│   (plain UDP, not inside QUIC)
//! ```
//!
//! The peer that opens chooses its channel's number itself (even ones; the rendezvous numbers the other end, odd), so it may
//! send on it at once, without waiting a round trip. The rendezvous learns ids, addresses and sizes; it never holds a link
//! key, a password or a candidate list.
//!
//! An address is proven before anything is relayed to it: the first by QUIC's Retry (RFC 9000, section 8.1), a new one
//! (a NAT that forgot, another network) by `Prove` and `Proof`. Every byte: `PROTOCOL.md`.

use std::net::SocketAddr;

use bincode::{Decode, Encode};

use crate::identity::PeerId;

pub mod client;
pub mod observe;
#[cfg(test)]
mod pipe;
mod quic;
pub mod server;

pub use crate::wire::relay::Channel;
pub use quic::{KEEP_ALIVE, MAX_IDLE};

/// The version of these messages, agreed by ALPN on the QUIC connection.
pub const ALPN: &[u8] = b"kuguri-rendezvous/1";

/// What a peer says to the rendezvous.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToRendezvous {
    /// I am here; my key is the one that the connection proved.
    Register {
        /// Bits for what else it can do; unknown ones are ignored.
        features: u64,
    },
    /// Relay my datagrams on this channel to that peer, and its to me.
    Open {
        /// Chosen by the sender: even, not open.
        channel: Channel,
        /// The peer at the other end.
        peer: PeerId,
    },
    /// The channel is not needed any more.
    Close {
        /// The sender's number of it.
        channel: Channel,
    },
    /// The answer to [`ToPeer::Prove`]: whoever sends it reads what is sent to its new address.
    Proof {
        /// As in the question.
        nonce: u64,
    },
}

/// What the rendezvous says to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToPeer {
    /// You are here.
    Registered {
        /// The address that your datagrams come from.
        observed: SocketAddr,
        /// Where it also answers STUN: its alternate port, and its alternate address if it has one.
        stun: Vec<SocketAddr>,
        /// Bits for what else it can do; unknown ones are ignored.
        features: u64,
    },
    /// A peer opened a channel to you.
    Incoming {
        /// Chosen by the rendezvous: odd, not open.
        channel: Channel,
        /// The peer at the other end.
        peer: PeerId,
    },
    /// A channel is not, or not any more.
    Closed {
        /// The receiver's number of it.
        channel: Channel,
        /// Why.
        reason: CloseReason,
    },
    /// Your datagrams come from another address than before: say the nonce, and what is relayed to you goes there.
    Prove {
        /// Drawn for this address alone.
        nonce: u64,
    },
    /// You are here no more, because somebody registered with your key: the connection ends.
    Replaced,
}

/// Why a channel is not, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub enum CloseReason {
    /// Nobody with that key is registered.
    NotRegistered,
    /// The other end closed it.
    ClosedByPeer,
    /// The registration of one of the two ends ended.
    PeerGone,
    /// A limit of the rendezvous: too many channels or requests.
    Limit,
    /// The request was not according to the rules (an odd number, one that is open, or oneself).
    Invalid,
    /// The other end registered anew: it may have started again. It can be reached at once.
    PeerReturned,
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
