//! TCP connections of the NAT: made, found, ended. How one of them goes is [`crate::gateway::tcp`]'s.

use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt;

use super::{Key, Nat, Place, Share, Thing, seconds};
use crate::gateway::access::{Protocol, Rule, may};
use crate::gateway::control::Unreachable;
use crate::gateway::event::{NatEvent, NatRow};
use crate::gateway::out::{Out, TTL};
use crate::gateway::packet::{self, Malformed, Packet, verify};
use crate::gateway::segment::{self, Options, Outline, Segment};
use crate::gateway::sockets::{Failure, SocketId, Sockets};
use crate::gateway::tcp::{End, Ends, Flow, Io, Stage};
use crate::wire::ethernet::MacAddr;

/// A TCP connection and how it is counted.
#[derive(Debug)]
pub(super) struct Stream {
    flow: Flow,
    half_open: bool,
    /// It came to a published port.
    pub(super) published: bool,
    /// The rules said nothing about it: the host's resolver.
    exempt: bool,
    /// Its end is in the log.
    told: bool,
}

impl Stream {
    pub(super) fn is_allowed(&self, rules: &[Rule]) -> bool {
        let to = self.flow.ends.host;
        self.published || self.exempt || may(rules, Protocol::Tcp, to.ip(), to.port())
    }

    pub(super) fn row(&self, session: u64, now: Instant) -> NatRow {
        let (sent, received) = self.flow.bytes();
        NatRow {
            session,
            protocol: Protocol::Tcp,
            source: self.flow.ends.station,
            destination: self.flow.ends.host,
            age_seconds: seconds(self.flow.opened(), now),
            idle_seconds: seconds(self.flow.active(), now),
            sent,
            received,
            state: match self.flow.stage() {
                Stage::Connecting | Stage::Calling => "connecting",
                Stage::Opening => "opening",
                Stage::Open => "open",
                Stage::TimeWait(_) | Stage::Over(_) => "closed",
            },
        }
    }
}

impl Nat {
    pub(super) fn take_segment<S: Sockets>(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        trusted: bool,
        sockets: &mut S,
        now: Instant,
    ) -> Result<(), Malformed> {
        if !trusted && !verify(packet) {
            return Err(Malformed);
        }
        let segment = Segment::parse(packet.payload)?;
        let station = SocketAddr::new(packet.source, segment.source_port);
        let remote = SocketAddr::new(packet.destination, segment.destination_port);
        let key = Key::Stream(station, remote);
        let Some(&id) = self.by_key.get(&key) else {
            return self.take_unknown(mac, packet, &segment, key, sockets, now);
        };
        let Some(stream) = self.stream(id) else {
            return Ok(());
        };
        if stream.flow.ends.mac != mac {
            self.counters.spoofed += 1;
            return Ok(());
        }
        if stream.flow.may_be_replaced(&segment) {
            self.forget_stream(id);
            return self.take_unknown(mac, packet, &segment, key, sockets, now);
        }
        self.with_stream(id, sockets, now, |flow, io| {
            flow.handle_segment(&segment, io)
        });
        Ok(())
    }

    /// A segment of no connection: a new one, or an old one's remains.
    fn take_unknown<S: Sockets>(
        &mut self,
        mac: MacAddr,
        packet: &Packet<'_>,
        segment: &Segment<'_>,
        key: Key,
        sockets: &mut S,
        now: Instant,
    ) -> Result<(), Malformed> {
        let (station, remote) = (
            SocketAddr::new(packet.source, segment.source_port),
            SocketAddr::new(packet.destination, segment.destination_port),
        );
        if station.port() == 0 || remote.port() == 0 {
            return Err(Malformed);
        }
        let kind = segment.flags & (segment::SYN | segment::ACK | segment::RST | segment::FIN);
        if kind != segment::SYN {
            self.counters.unknown += 1;
            if !segment.has(segment::RST) && self.errors.take(super::error_rate(), now) {
                answer_reset(&mut self.out, mac, station, remote, segment);
            }
            return Ok(());
        }
        let Some((host, exempt)) = self.host_of(remote) else {
            if self.errors.take(super::error_rate(), now) {
                answer_reset(&mut self.out, mac, station, remote, segment);
            }
            return Ok(());
        };
        if !exempt
            && !self.may_pass(
                mac,
                packet,
                Protocol::Tcp,
                station.port(),
                remote.port(),
                now,
            )
        {
            return Ok(());
        }
        self.learn(packet.source, mac);
        let ends = Ends {
            mac,
            station,
            remote,
            host,
        };
        self.call_host(ends, exempt, segment, key, sockets, now);
        Ok(())
    }

