//! Our reliable UDP: one byte stream in each direction, whole and in order under any loss, reordering and duplication.
//! It carries the TLS handshake and then the link's control messages.
//!
//! It decides what goes into the next segment and when, as QUIC does, in small (RFC 9000, 9002, 9438). It knows
//! nothing of addresses, datagram headers, keys or what the bytes mean. There is no opening exchange: the first segment may
//! carry data. The format is in [`crate::wire::segment`].
//!
//! ```text
//!  write ─▶ send ──part──┐                                      ┌──range──▶ receive ─▶ read
//!            ▲           ▼                                      │
//!            │     poll_transmit ═══segment═══▶ handle_segment ─┤
//!            │      ▲    ▲   ▲                                  └──number──▶ acks ──┐
//!   acknowledged,   │  pacer │                                                      │
//!   lost parts  recovery  congestion ◀════════════segment with ack══════════════════┘
//! ```
//!
//! The caller drains [`Arq::poll_transmit`] after every input; [`Arq::poll_timeout`] says only what time alone brings:
//! losses, probes, late acknowledgements and the pacer.

use std::time::{Duration, Instant};

use crate::wire::segment::{Ack, FormatError, HEADER, Segment, StreamRange};

mod acks;
mod pacer;
mod ranges;
mod receive;
mod recovery;
mod rtt;
mod send;

pub use self::rtt::{MAX_ACK_DELAY, RttEstimator};
pub use crate::congestion::Algorithm;

use self::acks::Acks;
use self::pacer::{Pacer, Rate};
use self::receive::ReceiveStream;
use self::recovery::{Expired, Lost, Recovery, Sent};
use self::send::{Part, SendStream};
use crate::congestion::Congestion;

/// One end of a reliable byte stream.
#[derive(Debug)]
pub struct Arq {
    config: Config,
    send: SendStream,
    receive: ReceiveStream,
    acks: Acks,
    recovery: Recovery,
    congestion: Congestion,
    pacer: Pacer,
    next_packet_number: u64,
    /// Segments to send now whatever window and pacer say.
    probes: u32,
    /// Whether the window or the pacer, not a lack of bytes, ended the last burst.
    limited: bool,
    /// The largest segment that the caller asked for last.
    max: usize,
    stats: Stats,
}

/// What an [`Arq`] may use.
#[derive(Clone, Debug)]
pub struct Config {
    /// The largest segment body in bytes; at least 100. `poll_transmit` may ask for less.
    pub max_segment: usize,
    /// Written bytes that are kept until the peer has them.
    pub send_buffer: usize,
    /// Bytes of the peer's stream that are kept until they are read; at least
    /// [`INITIAL_LIMIT`](crate::wire::segment::INITIAL_LIMIT).
    pub receive_window: usize,
    /// The round trip that is assumed before the first sample (RFC 9002, section 6.2.2).
    pub initial_rtt: Duration,
    /// How the congestion window grows and shrinks.
    pub congestion: Algorithm,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_segment: 1200,
            send_buffer: 256 * 1024,
            receive_window: 256 * 1024,
            initial_rtt: Duration::from_millis(333),
            congestion: Algorithm::Cubic,
        }
    }
}

/// Why a segment was refused. The peer's fault, or a forger's; the [`Arq`] is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// It is not a segment.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It acknowledges a packet number that was never sent.
    #[error("segment acknowledges what was never sent")]
    AckOfUnsent,
    /// It has bytes beyond the receive limit.
    #[error("segment has bytes beyond the receive window")]
    BeyondWindow,
    /// It contradicts what is known of the stream's end.
    #[error("segment contradicts the end of the stream")]
    FinalSize,
    /// There are too many holes in the stream already for one more. It counts as lost: the peer sends it again.
    #[error("stream is in too many pieces")]
    Fragmented,
}

