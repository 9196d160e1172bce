//! The virtual NAT: from members' packets to sockets of the host and back (REQUIREMENTS E6 to E12).
//!
//! ```text
//!   switch ──frame──▶ packet ─▶ fragment ─┬─ TCP ──▶ streams ───┐
//!                                         ├─ UDP ──▶ datagrams ─┤
//!                                         │   └ 53 ▶ questions ─┼──▶ sockets of the host
//!                                         └─ echo ─▶ datagrams ─┘         │
//!   switch ◀─frame── out ◀───────────────────────────── handle_… ◀────────┘
//! ```
//!
//! **Behaviour.** Mapping is endpoint-independent and filtering address-dependent for UDP (RFC 4787, REQ-1 and REQ-8) and
//! for pings (RFC 5508, REQ-1, REQ-6); TCP connections are the host's own, so there is nothing to hole-punch (RFC 5382's
//! REQ-1 does not hold). A UDP mapping lives on traffic from either side (REQ-6 asks for outbound, allows inbound).
//! ICMP errors are translated both for UDP and for pings (RFC 5508, REQ-4). No hairpinning: members reach one another through
//! the switch. Fragments are put together in any order (RFC 4787, REQ-14).
//!
//! It knows neither switch nor link. It owns no socket: [`Sockets`] are an argument of every input, so that what is done and
//! what comes of it lie side by side, without a queue between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::access::Protocol;
use super::control::{Echo, Unreachable, send_error};
use super::event::{NatCounters, NatEvent, NatRow};
use super::fragment::{Fragments, Joined};
use super::out::{Frame, Out, Port, is_unicast};
use super::packet::{self, Malformed, Packet};
use super::settings::NatSettings;
use super::slots::Slots;
use super::sockets::{Failure, SocketId, Sockets};
use super::tcp::End;
use crate::bucket::{Bucket, Rate};
use crate::wire::ethernet::MacAddr;
use datagrams::{Mapping, Ping};
use published::Door;
use questions::Question;
use streams::Stream;

mod datagrams;
mod published;
mod questions;
mod streams;

/// The NAT.
#[derive(Debug)]
pub struct Nat {
    settings: NatSettings,
    out: Out,
    places: Slots<Place>,
    by_key: BTreeMap<Key, SocketId>,
    timers: BTreeSet<(Instant, SocketId)>,
    /// Streams that have more to send as soon as there is room.
    ready: VecDeque<SocketId>,
    /// Connections from outside that wait until the member's MAC address is known.
    parked: Vec<published::Parked>,
    /// Published UDP ports.
    doors: Vec<SocketId>,
    shares: BTreeMap<IpAddr, Share>,
    total: Share,
    stations: BTreeMap<IpAddr, MacAddr>,
    fragments: Fragments,
    budget: usize,
    sessions: u64,
    rng: StdRng,
    events: VecDeque<NatEvent>,
    counters: NatCounters,
    /// Bounds what strangers can make us say.
    errors: Bucket,
    complaints: Bucket,
    pings_work: bool,
}

/// What has a socket, or had one.
#[derive(Debug)]
struct Place {
    key: Key,
    session: u64,
    thing: Thing,
    timer: Option<Instant>,
    queued: bool,
}

#[derive(Debug)]
enum Thing {
    Stream(Box<Stream>),
    Mapping(Box<Mapping>),
    Ping(Box<Ping>),
    Question(Box<Question>),
    Door(Box<Door>),
}

/// How a packet finds its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// The station and the other side as it sees it.
    Stream(SocketAddr, SocketAddr),
    /// The station alone: mapping is endpoint-independent.
    Mapping(SocketAddr),
    /// The station and the query's identifier.
    Ping(IpAddr, u16),
    /// The station and the question's number.
    Question(SocketAddr, u16),
    /// A published UDP port of the host, of IPv4 or not.
    Door(u16, bool),
}

/// How much of the bounds is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    tcp: usize,
    half_open: usize,
    udp: usize,
    pings: usize,
    questions: usize,
}

/// An ICMP error that the host's kernel has got about a datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError<'a> {
    /// Where the datagram was for.
    pub to: SocketAddr,
    /// Who says so; nobody when it is the host itself.
    pub offender: Option<IpAddr>,
    /// What it says.
    pub error: Unreachable,
    /// The beginning of the datagram's payload; of a ping, its ICMP message.
    pub quote: &'a [u8],
}

