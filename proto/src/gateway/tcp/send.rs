//! What a station is owed: which bytes of the host's stream are on their way, which must go again, and how many may go
//! (RFC 9293, RFC 2018, RFC 8985, RFC 6298; the window by [`crate::congestion`]).
//!
//! ```text
//!   offset 0   1                 una            nxt                fin
//!          SYN │ acknowledged    │ in flight    │ in the socket    │FIN
//!              └ consumed ──────▶└ flight ─────▶└ next() ─────────▶
//! ```
//!
//! It keeps no byte: offsets only. Whoever sends looks the bytes up in the host's socket, the first time and again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rtt::Rtt;
use crate::congestion::{Algorithm, Congestion};
use crate::gateway::segment::{Segment, collapse, expand};

/// The sending half towards a station.
#[derive(Debug)]
pub(in crate::gateway) struct Sender {
    /// The sequence number of offset 0, the SYN.
    first: u32,
    una: u64,
    nxt: u64,
    /// Highest offset that the station's window lets us send up to.
    edge: u64,
    /// The acknowledgement and sequence number of the last window that counted (RFC 9293, SND.WL1 and SND.WL2).
    window_from: (u64, u32),
    scale: u8,
    mss: u16,
    sack: bool,
    /// The stream ends here.
    fin: Option<u64>,
    flight: VecDeque<Sent>,
    /// Bytes of `flight` that are thought to be under way.
    pipe: u64,
    /// Ranges of `flight` that are not simply under way.
    marked: usize,
    congestion: Congestion,
    /// The congestion window held the sender back the last time.
    limited: bool,
    rtt: Rtt,
    /// RACK: when the latest of the segments that arrived was sent, and how long it took.
    newest: Option<(Instant, Duration)>,
    timer: Option<(Instant, Timer)>,
    /// The next transmission is a probe that no window stops.
    probe: bool,
    /// The tail was probed; next comes the retransmission time-out.
    probed: bool,
    duplicates: u32,
}

/// What the timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// Segments that were sent before one that arrived may still come.
    Reorder,
    /// The last segments may be lost without anything to tell (RFC 8985, section 7).
    TailLoss,
    /// Nothing has been acknowledged (RFC 6298).
    Retransmission,
    /// The station's window is shut and its opening may be lost (RFC 9293, section 3.8.6.1).
    Persist,
}

/// A range of offsets that was sent in one segment.
#[derive(Clone, Copy, Debug)]
struct Sent {
    start: u64,
    end: u64,
    at: Instant,
    state: State,
    /// Sent more than once: its acknowledgement says nothing of the round trip.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flying,
    /// The station has it.
    Sacked,
    /// To be sent again.
    Lost,
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Offset 0.
    Syn,
    /// Bytes that were sent before: from, how many at most.
    Again(u64, usize),
    /// Bytes that were not: from, how many at most.
    New(u64, usize),
    /// The end of the stream, at this offset.
    Fin(u64),
    /// Nothing, but the station is to answer (a window probe).
    Probe,
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the host's stream that are done with.
    pub(super) consumed: u64,
    /// It acknowledges what was never sent.
    pub(super) impossible: bool,
}

impl Sender {
    pub(super) fn new(first: u32, mss: u16) -> Self {
        Self {
            first,
            una: 0,
            nxt: 0,
            edge: 0,
            window_from: (0, 0),
            scale: 0,
            mss,
            sack: false,
            fin: None,
            flight: VecDeque::new(),
            pipe: 0,
            marked: 0,
            congestion: Congestion::new(Algorithm::Cubic, u64::from(mss)),
            limited: true,
            rtt: Rtt::new(),
            newest: None,
            timer: None,
            probe: false,
            probed: false,
            duplicates: 0,
        }
    }

    // ---- in

    /// What the station's SYN says it can take.
    pub(super) fn agree(&mut self, segment: &Segment<'_>) {
        if let Some(mss) = segment.options.mss {
            // RFC 9293, section 3.7.1; nobody sensible has less than 88 (and RFC 791's 68 less headers is 28).
            self.mss = self.mss.min(mss.max(MIN_MSS));
            self.congestion = Congestion::new(Algorithm::Cubic, u64::from(self.mss));
        }
        self.sack = segment.options.sack_permitted;
        self.edge = u64::from(segment.window) + 1;
    }

