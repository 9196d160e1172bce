//! TCP between a station and a stream of the host: our own end towards the station, the host's towards the other side.
//!
//! ```text
//!   station ──segments──▶ receive ──bytes in order──▶ socket of the host ──▶ other host
//!           ◀─segments──  send    ◀─────a look──────                     ◀──
//!
//!   Connecting ─▶ Opening ─▶ Open ─▶ TimeWait      the station calls: its SYN is answered only when the other host has
//!   Calling ────────────────▶ Open                 the other host calls (a published port)
//!        └──────────┴──────────┴──▶ Over
//! ```
//!
//! **Back-pressure.** The station's window is what the host's socket has room for. The host's socket is read as far as the
//! station's window and the congestion window let it, and what was read stays in the socket until it is acknowledged. So
//! a slow reader on either side stops the other, and an idle connection holds no byte.
//!
//! RFC 9293, 7323 (scaling; no time stamps), 2018, 5961 (challenge acknowledgements), 6298, 8985, 9438.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::out::Out;
use super::packet::TCP;
use super::segment::{self, Options, Outline, Segment};
use super::sockets::{Failure, Peeked, SocketId, Sockets};
use crate::wire::ethernet::MacAddr;
use receive::{Arrival, Receiver};
use send::{Next, Sender};

mod receive;
mod rtt;
mod send;

/// A connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) ends: Ends,
    stage: Stage,
    send: Sender,
    receive: Receiver,
    /// The socket may have bytes that were not looked at.
    readable: bool,
    /// The socket was told that nothing more comes.
    shut: bool,
    owes_ack: bool,
    told_edge: u64,
    opened: Instant,
    active: Instant,
    to_host: u64,
    to_station: u64,
}

/// Who speaks with whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) mac: MacAddr,
    pub(super) station: SocketAddr,
    /// As the station sees the other side.
    pub(super) remote: SocketAddr,
    /// Where it really is.
    pub(super) host: SocketAddr,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The host's socket connects; the station waits.
    Connecting,
    /// Our SYN answers the station's.
    Opening,
    /// Our SYN calls the station.
    Calling,
    Open,
    /// Both are done; only the last acknowledgement may have to be said again.
    TimeWait(Instant),
    /// To be forgotten.
    Over(End),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Both sides said that they are done.
    Finished,
    /// The station ended it by force.
    StationReset,
    /// The other host ended it by force.
    HostReset,
    /// Nothing was said for too long.
    Idle,
    /// The station does not answer.
    StationSilent,
    /// The host's socket could not be connected.
    NotConnected,
    /// The rules or the administrator ended it.
    Closed,
}

/// What a connection works with, for one input.
pub(super) struct Io<'a, S> {
    pub(super) id: SocketId,
    pub(super) sockets: &'a mut S,
    pub(super) out: &'a mut Out,
    /// Bytes that all connections together may still keep.
    pub(super) budget: &'a mut usize,
    pub(super) now: Instant,
}

impl Flow {
    /// A station's SYN; the host's socket is being connected.
    pub(super) fn from_station(
        ends: Ends,
        syn: &Segment<'_>,
        first: u32,
        mtu: u16,
        now: Instant,
    ) -> Self {
        let mut flow = Self::new(ends, Stage::Connecting, first, syn.seq, mtu, now);
        flow.send.agree(syn);
        if let Some(scale) = syn.options.scale {
            flow.send.set_scale(scale);
            flow.receive.set_scale(SCALE);
        }
        flow
    }

    /// A connection that the other host made to a published port; the station is called.
    pub(super) fn from_host(ends: Ends, first: u32, mtu: u16, now: Instant) -> Self {
        let mut flow = Self::new(ends, Stage::Calling, first, 0, mtu, now);
        flow.readable = true;
        flow
    }

    fn new(
        ends: Ends,
        stage: Stage,
        first: u32,
        station_first: u32,
        mtu: u16,
        now: Instant,
    ) -> Self {
        Self {
            stage,
            send: Sender::new(first, own_mss(&ends, mtu)),
            receive: Receiver::new(station_first),
            readable: false,
            shut: false,
            owes_ack: false,
            told_edge: 0,
            opened: now,
            active: now,
            to_host: 0,
            to_station: 0,
            ends,
        }
    }

    // ---- in: from the station

