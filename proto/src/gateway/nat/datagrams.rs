//! UDP mappings and pings of the NAT (RFC 4787, RFC 5508): one socket of the host for each station's port, or identifier.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{HostError, Key, Nat, Place, Thing, seconds};
use crate::gateway::access::Protocol;
use crate::gateway::control::{Echo, Unreachable};
use crate::gateway::event::{NatEvent, NatRow};
use crate::gateway::out::put_checksum;
use crate::gateway::packet::{self, Malformed, Packet, verify};
use crate::gateway::sockets::{Datagrams, Failure, Sending, SocketId, Sockets};
use crate::wire::ethernet::MacAddr;

/// A station's UDP port.
#[derive(Debug)]
pub(super) struct Mapping {
    mac: MacAddr,
    station: SocketAddr,
    /// The hosts that it has written to, the latest last: only these may answer.
    hosts: Vec<IpAddr>,
    latest: SocketAddr,
    opened: Instant,
    active: Instant,
    sent: u64,
    received: u64,
}

/// A station's pings with one identifier.
#[derive(Debug)]
pub(super) struct Ping {
    mac: MacAddr,
    station: IpAddr,
    ident: u16,
    hosts: Vec<IpAddr>,
    latest: IpAddr,
    opened: Instant,
    active: Instant,
    sent: u64,
    received: u64,
}

impl Mapping {
    pub(super) fn row(&self, session: u64, now: Instant) -> NatRow {
        NatRow {
            session,
            protocol: Protocol::Udp,
            source: self.station,
            destination: self.latest,
            age_seconds: seconds(self.opened, now),
            idle_seconds: seconds(self.active, now),
            sent: self.sent,
            received: self.received,
            state: "open",
        }
    }
}

impl Ping {
    pub(super) fn row(&self, session: u64, now: Instant) -> NatRow {
        NatRow {
            session,
            protocol: Protocol::Icmp,
            source: SocketAddr::new(self.station, self.ident),
            destination: SocketAddr::new(self.latest, 0),
            age_seconds: seconds(self.opened, now),
            idle_seconds: seconds(self.active, now),
            sent: self.sent,
            received: self.received,
            state: "open",
        }
    }
}

impl Nat {
    pub(super) fn take_udp<S: Sockets>(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        trusted: bool,
        sockets: &mut S,
        now: Instant,
    ) -> Result<(), Malformed> {
        let header: &[u8; 8] = packet.payload.first_chunk().ok_or(Malformed)?;
        let [a, b, c, d, e, f, g, h] = *header;
        let length = usize::from(u16::from_be_bytes([e, f]));
        let bytes = packet.payload.get(8..length).ok_or(Malformed)?;
        let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let unchecked = [g, h] == [0, 0] && packet.source.is_ipv4();
        if from == 0 || to == 0 || (!trusted && !unchecked && !verify(packet)) {
            return Err(Malformed);
        }
        let station = SocketAddr::new(packet.source, from);
        let remote = SocketAddr::new(packet.destination, to);
        if self.is_ours(remote.ip()) {
            if to == 53 {
                self.take_question(mac, station, bytes, sockets, now);
            } else if !self.take_published_reply(station, to, bytes, sockets, now) {
                self.answer_error(mac, packet, Unreachable::Port, now);
            }
            return Ok(());
        }
        if !self.may_pass(mac, packet, Protocol::Udp, from, to, now) {
            return Ok(());
        }
        let Some(id) = self.mapping_of(mac, station, remote, sockets, now) else {
            return Ok(());
        };
        let how = Sending {
            ttl: packet.ttl - 1,
            dont_fragment: packet.dont_fragment,
        };
        let sent = sockets.send_to(id, remote, how, bytes);
        if let Some(Thing::Mapping(mapping)) = self.places.get_mut(id).map(|place| &mut place.thing)
        {
            mapping.active = now;
            mapping.latest = remote;
            mapping.sent += u64::try_from(bytes.len()).unwrap_or(0);
            remember(&mut mapping.hosts, remote.ip());
        }
        if let Err(failure) = sent {
            self.tell_not_sent(mac, packet, failure, now);
        }
        Ok(())
    }