impl Nat {
    /// A NAT whose virtual host has that MAC address, behind a port.
    #[must_use]
    pub fn new(
        settings: NatSettings,
        mac: MacAddr,
        port: Port,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        Self {
            budget: settings.limits.held_bytes,
            settings,
            out: Out::new(mac, port),
            places: Slots::new(),
            by_key: BTreeMap::new(),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            doors: Vec::new(),
            shares: BTreeMap::new(),
            total: Share::default(),
            stations: BTreeMap::new(),
            fragments: Fragments::default(),
            sessions: 0,
            rng: StdRng::from_seed(seed),
            events: VecDeque::new(),
            counters: NatCounters::default(),
            errors: Bucket::full(now),
            complaints: Bucket::full(now),
            pings_work: true,
        }
    }

    // ---- in

    /// The switch sent a frame to the virtual host's port. `trusted`: its checksums are known to be right, or to be
    /// completed only by a card that never sees it (virtio's `NEEDS_CSUM`).
    pub fn handle_frame<S: Sockets>(
        &mut self,
        frame: &[u8],
        trusted: bool,
        sockets: &mut S,
        now: Instant,
    ) {
        self.counters.frames += 1;
        if self.take_frame(frame, trusted, sockets, now).is_err() {
            self.counters.malformed += 1;
        }
    }

    /// A TCP socket is connected, or has failed to be.
    pub fn handle_connected<S: Sockets>(
        &mut self,
        id: SocketId,
        result: Result<(), Failure>,
        sockets: &mut S,
        now: Instant,
    ) {
        match result {
            Ok(()) => self.stream_connected(id, sockets, now),
            Err(failure) => self.stream_failed(id, failure, sockets, now),
        }
    }

    /// A TCP socket has bytes or its end.
    pub fn handle_readable<S: Sockets>(&mut self, id: SocketId, sockets: &mut S, now: Instant) {
        self.stream_readable(id, sockets, now);
    }

    /// A TCP socket takes bytes again.
    pub fn handle_writable<S: Sockets>(&mut self, id: SocketId, sockets: &mut S, now: Instant) {
        self.stream_writable(id, sockets, now);
    }

    /// A datagram socket has got something.
    pub fn handle_datagram<S: Sockets>(
        &mut self,
        id: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        sockets: &mut S,
        now: Instant,
    ) {
        self.take_datagram(id, from, bytes, sockets, now);
    }

    /// A datagram socket has got word of a datagram that did not get through.
    pub fn handle_host_error(&mut self, id: SocketId, error: &HostError<'_>, now: Instant) {
        self.take_host_error(id, error, now);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout<S: Sockets>(&mut self, sockets: &mut S, now: Instant) {
        self.counters.dropped_fragments += self.fragments.handle_timeout(now);
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(place) = self.places.get_mut(id) {
                place.timer = None;
            }
            self.time_out(id, sockets, now);
        }
        self.give_up_parked(sockets, now);
        self.work(sockets, now);
    }

    /// Other settings, from now on; what runs goes on as far as they allow.
    pub fn set<S: Sockets>(&mut self, settings: NatSettings, sockets: &mut S, now: Instant) {
        let readdressed = settings.subnet != self.settings.subnet;
        if settings.publish != self.settings.publish {
            self.close_doors(sockets);
        }
        self.settings = settings;
        if readdressed {
            self.close_all(sockets, now);
        }
        self.close_forbidden(sockets, now);
    }

    /// Ends every session; both sides of each hear of it.
    pub fn close_all<S: Sockets>(&mut self, sockets: &mut S, now: Instant) {
        let all: Vec<SocketId> = self.places.iter().map(|(id, _)| id).collect();
        for id in all {
            self.close(id, End::Closed, sockets, now);
        }
    }

    /// Goes on with what waited for room in the queue of frames: after those of [`Self::poll_frame`] are gone.
    pub fn work<S: Sockets>(&mut self, sockets: &mut S, now: Instant) {
        for _ in 0..self.ready.len() {
            if !self.out.has_room() {
                return;
            }
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            if let Some(place) = self.places.get_mut(id) {
                place.queued = false;
            }
            self.pump_stream(id, sockets, now);
        }
    }

    // ---- out

