//! What `kuguri status` shows: plain data, the same for people and for programs.

use std::net::SocketAddr;

use serde::Serialize;

use crate::link::path::CandidateFate;
use crate::portmap::PortmapStatus;
use crate::traversal::SearchCounters;
use crate::wire::control::NatClass;

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// Our key, in text.
    pub id: String,
    /// "hub" or "member".
    pub role: String,
    /// The hub's name, once known.
    pub hub: Option<String>,
    /// The registration.
    pub rendezvous: RendezvousStatus,
    /// The NAT before us.
    pub nat: NatStatus,
    /// Every link, by peer.
    pub links: Vec<LinkStatus>,
    /// The switch's counters and table (empty on a member that hosts no hub).
    pub macs: Vec<MacStatus>,
    /// Datagrams refused before any link could be told: unknown kinds, unknown receiver indices, malformed.
    pub refused_datagrams: u64,
}

/// The registration at the rendezvous.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RendezvousStatus {
    /// "connecting" (it is tried again by itself; the problem says why), "registered", or "failed" for good.
    pub state: String,
    /// The address in use.
    pub address: Option<SocketAddr>,
    /// Its key, in text, once known.
    pub key: Option<String>,
    /// Our address as it sees it.
    pub observed: Option<SocketAddr>,
    /// Why it failed, in one sentence.
    pub problem: Option<String>,
}

/// The NAT before us, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NatStatus {
    /// Mapping, filtering, allocation.
    #[serde(flatten)]
    pub class: NatClass,
    /// Whether two hosts behind it reach each other by their outside addresses.
    pub hairpin: Option<bool>,
    /// What the gateway says to our wish for an outside port.
    pub portmap: PortmapStatus,
    /// Whether ports are searched for where plain punching does not succeed.
    pub search_enabled: bool,
    /// Sockets open beside the main one.
    pub sockets: usize,
    /// Links that wait to search.
    pub waiting_searches: usize,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LinkStatus {
    /// The other side's key, in text.
    pub peer: String,
    /// The other side's machine, or the hub's name.
    pub name: String,
    /// "handshake", "relayed" or "direct".
    pub path: String,
    /// The remote address when direct.
    pub address: Option<SocketAddr>,
    /// Seconds since the path was chosen.
    pub since_seconds: f64,
    /// Smoothed round trip in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
    /// The largest datagram in bytes (UDP payload) that the path is proved to carry.
    pub mtu: usize,
    /// "AES-256-GCM" or "ChaCha20-Poly1305".
    pub cipher: String,
    /// The key epoch.
    pub epoch: u8,
    /// In one sentence why it is not direct; nothing while it is.
    pub why_not_direct: Option<String>,
    /// What became of each address of the other side.
    pub candidates: Vec<CandidateFate>,
    /// The NAT before the other side, as it says.
    pub remote_nat: NatClass,
    /// What searches for a port have used.
    pub search: SearchCounters,
    /// What went through and what was dropped.
    pub counters: Counters,
}

/// A link's counters, since it came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Frames given to the link.
    pub frames_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Frames that came out of it.
    pub frames_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// Sealed datagrams sent.
    pub datagrams_sent: u64,
    /// Sealed datagrams opened.
    pub datagrams_received: u64,
    /// Datagrams whose tag is wrong: forged or damaged on the way.
    pub dropped_forged: u64,
    /// Datagrams seen before, or older than the replay window.
    pub dropped_replayed: u64,
    /// Datagrams too short or with impossible contents.
    pub dropped_malformed: u64,
    /// Frames dropped because a queue was full.
    pub dropped_queue: u64,
    /// Frames whose parts did not all come.
    pub dropped_incomplete: u64,
}

/// One learnt address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MacStatus {
    /// The address.
    pub mac: String,
    /// Where it is: "gateway", "card", or a member's key.
    pub port: String,
    /// Seconds since it was last seen.
    pub age_seconds: u64,
}