    /// The mapping of a station's port: the one that there is, or a new one.
    fn mapping_of<S: Sockets>(
        &mut self,
        mac: MacAddr,
        station: SocketAddr,
        remote: SocketAddr,
        sockets: &mut S,
        now: Instant,
    ) -> Option<SocketId> {
        let key = Key::Mapping(station);
        if let Some(&id) = self.by_key.get(&key) {
            let Some(Thing::Mapping(mapping)) = self.places.get(id).map(|place| &place.thing)
            else {
                return None;
            };
            if mapping.mac != mac {
                self.counters.spoofed += 1;
                return None;
            }
            return Some(id);
        }
        let most = self.settings.limits.udp;
        if !self.take_share(station.ip(), "udp", |share| &mut share.udp, most, now) {
            return None;
        }
        let mapping = Mapping {
            mac,
            station,
            hosts: Vec::new(),
            latest: remote,
            opened: now,
            active: now,
            sent: 0,
            received: 0,
        };
        let session = self.next_session();
        let id = self.put(key, session, Thing::Mapping(Box::new(mapping)));
        if sockets.open(id, Datagrams::Udp, remote.ip()).is_err() {
            self.counters.dropped_limit += 1;
            self.remove(id);
            self.give_share(station.ip(), |share| &mut share.udp);
            return None;
        }
        self.learn(station.ip(), mac);
        self.tell(NatEvent::UdpCreated {
            session,
            source: station,
            destination: remote,
        });
        let idle = self.settings.udp_idle;
        self.schedule(id, now + idle);
        Some(id)
    }

    pub(super) fn take_echo<S: Sockets>(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        echo: &Echo<'_>,
        sockets: &mut S,
        now: Instant,
    ) {
        if !self.may_pass(mac, packet, Protocol::Icmp, 0, 0, now) {
            return;
        }
        let Some(id) = self.ping_of(mac, packet, echo.ident, sockets, now) else {
            return;
        };
        let remote = SocketAddr::new(packet.destination, 0);
        let how = Sending {
            ttl: packet.ttl - 1,
            dont_fragment: packet.dont_fragment,
        };
        let sent = sockets.send_to(id, remote, how, &echo.bytes(packet.source.is_ipv4()));
        if let Some(Thing::Ping(ping)) = self.places.get_mut(id).map(|place| &mut place.thing) {
            ping.active = now;
            ping.latest = packet.destination;
            ping.sent += u64::try_from(echo.data.len()).unwrap_or(0);
            remember(&mut ping.hosts, packet.destination);
        }
        if let Err(failure) = sent {
            self.tell_not_sent(mac, packet, failure, now);
        }
    }

    fn ping_of<S: Sockets>(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        ident: u16,
        sockets: &mut S,
        now: Instant,
    ) -> Option<SocketId> {
        let station = packet.source;
        let key = Key::Ping(station, ident);
        if let Some(&id) = self.by_key.get(&key) {
            return Some(id);
        }
        let most = self.settings.limits.pings;
        if !self.take_share(station, "pings", |share| &mut share.pings, most, now) {
            return None;
        }
        let ping = Ping {
            mac,
            station,
            ident,
            hosts: Vec::new(),
            latest: packet.destination,
            opened: now,
            active: now,
            sent: 0,
            received: 0,
        };
        let session = self.next_session();
        let id = self.put(key, session, Thing::Ping(Box::new(ping)));
        if let Err(failure) = sockets.open(id, Datagrams::Ping, packet.destination) {
            self.remove(id);
            self.give_share(station, |share| &mut share.pings);
            if failure == Failure::NotPermitted && std::mem::take(&mut self.pings_work) {
                self.tell(NatEvent::PingNotPermitted);
            }
            self.answer_error(mac, packet, Unreachable::Prohibited, now);
            return None;
        }
        self.learn(station, mac);
        self.schedule(id, now + PING_IDLE);
        Some(id)
    }

    /// A datagram that could not be sent: the station hears why (RFC 4787, REQ-12; RFC 1191).
    fn tell_not_sent(&mut self, mac: MacAddr, packet: &Packet<'_>, failure: Failure, now: Instant) {
        let error = match failure {
            Failure::HostUnreachable => Unreachable::Host,
            Failure::NetworkUnreachable => Unreachable::Network,
            Failure::NotPermitted => Unreachable::Prohibited,
            // The path's MTU comes with the kernel's own word of it, when it knows it.
            Failure::TooLarge
            | Failure::Refused
            | Failure::Reset
            | Failure::TimedOut
            | Failure::Exhausted
            | Failure::Busy
            | Failure::Other => return,
        };
        self.answer_error(mac, packet, error, now);
    }

    pub(super) fn take_datagram<S: Sockets>(
        &mut self,
        id: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        sockets: &mut S,
        now: Instant,
    ) {
        match self.places.get_mut(id).map(|place| &mut place.thing) {
            Some(Thing::Mapping(mapping)) => {
                if !mapping.hosts.contains(&from.ip()) {
                    self.counters.filtered += 1;
                    return;
                }
                mapping.active = now;
                mapping.received += u64::try_from(bytes.len()).unwrap_or(0);
                let (mac, station) = (mapping.mac, mapping.station);
                self.send_udp(mac, from, station, bytes);
            }
            Some(Thing::Ping(ping)) => {
                if !ping.hosts.contains(&from.ip()) {
                    self.counters.filtered += 1;
                    return;
                }
                let Some(&[_, _, _, _, _, _, high, low]) = bytes.first_chunk() else {
                    return;
                };
                ping.active = now;
                let data = bytes.get(8..).unwrap_or(&[]);
                ping.received += u64::try_from(data.len()).unwrap_or(0);
                let reply = Echo {
                    request: false,
                    ident: ping.ident,
                    sequence: u16::from_be_bytes([high, low]),
                    data,
                };
                let (mac, station) = (ping.mac, ping.station);
                reply.send(&mut self.out, mac, from.ip(), station);
            }
            Some(Thing::Question(_)) => self.take_answer(id, from, bytes, sockets),
            Some(Thing::Door(_)) => self.take_guest(id, from, bytes, now),
            Some(Thing::Stream(_)) | None => {}
        }
    }