    /// By how many bits the station's windows are shifted from now on; both sides must have offered it.
    pub(super) const fn set_scale(&mut self, scale: u8) {
        self.scale = scale;
    }

    /// A segment with an acknowledgement.
    pub(super) fn acknowledge(&mut self, segment: &Segment<'_>, now: Instant) -> Progress {
        let Some(ack) = expand(self.first, segment.ack, self.una) else {
            return Progress::default();
        };
        if ack > self.nxt {
            return Progress {
                impossible: true,
                ..Progress::default()
            };
        }
        let before = self.una;
        let pipe_before = self.pipe;
        let mut delivered = Delivered::default();
        if ack > self.una {
            self.una = ack;
            self.duplicates = 0;
            self.probed = false;
            self.rtt.progress();
            self.pop_acknowledged(&mut delivered);
        }
        self.take_blocks(segment, &mut delivered);
        self.take_window(segment, ack);
        self.settle(&delivered, pipe_before, now);
        if !self.sack && self.is_duplicate(segment, ack, before) {
            self.count_duplicate(now);
        }
        self.set_timer(now);
        Progress {
            consumed: self.consumed_at(self.una) - self.consumed_at(before),
            impossible: false,
        }
    }

    /// The host's stream ends behind what was sent.
    pub(super) const fn end(&mut self) {
        if self.fin.is_none() {
            self.fin = Some(self.nxt);
        }
    }

    /// What [`Self::next`] said was sent, in a segment of `length` offsets.
    pub(super) fn sent(&mut self, next: Next, length: u64, now: Instant) {
        self.probe = false;
        match next {
            Next::Probe => {}
            Next::Syn => self.send_range(0, 1, now),
            Next::Fin(at) => self.send_range(at, 1, now),
            Next::New(at, _) | Next::Again(at, _) => self.send_range(at, length, now),
        }
        self.set_timer(now);
    }

