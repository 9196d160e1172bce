//! What a station has sent: which bytes came, which the host's socket has taken, and how many more may come
//! (RFC 9293, RFC 2018, RFC 7323).
//!
//! ```text
//!   offset 0   1            next                    edge
//!          SYN │ taken      │ held: came, but before them something is missing, or the socket is full
//! ```
//!
//! In the common case nothing is held: a segment in order goes from the frame into the socket at once.

use std::collections::VecDeque;

use crate::gateway::segment::{MAX_BLOCKS, collapse, expand};

/// The receiving half from a station.
#[derive(Debug)]
pub(in crate::gateway) struct Receiver {
    /// The sequence number of offset 0, the station's SYN.
    first: u32,
    /// Everything before it the socket has taken.
    next: u64,
    /// How far the station was told it may send.
    edge: u64,
    /// The acknowledgement that was sent last.
    told: u64,
    scale: u8,
    fin: Option<u64>,
    /// In order, neither touching nor overlapping, all behind `next` or, when the socket was full, beginning at it.
    held: VecDeque<Piece>,
    held_bytes: usize,
    /// The piece that grew last: its SACK block is the first to be told.
    newest: u64,
    /// The station has asked again for what is held in order: it is acknowledged, so that it stops.
    acknowledge_held: bool,
}

#[derive(Debug)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + length(&self.bytes)
    }
}

/// What became of a segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The bytes from this index on are the next ones: for the socket.
    InOrder(usize),
    /// Nothing before it; kept, or not new, or no room: an acknowledgement says what is missing.
    OutOfOrder,
    /// Nothing in it.
    Empty,
}

impl Receiver {
    pub(super) const fn new(first: u32) -> Self {
        Self {
            first,
            next: 1,
            edge: 1,
            told: 1,
            scale: 0,
            fin: None,
            held: VecDeque::new(),
            held_bytes: 0,
            newest: 0,
            acknowledge_held: false,
        }
    }

    /// By how many bits our windows are shifted.
    pub(super) const fn set_scale(&mut self, scale: u8) {
        self.scale = scale;
    }

    /// Whether a segment lies in the window at all (RFC 9293, section 3.10.7.4). What stands exactly at the edge does: the
    /// station may have used all of the window while the socket has not taken it yet.
    pub(super) fn acceptable(&self, seq: u32, size: usize) -> bool {
        let Some(start) = expand(self.first, seq, self.next) else {
            return false;
        };
        let end = start + u64::try_from(size).unwrap_or(u64::MAX >> 8);
        let new = if size == 0 {
            start >= self.next
        } else {
            end > self.next
        };
        new && start <= self.edge.max(self.next)
    }

    /// Whether a sequence number is exactly the next one.
    pub(super) fn is_next(&self, seq: u32) -> bool {
        collapse(self.first, self.next) == seq || collapse(self.first, self.told) == seq
    }

    /// Where the bytes of a segment belong; those that are not next are kept when there is room for them.
    pub(super) fn arrive(&mut self, seq: u32, bytes: &[u8], budget: &mut usize) -> Arrival {
        if bytes.is_empty() {
            return Arrival::Empty;
        }
        let Some(start) = expand(self.first, seq, self.next) else {
            return Arrival::OutOfOrder;
        };
        let end = start + length(bytes);
        if end <= self.next {
            return Arrival::OutOfOrder;
        }
        let holds_next = self
            .held
            .front()
            .is_some_and(|piece| piece.start == self.next);
        if start <= self.next && !holds_next {
            return Arrival::InOrder(distance(start, self.next));
        }
        if holds_next && end <= self.contiguous_end() {
            // It asks again for what waits for a full socket.
            self.acknowledge_held = true;
            return Arrival::OutOfOrder;
        }
        self.hold(start, bytes, budget);
        Arrival::OutOfOrder
    }

    /// The socket has taken `taken` of `bytes`, which were next; the rest is kept.
    pub(super) fn took(&mut self, bytes: &[u8], taken: usize, budget: &mut usize) {
        let (done, rest) = bytes.split_at(taken.min(bytes.len()));
        self.next += length(done);
        if !rest.is_empty() {
            self.hold(self.next, rest, budget);
        }
        self.forget_taken(budget);
    }

    /// What is held and next, for the socket.
    pub(super) fn ready(&self) -> Option<&[u8]> {
        let piece = self.held.front().filter(|piece| piece.start <= self.next)?;
        piece.bytes.get(distance(piece.start, self.next)..)
    }

