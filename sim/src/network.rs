//! The pretended Internet: hosts on segments, routers between segments, a link each way wherever one is attached. Decides
//! where packets go; what links and NATs do to them is theirs. Knows nothing of what hosts say.
//!
//! ```text
//!                 segment 0: the core (hops, no delay of its own)
//!        ┌───────────────┬──────────────────┐
//!     host S          router 0           router 1       ← up and down link, NAT (IPv4), firewall (IPv6)
//!                    segment 1          segment 2
//!                   ┌────┴────┐             │
//!                host A    router 2      host C          topologies nest: a home behind a carrier's NAT
//!                         segment 3
//!                             │
//!                          host B
//! ```
//!
//! The round trip between two hosts is the sum of the links that lead up to the segment that they share, both ways.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::link::{Link, LinkConfig};
use crate::nat::{Nat, NatConfig, NatConfigError, Preset};
use crate::packet::Packet;
use crate::rules::Rules;

mod build;
mod capture;
mod forward;
mod log;

pub use capture::{Capture, Captured};
pub use log::{Cause, Entry, Event, Log, Logging, Place, Summary};

/// A host of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// A router of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(usize);

/// A segment of one network: what is attached to it reaches each other by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(usize);

/// The link by which something is attached to a segment, each way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Access {
    /// To the segment.
    pub up: LinkConfig,
    /// From it.
    pub down: LinkConfig,
}

impl Access {
    /// The same both ways.
    #[must_use]
    pub fn symmetric(link: LinkConfig) -> Self {
        Self {
            up: link.clone(),
            down: link,
        }
    }

    /// A perfect link with this delay each way.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self::symmetric(LinkConfig::delay(delay))
    }
}

/// A router between a new inside segment and the segment outside.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Its addresses on the outside segment.
    pub outside: Vec<IpAddr>,
    /// Its addresses on the inside segment, from which it reports errors.
    pub inside: Vec<IpAddr>,
    /// What it does to IPv4.
    pub nat: NatConfig,
    /// What it does to IPv6: a firewall has no mapping.
    pub ipv6: NatConfig,
    /// What may be spoken through it at all.
    pub rules: Rules,
    /// Its link to the outside segment.
    pub access: Access,
}

impl RouterConfig {
    /// A NAT with one outside address; plain routing of IPv6, which it has only if hosts have such addresses.
    #[must_use]
    pub fn new(nat: NatConfig, outside: IpAddr, access: Access) -> Self {
        Self {
            outside: vec![outside],
            inside: Vec::new(),
            nat,
            ipv6: Preset::Open.config(),
            rules: Rules::default(),
            access,
        }
    }
}

/// Why a network cannot be built so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Two cannot have one address on one segment.
    #[error("{1} is taken on {0}")]
    AddressTaken(SegmentId, IpAddr),
    /// It is another network's.
    #[error("there is no {0}")]
    NoSuchPlace(Place),
    /// A NAT's options contradict each other.
    #[error(transparent)]
    Nat(#[from] NatConfigError),
}

/// Everything between the hosts.
#[derive(Debug)]
pub struct Network {
    start: Instant,
    rng: StdRng,
    segments: Vec<Segment>,
    routers: Vec<Router>,
    attachments: Vec<Attachment>,
    /// Each host's attachments.
    hosts: Vec<Vec<usize>>,
    flight: BinaryHeap<Reverse<InFlight>>,
    sequence: u64,
    /// Of the last packet that was cut.
    identification: u16,
    arrived: VecDeque<(HostId, Packet)>,
    log: Log,
}

#[derive(Debug, Default)]
struct Segment {
    stations: BTreeMap<IpAddr, Station>,
    gateway: Option<RouterId>,
    /// Who takes what is for nobody here, and did not come from there.
    default: Option<usize>,
    /// How many routers a packet passes here, which are not modelled one by one.
    hops: u8,
    reporters: Vec<IpAddr>,
    capture: Option<Capture>,
}

/// Who takes what is sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Station {
    Host(usize),
    Router(RouterId),
    /// The segment's own router; it has no service of its own.
    Gateway,
}

#[derive(Debug)]
struct Router {
    inside: SegmentId,
    outside: SegmentId,
    ipv4: Nat,
    ipv6: Nat,
    rules: Rules,
    up: Link,
    down: Link,
}

#[derive(Debug)]
struct Attachment {
    host: HostId,
    segment: SegmentId,
    addresses: Vec<IpAddr>,
    up: Link,
    down: Link,
    gone: bool,
}

/// One way of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    HostUp(usize),
    HostDown(usize),
    RouterUp(RouterId),
    RouterDown(RouterId),
}

#[derive(Debug)]
struct InFlight {
    at: Instant,
    sequence: u64,
    wire: Wire,
    packet: Packet,
}

impl Network {
    /// The segment that is there from the start: the core of the Internet.
    pub const INTERNET: SegmentId = SegmentId(0);

    /// An empty Internet. Everything random in it comes from `seed`.
    #[must_use]
    pub fn new(seed: u64, start: Instant) -> Self {
        let core = Segment {
            hops: CORE_HOPS,
            reporters: CORE_REPORTERS.to_vec(),
            ..Segment::default()
        };
        Self {
            start,
            rng: StdRng::seed_from_u64(seed),
            segments: vec![core],
            routers: Vec::new(),
            attachments: Vec::new(),
            hosts: Vec::new(),
            flight: BinaryHeap::new(),
            sequence: 0,
            identification: 0,
            arrived: VecDeque::new(),
            log: Log::new(Logging::Off),
        }
    }