    /// The station sent a segment of this connection.
    pub(super) fn handle_segment<S: Sockets>(&mut self, segment: &Segment<'_>, io: &mut Io<'_, S>) {
        match self.stage {
            Stage::Connecting => self.while_connecting(segment, io),
            Stage::Calling => self.while_calling(segment, io),
            Stage::Opening | Stage::Open => self.synchronized(segment, io),
            Stage::TimeWait(_) => {
                if !segment.has(segment::RST) {
                    self.send_ack(io);
                }
            }
            Stage::Over(_) => {}
        }
    }

    fn while_connecting<S: Sockets>(&mut self, segment: &Segment<'_>, io: &mut Io<'_, S>) {
        if segment.has(segment::RST) && self.receive.is_next(segment.seq) {
            self.end(End::StationReset, true, io);
        }
    }

    fn while_calling<S: Sockets>(&mut self, segment: &Segment<'_>, io: &mut Io<'_, S>) {
        let answers = segment.has(segment::ACK) && segment.ack == self.send.next_seq();
        if !answers {
            return;
        }
        if segment.has(segment::RST) {
            self.end(End::StationReset, true, io);
        } else if segment.has(segment::SYN) {
            self.receive = Receiver::new(segment.seq);
            self.send.agree(segment);
            self.send.acknowledge(segment, io.now);
            if let Some(scale) = segment.options.scale {
                self.send.set_scale(scale);
                self.receive.set_scale(SCALE);
            }
            self.stage = Stage::Open;
            self.active = io.now;
            self.owes_ack = true;
            self.open_window(io);
        }
    }

    fn synchronized<S: Sockets>(&mut self, segment: &Segment<'_>, io: &mut Io<'_, S>) {
        let size = segment.payload.len() + usize::from(segment.has(segment::FIN));
        if self.stage == Stage::Opening && segment.has(segment::SYN) {
            // Our answer was lost.
            self.transmit(Next::Syn, io);
            return;
        }
        if !self.receive.acceptable(segment.seq, size) {
            self.owes_ack |= !segment.has(segment::RST);
            return;
        }
        if segment.has(segment::RST) {
            // RFC 5961, section 3.2: only the exact number counts; whoever guesses is asked.
            if self.receive.is_next(segment.seq) {
                return self.end(End::StationReset, true, io);
            }
            self.owes_ack = true;
            return;
        }
        // RFC 5961, sections 4.2 and 5.2.
        if segment.has(segment::SYN)
            || !segment.has(segment::ACK)
            || !self.send.acceptable(segment.ack)
        {
            self.owes_ack |= segment.has(segment::SYN) || segment.has(segment::ACK);
            return;
        }
        self.active = io.now;
        self.take_acknowledgement(segment, io);
        self.take_bytes(segment, io);
    }

    fn take_acknowledgement<S: Sockets>(&mut self, segment: &Segment<'_>, io: &mut Io<'_, S>) {
        let progress = self.send.acknowledge(segment, io.now);
        if progress.consumed > 0 {
            self.to_station += progress.consumed;
            let count = usize::try_from(progress.consumed).unwrap_or(usize::MAX);
            io.sockets.consume(io.id, count);
        }
        self.owes_ack |= progress.impossible;
        if self.stage == Stage::Opening && self.send.is_open() {
            self.stage = Stage::Open;
        }
    }

    fn take_bytes<S: Sockets>(&mut self, segment: &Segment<'_>, io: &mut Io<'_, S>) {
        if segment.has(segment::FIN) {
            self.receive.finish(segment.seq, segment.payload.len());
            self.owes_ack = true;
        }
        if self.shut {
            return;
        }
        match self.receive.arrive(segment.seq, segment.payload, io.budget) {
            Arrival::Empty => {}
            Arrival::OutOfOrder => self.owes_ack = true,
            Arrival::InOrder(skip) => {
                self.owes_ack = true;
                let bytes = segment.payload.get(skip..).unwrap_or(&[]);
                let Some(taken) = self.give(bytes, io) else {
                    return;
                };
                self.receive.took(bytes, taken, io.budget);
            }
        }
        self.flush(io);
    }

    /// Gives the socket what waits for it, then the station's end.
    fn flush<S: Sockets>(&mut self, io: &mut Io<'_, S>) {
        while let Some(ready) = self.receive.ready().filter(|ready| !ready.is_empty()) {
            let all = ready.len();
            let Ok(taken) = io.sockets.send(io.id, ready) else {
                return self.reset_station(End::HostReset, io);
            };
            self.to_host += u64::try_from(taken).unwrap_or(0);
            self.receive.took_ready(taken, io.budget);
            self.owes_ack = true;
            if taken < all {
                break;
            }
        }
        if !self.shut && self.receive.reach_end() {
            self.shut = true;
            self.owes_ack = true;
            io.sockets.shutdown(io.id);
        }
        self.open_window(io);
    }