    /// The time of [`Self::deadline`] has come. False when the station must be given up.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let Some((_, timer)) = self.timer.take_if(|(at, _)| *at <= now) else {
            return true;
        };
        match timer {
            Timer::Reorder => self.detect_losses(now),
            Timer::TailLoss => {
                self.probe = true;
                self.probed = true;
            }
            Timer::Retransmission => {
                self.lose_everything(now);
                self.rtt.back_off();
            }
            Timer::Persist => {
                self.probe = true;
                self.rtt.back_off();
            }
        }
        self.set_timer(now);
        let most = if self.una == 0 { MAX_SYN } else { MAX_BACKOFF };
        timer == Timer::Persist || self.rtt.backoff() <= most
    }

    // ---- out

    /// What may be sent now, in a segment of at most `max_segment` bytes. `waiting`: the socket may have more than was sent.
    pub(super) fn next(&mut self, max_segment: usize, waiting: bool) -> Option<Next> {
        if self.nxt == 0 {
            return Some(Next::Syn);
        }
        if self.probe {
            return Some(self.next_probe(max_segment));
        }
        let room = self.congestion.window().saturating_sub(self.pipe);
        if let Some(lost) = self.first_lost() {
            // Of a long range as much as the window lets, but no crumbs.
            let length = (lost.end - lost.start).min(bounded(max_segment));
            let length = length.min(room);
            let enough = length >= u64::from(self.mss).min(lost.end - lost.start);
            let may = enough || self.pipe == 0;
            return may.then(|| self.again(lost, length.max(1)));
        }
        if self.una == 0 {
            return None;
        }
        if let Some(fin) = self.fin {
            return (self.nxt == fin).then_some(Next::Fin(fin));
        }
        if !waiting {
            return None;
        }
        let window = self.edge.saturating_sub(self.nxt);
        let may = window.min(room).min(bounded(max_segment));
        self.limited = room < window && room < bounded(max_segment);
        // Silly windows are left alone (RFC 9293, section 3.8.6.2.1), unless nothing else is under way.
        let mss = u64::from(self.mss);
        let enough = may >= mss || (may > 0 && self.pipe == 0);
        let may = if may > mss { may - may % mss } else { may };
        enough.then(|| Next::New(self.nxt, usize::try_from(may).unwrap_or(usize::MAX)))
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timer.map(|(at, _)| at)
    }

    /// The station's window is shut although there is something to send: its opening must not be missed.
    pub(super) fn watch_window(&mut self, now: Instant) {
        if self.timer.is_none() && self.flight.is_empty() && self.edge <= self.nxt {
            self.timer = Some((now + self.rtt.time_out(), Timer::Persist));
        }
    }

    /// How far into the socket's bytes an offset is.
    pub(super) fn behind_consumed(&self, offset: u64) -> usize {
        let behind = self.consumed_at(offset) - self.consumed_at(self.una);
        usize::try_from(behind).unwrap_or(usize::MAX)
    }

    /// The sequence number of an offset.
    pub(super) fn seq(&self, offset: u64) -> u32 {
        collapse(self.first, offset)
    }

    /// The sequence number behind everything sent.
    pub(super) fn next_seq(&self) -> u32 {
        collapse(self.first, self.nxt)
    }

    /// One before what the station has acknowledged: whoever gets it must answer.
    pub(super) fn probe_seq(&self) -> u32 {
        collapse(self.first, self.una).wrapping_sub(1)
    }

    pub(super) const fn mss(&self) -> u16 {
        self.mss
    }

    pub(super) const fn sack(&self) -> bool {
        self.sack
    }

    /// Whether the station has acknowledged our SYN.
    pub(super) const fn is_open(&self) -> bool {
        self.una > 0
    }

    /// Whether the station has acknowledged our FIN.
    pub(super) fn is_finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.una > fin)
    }

    pub(super) const fn has_end(&self) -> bool {
        self.fin.is_some()
    }

    /// Whether an acknowledgement number is one that this stream could bring (RFC 5961, section 5.2).
    pub(super) fn acceptable(&self, ack: u32) -> bool {
        expand(self.first, ack, self.una)
            .is_some_and(|ack| ack <= self.nxt && ack + MAX_ACK_AGE >= self.una)
    }

    // ---- steps

    /// Bytes of the host's stream before an offset: SYN and FIN are none.
    fn consumed_at(&self, offset: u64) -> u64 {
        let end = self.fin.unwrap_or(u64::MAX);
        offset.min(end).saturating_sub(1)
    }

    fn pop_acknowledged(&mut self, delivered: &mut Delivered) {
        while let Some(front) = self.flight.front_mut() {
            if front.start >= self.una {
                break;
            }
            let end = front.end.min(self.una);
            let part = Sent { end, ..*front };
            front.start = end;
            let done = front.start == front.end;
            if part.state == State::Flying {
                self.pipe -= part.end - part.start;
            }
            delivered.take(part);
            if done {
                if part.state != State::Flying {
                    self.marked -= 1;
                }
                self.flight.pop_front();
            }
        }
        if self.flight.is_empty() {
            // An idle flow holds no memory.
            self.flight = VecDeque::new();
        }
    }

    fn take_blocks(&mut self, segment: &Segment<'_>, delivered: &mut Delivered) {
        if !self.sack {
            return;
        }
        for (start, end) in segment.options.blocks.into_iter().flatten() {
            let start = expand(self.first, start, self.una);
            let end = expand(self.first, end, self.una);
            if let (Some(start), Some(end)) = (start, end)
                && start >= self.una
                && start < end
                && end <= self.nxt
            {
                self.mark_sacked(start, end, delivered);
            }
        }
    }

    fn mark_sacked(&mut self, start: u64, end: u64, delivered: &mut Delivered) {
        let mut at = self.flight.partition_point(|sent| sent.end <= start);
        while let Some(sent) = self.flight.get(at).copied() {
            if sent.start >= end {
                return;
            }
            if sent.state != State::Sacked {
                let (from, to) = (sent.start.max(start), sent.end.min(end));
                at = self.split(at, from, to);
                let part = self.flight[at];
                delivered.take(part);
                if part.state == State::Flying {
                    self.pipe -= part.end - part.start;
                    self.marked += 1;
                }
                self.flight[at].state = State::Sacked;
            }
            at += 1;
        }
    }

    /// Makes `from..to` a range of its own; says where it is.
    fn split(&mut self, mut at: usize, from: u64, to: u64) -> usize {
        let whole = self.flight[at];
        let extra = usize::from(whole.state != State::Flying);
        if whole.start < from {
            self.flight[at].end = from;
            at += 1;
            let rest = Sent {
                start: from,
                ..whole
            };
            self.flight.insert(at, rest);
            self.marked += extra;
        }
        if to < whole.end {
            self.flight[at].end = to;
            let rest = Sent { start: to, ..whole };
            self.flight.insert(at + 1, rest);
            self.marked += extra;
        }
        at
    }

    fn take_window(&mut self, segment: &Segment<'_>, ack: u64) {
        // Only a newer segment's window counts (RFC 9293, section 3.10.7.4).
        let (last_ack, last_seq) = self.window_from;
        let newer =
            ack > last_ack || (ack == last_ack && segment.seq.wrapping_sub(last_seq) < 1 << 31);
        if newer {
            self.window_from = (ack, segment.seq);
            self.edge = ack + (u64::from(segment.window) << self.scale);
        }
    }

    /// Round trip, congestion window and losses, from what this acknowledgement delivered.
    fn settle(&mut self, delivered: &Delivered, pipe_before: u64, now: Instant) {
        if delivered.bytes == 0 {
            return;
        }
        if let Some(at) = delivered.sent_once_at {
            self.rtt.sample(now.saturating_duration_since(at));
        }
        if let Some(at) = delivered.newest_at {
            let round_trip = now.saturating_duration_since(at);
            // A retransmission that is answered sooner than the path allows was not the one that arrived.
            let believable = !delivered.newest_again || round_trip >= self.rtt.min();
            if believable && self.newest.is_none_or(|(newest, _)| at >= newest) {
                self.newest = Some((at, round_trip));
            }
            for spurious in &delivered.spurious_at {
                self.congestion.on_spurious(*spurious);
            }
            let limited =
                self.limited || pipe_before + u64::from(self.mss) >= self.congestion.window();
            let rtt = self.rtt.smoothed();
            self.congestion
                .on_acknowledged(delivered.bytes, at, limited, rtt, now);
        }
        if self.marked > 0 || self.newest.is_some_and(|(at, _)| self.older_than(at)) {
            self.detect_losses(now);
        }
    }

    fn older_than(&self, newest: Instant) -> bool {
        self.flight.front().is_some_and(|sent| sent.at < newest)
    }

    /// RACK (RFC 8985, section 6.2, step 5): what was sent well before something that arrived is lost.
    fn detect_losses(&mut self, now: Instant) {
        let Some((newest, round_trip)) = self.newest else {
            return;
        };
        let patience = round_trip + (self.rtt.min() / 4).min(self.rtt.smoothed());
        let mut next_due: Option<Instant> = None;
        for at in 0..self.flight.len() {
            let sent = self.flight[at];
            if sent.at >= newest && !sent.again {
                // Ranges are in the order in which they were first sent.
                break;
            }
            if sent.state != State::Flying || sent.at >= newest {
                continue;
            }
            let due = sent.at + patience;
            if due <= now {
                self.lose(at, now);
            } else {
                next_due = Some(next_due.map_or(due, |old| old.min(due)));
            }
        }
        if let Some(due) = next_due {
            self.timer = Some((due, Timer::Reorder));
        }
    }

    fn lose(&mut self, at: usize, now: Instant) {
        let sent = &mut self.flight[at];
        sent.state = State::Lost;
        self.marked += 1;
        self.pipe -= sent.end - sent.start;
        self.congestion.on_lost(sent.at, now);
    }

    /// RFC 6298, section 5.4, and RFC 5681, section 3.1: all over again with the least window.
    fn lose_everything(&mut self, now: Instant) {
        // What the station said it had it may have thrown away, if it still does not acknowledge it (RFC 2018, section 8).
        let reneged = self
            .flight
            .front()
            .is_some_and(|sent| sent.state == State::Sacked);
        for at in 0..self.flight.len() {
            let sent = &mut self.flight[at];
            if sent.state == State::Flying {
                self.lose(at, now);
            } else if reneged {
                sent.state = State::Lost;
            }
        }
        self.congestion.on_persistent_congestion();
        self.newest = None;
    }

    fn is_duplicate(&self, segment: &Segment<'_>, ack: u64, before: u64) -> bool {
        ack == before && segment.payload.is_empty() && !self.flight.is_empty() && ack == self.una
    }

    /// A station without SACK: the third duplicate says that the first range is lost (RFC 5681, section 3.2).
    fn count_duplicate(&mut self, now: Instant) {
        self.duplicates += 1;
        let flying = self
            .flight
            .front()
            .is_some_and(|sent| sent.state == State::Flying);
        if self.duplicates == 3 && flying {
            self.lose(0, now);
        }
    }

    fn first_lost(&self) -> Option<Sent> {
        if self.marked == 0 {
            return None;
        }
        let mut ranges = self.flight.iter();
        ranges.find(|sent| sent.state == State::Lost).copied()
    }

    fn again(&self, range: Sent, length: u64) -> Next {
        match (range.start, self.fin) {
            (0, _) => Next::Syn,
            (start, Some(fin)) if start == fin => Next::Fin(fin),
            (start, _) => Next::Again(start, usize::try_from(length).unwrap_or(usize::MAX)),
        }
    }

    /// The last range again, or, when nothing is under way, a segment that must be answered.
    fn next_probe(&self, max_segment: usize) -> Next {
        let last = self
            .flight
            .iter()
            .rev()
            .find(|sent| sent.state != State::Sacked);
        last.map_or(Next::Probe, |last| {
            let length = (last.end - last.start).min(bounded(max_segment));
            let start = last.end - length;
            self.again(Sent { start, ..*last }, length)
        })
    }

    fn send_range(&mut self, start: u64, length: u64, now: Instant) {
        let end = start + length;
        if start == self.nxt {
            self.nxt = end;
            self.pipe += length;
            self.flight.push_back(Sent {
                start,
                end,
                at: now,
                state: State::Flying,
                again: false,
            });
            return;
        }
        let mut at = self.flight.partition_point(|sent| sent.end <= start);
        while let Some(sent) = self.flight.get(at).copied() {
            if sent.start >= end {
                return;
            }
            if sent.state == State::Sacked {
                at += 1;
                continue;
            }
            at = self.split(at, sent.start.max(start), sent.end.min(end));
            let part = &mut self.flight[at];
            if part.state == State::Lost {
                self.pipe += part.end - part.start;
                self.marked -= 1;
            }
            part.state = State::Flying;
            part.at = now;
            part.again = true;
            at += 1;
        }
    }

    fn set_timer(&mut self, now: Instant) {
        if matches!(self.timer, Some((at, Timer::Reorder)) if at > now && self.marked > 0) {
            return;
        }
        if self.flight.is_empty() {
            self.timer = self
                .timer
                .take_if(|(_, timer)| *timer == Timer::Persist && self.edge <= self.nxt);
            return;
        }
        let tail = self.is_open() && self.marked == 0 && !self.probed && self.rtt.backoff() == 0;
        self.timer = Some(if tail {
            (now + self.rtt.probe_time_out(), Timer::TailLoss)
        } else {
            (now + self.rtt.time_out(), Timer::Retransmission)
        });
    }
}