    /// The socket has taken so many of [`Self::ready`]'s bytes.
    pub(super) fn took_ready(&mut self, taken: usize, budget: &mut usize) {
        self.next += u64::try_from(taken).unwrap_or(0);
        self.forget_taken(budget);
    }

    /// The station ends its stream at the end of this segment.
    pub(super) fn finish(&mut self, seq: u32, size: usize) {
        if let Some(start) = expand(self.first, seq, self.next) {
            let end = start + u64::try_from(size).unwrap_or(0);
            if end >= self.next && end <= self.edge && self.fin.is_none() {
                self.fin = Some(end);
            }
        }
    }

    /// Whether everything up to the station's FIN has been taken; its FIN then counts as taken too.
    pub(super) fn reach_end(&mut self) -> bool {
        let reached = self.fin == Some(self.next);
        if reached {
            self.next += 1;
        }
        reached
    }

    /// Whether the station's FIN has been taken.
    pub(super) fn is_finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// How far the window would reach with this much room in the socket; the station is told less than it could be only to
    /// avoid silly windows (RFC 9293, section 3.8.6.2.2).
    pub(super) fn open_window(&mut self, room: usize, mss: u16) {
        let room = room.saturating_sub(self.waiting()).min(MAX_WINDOW);
        let edge = self.next + u64::try_from(room).unwrap_or(0);
        let unit = 1u64 << self.scale;
        let edge = edge - (edge - self.next) % unit;
        let worth = u64::from(mss).max(unit);
        if edge >= self.edge + worth || self.edge <= self.next {
            self.edge = self.edge.max(edge);
        }
    }

    /// Whether the station should hear of a window that has become much larger.
    pub(super) fn owes_window(&self, last_edge: u64, mss: u16) -> bool {
        self.edge >= last_edge + 2 * u64::from(mss)
    }

    pub(super) const fn edge(&self) -> u64 {
        self.edge
    }

    /// Acknowledgement number and unscaled window for the next segment.
    pub(super) fn tell(&mut self) -> (u32, u16) {
        let mut ack = self.next;
        if self.acknowledge_held {
            ack = ack.max(self.contiguous_end());
        }
        self.told = self.told.max(ack);
        let window = self.edge.saturating_sub(self.told) >> self.scale;
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        (collapse(self.first, self.told), window)
    }

    /// The same for a SYN, whose window is never scaled.
    pub(super) fn tell_first(&mut self) -> (u32, u16) {
        let window = self.edge.saturating_sub(self.next);
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        (collapse(self.first, self.next), window)
    }

    /// What has come beyond the acknowledgement, the newest first (RFC 2018, section 4).
    pub(super) fn blocks(&self) -> [Option<(u32, u32)>; MAX_BLOCKS] {
        let mut blocks = [None; MAX_BLOCKS];
        if self.held.is_empty() {
            return blocks;
        }
        let behind = |piece: &&Piece| piece.start > self.told;
        let newest = |piece: &&Piece| piece.start <= self.newest && self.newest < piece.end();
        let first = self.held.iter().filter(behind).find(newest);
        let others = self
            .held
            .iter()
            .filter(behind)
            .filter(|piece| !newest(piece));
        for (place, piece) in blocks[..SENT_BLOCKS]
            .iter_mut()
            .zip(first.into_iter().chain(others))
        {
            let block = (
                collapse(self.first, piece.start),
                collapse(self.first, piece.end()),
            );
            *place = Some(block);
        }
        blocks
    }

    pub(super) const fn is_scaled(&self) -> bool {
        self.scale > 0
    }

    /// Where the next byte belongs.
    pub(super) const fn next_offset(&self) -> u64 {
        self.next
    }

    /// The sequence number of the station's SYN.
    pub(super) const fn first(&self) -> u32 {
        self.first
    }

    /// Bytes kept.
    pub(super) const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes that wait only for the socket.
    fn waiting(&self) -> usize {
        distance(self.next, self.contiguous_end())
    }

    fn contiguous_end(&self) -> u64 {
        let front = self.held.front().filter(|piece| piece.start <= self.next);
        front.map_or(self.next, Piece::end)
    }