    fn give<S: Sockets>(&mut self, bytes: &[u8], io: &mut Io<'_, S>) -> Option<usize> {
        match io.sockets.send(io.id, bytes) {
            Ok(taken) => {
                self.to_host += u64::try_from(taken).unwrap_or(0);
                Some(taken)
            }
            Err(_) => {
                self.reset_station(End::HostReset, io);
                None
            }
        }
    }

    fn open_window<S: Sockets>(&mut self, io: &mut Io<'_, S>) {
        if self.shut || !self.has_socket() {
            return;
        }
        let room = io.sockets.room(io.id).min(*io.budget);
        self.receive.open_window(room, self.send.mss());
    }

    // ---- in: from the host

    /// The socket is connected: the station's SYN is answered.
    pub(super) fn handle_connected<S: Sockets>(&mut self, io: &mut Io<'_, S>) {
        if self.stage == Stage::Connecting {
            self.stage = Stage::Opening;
            self.readable = true;
            self.open_window(io);
        }
    }

    /// The socket has bytes, or its end.
    pub(super) const fn handle_readable(&mut self) {
        self.readable = true;
    }

    /// The socket takes bytes again.
    pub(super) fn handle_writable<S: Sockets>(&mut self, io: &mut Io<'_, S>) {
        if matches!(self.stage, Stage::Opening | Stage::Open) {
            self.flush(io);
            if self.receive.owes_window(self.told_edge, self.send.mss()) {
                self.owes_ack = true;
            }
        }
    }

    /// The socket has failed. False when the station should hear by ICMP instead of a reset.
    pub(super) fn handle_failed<S: Sockets>(
        &mut self,
        failure: Failure,
        io: &mut Io<'_, S>,
    ) -> bool {
        if self.stage != Stage::Connecting {
            self.reset_station(End::HostReset, io);
            return true;
        }
        let refused = matches!(failure, Failure::Refused | Failure::Reset);
        if refused {
            self.reset_station(End::NotConnected, io);
        } else {
            self.end(End::NotConnected, false, io);
        }
        refused
    }

    /// The administrator, or a time-out, ends it: both sides hear of it.
    pub(super) fn abort<S: Sockets>(&mut self, end: End, io: &mut Io<'_, S>) {
        if self.stage == Stage::Connecting {
            self.end(end, true, io);
        } else {
            self.reset_station(end, io);
        }
    }

    // ---- time

    /// When [`Self::handle_timeout`] is due at the latest.
    pub(super) fn deadline(&self, idle: Duration) -> Instant {
        let quiet = match self.stage {
            Stage::TimeWait(until) => return until,
            Stage::Over(_) => return self.active,
            Stage::Connecting | Stage::Opening | Stage::Calling | Stage::Open => self.active + idle,
        };
        self.send.deadline().map_or(quiet, |at| at.min(quiet))
    }

    /// Something may be due.
    pub(super) fn handle_timeout<S: Sockets>(&mut self, idle: Duration, io: &mut Io<'_, S>) {
        match self.stage {
            Stage::TimeWait(until) => {
                if until <= io.now {
                    self.stage = Stage::Over(End::Finished);
                }
                return;
            }
            Stage::Over(_) => return,
            Stage::Connecting | Stage::Opening | Stage::Calling | Stage::Open => {}
        }
        if self.active + idle <= io.now {
            return self.abort(End::Idle, io);
        }
        if !self.send.handle_timeout(io.now) {
            self.abort(End::StationSilent, io);
        }
    }

    // ---- out

    /// Sends what may and must be sent, up to a share; true when there is more to do as soon as there is room. Whoever has
    /// given inputs calls this once after all of them.
    pub(super) fn settle<S: Sockets>(&mut self, io: &mut Io<'_, S>) -> bool {
        if matches!(
            self.stage,
            Stage::Connecting | Stage::TimeWait(_) | Stage::Over(_)
        ) {
            return false;
        }
        let more = self.pump(io);
        self.settle_ack(io);
        let both = self.send.is_finished() && self.receive.is_finished();
        if both && matches!(self.stage, Stage::Open | Stage::Opening) {
            io.sockets.close(io.id, false);
            self.stage = Stage::TimeWait(io.now + TIME_WAIT);
        }
        more
    }

