//! What goes in and out of a rendezvous beside datagrams: settings, limits, events, counters. Plain data.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::{Rate, RegistryLimits};
use crate::identity::PeerId;
use crate::wire::stun;

/// What a rendezvous is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its addresses as the Internet sees them, as far as they are known: for STUN's RESPONSE-ORIGIN and OTHER-ADDRESS.
    pub addresses: Vec<IpAddr>,
    /// The port of the main socket.
    pub port: u16,
    /// The port of the second socket, if there is one.
    pub alternate_port: Option<u16>,
    /// A second address with both ports, if there is one: with it, this is a whole server of RFC 5780.
    pub second_address: Option<IpAddr>,
    /// Who gets an answer to STUN.
    pub stun: stun::Policy,
    /// What it lets others ask of it.
    pub limits: Limits,
}

/// What a rendezvous lets others ask of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Limits of registered peers.
    pub registry: RegistryLimits,
    /// Connections that have not registered yet; one more takes the place of the oldest of the source that has the most.
    pub handshakes: usize,
    /// The same of one IPv4 address or IPv6 /64; one more takes the place of its oldest.
    pub handshakes_per_source: usize,
    /// Registered peers of one IPv4 address or IPv6 /64.
    pub peers_per_source: usize,
    /// Datagrams from one IPv4 address or IPv6 /64 that has proved nothing; the rest is dropped unread.
    pub unproven: Rate,
    /// STUN answers that are larger than their request, to one IPv4 address or IPv6 /64 (see [`stun::Policy::Compatible`]).
    pub larger_answers: Rate,
    /// The same to all.
    pub larger_answers_in_all: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            registry: RegistryLimits {
                peers: 100_000,
                // Each costs 48 bytes: 96 MB when all are taken.
                channels: 2_000_000,
                outbound_per_peer: 256,
                inbound_per_peer: 4096,
                per_pair: 4,
                // A peer that comes back opens all its channels again at once.
                requests: Rate {
                    burst: 1024,
                    per_second: 64,
                },
                // All members of a large hub may come back at once.
                introductions: Rate {
                    burst: 4096,
                    per_second: 512,
                },
                // All members behind one office's or one carrier's address, too.
                introductions_per_source: Rate {
                    burst: 512,
                    per_second: 32,
                },
                // Ten gigabits per second, which is more than one core relays: fairness among peers, not a saving of the
                // operator's network, is what it is for. A twentieth of a second at once.
                relayed_bytes: Rate {
                    burst: 64_000_000,
                    per_second: 1_250_000_000,
                },
            },
            handshakes: 1024,
            // An office behind one address whose machines all come back at once: a handshake takes a fifth of a second, so
            // that this is more than a thousand a second.
            handshakes_per_source: 256,
            // Carriers put 16 to 64 households behind one address, seldom 256 (a block of ports for each), and each peer needs
            // one of its 64,512 ports; a company's thousand machines may be behind one too.
            peers_per_source: 1024,
            // A whole office behind one address may come back at once; a registration takes about ten datagrams.
            unproven: Rate {
                burst: 2000,
                per_second: 400,
            },
            // A client asks some ten times to learn all about its NAT. An answer has 100 bytes at most, so whoever puts another's
            // address on a request sends no more than 500 bytes a second there, and 20 kB a second in all.
            larger_answers: Rate {
                burst: 40,
                per_second: 5,
            },
            larger_answers_in_all: Rate {
                burst: 400,
                per_second: 200,
            },
        }
    }
}

/// What a rendezvous tells its driver, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// A peer is here.
    Registered {
        /// Its key.
        peer: PeerId,
        /// Its address.
        address: SocketAddr,
    },
    /// A peer proved another address.
    Moved {
        /// Its key.
        peer: PeerId,
        /// The new address.
        address: SocketAddr,
    },
    /// A peer registered anew; its former registration is over.
    Replaced {
        /// Its key.
        peer: PeerId,
    },
    /// A peer is here no more.
    Gone {
        /// Its key.
        peer: PeerId,
        /// Why, in a few words.
        reason: String,
    },
}

/// Counters since the start, and what is here now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Peers that are registered now.
    pub peers: usize,
    /// Channels that are open now.
    pub channels: usize,
    /// QUIC connections now, ending ones included.
    pub connections: usize,
    /// Registrations since the start.
    pub registrations: u64,
    /// Datagrams relayed.
    pub relayed_datagrams: u64,
    /// Bytes of them, header included.
    pub relayed_bytes: u64,
    /// STUN answers sent.
    pub stun_answers: u64,
    /// Those of them that were larger than their request.
    pub larger_answers: u64,
    /// Datagrams of no known kind, or malformed.
    pub dropped_malformed: u64,
    /// Datagrams to relay that came from no registered peer's proven address.
    pub dropped_unknown_source: u64,
    /// Datagrams to relay on a channel that is not open.
    pub dropped_unknown_channel: u64,
    /// Datagrams over a limit, of a peer or of an unproven source.
    pub dropped_limit: u64,
    /// Connections that had not registered and made room for newer ones.
    pub dropped_half_open: u64,
}