    /// Where a connection to `remote` goes, and whether the rules have nothing to say: the virtual host's own service is
    /// the resolver alone.
    fn host_of(&self, remote: SocketAddr) -> Option<(SocketAddr, bool)> {
        if !self.is_ours(remote.ip()) {
            return Some((remote, false));
        }
        let resolver = self.settings.resolvers.first()?;
        (remote.port() == 53).then_some((*resolver, true))
    }

    fn call_host<S: Sockets>(
        &mut self,
        ends: Ends,
        exempt: bool,
        syn: &Segment<'_>,
        key: Key,
        sockets: &mut S,
        now: Instant,
    ) {
        if !self.take_stream_shares(ends, now) {
            return;
        }
        let session = self.next_session();
        let flow = Flow::from_station(ends, syn, self.rng.random(), self.out.port.mtu, now);
        let stream = Stream {
            flow,
            half_open: true,
            published: false,
            exempt,
            told: false,
        };
        let id = self.put(key, session, Thing::Stream(Box::new(stream)));
        self.tell(NatEvent::TcpCreated {
            session,
            source: ends.station,
            destination: ends.host,
        });
        match sockets.connect(id, ends.host) {
            Ok(()) => self.settle_stream(id),
            Err(failure) => self.stream_failed(id, failure, sockets, now),
        }
    }

    fn take_stream_shares(&mut self, ends: Ends, now: Instant) -> bool {
        let station = ends.station.ip();
        let limits = self.settings.limits;
        if !self.take_share(station, "tcp", |share| &mut share.tcp, limits.tcp, now) {
            return false;
        }
        let half: fn(&mut Share) -> &mut usize = |share| &mut share.half_open;
        let may = self.take_share(station, "half-open tcp", half, limits.half_open, now);
        if !may {
            self.give_share(station, |share| &mut share.tcp);
        }
        may
    }

    /// A connection that came to a published port.
    pub(super) fn add_published(&mut self, ends: Ends, now: Instant) -> Option<SocketId> {
        let key = Key::Stream(ends.station, ends.remote);
        if self.by_key.contains_key(&key) || !self.take_stream_shares(ends, now) {
            return None;
        }
        let session = self.next_session();
        let flow = Flow::from_host(ends, self.rng.random(), self.out.port.mtu, now);
        let stream = Stream {
            flow,
            half_open: true,
            published: true,
            exempt: false,
            told: false,
        };
        let id = self.put(key, session, Thing::Stream(Box::new(stream)));
        self.tell(NatEvent::TcpCreated {
            session,
            source: ends.host,
            destination: ends.station,
        });
        Some(id)
    }

    /// The member of a published connection is found.
    pub(super) fn call_station<S: Sockets>(
        &mut self,
        id: SocketId,
        mac: MacAddr,
        sockets: &mut S,
        now: Instant,
    ) {
        self.with_stream(id, sockets, now, |flow, _| flow.ends.mac = mac);
    }