    fn pump<S: Sockets>(&mut self, io: &mut Io<'_, S>) -> bool {
        for _ in 0..SHARE {
            let max = self.max_payload(io.out);
            let waiting = self.readable && !self.send.has_end();
            let Some(next) = self.send.next(max, waiting) else {
                if waiting {
                    self.send.watch_window(io.now);
                }
                return false;
            };
            if !io.out.has_room() {
                return true;
            }
            if !self.transmit(next, io) {
                return false;
            }
        }
        true
    }

    fn settle_ack<S: Sockets>(&mut self, io: &mut Io<'_, S>) {
        if self.owes_ack && !matches!(self.stage, Stage::Over(_)) {
            self.send_ack(io);
        }
    }

    /// Sends it; false when there is nothing to send after all.
    fn transmit<S: Sockets>(&mut self, next: Next, io: &mut Io<'_, S>) -> bool {
        let length = match next {
            Next::Syn => {
                self.send_syn(io.out);
                1
            }
            Next::Fin(at) => {
                let seq = self.send.seq(at);
                self.send_header(seq, segment::FIN | segment::ACK, io.out);
                1
            }
            Next::Probe => {
                let seq = self.send.probe_seq();
                self.send_header(seq, segment::ACK, io.out);
                0
            }
            Next::New(at, most) | Next::Again(at, most) => {
                let Some(length) = self.send_bytes(at, most, io) else {
                    return self.send.has_end() && !matches!(self.stage, Stage::Over(_));
                };
                length
            }
        };
        self.send.sent(next, length, io.now);
        true
    }

    fn send_bytes<S: Sockets>(&mut self, at: u64, most: usize, io: &mut Io<'_, S>) -> Option<u64> {
        let header = io.out.header(
            self.ends.mac,
            self.ends.remote.ip(),
            self.ends.station.ip(),
            TCP,
        );
        let before = header.len() + 20;
        let mut frame = io.out.buffer(before + most);
        let offset = self.send.behind_consumed(at);
        let looked = io.sockets.peek(io.id, offset, &mut frame[before..]);
        let length = match looked {
            Ok(Peeked::Bytes(length)) => length.min(most),
            Ok(Peeked::Nothing) => {
                self.readable = false;
                io.out.recycle(frame);
                return None;
            }
            Ok(Peeked::End) => {
                self.send.end();
                io.out.recycle(frame);
                return None;
            }
            Err(_) => {
                self.reset_station(End::HostReset, io);
                return None;
            }
        };
        frame.truncate(before + length);
        let push = if length < most { segment::PSH } else { 0 };
        let outline = self.outline(self.send.seq(at), segment::ACK | push, Options::default());
        let segment = (length > usize::from(self.send.mss())).then_some(self.send.mss());
        header.write(&mut frame, None);
        outline.write(&header, &mut frame, segment.is_none());
        io.out.push(frame, segment);
        self.owes_ack = false;
        u64::try_from(length).ok()
    }

    fn send_syn(&mut self, out: &mut Out) {
        let calling = self.stage == Stage::Calling;
        let options = Options {
            mss: Some(own_mss(&self.ends, out.port.mtu)),
            scale: (calling || self.receive_is_scaled()).then_some(SCALE),
            sack_permitted: calling || self.send.sack(),
            ..Options::default()
        };
        let (ack, window) = self.receive.tell_first();
        let flags = if calling {
            segment::SYN
        } else {
            segment::SYN | segment::ACK
        };
        let outline = Outline {
            source_port: self.ends.remote.port(),
            destination_port: self.ends.station.port(),
            seq: self.send.seq(0),
            ack: if calling { 0 } else { ack },
            flags,
            window: if calling { u16::MAX } else { window },
            options,
        };
        self.push(outline, out);
    }

    const fn receive_is_scaled(&self) -> bool {
        self.receive.is_scaled()
    }

    fn send_ack<S: Sockets>(&mut self, io: &mut Io<'_, S>) {
        let blocks = if self.send.sack() {
            self.receive.blocks()
        } else {
            Options::default().blocks
        };
        let options = Options {
            blocks,
            ..Options::default()
        };
        let outline = self.outline(self.send.next_seq(), segment::ACK, options);
        self.push(outline, io.out);
        let left = self
            .receive
            .edge()
            .saturating_sub(self.receive.next_offset());
        if left < 2 * u64::from(self.send.mss()) && !self.shut && self.has_socket() {
            io.sockets.tell_when_writable(io.id);
        }
        self.owes_ack = false;
    }