    /// When it began.
    #[must_use]
    pub const fn start(&self) -> Instant {
        self.start
    }

    /// Randomness of this network's seed, for what is built later.
    pub fn fresh_seed(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// How many routers a packet passes on a segment; at first 8 in the core and none elsewhere.
    pub fn set_hops(&mut self, segment: SegmentId, hops: u8) {
        if let Some(segment) = self.segments.get_mut(segment.0) {
            segment.hops = hops;
        }
    }

    /// What is kept of what happens; at first nothing.
    pub const fn set_logging(&mut self, logging: Logging) {
        self.log.set(logging);
    }

    /// Keeps what passes on a segment from now on, up to `limit` packets.
    pub fn capture(&mut self, segment: SegmentId, limit: usize) {
        if let Some(segment) = self.segments.get_mut(segment.0) {
            segment.capture = Some(Capture::new(limit));
        }
    }

    /// A packet leaves a host, by the attachment that has its source address, else by the first one: a host may lie about
    /// its address.
    pub fn send(&mut self, host: HostId, packet: Packet, now: Instant) {
        self.note(Event::Sent(host), &packet, now);
        let attachments = self.hosts.get(host.0).map_or(&[][..], Vec::as_slice);
        let own = attachments
            .iter()
            .find(|&&id| self.attachments[id].addresses.contains(&packet.source));
        match own.or_else(|| attachments.first()) {
            Some(&id) => self.cross(Wire::HostUp(id), packet, now),
            None => self.lose(Place::Host(host), Cause::Detached, &packet, now),
        }
    }

    /// Moves everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(Reverse(next)) = self.flight.peek()
            && next.at <= now
            && let Some(Reverse(due)) = self.flight.pop()
        {
            self.arrive(due.wire, due.packet, now);
        }
    }

    /// The next packet that reached its host.
    pub fn poll_packet(&mut self) -> Option<(HostId, Packet)> {
        self.arrived.pop_front()
    }

    /// When something is due; at once while a packet waits for [`Self::poll_packet`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.arrived.is_empty() {
            return Some(self.start);
        }
        self.flight.peek().map(|Reverse(next)| next.at)
    }

    /// What happened so far.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// What was captured on a segment, if it was wanted.
    #[must_use]
    pub fn captured(&self, segment: SegmentId) -> Option<&Capture> {
        self.segments.get(segment.0)?.capture.as_ref()
    }

    /// A router's NAT for IPv4.
    #[must_use]
    pub fn nat(&self, router: RouterId) -> Option<&Nat> {
        Some(&self.routers.get(router.0)?.ipv4)
    }

    /// The same, to be changed during a run: rebooted, for example.
    pub fn nat_mut(&mut self, router: RouterId) -> Option<&mut Nat> {
        Some(&mut self.routers.get_mut(router.0)?.ipv4)
    }

    /// The same for IPv6.
    pub fn ipv6_mut(&mut self, router: RouterId) -> Option<&mut Nat> {
        Some(&mut self.routers.get_mut(router.0)?.ipv6)
    }

    /// What may be spoken through a router from now on.
    pub fn set_rules(&mut self, router: RouterId, rules: Rules) {
        if let Some(router) = self.routers.get_mut(router.0) {
            router.rules = rules;
        }
    }

    /// A router's link to its outside segment from now on.
    pub fn set_access(&mut self, router: RouterId, access: Access) {
        if let Some(router) = self.routers.get_mut(router.0) {
            router.up.set_config(access.up);
            router.down.set_config(access.down);
        }
    }

    /// Hosts' links from now on.
    pub fn set_host_access(&mut self, host: HostId, access: &Access) {
        for &id in self.hosts.get(host.0).map_or(&[][..], Vec::as_slice) {
            self.attachments[id].up.set_config(access.up.clone());
            self.attachments[id].down.set_config(access.down.clone());
        }
    }

    fn lose(&mut self, place: Place, cause: Cause, packet: &Packet, now: Instant) {
        self.note(Event::Dropped(place, cause), packet, now);
    }

    fn note(&mut self, event: Event, packet: &Packet, now: Instant) {
        if self.log.is_on() {
            let at = now.saturating_duration_since(self.start);
            self.log.push(at, event, Summary::of(packet));
        }
    }
}

impl Router {
    const fn nat_for(&self, address: IpAddr) -> &Nat {
        if address.is_ipv6() {
            &self.ipv6
        } else {
            &self.ipv4
        }
    }

    /// IPv6 that is meant for IPv4 is the affair of the NAT for IPv4.
    fn nat_for_outbound(&mut self, packet: &Packet) -> &mut Nat {
        let prefix = self.ipv4.config().nat64;
        let translated = prefix.and_then(|prefix| prefix.extract(packet.destination));
        if translated.is_some() {
            return &mut self.ipv4;
        }
        self.nat_for_mut(packet.source)
    }

    const fn nat_for_mut(&mut self, address: IpAddr) -> &mut Nat {
        if address.is_ipv6() {
            &mut self.ipv6
        } else {
            &mut self.ipv4
        }
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    /// By time; at one instant in the order of sending.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.0)
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "router {}", self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Network::INTERNET => f.write_str("the core"),
            Self(number) => write!(f, "segment {number}"),
        }
    }
}

/// Enough that a packet with a TTL of 2 to 8 opens its own NAT and dies before the other one.
const CORE_HOPS: u8 = 8;
/// RFC 7600's dummy address, and one of the discard prefix (RFC 6666): routers without an address of their own.
const CORE_REPORTERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1)),
];

#[cfg(test)]
mod tests;