    /// Keeps what is new of `bytes`, as far as the window, the pieces and the budget let it.
    fn hold(&mut self, start: u64, bytes: &[u8], budget: &mut usize) {
        let end = (start + length(bytes)).min(self.edge);
        let mut from = start.max(self.next);
        while from < end {
            let at = self.held.partition_point(|piece| piece.end() < from);
            // The piece that `from` touches or lies in, and where the next one begins.
            let before = self.held.get(at).filter(|piece| piece.start <= from);
            if let Some(piece) = before.filter(|piece| from < piece.end()) {
                from = piece.end();
                continue;
            }
            let touches = before.is_some();
            let next_at = at + usize::from(touches);
            let stop = self
                .held
                .get(next_at)
                .map_or(end, |piece| piece.start.min(end));
            let part = bytes
                .get(distance(start, from)..distance(start, stop))
                .unwrap_or(&[]);
            if part.is_empty()
                || part.len() > *budget
                || (!touches && self.held.len() >= MAX_PIECES)
            {
                return;
            }
            *budget -= part.len();
            self.held_bytes += part.len();
            self.newest = from;
            if touches {
                self.held[at].bytes.extend_from_slice(part);
            } else {
                let bytes = part.to_vec();
                self.held.insert(at, Piece { start: from, bytes });
            }
            self.join(at);
            from = stop;
        }
    }

    /// Pieces that have grown together become one.
    fn join(&mut self, at: usize) {
        let touching = self
            .held
            .get(at + 1)
            .is_some_and(|next| next.start == self.held[at].end());
        if touching && let Some(next) = self.held.remove(at + 1) {
            self.held[at].bytes.extend_from_slice(&next.bytes);
        }
    }

    fn forget_taken(&mut self, budget: &mut usize) {
        while let Some(front) = self.held.front_mut() {
            if front.start >= self.next {
                break;
            }
            if front.end() <= self.next {
                let gone = front.bytes.len();
                self.held_bytes -= gone;
                *budget += gone;
                self.held.pop_front();
                continue;
            }
            // Only when much of it is done with: moving bytes costs as much as they are.
            let taken = distance(front.start, self.next);
            if taken >= front.bytes.len() / 2 {
                front.bytes.drain(..taken);
                front.bytes.shrink_to_fit();
                front.start = self.next;
                self.held_bytes -= taken;
                *budget += taken;
            }
            break;
        }
        if self.held.is_empty() {
            // An idle flow holds no memory.
            self.held = VecDeque::new();
            self.acknowledge_held = false;
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX >> 8)
}

fn distance(from: u64, to: u64) -> usize {
    usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)
}

/// The largest window that a station is told, in bytes.
pub(super) const MAX_WINDOW: usize = 4 << 20;
/// Pieces kept at once.
const MAX_PIECES: usize = 256;
/// SACK blocks told at once.
const SENT_BLOCKS: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order, repetition and the socket's appetite: the socket gets every byte once and in order.
        #[test]
        fn the_socket_gets_every_byte_once_and_in_order(
            steps in prop::collection::vec((0usize..300, 1usize..120, 0usize..150), 1..200), first: u32,
        ) {
            let stream: Vec<u8> = (0..=255u8).cycle().take(400).collect();
            let mut receiver = Receiver::new(first);
            let mut budget = 1000;
            let mut taken = Vec::new();
            receiver.open_window(400, 1);
            for (start, size, appetite) in steps {
                let bytes = &stream[start..(start + size).min(stream.len())];
                let offset = u64::try_from(start + 1).expect("small");
                if let Arrival::InOrder(skip) = receiver.arrive(collapse(first, offset), bytes, &mut budget) {
                    let new = &bytes[skip..];
                    let count = appetite.min(new.len());
                    taken.extend_from_slice(&new[..count]);
                    receiver.took(new, count, &mut budget);
                }
                while let Some(ready) = receiver.ready() {
                    let count = appetite.min(ready.len());
                    taken.extend_from_slice(&ready[..count]);
                    receiver.took_ready(count, &mut budget);
                    if count == 0 {
                        break;
                    }
                }
                prop_assert_eq!(&taken[..], &stream[..taken.len()]);
                let held: usize = receiver.held.iter().map(|piece| piece.bytes.len()).sum();
                prop_assert_eq!(receiver.held_bytes, held);
                prop_assert_eq!(budget + held, 1000);
                for pair in receiver.held.iter().collect::<Vec<_>>().windows(2) {
                    prop_assert!(pair[0].end() < pair[1].start);
                }
            }
        }
    }
}