    fn send_header(&mut self, seq: u32, flags: u8, out: &mut Out) {
        let outline = self.outline(seq, flags, Options::default());
        self.push(outline, out);
        self.owes_ack = false;
    }

    fn outline(&mut self, seq: u32, flags: u8, options: Options) -> Outline {
        let (ack, window) = self.receive.tell();
        self.told_edge = self.receive.edge();
        Outline {
            source_port: self.ends.remote.port(),
            destination_port: self.ends.station.port(),
            seq,
            ack,
            flags,
            window,
            options,
        }
    }

    fn push(&self, outline: Outline, out: &mut Out) {
        let ends = &self.ends;
        let header = out.header(ends.mac, ends.remote.ip(), ends.station.ip(), TCP);
        let mut frame = out.buffer(header.len() + outline.len());
        header.write(&mut frame, None);
        outline.write(&header, &mut frame, true);
        out.push(frame, None);
    }

    /// Bytes of payload of the next segment: packets that fill the MTU, many of them when the port cuts.
    fn max_payload(&self, out: &Out) -> usize {
        let mss = usize::from(self.send.mss()).max(1);
        out.port
            .max_segment
            .map_or(mss, |most| (most.min(LARGEST_SEGMENT) / mss).max(1) * mss)
    }

    /// The station hears that it is over, and so does the other host.
    fn reset_station<S: Sockets>(&mut self, end: End, io: &mut Io<'_, S>) {
        if self.stage == Stage::Connecting {
            // RFC 9293, section 3.10.7.1: nothing was said yet, so the reset acknowledges the SYN.
            let (ack, _) = self.receive.tell_first();
            let outline = Outline {
                seq: 0,
                ack,
                flags: segment::RST | segment::ACK,
                window: 0,
                ..self.outline(0, 0, Options::default())
            };
            self.push(outline, io.out);
        } else {
            let seq = self.send.next_seq();
            self.send_header(seq, segment::RST | segment::ACK, io.out);
        }
        self.end(end, true, io);
    }

    fn end<S: Sockets>(&mut self, end: End, reset: bool, io: &mut Io<'_, S>) {
        if self.has_socket() {
            io.sockets.close(io.id, reset);
        }
        *io.budget += self.receive.held_bytes();
        self.stage = Stage::Over(end);
    }

    // ---- for tables

    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) const fn has_socket(&self) -> bool {
        !matches!(self.stage, Stage::TimeWait(_) | Stage::Over(_))
    }

    /// Whether it has not come about yet.
    pub(super) const fn is_half_open(&self) -> bool {
        matches!(
            self.stage,
            Stage::Connecting | Stage::Opening | Stage::Calling
        )
    }

    /// Whether a SYN with that number begins a new connection in place of one in [`Stage::TimeWait`] (RFC 9293, 3.6.1).
    pub(super) fn may_be_replaced(&self, segment: &Segment<'_>) -> bool {
        matches!(self.stage, Stage::TimeWait(_)) && segment.flags & segment::SYN != 0
    }

    pub(super) const fn opened(&self) -> Instant {
        self.opened
    }

    pub(super) const fn active(&self) -> Instant {
        self.active
    }

    /// Bytes to the host, and to the station.
    pub(super) const fn bytes(&self) -> (u64, u64) {
        (self.to_host, self.to_station)
    }

    /// The beginning of the station's SYN, for an ICMP error to quote.
    pub(super) fn quoted_syn(&self) -> [u8; 8] {
        let [a, b] = self.ends.station.port().to_be_bytes();
        let [c, d] = self.ends.remote.port().to_be_bytes();
        let [e, f, g, h] = self.receive.first().to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

fn own_mss(ends: &Ends, mtu: u16) -> u16 {
    mtu.saturating_sub(if ends.station.is_ipv4() { 40 } else { 60 })
}

/// By how many bits our windows are shifted: enough for [`receive::MAX_WINDOW`].
const SCALE: u8 = 7;
/// Segments of one connection before the others have their turn.
const SHARE: usize = 32;
/// Bytes of payload in a segment that the port cuts: what an IP packet holds.
const LARGEST_SEGMENT: usize = 65_000;
/// Long enough for a FIN that comes again, four times over.
const TIME_WAIT: Duration = Duration::from_secs(10);