    pub(super) fn stream_connected<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
    ) {
        let Some(host) = self.stream(id).map(|stream| stream.flow.ends.host) else {
            return;
        };
        if let Some(session) = self.places.get(id).map(|place| place.session) {
            self.tell(NatEvent::TcpConnected {
                session,
                host: host.ip(),
                port: host.port(),
            });
        }
        self.with_stream(id, sockets, now, Flow::handle_connected);
    }

    pub(super) fn stream_failed<S: Sockets>(
        &mut self,
        id: SocketId,
        failure: Failure,
        sockets: &mut S,
        now: Instant,
    ) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        let (ends, quote) = (stream.flow.ends, stream.flow.quoted_syn());
        if stream.flow.stage() == Stage::Connecting
            && let Some(session) = self.places.get(id).map(|place| place.session)
        {
            self.tell(NatEvent::TcpFailed {
                session,
                destination: ends.host,
                reason: failure.to_string(),
            });
        }
        let mut told = true;
        self.with_stream(id, sockets, now, |flow, io| {
            told = flow.handle_failed(failure, io);
        });
        let error = match failure {
            Failure::NetworkUnreachable => Unreachable::Network,
            Failure::NotPermitted => Unreachable::Prohibited,
            Failure::Refused
            | Failure::Reset
            | Failure::HostUnreachable
            | Failure::TimedOut
            | Failure::TooLarge
            | Failure::Exhausted
            | Failure::Busy
            | Failure::Other => Unreachable::Host,
        };
        if !told {
            self.send_quoted(
                ends.mac,
                ends.station,
                ends.remote,
                packet::TCP,
                &quote,
                None,
                error,
                now,
            );
        }
    }

    /// An ICMP error about a packet that is not at hand any more: its header is made again.
    #[allow(clippy::too_many_arguments, reason = "a header has that many fields")]
    pub(super) fn send_quoted(
        &mut self,
        mac: MacAddr,
        station: SocketAddr,
        remote: SocketAddr,
        protocol: u8,
        beginning: &[u8],
        offender: Option<std::net::IpAddr>,
        error: Unreachable,
        now: Instant,
    ) {
        let mut header = self.out.header(mac, station.ip(), remote.ip(), protocol);
        header.ttl = TTL;
        let mut frame = vec![0; header.len()];
        frame.extend(beginning);
        header.write(&mut frame, None);
        let source = offender
            .filter(|offender| offender.is_ipv4() == station.is_ipv4())
            .unwrap_or_else(|| self.own_address(station.ip()));
        let quote = frame.get(packet::ETHERNET..).unwrap_or(&[]);
        self.send_error(mac, source, station.ip(), error, quote, now);
    }

    pub(super) fn stream_readable<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
    ) {
        self.with_stream(id, sockets, now, |flow, _| flow.handle_readable());
    }

    pub(super) fn stream_writable<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
    ) {
        self.with_stream(id, sockets, now, Flow::handle_writable);
    }

    pub(super) fn stream_time_out<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
    ) {
        let idle = self.settings.tcp_idle;
        self.with_stream(id, sockets, now, |flow, io| flow.handle_timeout(idle, io));
    }

    pub(super) fn abort_stream<S: Sockets>(
        &mut self,
        id: SocketId,
        end: End,
        sockets: &mut S,
        now: Instant,
    ) {
        self.with_stream(id, sockets, now, |flow, io| {
            if flow.has_socket() {
                flow.abort(end, io);
            }
        });
    }

    /// Sends what a connection may send; what is left waits in line with the others.
    pub(super) fn pump_stream<S: Sockets>(&mut self, id: SocketId, sockets: &mut S, now: Instant) {
        let mut more = false;
        self.act(id, sockets, now, |flow, io| more = flow.settle(io));
        if more {
            self.queue(id);
        }
    }

    /// Lets a connection do something; what is to be sent then is sent by [`Nat::work`], once for all inputs of a batch.
    fn with_stream<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
        act: impl FnOnce(&mut Flow, &mut Io<'_, S>),
    ) {
        self.act(id, sockets, now, act);
        self.queue(id);
    }

    fn queue(&mut self, id: SocketId) {
        if let Some(place) = self.places.get_mut(id)
            && !std::mem::replace(&mut place.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    fn act<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
        act: impl FnOnce(&mut Flow, &mut Io<'_, S>),
    ) {
        let Some(Thing::Stream(stream)) = self.places.get_mut(id).map(|place| &mut place.thing)
        else {
            return;
        };
        let mut io = Io {
            id,
            sockets,
            out: &mut self.out,
            budget: &mut self.budget,
            now,
        };
        act(&mut stream.flow, &mut io);
        self.settle_stream(id);
    }

    fn settle_stream(&mut self, id: SocketId) {
        let idle = self.settings.tcp_idle;
        let Some(stream) = self.stream_mut(id) else {
            return;
        };
        let station = stream.flow.ends.station.ip();
        let opened = stream.half_open && !stream.flow.is_half_open();
        if opened {
            stream.half_open = false;
        }
        let stage = stream.flow.stage();
        let deadline = stream.flow.deadline(idle);
        if opened {
            self.give_share(station, |share| &mut share.half_open);
        }
        if matches!(stage, Stage::TimeWait(_) | Stage::Over(_)) {
            self.tell_end(id);
        }
        if matches!(stage, Stage::Over(_)) {
            self.forget_stream(id);
        } else {
            self.schedule(id, deadline);
        }
    }

    /// Once, as soon as nothing more can come of it.
    fn tell_end(&mut self, id: SocketId) {
        let Some(session) = self.places.get(id).map(|place| place.session) else {
            return;
        };
        let Some(stream) = self.stream_mut(id).filter(|stream| !stream.told) else {
            return;
        };
        stream.told = true;
        let (sent, received) = stream.flow.bytes();
        let event = NatEvent::TcpDeleted {
            session,
            source: stream.flow.ends.station,
            destination: stream.flow.ends.host,
            reason: match stream.flow.stage() {
                Stage::Over(end) => end,
                Stage::Connecting
                | Stage::Opening
                | Stage::Calling
                | Stage::Open
                | Stage::TimeWait(_) => End::Finished,
            },
            sent,
            received,
        };
        self.tell(event);
    }

    fn forget_stream(&mut self, id: SocketId) {
        let Some(Place {
            thing: Thing::Stream(stream),
            ..
        }) = self.remove(id)
        else {
            return;
        };
        let station = stream.flow.ends.station.ip();
        if stream.half_open {
            self.give_share(station, |share| &mut share.half_open);
        }
        self.give_share(station, |share| &mut share.tcp);
    }

    fn stream(&self, id: SocketId) -> Option<&Stream> {
        match &self.places.get(id)?.thing {
            Thing::Stream(stream) => Some(stream),
            Thing::Mapping(_) | Thing::Ping(_) | Thing::Question(_) | Thing::Door(_) => None,
        }
    }

    fn stream_mut(&mut self, id: SocketId) -> Option<&mut Stream> {
        match &mut self.places.get_mut(id)?.thing {
            Thing::Stream(stream) => Some(stream),
            Thing::Mapping(_) | Thing::Ping(_) | Thing::Question(_) | Thing::Door(_) => None,
        }
    }
}

/// The answer to a segment of no connection (RFC 9293, section 3.10.7.1).
fn answer_reset(
    out: &mut Out,
    mac: MacAddr,
    station: SocketAddr,
    remote: SocketAddr,
    segment: &Segment<'_>,
) {
    let size = segment.payload.len()
        + usize::from(segment.has(segment::SYN))
        + usize::from(segment.has(segment::FIN));
    let size = u32::try_from(size).unwrap_or(0);
    let known = segment.has(segment::ACK);
    let outline = Outline {
        source_port: remote.port(),
        destination_port: station.port(),
        seq: if known { segment.ack } else { 0 },
        ack: if known {
            0
        } else {
            segment.seq.wrapping_add(size)
        },
        flags: segment::RST | if known { 0 } else { segment::ACK },
        window: 0,
        options: Options::default(),
    };
    let header = out.header(mac, remote.ip(), station.ip(), packet::TCP);
    let mut frame = out.buffer(header.len() + outline.len());
    header.write(&mut frame, None);
    outline.write(&header, &mut frame, true);
    out.push(frame, None);
}