    /// The next frame for the switch, if any.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        self.out.pop()
    }

    /// Gives a frame's buffer back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.out.recycle(buffer);
    }

    /// Whether datagrams and bytes of the host's sockets are welcome: while frames are fetched.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.out.has_room()
    }

    /// Whether [`Self::work`] has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next thing to tell, if any.
    pub fn poll_event(&mut self) -> Option<NatEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = self.timers.first().map(|(at, _)| *at);
        let parked = self.parked.iter().map(published::Parked::next).min();
        [first, self.fragments.deadline(), parked]
            .into_iter()
            .flatten()
            .min()
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &NatSettings {
        &self.settings
    }

    /// What it has done.
    #[must_use]
    pub const fn counters(&self) -> NatCounters {
        let mut counters = self.counters;
        counters.dropped_queue = self.out.dropped;
        counters
    }

    /// Every session, oldest first.
    #[must_use]
    pub fn table(&self, now: Instant) -> Vec<NatRow> {
        let mut rows: Vec<NatRow> = self
            .places
            .iter()
            .filter_map(|(_, place)| place.row(now))
            .collect();
        rows.sort_by_key(|row| row.session);
        rows
    }

    // ---- a frame's way

    fn take_frame<S: Sockets>(
        &mut self,
        frame: &[u8],
        trusted: bool,
        sockets: &mut S,
        now: Instant,
    ) -> Result<(), Malformed> {
        let frame = packet::Frame::parse(frame)?;
        if frame.from.is_group() {
            return Err(Malformed);
        }
        if frame.kind == packet::ARP {
            self.learn_from_arp(frame.payload, sockets, now);
            return Ok(());
        }
        let packet = Packet::parse(frame.kind, frame.payload);
        let Some(packet) =
            packet.filter(|_| frame.to == self.out.mac && frame.from != self.out.mac)
        else {
            self.counters.ignored += 1;
            return Ok(());
        };
        let packet = packet?;
        if !is_unicast(&packet) || !self.is_station(packet.source) {
            return Err(Malformed);
        }
        let Some(part) = packet.part else {
            return self.take_packet(frame.from, &packet, trusted, sockets, now);
        };
        match self.fragments.join(&packet, part, now) {
            Joined::Waiting => Ok(()),
            Joined::Dropped => {
                self.counters.dropped_fragments += 1;
                Ok(())
            }
            Joined::Whole(payload) => {
                let whole = Packet {
                    part: None,
                    payload: &payload,
                    dont_fragment: false,
                    ..packet
                };
                self.take_packet(frame.from, &whole, false, sockets, now)
            }
        }
    }

    fn take_packet<S: Sockets>(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        trusted: bool,
        sockets: &mut S,
        now: Instant,
    ) -> Result<(), Malformed> {
        let ours = self.is_ours(packet.destination);
        if !ours {
            if self.is_inside(packet.destination) {
                // Members reach one another through the switch.
                self.counters.ignored += 1;
                return Ok(());
            }
            if self.settings.own_addresses.contains(&packet.source) {
                self.break_loop(packet, now);
                return Ok(());
            }
            if packet.ttl <= 1 {
                self.answer_error(mac, packet, Unreachable::TimeExceeded, now);
                return Ok(());
            }
        }
        match packet.protocol {
            packet::TCP => self.take_segment(mac, packet, trusted, sockets, now),
            packet::UDP => self.take_udp(mac, packet, trusted, sockets, now),
            packet::ICMP | packet::ICMPV6 => match Echo::parse(packet)? {
                Some(echo) if echo.request && (ours || self.settings.dummy_ping) => {
                    let reply = Echo {
                        request: false,
                        ..echo
                    };
                    reply.send(&mut self.out, mac, packet.destination, packet.source);
                    Ok(())
                }
                Some(echo) if echo.request => {
                    self.take_echo(mac, packet, &echo, sockets, now);
                    Ok(())
                }
                Some(_) | None => {
                    self.counters.ignored += 1;
                    Ok(())
                }
            },
            _ => {
                self.counters.ignored += 1;
                self.answer_error(mac, packet, Unreachable::Prohibited, now);
                Ok(())
            }
        }
    }

    /// This machine's traffic has come back in: what it is the NAT's own, or will make the NAT's own come back (E12).
    fn break_loop(&mut self, packet: &Packet<'_>, now: Instant) {
        self.counters.loops += 1;
        self.complain(
            NatEvent::Loop {
                source: packet.source,
                destination: packet.destination,
            },
            now,
        );
    }

    /// Whether the rules let a packet through; if not, its sender is told.
    fn may_pass(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        protocol: Protocol,
        source_port: u16,
        port: u16,
        now: Instant,
    ) -> bool {
        let to = packet.destination;
        if super::access::may(&self.settings.rules, protocol, to, port) {
            return true;
        }
        let _ = source_port;
        self.counters.refused += 1;
        self.answer_error(mac, packet, Unreachable::Prohibited, now);
        self.complain(
            NatEvent::Refused {
                source: packet.source,
                destination: SocketAddr::new(to, port),
                protocol,
            },
            now,
        );
        false
    }

    fn answer_error(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        error: Unreachable,
        now: Instant,
    ) {
        let source = self.own_address(packet.source);
        self.send_error(mac, source, packet.source, error, packet.whole, now);
    }

    fn send_error(
        &mut self,
        mac: MacAddr,
        source: IpAddr,
        station: IpAddr,
        error: Unreachable,
        quote: &[u8],
        now: Instant,
    ) {
        if self.errors.take(error_rate(), now) {
            send_error(&mut self.out, mac, source, station, error, quote);
        } else {
            self.counters.errors_limited += 1;
        }
    }

    // ---- small steps

    /// The virtual host's address of the same version.
    fn own_address(&self, like: IpAddr) -> IpAddr {
        match (like, self.settings.ipv6) {
            (IpAddr::V6(_), Some(own)) => IpAddr::V6(own),
            _ => IpAddr::V4(self.settings.subnet.address()),
        }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4 == self.settings.subnet.address(),
            IpAddr::V6(v6) => Some(v6) == self.settings.ipv6,
        }
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.settings.subnet.contains(v4),
            IpAddr::V6(v6) => self
                .settings
                .ipv6
                .is_some_and(|own| own.octets()[..8] == v6.octets()[..8]),
        }
    }

    /// Whether a station may have that address: one of the network's. Others are spoofed, or of networks behind a station,
    /// to which we have no way back.
    fn is_station(&self, address: IpAddr) -> bool {
        self.is_inside(address) && !self.is_ours(address)
            || self.settings.own_addresses.contains(&address)
    }

    fn learn(&mut self, address: IpAddr, mac: MacAddr) {
        if self.stations.len() < MAX_STATIONS || self.stations.contains_key(&address) {
            self.stations.insert(address, mac);
        }
    }

    fn next_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    fn tell(&mut self, event: NatEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.counters.dropped_events += 1;
        }
    }

    /// Tells what a station could make us tell without end.
    fn complain(&mut self, event: NatEvent, now: Instant) {
        if self.complaints.take(complaint_rate(), now) {
            self.tell(event);
        } else {
            self.counters.dropped_events += 1;
        }
    }

    /// Takes one of what `which` counts, for a station.
    fn take_share(
        &mut self,
        station: IpAddr,
        what: &'static str,
        which: fn(&mut Share) -> &mut usize,
        most: usize,
        now: Instant,
    ) -> bool {
        let share = self.shares.entry(station).or_default();
        let of_station = which(share);
        let all = which(&mut self.total);
        if *all < most && *of_station < most / self.settings.limits.station_share.max(1) {
            *all += 1;
            *of_station += 1;
            return true;
        }
        if *share == Share::default() {
            self.shares.remove(&station);
        }
        self.counters.dropped_limit += 1;
        self.complain(
            NatEvent::LimitReached {
                what,
                source: station,
            },
            now,
        );
        false
    }

    fn give_share(&mut self, station: IpAddr, which: fn(&mut Share) -> &mut usize) {
        let all = which(&mut self.total);
        *all = all.saturating_sub(1);
        if let Some(share) = self.shares.get_mut(&station) {
            let of_station = which(share);
            *of_station = of_station.saturating_sub(1);
            if *share == Share::default() {
                self.shares.remove(&station);
            }
        }
    }

    fn put(&mut self, key: Key, session: u64, thing: Thing) -> SocketId {
        let id = self.places.put(Place {
            key,
            session,
            thing,
            timer: None,
            queued: false,
        });
        self.by_key.insert(key, id);
        id
    }

    fn remove(&mut self, id: SocketId) -> Option<Place> {
        let place = self.places.remove(id)?;
        if let Some(at) = place.timer {
            self.timers.remove(&(at, id));
        }
        if self.by_key.get(&place.key) == Some(&id) {
            self.by_key.remove(&place.key);
        }
        Some(place)
    }

    /// A timer that is set for later than needed is moved; one that comes too early finds nothing to do.
    fn schedule(&mut self, id: SocketId, at: Instant) {
        let Some(place) = self.places.get_mut(id) else {
            return;
        };
        if place.timer.is_some_and(|old| old <= at) {
            return;
        }
        if let Some(old) = place.timer.replace(at) {
            self.timers.remove(&(old, id));
        }
        self.timers.insert((at, id));
    }

    fn time_out<S: Sockets>(&mut self, id: SocketId, sockets: &mut S, now: Instant) {
        match self.places.get(id).map(|place| &place.thing) {
            Some(Thing::Stream(_)) => self.stream_time_out(id, sockets, now),
            Some(Thing::Mapping(_) | Thing::Ping(_)) => self.datagrams_time_out(id, sockets, now),
            Some(Thing::Question(_)) => self.question_time_out(id, sockets, now),
            Some(Thing::Door(_)) => self.door_time_out(id, now),
            None => {}
        }
    }

    fn close<S: Sockets>(&mut self, id: SocketId, end: End, sockets: &mut S, now: Instant) {
        match self.places.get(id).map(|place| &place.thing) {
            Some(Thing::Stream(_)) => self.abort_stream(id, end, sockets, now),
            Some(Thing::Mapping(_) | Thing::Ping(_)) => self.close_datagrams(id, sockets),
            Some(Thing::Question(_)) => self.forget_question(id, sockets),
            Some(Thing::Door(_)) => {
                self.doors.retain(|door| *door != id);
                self.remove(id);
                sockets.close(id, false);
            }
            None => {}
        }
    }

    /// The rules have changed: what they forbid now ends.
    fn close_forbidden<S: Sockets>(&mut self, sockets: &mut S, now: Instant) {
        let rules = &self.settings.rules;
        let forbidden = |place: &Place| match &place.thing {
            Thing::Stream(stream) => !stream.is_allowed(rules),
            // Every datagram is looked at anyway.
            Thing::Mapping(_) | Thing::Ping(_) | Thing::Question(_) | Thing::Door(_) => false,
        };
        let shut: Vec<SocketId> = self
            .places
            .iter()
            .filter(|(_, place)| forbidden(place))
            .map(|(id, _)| id)
            .collect();
        for id in shut {
            self.close(id, End::Closed, sockets, now);
        }
    }

    fn random_port(&mut self) -> u16 {
        self.rng.random_range(FIRST_PORT..=u16::MAX)
    }
}