    pub(super) fn send_udp(
        &mut self,
        mac: MacAddr,
        from: SocketAddr,
        station: SocketAddr,
        bytes: &[u8],
    ) {
        let mut header = self.out.header(mac, from.ip(), station.ip(), packet::UDP);
        header.dont_fragment = false;
        let length = packet::low16(8 + bytes.len());
        let mut payload = Vec::with_capacity(8 + bytes.len());
        payload.extend(from.port().to_be_bytes());
        payload.extend(station.port().to_be_bytes());
        payload.extend(length.to_be_bytes());
        payload.extend([0, 0]);
        payload.extend(bytes);
        put_checksum(&header, &mut payload, 6);
        self.out.send(&header, &payload);
    }

    pub(super) fn take_host_error(&mut self, id: SocketId, error: &HostError<'_>, now: Instant) {
        match self.places.get(id).map(|place| &place.thing) {
            Some(Thing::Mapping(mapping)) => {
                let (mac, station) = (mapping.mac, mapping.station);
                let length = packet::low16(8 + error.quote.len());
                let mut beginning = station.port().to_be_bytes().to_vec();
                beginning.extend(error.to.port().to_be_bytes());
                beginning.extend(length.to_be_bytes());
                beginning.extend([0, 0]);
                beginning.extend(error.quote.iter().take(QUOTED));
                let remote = error.to;
                self.send_quoted(
                    mac,
                    station,
                    remote,
                    packet::UDP,
                    &beginning,
                    error.offender,
                    error.error,
                    now,
                );
            }
            Some(Thing::Ping(ping)) => {
                let (mac, station, ident) =
                    (ping.mac, SocketAddr::new(ping.station, 0), ping.ident);
                let Some(&[.., high, low]) = error.quote.first_chunk::<8>() else {
                    return;
                };
                let v4 = station.is_ipv4();
                let echo = Echo {
                    request: true,
                    ident,
                    sequence: u16::from_be_bytes([high, low]),
                    data: &[],
                };
                let protocol = if v4 { packet::ICMP } else { packet::ICMPV6 };
                let beginning = echo.bytes(v4);
                self.send_quoted(
                    mac,
                    station,
                    error.to,
                    protocol,
                    &beginning,
                    error.offender,
                    error.error,
                    now,
                );
            }
            Some(Thing::Stream(_) | Thing::Question(_) | Thing::Door(_)) | None => {}
        }
    }

    pub(super) fn datagrams_time_out<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
    ) {
        let until = match self.places.get(id).map(|place| &place.thing) {
            Some(Thing::Mapping(mapping)) => mapping.active + self.settings.udp_idle,
            Some(Thing::Ping(ping)) => ping.active + PING_IDLE,
            Some(Thing::Stream(_) | Thing::Question(_) | Thing::Door(_)) | None => return,
        };
        if until <= now {
            self.close_datagrams(id, sockets);
        } else {
            self.schedule(id, until);
        }
    }

    pub(super) fn close_datagrams<S: Sockets>(&mut self, id: SocketId, sockets: &mut S) {
        let Some(Place { thing, session, .. }) = self.remove(id) else {
            return;
        };
        sockets.close(id, false);
        match thing {
            Thing::Mapping(mapping) => {
                self.give_share(mapping.station.ip(), |share| &mut share.udp);
                self.tell(NatEvent::UdpDeleted {
                    session,
                    source: mapping.station,
                    sent: mapping.sent,
                    received: mapping.received,
                });
            }
            Thing::Ping(ping) => self.give_share(ping.station, |share| &mut share.pings),
            Thing::Stream(_) | Thing::Question(_) | Thing::Door(_) => {}
        }
    }
}

/// Keeps a host that was written to, up to a number; the one that was written to longest ago goes.
fn remember(hosts: &mut Vec<IpAddr>, host: IpAddr) {
    if hosts.last() == Some(&host) {
        return;
    }
    hosts.retain(|known| *known != host);
    if hosts.len() >= MAX_HOSTS {
        hosts.remove(0);
    }
    hosts.push(host);
}

/// Hosts that may answer on one mapping.
const MAX_HOSTS: usize = 64;
/// A ping's identifier is kept so long (RFC 5508, REQ-2).
const PING_IDLE: Duration = Duration::from_secs(60);
/// Bytes of a datagram that an ICMP error quotes behind its header.
const QUOTED: usize = 500;
