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

use crate::link::{Fate, Link, LinkConfig};
use crate::nat::{Behavior, Nat, NatConfig, NatConfigError, Preset, Verdict};
use crate::packet::{IcmpError, Packet};

mod capture;
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
    arrived: VecDeque<(HostId, Packet)>,
    log: Log,
}

#[derive(Debug, Default)]
struct Segment {
    stations: BTreeMap<IpAddr, Station>,
    gateway: Option<RouterId>,
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
            arrived: VecDeque::new(),
            log: Log::new(Logging::Off),
        }
    }

    /// A host that is not attached to anything yet.
    pub fn add_host(&mut self) -> HostId {
        self.hosts.push(Vec::new());
        HostId(self.hosts.len() - 1)
    }

    /// Attaches a host to a segment, beside what it is attached to already.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn attach(
        &mut self,
        host: HostId,
        segment: SegmentId,
        addresses: &[IpAddr],
        access: Access,
    ) -> Result<(), NetworkError> {
        let id = self.attachments.len();
        if host.0 >= self.hosts.len() {
            return Err(NetworkError::NoSuchPlace(Place::Host(host)));
        }
        self.check(segment, addresses)?;
        for &address in addresses {
            self.register(segment, address, Station::Host(id));
        }
        let (up, down) = self.links(access);
        self.attachments.push(Attachment {
            host,
            segment,
            addresses: addresses.to_vec(),
            up,
            down,
            gone: false,
        });
        self.hosts[host.0].push(id);
        Ok(())
    }

    /// Takes a host off everything, as when its cable is pulled; what is on its links is lost.
    pub fn detach(&mut self, host: HostId) {
        let attachments = self
            .hosts
            .get_mut(host.0)
            .map(std::mem::take)
            .unwrap_or_default();
        for id in attachments {
            let attachment = &mut self.attachments[id];
            attachment.gone = true;
            let segment = attachment.segment;
            for address in std::mem::take(&mut attachment.addresses) {
                self.unregister(segment, address);
            }
        }
    }

    /// A router with a new segment inside, attached to `outside`.
    ///
    /// # Errors
    /// When an address is taken, or the NAT's options contradict each other.
    pub fn add_router(
        &mut self,
        outside: SegmentId,
        config: RouterConfig,
    ) -> Result<(RouterId, SegmentId), NetworkError> {
        let (id, inside) = (RouterId(self.routers.len()), SegmentId(self.segments.len()));
        self.check(outside, &config.outside)?;
        let ipv4 = Nat::new(config.nat, config.outside.clone(), self.rng.next_u64())?;
        let ipv6 = Nat::new(config.ipv6, config.outside.clone(), self.rng.next_u64())?;
        let (up, down) = self.links(config.access);
        self.routers.push(Router {
            inside,
            outside,
            ipv4,
            ipv6,
            up,
            down,
        });
        for address in config.outside {
            self.register(outside, address, Station::Router(id));
        }
        let stations = config
            .inside
            .iter()
            .map(|&address| (address, Station::Gateway));
        self.segments.push(Segment {
            stations: stations.collect(),
            gateway: Some(id),
            hops: 0,
            reporters: config.inside,
            capture: None,
        });
        Ok((id, inside))
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
        match own.or(attachments.first()) {
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

    fn links(&mut self, access: Access) -> (Link, Link) {
        let up = Link::new(access.up, self.rng.next_u64());
        (up, Link::new(access.down, self.rng.next_u64()))
    }

    /// Where an address of this segment is known: there, and further out as far as it is not translated.
    fn reach(&self, mut segment: SegmentId, address: IpAddr) -> Vec<(SegmentId, Option<RouterId>)> {
        let mut reach = vec![(segment, None)];
        while let Some(gateway) = self.segments[segment.0].gateway {
            let router = &self.routers[gateway.0];
            if router.nat_for(address).config().mapping != Behavior::None {
                break;
            }
            segment = router.outside;
            reach.push((segment, Some(gateway)));
        }
        reach
    }

    fn check(&self, segment: SegmentId, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        if segment.0 >= self.segments.len() {
            return Err(NetworkError::NoSuchPlace(Place::Segment(segment)));
        }
        for &address in addresses {
            for (segment, _) in self.reach(segment, address) {
                if self.segments[segment.0].stations.contains_key(&address) {
                    return Err(NetworkError::AddressTaken(segment, address));
                }
            }
        }
        Ok(())
    }

    fn register(&mut self, segment: SegmentId, address: IpAddr, station: Station) {
        for (segment, by) in self.reach(segment, address) {
            let station = by.map_or(station, Station::Router);
            self.segments[segment.0].stations.insert(address, station);
        }
    }

    fn unregister(&mut self, segment: SegmentId, address: IpAddr) {
        for (segment, _) in self.reach(segment, address) {
            self.segments[segment.0].stations.remove(&address);
        }
    }

    /// Puts a packet on a link.
    fn cross(&mut self, wire: Wire, packet: Packet, now: Instant) {
        match self.link(wire).send(&packet, now) {
            Fate::Arrives { at, copy } => {
                if let Some(at) = copy {
                    self.note(Event::Duplicated(self.place(wire)), &packet, now);
                    self.fly(wire, packet.clone(), at);
                }
                self.fly(wire, packet, at);
            }
            Fate::Lost(drop) => self.lose(self.place(wire), Cause::Link(drop), &packet, now),
            Fate::TooBig { mtu } => {
                self.lose(self.place(wire), Cause::TooBig, &packet, now);
                self.too_big(wire, &packet, mtu, now);
            }
        }
    }

    fn fly(&mut self, wire: Wire, packet: Packet, at: Instant) {
        self.sequence += 1;
        self.flight.push(Reverse(InFlight {
            at,
            sequence: self.sequence,
            wire,
            packet,
        }));
    }

    /// A packet comes off a link.
    fn arrive(&mut self, wire: Wire, packet: Packet, now: Instant) {
        match wire {
            Wire::HostUp(id) | Wire::HostDown(id) if self.attachments[id].gone => {
                self.lose(self.place(wire), Cause::Detached, &packet, now);
            }
            Wire::HostUp(id) => self.route(self.attachments[id].segment, packet, false, now),
            Wire::HostDown(id) => self.receive(self.attachments[id].host, packet, now),
            Wire::RouterUp(router) => {
                self.route(self.routers[router.0].outside, packet, false, now);
            }
            Wire::RouterDown(router) => self.enter(router, packet, now),
        }
    }

    fn receive(&mut self, host: HostId, packet: Packet, now: Instant) {
        self.note(Event::Received(host), &packet, now);
        self.arrived.push_back((host, packet));
    }

    /// A packet is on a segment; `entered`: it came in by the segment's gateway, and does not leave by it again.
    fn route(&mut self, id: SegmentId, mut packet: Packet, entered: bool, now: Instant) {
        let at = now.saturating_duration_since(self.start);
        let segment = &mut self.segments[id.0];
        if let Some(capture) = &mut segment.capture {
            capture.push(at, &packet);
        }
        let (hops, gateway) = (segment.hops, segment.gateway);
        if packet.ttl <= hops {
            return self.exceed(id, &packet, now);
        }
        packet.ttl -= hops;
        match (segment.stations.get(&packet.destination), gateway) {
            (Some(&Station::Host(to)), _) => self.cross(Wire::HostDown(to), packet, now),
            (Some(&Station::Router(to)), _) => self.cross(Wire::RouterDown(to), packet, now),
            (None, Some(router)) if !entered => self.leave(router, packet, now),
            (Some(Station::Gateway) | None, _) => {
                self.lose(Place::Segment(id), Cause::Unroutable, &packet, now);
            }
        }
    }

    /// A packet reaches a router from inside.
    fn leave(&mut self, id: RouterId, mut packet: Packet, now: Instant) {
        let router = &mut self.routers[id.0];
        let inside = router.inside;
        if packet.ttl <= 1 {
            return self.exceed(inside, &packet, now);
        }
        if let Some(mtu) = router.up.too_big(&packet) {
            self.lose(Place::Router(id), Cause::TooBig, &packet, now);
            return self.report(inside, &packet, IcmpError::TooBig { mtu }, now);
        }
        packet.ttl -= 1;
        let before = self.log.is_on().then(|| packet.clone());
        match router.nat_for_mut(packet.source).outbound(packet, now) {
            Verdict::Forward(packet) => {
                self.note(Event::Outbound(id), &packet, now);
                self.cross(Wire::RouterUp(id), packet, now);
            }
            Verdict::Hairpin(packet) => {
                self.note(Event::Hairpin(id), &packet, now);
                self.route(inside, packet, true, now);
            }
            Verdict::Drop(reason) => self.refuse(id, reason, before.as_ref(), now),
            Verdict::Reply(packet) => {
                self.note(Event::Reported(Place::Router(id)), &packet, now);
                self.route(inside, packet, true, now);
            }
        }
    }

    /// A packet reaches a router from outside.
    fn enter(&mut self, id: RouterId, mut packet: Packet, now: Instant) {
        let router = &mut self.routers[id.0];
        let (inside, outside) = (router.inside, router.outside);
        if packet.ttl <= 1 {
            return self.exceed(outside, &packet, now);
        }
        packet.ttl -= 1;
        let before = self.log.is_on().then(|| packet.clone());
        match router.nat_for_mut(packet.source).inbound(packet, now) {
            Verdict::Forward(packet) | Verdict::Hairpin(packet) => {
                self.note(Event::Inbound(id), &packet, now);
                self.route(inside, packet, true, now);
            }
            Verdict::Drop(reason) => self.refuse(id, reason, before.as_ref(), now),
            Verdict::Reply(packet) => {
                self.note(Event::Reported(Place::Router(id)), &packet, now);
                self.cross(Wire::RouterUp(id), packet, now);
            }
        }
    }

    fn refuse(
        &mut self,
        id: RouterId,
        reason: crate::nat::DropReason,
        packet: Option<&Packet>,
        now: Instant,
    ) {
        if let Some(packet) = packet {
            self.lose(Place::Router(id), Cause::Nat(reason), packet, now);
        }
    }

    fn exceed(&mut self, segment: SegmentId, packet: &Packet, now: Instant) {
        self.lose(Place::Segment(segment), Cause::TimeExceeded, packet, now);
        self.report(segment, packet, IcmpError::TimeExceeded, now);
    }

    /// The sender of a packet that a link could not take is told by the router at the link's near end.
    fn too_big(&mut self, wire: Wire, packet: &Packet, mtu: u16, now: Instant) {
        let error = IcmpError::TooBig { mtu };
        match wire {
            // The host's own interface: it tells itself.
            Wire::HostUp(id) => {
                if let Some(error) = packet.error(packet.source, error) {
                    self.receive(self.attachments[id].host, error, now);
                }
            }
            Wire::HostDown(id) => self.report(self.attachments[id].segment, packet, error, now),
            Wire::RouterDown(id) | Wire::RouterUp(id) => {
                self.report(self.routers[id.0].outside, packet, error, now);
            }
        }
    }

    /// Sends an ICMP error from a segment's router to the sender of `packet`.
    fn report(&mut self, segment: SegmentId, packet: &Packet, error: IcmpError, now: Instant) {
        let reporters = &self.segments[segment.0].reporters;
        let reporter = reporters
            .iter()
            .chain(&CORE_REPORTERS)
            .find(|address| address.is_ipv6() == packet.is_ipv6());
        let error = reporter.and_then(|&reporter| packet.error(reporter, error));
        if let Some(error) = error {
            self.note(Event::Reported(Place::Segment(segment)), &error, now);
            self.route(segment, error, false, now);
        }
    }

    const fn link(&mut self, wire: Wire) -> &mut Link {
        match wire {
            Wire::HostUp(id) => &mut self.attachments.as_mut_slice()[id].up,
            Wire::HostDown(id) => &mut self.attachments.as_mut_slice()[id].down,
            Wire::RouterUp(id) => &mut self.routers.as_mut_slice()[id.0].up,
            Wire::RouterDown(id) => &mut self.routers.as_mut_slice()[id.0].down,
        }
    }

    fn place(&self, wire: Wire) -> Place {
        match wire {
            Wire::HostUp(id) | Wire::HostDown(id) => Place::Host(self.attachments[id].host),
            Wire::RouterUp(id) | Wire::RouterDown(id) => Place::Router(id),
        }
    }

    fn lose(&mut self, place: Place, cause: Cause, packet: &Packet, now: Instant) {
        self.note(Event::Dropped(place, cause), packet, now);
    }

    fn note(&mut self, event: Event, packet: &Packet, now: Instant) {
        if self.log.is_on() {
            let at = now.saturating_duration_since(self.start);
            self.log.push(at, event, packet);
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