impl Place {
    fn row(&self, now: Instant) -> Option<NatRow> {
        match &self.thing {
            Thing::Stream(stream) => Some(stream.row(self.session, now)),
            Thing::Mapping(mapping) => Some(mapping.row(self.session, now)),
            Thing::Ping(ping) => Some(ping.row(self.session, now)),
            Thing::Question(_) | Thing::Door(_) => None,
        }
    }
}

fn seconds(from: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(from).as_secs()
}

/// ICMP errors: RFC 1812, section 4.3.2.8, asks for a bound; this is that of a busy traceroute, several times.
fn error_rate() -> Rate {
    let (count, burst) = (const { nonzero(200) }, const { nonzero(100) });
    Rate::new(count, Duration::from_secs(1), burst)
}

/// Lines in the log that a station can cause.
fn complaint_rate() -> Rate {
    let (count, burst) = (const { nonzero(5) }, const { nonzero(20) });
    Rate::new(count, Duration::from_secs(1), burst)
}

const fn nonzero(number: u32) -> std::num::NonZeroU32 {
    std::num::NonZeroU32::new(number).expect("not zero")
}

/// Ports that we take for ourselves towards stations (RFC 6335).
const FIRST_PORT: u16 = 49_152;
/// Stations whose MAC address is kept.
const MAX_STATIONS: usize = 65_536;
/// Events that wait for the driver.
const MAX_EVENTS: usize = 4096;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests;