/// What one acknowledgement says has arrived.
#[derive(Debug, Default)]
struct Delivered {
    bytes: u64,
    newest_at: Option<Instant>,
    newest_again: bool,
    /// The newest of those that were sent once.
    sent_once_at: Option<Instant>,
    /// Thought lost, but not sent again.
    spurious_at: Vec<Instant>,
}

impl Delivered {
    fn take(&mut self, sent: Sent) {
        if sent.state == State::Sacked {
            return;
        }
        self.bytes += sent.end - sent.start;
        if self.newest_at.is_none_or(|newest| sent.at >= newest) {
            self.newest_at = Some(sent.at);
            self.newest_again = sent.again;
        }
        if !sent.again && self.sent_once_at.is_none_or(|newest| sent.at > newest) {
            self.sent_once_at = Some(sent.at);
        }
        if sent.state == State::Lost {
            self.spurious_at.push(sent.at);
        }
    }
}

fn bounded(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// The least segment size that is believed.
const MIN_MSS: u16 = 88;
/// Retransmission time-outs in a row before a station is given up: beyond RFC 1122's 100 seconds.
const MAX_BACKOFF: u32 = 9;
/// The same before it has answered our SYN.
const MAX_SYN: u32 = 5;
/// Bytes by which an acknowledgement may be old: the largest window.
const MAX_ACK_AGE: u64 = 1 << 30;