/// Counters and the present state, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segments sent.
    pub segments_sent: u64,
    /// Segments taken in; refused ones and duplicates do not count.
    pub segments_received: u64,
    /// Segments whose packet number had arrived before.
    pub segments_duplicate: u64,
    /// Segments refused with a [`SegmentError`].
    pub segments_refused: u64,
    /// Segments that counted as lost.
    pub segments_lost: u64,
    /// Of those, segments that were acknowledged later after all.
    pub segments_spurious: u64,
    /// Bytes of segment bodies sent.
    pub bytes_sent: u64,
    /// Stream bytes sent, repetitions included.
    pub stream_bytes_sent: u64,
    /// Stream bytes that `read` has given out.
    pub stream_bytes_read: u64,
    /// The congestion window in bytes.
    pub cwnd: u64,
    /// Where slow start ends, in bytes; none before the first loss.
    pub ssthresh: Option<u64>,
    /// Bytes of segment bodies sent and neither acknowledged nor lost.
    pub bytes_in_flight: u64,
    /// Probe timeouts since the last acknowledgement.
    pub pto_count: u32,
    /// How often persistent congestion was found.
    pub persistent_congestions: u64,
}

impl Arq {
    /// An end to which nothing has happened yet.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let config = Config {
            max_segment: config.max_segment.max(MIN_SEGMENT),
            ..config
        };
        let mss = config.max_segment as u64;
        // Four times as many as full segments would need: room for short ones.
        let capacity = 4 * (config.send_buffer / config.max_segment) + 256;
        Self {
            send: SendStream::new(config.send_buffer),
            receive: ReceiveStream::new(config.receive_window as u64),
            acks: Acks::default(),
            recovery: Recovery::new(RttEstimator::new(config.initial_rtt), capacity, now),
            congestion: Congestion::new(config.congestion, mss),
            pacer: Pacer::new(BURST * mss, now),
            next_packet_number: 0,
            probes: 0,
            limited: false,
            max: config.max_segment,
            stats: Stats::default(),
            config,
        }
    }

    /// Takes a segment's body from the peer.
    ///
    /// # Errors
    /// When it is malformed or says what cannot be; nothing of it is used then.
    pub fn handle_segment(&mut self, body: &[u8], now: Instant) -> Result<(), SegmentError> {
        let segment = self
            .accept(body)
            .inspect_err(|_| self.stats.segments_refused += 1)?;
        if self.acks.is_duplicate(segment.packet_number) {
            self.stats.segments_duplicate += 1;
            return Ok(());
        }
        self.stats.segments_received += 1;
        self.acks.record(
            segment.packet_number,
            segment.awaited,
            segment.is_ack_eliciting(),
            now,
        );
        if self.send.raise_limit(segment.receive_limit) {
            self.recovery.on_window_opened();
        }
        if let Some(ack) = &segment.ack {
            self.handle_ack(ack, now);
        }
        if let Some(range) = &segment.range {
            self.receive.insert(range);
        }
        Ok(())
    }

    /// Takes bytes for the peer, as many as the send buffer has room for; returns how many. None after [`finish`](Self::finish).
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.send.write(bytes)
    }

    /// Appends all bytes from the peer that are in order; returns how many.
    pub fn read(&mut self, out: &mut Vec<u8>) -> usize {
        let length = self.receive.read(out);
        self.stats.stream_bytes_read += length as u64;
        length
    }

    /// Ends our stream behind what was written so far.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// The datagrams go another way from now on: RTT and congestion state start again (RFC 9000, section 9.4), the
    /// streams go on. What was in flight is probed at once.
    pub fn path_changed(&mut self, now: Instant) {
        let mss = self.config.max_segment as u64;
        if self.recovery.reset_path(now) {
            self.probes = self.probes.max(1);
        }
        self.congestion = Congestion::new(self.config.congestion, mss);
        self.pacer = Pacer::new(BURST * mss, now);
    }

    /// Does what is due by time alone.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.recovery.handle_timeout(self.send.is_blocked(), now) {
            Expired::Nothing => {}
            Expired::Loss => self.detect_lost(now),
            Expired::Probe => self.probes = PROBES,
        }
    }

    /// Appends one segment's body of at most `max` bytes to `buf`, if one is to be sent now; says whether it did.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>, max: usize, now: Instant) -> bool {
        self.max = max.min(self.config.max_segment);
        self.pacer.refill(self.rate(), now);
        let Some(payload) = self.next_payload(now) else {
            return false;
        };
        let ack = self.acks.take(self.ack_ranges(), now);
        let before = buf.len();
        let number = self.next_packet_number;
        let segment = Segment {
            packet_number: number,
            awaited: self.recovery.awaited(number),
            receive_limit: self.receive.announce(),
            ack,
            ping: matches!(&payload, Payload::Eliciting(part) if part.is_empty()),
            range: payload.range(&self.send),
        };
        segment.encode(buf);
        self.next_packet_number += 1;
        self.on_sent(payload, (buf.len() - before) as u64, now);
        true
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) are due at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let recovery = self.recovery.timeout(self.send.is_blocked());
        let due = [self.acks.due(), recovery, self.pacer_due()];
        due.into_iter().flatten().min()
    }

    /// Whether the peer has all that was written, and knows that it is all.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.send.is_finished()
    }

    /// Whether the peer has ended its stream and all of it was read.
    #[must_use]
    pub fn peer_finished(&self) -> bool {
        self.receive.is_finished()
    }

    /// The round-trip time of the present path.
    #[must_use]
    pub const fn rtt(&self) -> &RttEstimator {
        &self.recovery.rtt
    }

    /// Probe timeouts in a row without any acknowledgement: when there are many, the peer is gone.
    #[must_use]
    pub const fn pto_count(&self) -> u32 {
        self.recovery.pto_count()
    }

    /// Counters and the present state.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            cwnd: self.congestion.window(),
            ssthresh: self.congestion.ssthresh(),
            bytes_in_flight: self.recovery.in_flight(),
            pto_count: self.recovery.pto_count(),
            ..self.stats
        }
    }

    /// Reads a segment and checks everything that it says, before anything is changed.
    fn accept<'a>(&self, body: &'a [u8]) -> Result<Segment<'a>, SegmentError> {
        let segment = Segment::parse(body)?;
        let largest = segment.ack.iter().flat_map(|ack| &ack.ranges).next();
        if largest.is_some_and(|range| *range.end() >= self.next_packet_number) {
            return Err(SegmentError::AckOfUnsent);
        }
        if let Some(range) = &segment.range {
            self.receive.check(range)?;
        }
        Ok(segment)
    }

    fn handle_ack(&mut self, ack: &Ack, now: Instant) {
        let news = self.recovery.on_ack(ack, now);
        for sent in &news.spurious {
            self.stats.segments_spurious += 1;
            self.send.on_acknowledged(&sent.part);
            if sent.on_path {
                self.congestion.on_spurious(sent.at);
            }
        }
        let rtt = self.recovery.rtt.smoothed();
        for sent in &news.segments {
            self.send.on_acknowledged(&sent.part);
            if sent.on_path {
                self.congestion
                    .on_acknowledged(sent.size, sent.at, self.limited, rtt, now);
            }
        }
        if !news.segments.is_empty() {
            self.probes = 0;
            self.detect_lost(now);
        }
    }

    fn detect_lost(&mut self, now: Instant) {
        let Lost {
            segments,
            persistent,
        } = self.recovery.detect_lost(now);
        for sent in &segments {
            self.on_lost(sent, now);
        }
        if persistent {
            self.stats.persistent_congestions += 1;
            self.congestion.on_persistent_congestion();
        }
    }

    fn on_lost(&mut self, sent: &Sent, now: Instant) {
        self.stats.segments_lost += 1;
        self.send.on_lost(&sent.part);
        if sent.on_path {
            self.congestion.on_lost(sent.at, now);
        }
    }

    /// What the next segment is for; none when nothing may or must be sent.
    fn next_payload(&mut self, now: Instant) -> Option<Payload> {
        let room = self.room();
        if let Some(room) = room.filter(|_| self.probes > 0) {
            return Some(Payload::Eliciting(self.probe(room)));
        }
        let part = room.map(|room| self.send.peek(room)).unwrap_or_default();
        if !part.is_empty() {
            let size = self.size(&part);
            self.limited = !self.window_allows(size) || !self.pacer.allows(size);
            if !self.limited {
                return Some(Payload::Eliciting(self.send.take(room?)));
            }
        } else if room.is_some() {
            self.limited = false;
        }
        let owed = self.acks.due().is_some_and(|due| due <= now) && self.ack_ranges() > 0;
        let update = self.receive.update_due() && self.max >= HEADER;
        (owed || update).then_some(Payload::Acknowledgement)
    }

    /// New bytes if there are any, else old ones once more, else a mere question.
    fn probe(&mut self, room: usize) -> Part {
        self.probes -= 1;
        let mut part = self.send.take(room);
        while part.is_empty() {
            let Some(old) = self.recovery.probe_part() else {
                break;
            };
            part = self.send.again(&old, room);
        }
        part
    }

    fn on_sent(&mut self, payload: Payload, size: u64, now: Instant) {
        self.stats.segments_sent += 1;
        self.stats.bytes_sent += size;
        let Payload::Eliciting(part) = payload else {
            return;
        };
        self.stats.stream_bytes_sent += part.bytes.end - part.bytes.start;
        self.pacer.spend(size);
        let number = self.next_packet_number - 1;
        if let Some(given_up) = self.recovery.on_sent(number, part, size, now) {
            self.on_lost(&given_up, now);
        }
    }

    /// How many ranges the next acknowledgement may have: it takes half of a small segment at most.
    fn ack_ranges(&self) -> usize {
        let room = self.max.saturating_sub(HEADER);
        let half = (room / 2).max(room.min(Ack::size(1)));
        self.acks
            .ranges()
            .min(half.saturating_sub(Ack::size(0)) / 8)
    }

    /// The room for stream bytes in the next segment; none when not even an empty range fits.
    fn room(&self) -> Option<usize> {
        let data = self.overhead() + StreamRange::HEADER;
        self.max.checked_sub(data)
    }

    fn overhead(&self) -> usize {
        match self.ack_ranges() {
            0 => HEADER,
            ranges => HEADER + Ack::size(ranges),
        }
    }

    fn size(&self, part: &Part) -> u64 {
        (self.overhead() + StreamRange::HEADER) as u64 + part.bytes.end - part.bytes.start
    }

    fn window_allows(&self, size: u64) -> bool {
        let in_flight = self.recovery.in_flight();
        in_flight == 0 || in_flight + size <= self.congestion.window()
    }

    fn rate(&self) -> Rate {
        Rate {
            window: self.congestion.window(),
            rtt: self.recovery.rtt.smoothed(),
            gain: if self.congestion.in_slow_start() {
                200
            } else {
                125
            },
        }
    }

    /// When the pacer lets the next part go, if nothing else keeps it back.
    fn pacer_due(&self) -> Option<Instant> {
        let part = self.send.peek(self.room()?);
        let size = self.size(&part);
        let waiting = !part.is_empty() && self.window_allows(size);
        waiting.then(|| self.pacer.ready_at(size, self.rate()))
    }
}

/// What a segment is for.
enum Payload {
    /// The peer must answer: a part of the stream, or with an empty one a mere question.
    Eliciting(Part),
    /// What has arrived, or how much more may come.
    Acknowledgement,
}

impl Payload {
    fn range<'a>(&self, stream: &'a SendStream) -> Option<StreamRange<'a>> {
        match self {
            Self::Eliciting(part) if !part.is_empty() => Some(StreamRange {
                offset: part.bytes.start,
                data: stream.bytes(part),
                fin: part.fin,
            }),
            Self::Eliciting(_) | Self::Acknowledgement => None,
        }
    }
}

/// Below this a segment could not hold what every segment must.
const MIN_SEGMENT: usize = 100;
/// RFC 9002, section 7.7: bursts are no larger than the initial window, in segments.
const BURST: u64 = 10;
/// RFC 9002, section 6.2.4: segments sent when the probe timeout expires.
const PROBES: u32 = 2;

#[cfg(test)]
mod tests;
